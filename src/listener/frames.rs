//! The frames of an HTTP/2 connection: those that cost their sender nothing and us something are
//! counted, and a connection that has nothing else to say is ended.

use tokio::time::Instant;

/// Where in the frames we are, and what they may still cost.
#[derive(Debug)]
pub(super) struct Frames {
    at: At,
    credit: u64,
    since: Instant,
}

#[derive(Debug, Clone, Copy)]
enum At {
    /// In the preface, or in a frame's payload, with so many bytes to come.
    Passing(usize),
    /// In a frame's head, of which so many bytes have come: its length, then its kind.
    Head { seen: u8, length: usize, kind: u8 },
}

/// Spec: RFC 9113 §3.4.
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: u8 = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// Limit: what frames may cost at once, and how much of it comes back in a second: a thousand, and a
/// hundred.
const CREDIT_MAX: u64 = 50_000;
const CREDIT_PER_SECOND: u64 = 5_000;
/// Less is not worth the rounding.
const EARNED_LEAST: u64 = 100;
/// What a frame costs that opens no stream and carries nothing. Windows are widened as often as answers
/// are large.
const COST: u64 = 50;
const COST_OF_WINDOW: u64 = 1;

impl Frames {
    /// The start of a connection.
    pub(super) const fn new(now: Instant) -> Self {
        Self { at: At::Passing(PREFACE_BYTES), credit: CREDIT_MAX, since: now }
    }

    /// Follows the bytes that have come; whether their frames can be afforded.
    pub(super) fn afford(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        let earned = now.duration_since(self.since).as_micros() * u128::from(CREDIT_PER_SECOND);
        let earned = u64::try_from(earned / 1_000_000).unwrap_or(u64::MAX);
        if earned >= EARNED_LEAST {
            self.credit = self.credit.saturating_add(earned).min(CREDIT_MAX);
            self.since = now;
        }
        while let Some((&byte, rest)) = bytes.split_first() {
            self.at = match self.at {
                At::Passing(left) => {
                    let step = left.min(bytes.len());
                    bytes = bytes.get(step..).unwrap_or_default();
                    match left - step {
                        0 => At::Head { seen: 0, length: 0, kind: 0 },
                        left => At::Passing(left),
                    }
                }
                At::Head { seen, length, kind } => {
                    bytes = rest;
                    let (length, kind) = match seen {
                        0..=2 => (length << 8 | usize::from(byte), kind),
                        3 => (length, byte),
                        _ => (length, kind),
                    };
                    match seen + 1 {
                        HEAD_BYTES => {
                            if !self.pay(kind) {
                                return false;
                            }
                            match length {
                                0 => At::Head { seen: 0, length: 0, kind: 0 },
                                length => At::Passing(length),
                            }
                        }
                        seen => At::Head { seen, length, kind },
                    }
                }
            };
        }
        true
    }

    fn pay(&mut self, kind: u8) -> bool {
        let cost = match kind {
            // What is wrong with these is counted where they are understood.
            DATA | HEADERS | CONTINUATION => 0,
            WINDOW_UPDATE => COST_OF_WINDOW,
            _ => COST,
        };
        match self.credit.checked_sub(cost) {
            Some(left) => {
                self.credit = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 0], &vec![0; payload]].concat()
    }

    /// How many of these frames can be afforded, whichever way they come.
    fn afforded(
        frames: &mut Frames,
        kind: u8,
        payload: usize,
        piece: usize,
        now: Instant,
    ) -> usize {
        let one = frame(kind, payload);
        (0..100_000).take_while(|_| one.chunks(piece).all(|part| frames.afford(part, now))).count()
    }

    #[test]
    fn what_costs_nothing_to_send_can_be_afforded_a_thousand_times() {
        let now = Instant::now();
        for piece in [1, 4, 9, 17, 100] {
            let mut frames = Frames::new(now);
            assert!(frames.afford(&[0; PREFACE_BYTES], now));
            assert_eq!(afforded(&mut frames, PING, 8, piece, now), 1000);
            let later = now + Duration::from_secs(2);
            assert!(frames.afford(&[], later));
            assert_eq!(frames.credit, 2 * CREDIT_PER_SECOND);
        }
    }

    #[test]
    fn what_carries_something_costs_nothing_and_windows_little() {
        let now = Instant::now();
        for (kind, payload, count) in [
            (DATA, 100, 100_000),
            (HEADERS, 40, 100_000),
            (WINDOW_UPDATE, 4, 50_000),
            (0x77, 0, 1000),
        ] {
            let mut frames = Frames::new(now);
            assert!(frames.afford(&[0; PREFACE_BYTES], now));
            assert_eq!(afforded(&mut frames, kind, payload, 7, now), count, "{kind}");
        }
    }
}
