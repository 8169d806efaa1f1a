//! Scripts: faults injected into a share of a practice's requests, without a header in the request.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Mutex;

use http::Method;
use http::request::Parts;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::faults::{FaultWordsError, Faults};
use super::lock;
use spine_types::interaction;
use spine_types::{InteractionId, OdsCode};

/// Limit: scripts of one practice.
pub(super) const SCRIPTS_MAX: usize = 20;
/// Limit: interactions that one script names.
const INTERACTIONS_MAX: usize = 100;
/// Limit: methods that one script names.
const METHODS_MAX: usize = 10;
const PERCENT: u32 = 100;

/// Faults for a share of a practice's requests.
///
/// The share is spread evenly, not at random: at 10 percent, every tenth matching request gets the
/// faults. Every matching request is counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = serde_json::json!({
    "share": 100, "times": 1, "methods": ["POST"], "interactions": [], "faults": "status=503",
}))]
pub struct Script {
    /// Share of the matching requests that get the faults, in percent, from 0 to 100; read as a number or as text
    /// with a percent sign, and 100 if absent.
    #[serde(default = "every_request", deserialize_with = "share")]
    #[schemars(schema_with = "share_schema")]
    pub share: u8,
    /// Number of requests that get the faults, after which the script is removed; no limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<NonZeroU32>,
    /// Methods that match; an empty list matches all.
    #[serde(default, with = "methods")]
    #[schemars(
        with = "Vec<String>",
        extend("maxItems" = METHODS_MAX, "items" = { "type": "string", "pattern": "^[A-Z]+$" })
    )]
    pub methods: Vec<Method>,
    /// Interactions that match, by `Ssp-InteractionID`; an empty list matches all.
    #[serde(default)]
    #[schemars(extend("maxItems" = INTERACTIONS_MAX))]
    pub interactions: Vec<InteractionId>,
    /// Faults that are injected.
    pub faults: Faults,
}

const fn every_request() -> u8 {
    100
}

/// Reads a share: `10` or `"10%"`.
fn share<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Share {
        Number(u8),
        Text(String),
    }
    let share = match Share::deserialize(from) {
        Ok(Share::Number(share)) => Some(share),
        Ok(Share::Text(text)) => text.strip_suffix('%').and_then(|share| share.parse().ok()),
        Err(_) => None,
    };
    share.ok_or_else(|| D::Error::custom("a script's share is a number from 0 to 100, or \"10%\""))
}

/// Returns the schema of a share: written as a number, and read as a number or as text.
fn share_schema(generator: &mut SchemaGenerator) -> Schema {
    let number = json_schema!({ "type": "integer", "minimum": 0, "maximum": PERCENT });
    if generator.contract().is_serialize() {
        return number;
    }
    let text = json_schema!({ "type": "string", "pattern": "^(100|[0-9]{1,2})%$" });
    json_schema!({ "anyOf": [number, text] })
}

/// Scripts by the ODS code of their practice.
pub(super) type ScriptsByPractice = BTreeMap<OdsCode, Vec<Script>>;

/// The scripts of every practice.
#[derive(Debug, Default)]
pub(super) struct Scripts(Mutex<BTreeMap<OdsCode, Vec<ActiveScript>>>);

/// A script in use, with its count of matching requests.
#[derive(Debug)]
struct ActiveScript {
    script: Script,
    /// Matching requests since the last full hundred.
    counted: u32,
}

impl Script {
    fn judge(&self) -> Result<(), FaultWordsError> {
        if u32::from(self.share) > PERCENT {
            return Err(FaultWordsError::new("a script's share is a number from 0 to 100"));
        }
        if self.methods.len() > METHODS_MAX || self.interactions.len() > INTERACTIONS_MAX {
            return Err(FaultWordsError::new("a script names too many methods or interactions"));
        }
        let unknown = self.interactions.iter().find(|id| interaction::by_id(id.as_str()).is_none());
        unknown
            .map_or(Ok(()), |id| Err(FaultWordsError::new(format!("{id} is not an interaction"))))
    }

    fn matches(&self, head: &Parts) -> bool {
        let named = head.headers.get("ssp-interactionid").and_then(|value| value.to_str().ok());
        let named = named.map(str::trim);
        (self.methods.is_empty() || self.methods.contains(&head.method))
            && (self.interactions.is_empty()
                || self.interactions.iter().any(|id| Some(id.as_str()) == named))
    }
}

impl ActiveScript {
    fn new(script: Script) -> Self {
        Self { script, counted: 0 }
    }

    /// Counts a matching request; returns true if its share and times select it.
    fn count_request(&mut self) -> bool {
        let selected_of = |counted: u32| counted * u32::from(self.script.share) / PERCENT;
        let is_selected = selected_of(self.counted + 1) > selected_of(self.counted);
        self.counted = (self.counted + 1) % PERCENT;
        is_selected
    }
}

impl Scripts {
    /// Adds a script to those of a practice, before them.
    pub(super) fn add(&self, ods: &OdsCode, script: Script) -> Result<(), FaultWordsError> {
        script.judge()?;
        let mut scripts = lock(&self.0);
        let active = scripts.entry(ods.clone()).or_default();
        if active.len() >= SCRIPTS_MAX {
            return Err(too_many());
        }
        active.insert(0, ActiveScript::new(script));
        Ok(())
    }

    /// Removes the scripts of one practice, or of all.
    pub(super) fn remove(&self, ods: Option<&OdsCode>) {
        let mut scripts = lock(&self.0);
        match ods {
            Some(ods) => drop(scripts.remove(ods)),
            None => scripts.clear(),
        }
    }

    /// Replaces the scripts of a practice; an empty list removes them.
    pub(super) fn replace(
        &self,
        ods: &OdsCode,
        scripts: Vec<Script>,
    ) -> Result<(), FaultWordsError> {
        if scripts.len() > SCRIPTS_MAX {
            return Err(too_many());
        }
        scripts.iter().try_for_each(Script::judge)?;
        let active: Vec<ActiveScript> = scripts.into_iter().map(ActiveScript::new).collect();
        if active.is_empty() {
            lock(&self.0).remove(ods);
        } else {
            lock(&self.0).insert(ods.clone(), active);
        }
        Ok(())
    }

    /// Returns the scripts of every practice that has any.
    pub(super) fn all(&self) -> ScriptsByPractice {
        let scripts = |active: &Vec<ActiveScript>| {
            active.iter().map(|active| active.script.clone()).collect()
        };
        lock(&self.0).iter().map(|(ods, active)| (ods.clone(), scripts(active))).collect()
    }

    /// Returns the faults for this request; if several scripts select it, the first one applies.
    pub(super) fn faults_for(&self, ods: &OdsCode, head: &Parts) -> Faults {
        let mut scripts = lock(&self.0);
        let mut faults = None;
        let Some(active) = scripts.get_mut(ods) else { return Faults::default() };
        active.retain_mut(|active| {
            if !active.script.matches(head) || !active.count_request() || faults.is_some() {
                return true;
            }
            faults = Some(active.script.faults.clone());
            let Some(times) = &mut active.script.times else { return true };
            match NonZeroU32::new(times.get() - 1) {
                Some(left) => {
                    *times = left;
                    true
                }
                None => false,
            }
        });
        if active.is_empty() {
            scripts.remove(ods);
        }
        faults.unwrap_or_default()
    }
}

fn too_many() -> FaultWordsError {
    FaultWordsError::new(format!("a practice has at most {SCRIPTS_MAX} scripts"))
}

/// Serialisation of methods as their names.
mod methods {
    use http::Method;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(methods: &[Method], out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(methods.iter().map(Method::as_str))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Method>, D::Error> {
        let names = Vec::<String>::deserialize(from)?;
        let method = |name: &String| {
            let standard = name.bytes().all(|byte| byte.is_ascii_uppercase());
            name.parse().ok().filter(|_| standard).ok_or_else(|| {
                D::Error::custom(format!("{name:?} is not a method in capital letters"))
            })
        };
        names.iter().map(method).collect()
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use serde_json::json;

    use super::*;

    const CREATE: &str = "urn:nhs:names:services:gpconnect:fhir:rest:create:appointment-1";

    fn ods() -> OdsCode {
        "A20047".parse().unwrap()
    }

    fn script(share: u8, faults: &str) -> Script {
        let faults = faults.parse().unwrap();
        Script { share, times: None, methods: Vec::new(), interactions: Vec::new(), faults }
    }

    fn head(method: &str, interaction: &str) -> Parts {
        let request = Request::builder().method(method).header("Ssp-InteractionID", interaction);
        request.body(()).unwrap().into_parts().0
    }

    /// Returns the numbers, from one, of those of the first `calls` requests that get faults.
    fn hit(scripts: &Scripts, calls: usize) -> Vec<usize> {
        let post = head("POST", CREATE);
        (1..=calls).filter(|_| !scripts.faults_for(&ods(), &post).is_empty()).collect()
    }

    #[test]
    fn a_share_is_spread_evenly_and_the_same_each_time() {
        let hits = |share, calls| {
            let scripts = Scripts::default();
            scripts.add(&ods(), script(share, "stall")).unwrap();
            hit(&scripts, calls)
        };
        assert_eq!(hits(10, 40), [10, 20, 30, 40]);
        assert_eq!(hits(50, 6), [2, 4, 6]);
        assert_eq!(hits(30, 12), [4, 7, 10]);
        assert_eq!(hits(1, 250), [100, 200]);
        assert_eq!(hits(100, 3), [1, 2, 3]);
        assert!(hits(0, 300).is_empty());
        for share in 0..=100 {
            assert_eq!(hits(share, 1000).len(), usize::from(share) * 10);
        }
    }

    #[test]
    fn only_matching_requests_are_counted() {
        let scripts = Scripts::default();
        let mut limited = script(50, "reset");
        limited.methods = vec![Method::POST];
        limited.interactions = vec![CREATE.parse().unwrap()];
        scripts.add(&ods(), limited).unwrap();
        let hit = |head: &Parts| !scripts.faults_for(&ods(), head).is_empty();
        let (post, get, other) = (head("POST", CREATE), head("GET", CREATE), head("POST", "urn:x"));
        assert!(!hit(&post));
        assert!(!hit(&get) && !hit(&other));
        assert!(hit(&post));
        assert!(scripts.faults_for(&"B82617".parse().unwrap(), &post).is_empty());
    }

    #[test]
    fn a_script_for_some_times_ends_with_them_and_counts_only_those_it_has_faulted() {
        let scripts = Scripts::default();
        scripts.add(&ods(), script(100, "status=500")).unwrap();
        let twice = Script { times: NonZeroU32::new(2), ..script(50, "status=503") };
        scripts.add(&ods(), twice).unwrap();
        let post = head("POST", CREATE);
        let next = || scripts.faults_for(&ods(), &post).to_string();
        let faults: Vec<_> = (0..6).map(|_| next()).collect();
        let (own, rest) = ("status=503", "status=500");
        assert_eq!(faults, [rest, own, rest, own, rest, rest]);
        assert_eq!(scripts.all().get(&ods()).map(Vec::len), Some(1));
        let once = Script { times: NonZeroU32::new(1), ..script(100, "stall") };
        scripts.replace(&ods(), vec![once]).unwrap();
        assert_eq!(hit(&scripts, 3), [1]);
        assert!(scripts.all().is_empty());
    }

    #[test]
    fn the_first_script_that_selects_a_request_applies() {
        let scripts = Scripts::default();
        scripts.add(&ods(), script(100, "status=503")).unwrap();
        scripts.add(&ods(), script(50, "status=500")).unwrap();
        let post = head("POST", CREATE);
        let faults: Vec<_> =
            (0..4).map(|_| scripts.faults_for(&ods(), &post).to_string()).collect();
        assert_eq!(faults, ["status=503", "status=500", "status=503", "status=500"]);
    }

    #[test]
    fn scripts_are_checked_and_limited() {
        let scripts = Scripts::default();
        assert!(scripts.add(&ods(), script(101, "stall")).is_err());
        let mut unknown = script(1, "stall");
        unknown.interactions = vec!["urn:x".parse().unwrap()];
        assert!(scripts.add(&ods(), unknown.clone()).is_err());
        assert!(scripts.replace(&ods(), vec![script(1, "stall"), unknown]).is_err());
        assert!(scripts.all().is_empty());
        assert!(scripts.replace(&ods(), vec![script(1, "stall"); SCRIPTS_MAX + 1]).is_err());
        scripts.replace(&ods(), vec![script(1, "stall"); SCRIPTS_MAX]).unwrap();
        assert!(scripts.add(&ods(), script(1, "stall")).is_err());
        scripts.replace(&ods(), Vec::new()).unwrap();
        assert!(scripts.all().is_empty());
    }

    #[test]
    fn a_script_is_written_as_it_is_read() {
        let text = json!({
            "share": 10, "methods": ["POST"], "interactions": [CREATE], "faults": "delay=2s; stall",
        });
        let read: Script = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), text);
        let next = json!({ "times": 1, "faults": "stall" });
        let read: Script = serde_json::from_value(next).unwrap();
        assert_eq!((read.share, read.times), (100, NonZeroU32::new(1)));
        let share = json!({ "share": "10%", "faults": "stall" });
        assert_eq!(serde_json::from_value::<Script>(share).unwrap(), script(10, "stall"));
        for bad in [
            json!({ "share": "10", "faults": "stall" }),
            json!({ "share": "x%", "faults": "stall" }),
            json!({ "times": 0, "faults": "stall" }),
            json!({ "share": 10 }),
            json!({ "share": 10, "faults": "slow" }),
            json!({ "share": 10, "faults": "stall", "method": "POST" }),
            json!({ "share": 10, "faults": "stall", "methods": ["post"] }),
            json!({ "share": -1, "faults": "stall" }),
        ] {
            assert!(serde_json::from_value::<Script>(bad.clone()).is_err(), "{bad}");
        }
    }
}
