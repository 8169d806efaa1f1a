//! Rates that gateways share: a generic cell rate by the clock of Redis.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{RedisValue, SharedScript, Sharing};

/// Script for a generic cell rate, by the clock of Redis.
///
/// Key: the rate. Arguments: number of the query; microseconds between two; number at once; number wanted;
/// microseconds ahead for which they may be granted; microseconds until the first is granted of a rate that is
/// not stored; milliseconds for which an unused rate is stored. Answers: number granted; number left;
/// microseconds until the last that was granted may be used or, if none was, until there is one to grant.
///
/// A stored time, at which all is used up, is not believed if it lies beyond what could have been granted, and is
/// replaced: a clock that was set back would stop everything until it has caught up.
pub(super) const DRAW: &str = r"
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local interval, burst, wanted = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local ahead, missing = tonumber(ARGV[5]), tonumber(ARGV[6])
local most = now + ahead + burst * interval
local stored = tonumber(redis.call('GET', KEYS[1]))
local due = stored or now + missing
if not (due <= most) then
  due = now + math.max(missing, burst * interval)
end
due = math.max(due, now)
local room = math.max(math.floor((most - due) / interval), 0)
local granted = math.min(room, wanted)
due = due + granted * interval
if granted > 0 or due ~= stored then
  redis.call('SET', KEYS[1], string.format('%.0f', due), 'PX', math.ceil((due - now) / 1000) + tonumber(ARGV[7]))
end
local wait = due - burst * interval - now
if granted == 0 then
  wait = due + interval - most
end
return {ARGV[1], granted, room - granted, math.max(wait, 0)}
";

/// Requests or queries to take from a shared rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RateDraw<'a> {
    /// Key of the rate in Redis.
    pub(crate) key: &'a str,
    /// Time between two.
    pub(crate) interval: Duration,
    /// Number that may be taken at once, after a pause.
    pub(crate) burst: NonZeroU32,
    /// Number to take.
    pub(crate) wanted: u32,
    /// Time ahead for which they may be granted.
    pub(crate) ahead: Duration,
    /// State of the rate if Redis does not know it.
    pub(crate) missing: MissingRate,
}

/// State of a rate that Redis does not know.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MissingRate {
    /// Rate from which nothing has been taken. Redis forgets it a second after that is so.
    Unused,
    /// Rate from which all has been taken, until this time is over: Redis may have lost it. Redis forgets it after
    /// a day.
    UsedUp(Duration),
}

/// Answer to a [`RateDraw`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateGrant {
    /// Number granted, at most what was wanted.
    pub(crate) granted: u32,
    /// Number left to all gateways.
    pub(crate) left: u32,
    /// Time until the last of those granted may be used; if none was, until there is one to grant.
    pub(crate) wait: Duration,
}

/// Time for which a rate that counts as used up if it is missing is stored.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

impl RateDraw<'_> {
    fn interval_us(&self) -> u64 {
        micros(self.interval).max(1)
    }

    /// Returns an answer within the bounds of what was asked for; `None` if it is none.
    ///
    /// Security: a wrong answer grants no more than what was asked for, and lets nobody wait for longer than the
    /// whole rate takes to fill.
    fn bounded(&self, values: &[RedisValue]) -> Option<RateGrant> {
        let [RedisValue::Number(granted), RedisValue::Number(left), RedisValue::Number(wait_us)] =
            values
        else {
            return None;
        };
        let burst = u64::from(self.burst.get());
        let granted = u64::try_from(*granted).ok()?.min(self.wanted.into());
        let left = u64::try_from(*left).ok()?.min(burst.saturating_sub(granted));
        let wait_max_us =
            burst.saturating_mul(self.interval_us()).saturating_add(micros(self.ahead));
        let wait_us = u64::try_from(*wait_us).ok()?.min(wait_max_us);
        Some(RateGrant {
            granted: u32::try_from(granted).unwrap_or(self.wanted),
            left: u32::try_from(left).unwrap_or_default(),
            wait: Duration::from_micros(wait_us),
        })
    }
}

impl Sharing {
    /// Takes from a shared rate; `None` if nothing is shared, or if Redis cannot be used.
    pub(crate) async fn draw(&self, draw: &RateDraw<'_>) -> Option<RateGrant> {
        let interval_us = draw.interval_us();
        let (missing_us, kept) = match draw.missing {
            MissingRate::Unused => (0, Duration::from_secs(1)),
            MissingRate::UsedUp(wait) => {
                (micros(wait) + interval_us * (u64::from(draw.burst.get()) - 1), KEPT)
            }
        };
        let numbers = [
            interval_us,
            draw.burst.get().into(),
            draw.wanted.into(),
            micros(draw.ahead),
            missing_us,
            u64::try_from(kept.as_millis()).unwrap_or(u64::MAX),
        ];
        let arguments = numbers.map(|number| number.to_string());
        let arguments = arguments.each_ref().map(String::as_bytes);
        self.run(SharedScript::Draw, &[draw.key], &arguments, |values| draw.bounded(&values)).await
    }
}

fn micros(period: Duration) -> u64 {
    u64::try_from(period.as_micros()).unwrap_or(u64::MAX)
}
