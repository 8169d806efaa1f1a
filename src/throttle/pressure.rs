//! Load on the whole process, and the order in which it is shed.
//!
//! While requests come, two things are measured, at most ten times a second: the memory in use, against its
//! limit; and the delay of the workers, which is the age of the oldest task that waits for them. Reads of
//! consumers above their share are refused first, then all reads, then everything.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Level of load on the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PressureLevel {
    /// Serves every request.
    Calm,
    /// Refuses reads of consumers that have more exchanges under way than their share.
    Strained,
    /// Refuses all reads.
    Overloaded,
    /// Refuses all requests, writes too.
    Critical,
}

impl PressureLevel {
    const ALL: [Self; 4] = [Self::Calm, Self::Strained, Self::Overloaded, Self::Critical];

    /// Returns the level as a number from 0 to 3.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Calm => 0,
            Self::Strained => 1,
            Self::Overloaded => 2,
            Self::Critical => 3,
        }
    }

    /// Returns the percentage of the memory limit at which the level begins.
    const fn memory_percent(self) -> u64 {
        match self {
            Self::Calm => 0,
            Self::Strained => 80,
            Self::Overloaded => 90,
            Self::Critical => 97,
        }
    }

    /// Returns the percentage of the delay limit at which the level begins.
    const fn delay_percent(self) -> u64 {
        match self {
            Self::Calm => 0,
            Self::Strained => 50,
            Self::Overloaded => 100,
            Self::Critical => 200,
        }
    }
}

/// Measures the load on the process: the memory that it uses, and how late its workers are. Cheap to clone.
///
/// It measures when a request asks for it. Without requests nothing is read, and workers sleep.
#[derive(Debug, Clone)]
pub struct Pressure(Arc<PressureState>);

#[derive(Debug)]
struct PressureState {
    level: AtomicU8,
    ceiling: ArcSwap<PressureLimits>,
    base: Instant,
    /// Time at which a request last caused a measurement, in milliseconds after `base`.
    asked_ms: AtomicU64,
    workers: Vec<Heartbeat>,
    memory: ResidentMemoryFile,
}

/// Heartbeat of one worker.
#[derive(Debug, Default)]
struct Heartbeat {
    /// Time of its last beat, in milliseconds after `base`; or [`RESTS`] or [`ENDED`].
    at_ms: AtomicU64,
    begin: Notify,
}

/// Value of a worker that does not beat, since no request has come for a while.
const RESTS: u64 = 0;
/// Value of a worker that will not beat any more.
const ENDED: u64 = u64::MAX;
/// Minimum time between two measurements for requests.
const MEASURE: Duration = Duration::from_millis(100);
/// Time after the last measurement for a request until workers stop beating.
const REST: Duration = Duration::from_secs(1);

impl Pressure {
    /// Returns the measurement for a process with this many workers, without limits yet.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self(Arc::new(PressureState {
            level: AtomicU8::new(0),
            ceiling: ArcSwap::from_pointee(PressureLimits::NONE),
            base: Instant::now(),
            asked_ms: AtomicU64::new(0),
            workers: (0..workers).map(|_| Heartbeat::default()).collect(),
            memory: ResidentMemoryFile::open(),
        }))
    }

    /// Returns a measurement that stays at this level.
    #[cfg(test)]
    pub(super) fn at(level: PressureLevel) -> Self {
        let pressure = Self::new(0);
        pressure.0.level.store(level.number(), Ordering::Relaxed);
        pressure.0.asked_ms.store(u64::MAX, Ordering::Relaxed);
        pressure
    }

    /// Sets the limits against which load is judged from now on.
    pub fn limit(&self, ceiling: PressureLimits) {
        self.0.ceiling.store(Arc::new(ceiling));
    }

    /// Returns the level for a request, measured anew if the last time was more than [`MEASURE`] ago.
    ///
    /// Workers beat from then on, until no request has asked for [`REST`].
    #[must_use]
    pub fn level(&self) -> PressureLevel {
        let (now_ms, asked_ms) = (self.now_ms(), self.0.asked_ms.load(Ordering::Relaxed));
        let is_due = now_ms.saturating_sub(asked_ms) >= ms(MEASURE);
        let asked = &self.0.asked_ms;
        if is_due
            && asked.compare_exchange(asked_ms, now_ms, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            self.measure();
            self.0.workers.iter().for_each(|worker| worker.begin(now_ms));
        }
        self.last()
    }

    /// Measures and returns the level for an observer: workers that sleep go on sleeping.
    #[must_use]
    pub fn observed(&self) -> PressureLevel {
        self.measure();
        self.last()
    }

    /// Makes workers that sleep beat once, so that [`Pressure::has_live_worker`] can tell whether they can.
    pub fn ask_workers(&self) {
        let now_ms = self.now_ms();
        self.0.workers.iter().for_each(|worker| worker.begin(now_ms));
    }

    /// Returns true if a worker sleeps, has ended, or has beaten `within` this time.
    #[must_use]
    pub fn has_live_worker(&self, within: Duration) -> bool {
        let now_ms = self.now_ms();
        let beats = self.0.workers.iter().map(|worker| worker.at_ms.load(Ordering::Relaxed));
        let mut ages = beats.map(|at_ms| match at_ms {
            RESTS | ENDED => 0,
            at_ms => now_ms.saturating_sub(at_ms),
        });
        ages.any(|age_ms| age_ms <= ms(within))
    }

    /// Returns the handle by which a worker beats every [`HeartbeatHandle::BEAT`] while requests come.
    #[must_use]
    pub fn heartbeat(&self, worker: usize) -> HeartbeatHandle {
        HeartbeatHandle { pressure: self.clone(), worker }
    }

    fn last(&self) -> PressureLevel {
        let number = self.0.level.load(Ordering::Relaxed);
        PressureLevel::ALL
            .into_iter()
            .find(|level| level.number() == number)
            .unwrap_or(PressureLevel::Calm)
    }

    fn measure(&self) {
        let ceiling = self.0.ceiling.load();
        let memory = ceiling.memory_max_bytes.and_then(|_| self.0.memory.bytes());
        let level = self.measured_level(**ceiling, memory);
        let before = self.0.level.swap(level.number(), Ordering::Relaxed);
        if before != level.number() {
            tracing::warn!(
                level = level.number(),
                before,
                "the level of load shedding changed: 0 sheds nothing, 1 reads of consumers above \
                 their share, 2 all reads, 3 everything"
            );
        }
    }

    fn measured_level(&self, ceiling: PressureLimits, memory: Option<u64>) -> PressureLevel {
        let delay_ms = self.delay_ms();
        let delay_max_ms = ms(ceiling.delay_max);
        let at_least = |level: &PressureLevel| {
            let full = ceiling.memory_max_bytes.zip(memory).is_some_and(|(max, memory)| {
                memory >= max.saturating_mul(level.memory_percent()) / 100
            });
            full || delay_ms >= delay_max_ms.saturating_mul(level.delay_percent()) / 100
        };
        let mut levels = PressureLevel::ALL.into_iter().rev();
        levels
            .find(|level| *level == PressureLevel::Calm || at_least(level))
            .unwrap_or(PressureLevel::Calm)
    }

    /// Returns the delay of the latest worker, in milliseconds. One that rests or has ended is not late.
    fn delay_ms(&self) -> u64 {
        let now_ms = self.now_ms();
        let beats = self.0.workers.iter().map(|worker| worker.at_ms.load(Ordering::Relaxed));
        let late = beats
            .filter(|at_ms| *at_ms != RESTS)
            .map(|at_ms| now_ms.saturating_sub(at_ms).saturating_sub(ms(HeartbeatHandle::BEAT)));
        late.max().unwrap_or_default()
    }

    /// Returns the milliseconds after `base`, counted from 1: 0 is [`RESTS`].
    fn now_ms(&self) -> u64 {
        ms(self.0.base.elapsed()).saturating_add(1)
    }
}

impl Heartbeat {
    /// Makes a worker that rests beat again; it counts as late until it does.
    fn begin(&self, now_ms: u64) {
        let begun = self.at_ms.compare_exchange(RESTS, now_ms, Ordering::AcqRel, Ordering::Relaxed);
        if begun.is_ok() {
            self.begin.notify_one();
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Handle by which a worker shows that it is not late.
#[derive(Debug)]
pub struct HeartbeatHandle {
    pressure: Pressure,
    worker: usize,
}

impl HeartbeatHandle {
    /// Interval at which it beats while requests come.
    pub const BEAT: Duration = Duration::from_millis(50);

    /// Returns when the worker has to beat: after [`HeartbeatHandle::BEAT`] while requests come, else once
    /// the next one does.
    pub async fn is_due(&self) {
        match self.own() {
            Some(own) if own.at_ms.load(Ordering::Acquire) == RESTS => own.begin.notified().await,
            _ => tokio::time::sleep(Self::BEAT).await,
        }
    }

    /// Records a beat. If no request has come for a while, the worker rests.
    pub fn beat(&self) {
        let now_ms = self.pressure.now_ms();
        let asked_ms = self.pressure.0.asked_ms.load(Ordering::Acquire);
        let is_quiet = now_ms.saturating_sub(asked_ms) >= ms(REST);
        self.set(if is_quiet { RESTS } else { now_ms });
    }

    /// Ends the worker's heartbeat: it is not late from now on.
    pub fn ends(&self) {
        self.set(ENDED);
    }

    fn own(&self) -> Option<&Heartbeat> {
        self.pressure.0.workers.get(self.worker)
    }

    fn set(&self, at_ms: u64) {
        if let Some(own) = self.own() {
            own.at_ms.store(at_ms, Ordering::Release);
        }
    }
}

impl Drop for HeartbeatHandle {
    fn drop(&mut self) {
        self.ends();
    }
}

/// Limits of memory and delay near which load is shed.
#[derive(Debug, Clone, Copy)]
pub struct PressureLimits {
    /// Limit of memory in use, in bytes; `None` if it is not known.
    pub memory_max_bytes: Option<u64>,
    /// Limit of the workers' delay.
    pub delay_max: Duration,
}

impl PressureLimits {
    const NONE: Self = Self { memory_max_bytes: None, delay_max: Duration::MAX };
}

/// The file that shows how much memory this process uses, kept open; `None` if it cannot be opened.
///
/// Reading it then costs one system call, and needs no descriptor when there are none left.
#[derive(Debug)]
struct ResidentMemoryFile(Option<File>);

/// Maximum number of bytes of the file, which holds seven numbers.
const STATM_BYTES_MAX: usize = 160;

impl ResidentMemoryFile {
    fn open() -> Self {
        // Source: proc_pid_statm(5).
        Self(File::open("/proc/self/statm").ok())
    }

    fn bytes(&self) -> Option<u64> {
        let mut text = [0; STATM_BYTES_MAX];
        let length = self.0.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..length)?).ok()?;
        // Its second number, in pages.
        let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
        pages.checked_mul(u64::try_from(rustix::param::page_size()).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_order_of_who_is_sent_away_follows_memory_and_delay() {
        let pressure = Pressure::new(2);
        let ceiling =
            PressureLimits { memory_max_bytes: Some(1000), delay_max: Duration::from_secs(3600) };
        for (memory, level) in [
            (0, PressureLevel::Calm),
            (799, PressureLevel::Calm),
            (800, PressureLevel::Strained),
            (900, PressureLevel::Overloaded),
            (969, PressureLevel::Overloaded),
            (970, PressureLevel::Critical),
            (5000, PressureLevel::Critical),
        ] {
            assert_eq!(pressure.measured_level(ceiling, Some(memory)), level, "{memory}");
        }
        assert_eq!(pressure.measured_level(ceiling, None), PressureLevel::Calm);
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_is_stuck_is_the_later_the_longer_it_is() {
        let pressure = Pressure::new(2);
        let (fine, stuck) = (pressure.heartbeat(0), pressure.heartbeat(1));
        tokio::time::advance(SECOND).await;
        assert_eq!(pressure.level(), PressureLevel::Calm, "its first request");
        stuck.beat();
        tokio::time::advance(SECOND + HeartbeatHandle::BEAT).await;
        for (delay_max, level) in [
            (Duration::from_secs(60), PressureLevel::Calm),
            (Duration::from_millis(1500), PressureLevel::Strained),
            (Duration::from_millis(900), PressureLevel::Overloaded),
            (Duration::from_millis(400), PressureLevel::Critical),
        ] {
            pressure.limit(PressureLimits { memory_max_bytes: None, delay_max });
            assert_eq!(pressure.observed(), level, "{delay_max:?}");
        }
        assert_eq!(pressure.level(), PressureLevel::Critical, "for a request");
        [&fine, &stuck].into_iter().for_each(HeartbeatHandle::beat);
        assert_eq!(pressure.level(), PressureLevel::Critical, "measured a moment ago");
        tokio::time::advance(MEASURE).await;
        assert_eq!(pressure.level(), PressureLevel::Calm);
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_never_wakes_for_a_request_is_late() {
        let pressure = Pressure::new(1);
        let _stuck = pressure.heartbeat(0);
        pressure.limit(PressureLimits { memory_max_bytes: None, delay_max: SECOND });
        tokio::time::advance(SECOND).await;
        assert_eq!(pressure.level(), PressureLevel::Calm);
        tokio::time::advance(3 * SECOND).await;
        assert_eq!(pressure.level(), PressureLevel::Critical);
    }

    #[tokio::test(start_paused = true)]
    async fn workers_that_all_fail_to_wake_are_not_alive() {
        let pressure = Pressure::new(2);
        let (fine, _stuck) = (pressure.heartbeat(0), pressure.heartbeat(1));
        tokio::time::advance(15 * SECOND).await;
        assert!(pressure.has_live_worker(SECOND), "both sleep");
        pressure.ask_workers();
        fine.is_due().await;
        fine.beat();
        tokio::time::advance(15 * SECOND).await;
        assert!(pressure.has_live_worker(SECOND), "one has woken, and sleeps again");
        pressure.ask_workers();
        tokio::time::advance(15 * SECOND).await;
        assert!(!pressure.has_live_worker(SECOND), "now it has not");
        fine.beat();
        assert!(pressure.has_live_worker(SECOND));
        pressure.ask_workers();
        tokio::time::advance(15 * SECOND).await;
        fine.ends();
        assert!(pressure.has_live_worker(SECOND), "it has ended as it should");
    }

    #[tokio::test(start_paused = true)]
    async fn workers_sleep_while_no_request_comes() {
        let pressure = Pressure::new(1);
        let heartbeat = pressure.heartbeat(0);
        let wakes = async |during: Duration| {
            let until = Instant::now() + during;
            let mut wakes = 0;
            while tokio::time::timeout_at(until, heartbeat.is_due()).await.is_ok() {
                heartbeat.beat();
                wakes += 1;
            }
            wakes
        };
        assert_eq!(wakes(3600 * SECOND).await, 0, "before the first request");
        assert_eq!(pressure.observed(), PressureLevel::Calm);
        assert_eq!(wakes(3600 * SECOND).await, 0, "somebody looked");
        assert_eq!(pressure.level(), PressureLevel::Calm);
        let awake = wakes(3600 * SECOND).await;
        let most = REST.as_millis() / HeartbeatHandle::BEAT.as_millis() + 2;
        assert!(awake > 1 && awake <= most, "{awake}");
        assert_eq!(wakes(3600 * SECOND).await, 0, "after the last one");
        // A worker that has slept is not late.
        pressure.limit(PressureLimits { memory_max_bytes: None, delay_max: SECOND });
        assert_eq!(pressure.observed(), PressureLevel::Calm);
        heartbeat.ends();
        assert_eq!(pressure.level(), PressureLevel::Calm);
        tokio::time::advance(3600 * SECOND).await;
        assert_eq!(
            pressure.observed(),
            PressureLevel::Calm,
            "a worker that has ended is not looked for"
        );
    }

    #[test]
    fn the_memory_in_use_is_what_the_kernel_says() {
        let memory = ResidentMemoryFile::open();
        let before = memory.bytes().unwrap();
        let more = vec![1_u8; 64 << 20];
        assert!(memory.bytes().unwrap() >= before + (32 << 20), "{before} {}", more.len());
    }
}
