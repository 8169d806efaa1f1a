//! How hard pressed the whole process is, and who is sent away first.
//!
//! Two things are looked at ten times a second: the memory that is in use, against what may be; and how
//! late the workers are with what they should have done by now, which is the age of the oldest thing
//! that waits for them. Whoever holds more than its share is sent away first, then reads, then
//! everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How hard pressed it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everybody is served.
    Calm,
    /// Reads of consumers that have more under way than their share are sent away.
    Strained,
    /// All reads are.
    Overloaded,
    /// Writes too.
    Critical,
}

impl Level {
    const ALL: [Self; 4] = [Self::Calm, Self::Strained, Self::Overloaded, Self::Critical];

    /// As a number: 0 to 3.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Calm => 0,
            Self::Strained => 1,
            Self::Overloaded => 2,
            Self::Critical => 3,
        }
    }

    /// Of the memory that may be in use, in hundredths.
    const fn memory_percent(self) -> u64 {
        match self {
            Self::Calm => 0,
            Self::Strained => 80,
            Self::Overloaded => 90,
            Self::Critical => 97,
        }
    }

    /// Of the delay that may be, in hundredths.
    const fn delay_percent(self) -> u64 {
        match self {
            Self::Calm => 0,
            Self::Strained => 50,
            Self::Overloaded => 100,
            Self::Critical => 200,
        }
    }
}

/// How hard pressed the process is, as last seen. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pressure(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    level: AtomicU8,
    base: Instant,
    /// When each worker last looked at the clock, in milliseconds after `base`.
    beats_ms: Vec<AtomicU64>,
}

/// How often the pressure is taken.
const TAKE: Duration = Duration::from_millis(100);

impl Pressure {
    /// Of a process with so many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self(Arc::new(Shared {
            level: AtomicU8::new(0),
            base: Instant::now(),
            beats_ms: (0..workers).map(|_| AtomicU64::new(0)).collect(),
        }))
    }

    /// One that stays where it is.
    #[cfg(test)]
    pub(super) fn at(level: Level) -> Self {
        let pressure = Self::new(0);
        pressure.0.level.store(level.number(), Ordering::Relaxed);
        pressure
    }

    /// As last seen.
    #[must_use]
    pub fn level(&self) -> Level {
        let number = self.0.level.load(Ordering::Relaxed);
        Level::ALL.into_iter().find(|level| level.number() == number).unwrap_or(Level::Calm)
    }

    /// A worker's part: it looks at the clock every [`Pulse::BEAT`].
    #[must_use]
    pub fn pulse(&self, worker: usize) -> Pulse {
        Pulse { pressure: self.clone(), worker }
    }

    /// Takes the pressure, for as long as it is polled; `limits` says what may be now, and `told` hears
    /// the level.
    pub async fn watch(&self, limits: impl Fn() -> Ceiling, told: impl Fn(Level)) {
        loop {
            let level = self.take(limits(), resident_bytes());
            let before = self.0.level.swap(level.number(), Ordering::Relaxed);
            if before != level.number() {
                tracing::warn!(level = level.number(), before, "load is shed by another measure");
            }
            told(level);
            tokio::time::sleep(TAKE).await;
        }
    }

    fn take(&self, ceiling: Ceiling, memory: Option<u64>) -> Level {
        let delay_ms = self.delay_ms();
        let delay_max_ms = u64::try_from(ceiling.delay_max.as_millis()).unwrap_or(u64::MAX);
        let at_least = |level: &Level| {
            let full = ceiling.memory_max_bytes.zip(memory).is_some_and(|(max, memory)| {
                memory >= max.saturating_mul(level.memory_percent()) / 100
            });
            full || delay_ms >= delay_max_ms.saturating_mul(level.delay_percent()) / 100
        };
        let mut levels = Level::ALL.into_iter().rev();
        levels.find(|level| *level == Level::Calm || at_least(level)).unwrap_or(Level::Calm)
    }

    /// How late the latest worker is. One that has not begun is not late.
    fn delay_ms(&self) -> u64 {
        let (now_ms, beat_ms) =
            (self.now_ms(), u64::try_from(Pulse::BEAT.as_millis()).unwrap_or_default());
        let beats = self.0.beats_ms.iter().map(|beat| beat.load(Ordering::Relaxed));
        let late = beats
            .filter(|beat| *beat > 0)
            .map(|beat| now_ms.saturating_sub(beat).saturating_sub(beat_ms));
        late.max().unwrap_or_default()
    }

    fn set(&self, worker: usize, beat_ms: u64) {
        if let Some(beat) = self.0.beats_ms.get(worker) {
            beat.store(beat_ms, Ordering::Relaxed);
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.0.base.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A worker's, by which it is known not to be late.
#[derive(Debug)]
pub struct Pulse {
    pressure: Pressure,
    worker: usize,
}

impl Pulse {
    /// How often it beats.
    pub const BEAT: Duration = Duration::from_millis(50);

    /// The worker is here.
    pub fn beats(&self) {
        self.pressure.set(self.worker, self.pressure.now_ms().max(1));
    }

    /// It will not be looked for any more.
    pub fn rests(&self) {
        self.pressure.set(self.worker, 0);
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.rests();
    }
}

/// What may be.
#[derive(Debug, Clone, Copy)]
pub struct Ceiling {
    /// Memory in use; not looked at when not known.
    pub memory_max_bytes: Option<u64>,
    /// How late workers may be.
    pub delay_max: Duration,
}

/// The memory this process uses.
fn resident_bytes() -> Option<u64> {
    // Source: proc(5).
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_who_is_sent_away_follows_memory_and_delay() {
        let pressure = Pressure::new(2);
        let ceiling =
            Ceiling { memory_max_bytes: Some(1000), delay_max: Duration::from_secs(3600) };
        for (memory, level) in [
            (0, Level::Calm),
            (799, Level::Calm),
            (800, Level::Strained),
            (900, Level::Overloaded),
            (969, Level::Overloaded),
            (970, Level::Critical),
            (5000, Level::Critical),
        ] {
            assert_eq!(pressure.take(ceiling, Some(memory)), level, "{memory}");
        }
        assert_eq!(pressure.take(ceiling, None), Level::Calm);
        // A worker that looked at the clock once, a second after the start and long ago.
        let pressure = Pressure(Arc::new(Shared {
            level: AtomicU8::new(0),
            base: Instant::now().checked_sub(Duration::from_millis(2050)).unwrap(),
            beats_ms: vec![AtomicU64::new(0), AtomicU64::new(1000)],
        }));
        for (delay_max, level) in [
            (Duration::from_secs(60), Level::Calm),
            (Duration::from_millis(1500), Level::Strained),
            (Duration::from_millis(900), Level::Overloaded),
            (Duration::from_millis(400), Level::Critical),
        ] {
            let ceiling = Ceiling { memory_max_bytes: None, delay_max };
            assert_eq!(pressure.take(ceiling, Some(u64::MAX)), level, "{delay_max:?}");
        }
    }
}
