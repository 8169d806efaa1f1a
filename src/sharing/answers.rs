//! Answers of the directory that gateways share, and the right to ask it for one practice.
//!
//! Security: an answer decides where a practice's requests go, so it carries a code by which only gateways with
//! the key can have written it. Whoever controls Redis can hold answers back, or show an older one again; how old
//! it is, it says itself.

use std::time::Duration;

use aws_lc_rs::hmac;
use tokio::time::sleep;
use uuid::Uuid;

use super::{RedisValue, SharedScript, Sharing};
use spine_types::OdsCode;

/// Time for which a gateway that has stopped keeps others from asking.
const CLAIM: Duration = Duration::from_millis(1500);
/// Interval at which a claim is renewed.
const RENEW: Duration = Duration::from_millis(500);
/// Limit: bytes of one answer with its code.
const ANSWER_BYTES_MAX: usize = 4 * 1024;
/// Limit: answers stored for one practice, one for each interaction.
const ANSWERS_MAX: usize = 64;
/// Limit: bytes of one practice's answers that are read.
const ANSWERS_BYTES_MAX: usize = 16 * 1024;
/// Length of an answer's code, in bytes.
const CODE_BYTES: usize = 32;

/// Script that reads a practice's answers and, if wanted, claims the right to ask the directory for it.
///
/// Keys: the answers; the claim. Arguments: number of the query; the claim, or nothing; milliseconds for which it
/// holds; bytes of answers that are read. Answers: 1 if claimed, else 0; the answers. A claim for a request, `r:` and
/// its id, takes the place of one for a refresh in the background, `b:` and its id, which may have a long way to its
/// turn.
pub(super) const ASK: &str = r"
local claimed = 0
if ARGV[2] ~= '' then
  local held = redis.call('GET', KEYS[2])
  if not held or held:sub(3) == ARGV[2]:sub(3) or (ARGV[2]:sub(1, 1) == 'r' and held:sub(1, 1) == 'b') then
    redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
    claimed = 1
  end
end
local answer = {ARGV[1], claimed}
local room = tonumber(ARGV[4])
for _, value in ipairs(redis.call('HVALS', KEYS[1])) do
  room = room - #value
  if room < 0 then break end
  answer[#answer + 1] = value
end
return answer
";

/// Script that renews a claim, for a request or no longer for one. Key: the claim. Arguments: number of the query; the
/// claim; milliseconds.
pub(super) const RENEW_CLAIM: &str = r"
local held = redis.call('GET', KEYS[1])
if held and held:sub(3) == ARGV[2]:sub(3) then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return {ARGV[1]}
";

/// Script that gives a claim back. Key: the claim. Arguments: number of the query; the claim.
pub(super) const RELEASE: &str = r"
local held = redis.call('GET', KEYS[1])
if held and held:sub(3) == ARGV[2]:sub(3) then redis.call('DEL', KEYS[1]) end
return {ARGV[1]}
";

/// Script that stores answers. Key: the practice's answers. Arguments: number of the query; milliseconds for which
/// they are stored; most answers; then the id of an interaction and its answer, and so on. An empty answer removes
/// that which is stored.
pub(super) const PUBLISH: &str = r"
for at = 4, #ARGV, 2 do
  if ARGV[at + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[at])
  else
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
  end
end
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[3]) then redis.call('DEL', KEYS[1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {ARGV[1]}
";

/// Right to ask the directory for a practice on behalf of all gateways, as one look-up wants it.
#[derive(Debug)]
pub(crate) struct PracticeClaim {
    key: String,
    id: Uuid,
}

/// Answers of other gateways for one practice.
#[derive(Debug)]
pub(crate) struct OpenedAnswers {
    /// True if the claim was granted.
    pub(crate) is_claimed: bool,
    /// Texts of the answers whose code is right.
    pub(crate) texts: Vec<Vec<u8>>,
    /// Number of answers whose code is wrong.
    pub(crate) forged: usize,
}

impl PracticeClaim {
    /// Returns a claim for a practice.
    pub(crate) fn new(ods: &OdsCode) -> Self {
        Self { key: claim_key(ods), id: Uuid::new_v4() }
    }

    /// Returns the claim as it is stored; one for a request takes the place of one for a refresh in the background.
    fn value(&self, is_for_request: bool) -> String {
        let rank = if is_for_request { 'r' } else { 'b' };
        format!("{rank}:{}", self.id.simple())
    }
}

impl Sharing {
    /// Returns true if directory answers are shared.
    pub(crate) fn shares_answers(&self) -> bool {
        self.0.server.load().as_ref().is_some_and(|server| server.key.is_some())
    }

    /// Reads a practice's answers and claims the right to ask for more; `None` if Redis cannot be used.
    pub(crate) async fn answers(
        &self,
        ods: &OdsCode,
        claim: Option<&PracticeClaim>,
        is_for_request: bool,
    ) -> Option<OpenedAnswers> {
        let key = self.0.server.load().as_ref().and_then(|server| server.key.clone())?;
        let keys = [answers_key(ods), claim_key(ods)];
        let keys = keys.each_ref().map(String::as_str);
        let value = claim.map(|claim| claim.value(is_for_request)).unwrap_or_default();
        let (lasts, bytes) = (CLAIM.as_millis().to_string(), ANSWERS_BYTES_MAX.to_string());
        let arguments = [value.as_bytes(), lasts.as_bytes(), bytes.as_bytes()];
        self.run(SharedScript::Ask, &keys, &arguments, |values| {
            let mut values = values.into_iter();
            let Some(RedisValue::Number(claimed)) = values.next() else { return None };
            let mut opened =
                OpenedAnswers { is_claimed: claimed == 1, texts: Vec::new(), forged: 0 };
            for value in values.take(ANSWERS_MAX) {
                let RedisValue::Bytes(sealed) = value else { return None };
                match open(&key, sealed) {
                    Some(text) => opened.texts.push(text),
                    None => opened.forged += 1,
                }
            }
            Some(opened)
        })
        .await
    }

    /// Renews a claim until dropped, for a request while one waits.
    pub(crate) async fn keep(&self, claim: &PracticeClaim, is_for_request: impl Fn() -> bool) {
        loop {
            sleep(RENEW).await;
            let lasts = CLAIM.as_millis().to_string();
            let value = claim.value(is_for_request());
            let arguments = [value.as_bytes(), lasts.as_bytes()];
            self.tell(SharedScript::Renew, &claim.key, &arguments).await;
        }
    }

    /// Gives a claim back; one that cannot be given back ends by itself.
    pub(crate) async fn release(&self, claim: &PracticeClaim) {
        let value = claim.value(false);
        self.tell(SharedScript::Release, &claim.key, &[value.as_bytes()]).await;
    }

    /// Stores a practice's answers for other gateways, each by the id of its interaction; `None` removes one.
    ///
    /// An answer that is too large is removed instead.
    pub(crate) async fn publish(
        &self,
        ods: &OdsCode,
        answers: &[(&'static str, Option<Vec<u8>>)],
        lasts: Duration,
    ) {
        let Some(key) = self.0.server.load().as_ref().and_then(|server| server.key.clone()) else {
            return;
        };
        let (lasts, most) = (lasts.as_millis().to_string(), ANSWERS_MAX.to_string());
        let sealed: Vec<(&str, Vec<u8>)> = answers
            .iter()
            .map(|(id, text)| {
                let sealed = text.as_deref().map(|text| seal(&key, text)).unwrap_or_default();
                let fits = sealed.len() <= ANSWER_BYTES_MAX;
                (*id, if fits { sealed } else { Vec::new() })
            })
            .collect();
        let mut arguments = vec![lasts.as_bytes(), most.as_bytes()];
        arguments.extend(sealed.iter().flat_map(|(id, sealed)| [id.as_bytes(), sealed.as_slice()]));
        self.tell(SharedScript::Publish, &answers_key(ods), &arguments).await;
    }

    /// Runs a script whose answer says nothing. An outage is logged, and nothing is lost by it: claims end, and
    /// answers are asked for again.
    async fn tell(&self, script: SharedScript, key: &str, arguments: &[&[u8]]) {
        self.run(script, &[key], arguments, |_| Some(())).await.unwrap_or_default();
    }
}

fn claim_key(ods: &OdsCode) -> String {
    format!("spine-proxy:asking:{ods}")
}

fn answers_key(ods: &OdsCode) -> String {
    format!("spine-proxy:answers:{ods}")
}

/// Returns a text after its code, HMAC-SHA256 (RFC 2104).
fn seal(key: &hmac::Key, text: &[u8]) -> Vec<u8> {
    let mut sealed = hmac::sign(key, text).as_ref().to_vec();
    sealed.extend_from_slice(text);
    sealed
}

/// Returns the text without its code; `None` if the code is not right.
fn open(key: &hmac::Key, mut sealed: Vec<u8>) -> Option<Vec<u8>> {
    let (code, text) = sealed.split_at_checked(CODE_BYTES)?;
    hmac::verify(key, text, code).ok()?;
    sealed.drain(..CODE_BYTES);
    Some(sealed)
}
