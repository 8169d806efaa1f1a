//! Frames of an HTTP/2 connection: those that cost their sender nothing and the proxy something are counted,
//! and a connection that sends too many of them is ended.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::fields::FieldBlock;
use super::write_pace::{PaceBreach, WritePace};

/// Stream of an HTTP/2 connection: what hyper reads has been checked for floods of frames, and what it writes
/// is held to a pace.
#[derive(Debug)]
pub(super) struct Framed<S> {
    stream: S,
    frames: FrameParser,
    pace: WritePace,
}

impl<S> Framed<S> {
    pub(super) fn new(stream: S, pace: WritePace) -> Self {
        Self { stream, frames: FrameParser::new(Instant::now()), pace }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Framed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled_mut().get_mut(before..).unwrap_or_default();
        if !read.is_empty() && !self.frames.afford(read, Instant::now()) {
            buffer.set_filled(before);
            return Poll::Ready(Err(PaceBreach::Frames.into()));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Framed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.pace.judge(context, polled, |count| *count)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.pace.judge(context, polled, |count| *count)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.pace.judge(context, polled, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.pace.judge(context, polled, |()| 0)
    }
}

/// Position in the frames, and the credit left for them.
#[derive(Debug)]
struct FrameParser {
    at: FramePosition,
    /// Parser of the field block under way.
    fields: FieldBlock,
    credit: u64,
    since: Instant,
}

#[derive(Debug, Clone, Copy)]
enum FramePosition {
    /// In the preface, or in a frame's payload, with this many bytes to come.
    Passing(usize),
    /// In a frame's head, of which `seen` bytes have come: its length, then its kind and flags.
    Head { seen: u8, length: usize, kind: u8, flags: u8 },
    /// In a frame with fields, with `left` bytes to come: a length of padding, `lead` bytes that are no
    /// fields, fields, padding.
    Fields { left: usize, is_padded: bool, lead: usize, padding: usize },
}

/// Length of the client's preface. Spec: RFC 9113 §3.4.
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: u8 = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Bytes of a dependency and a weight before the fields.
const PRIORITY_BYTES: usize = 5;
const HEAD: FramePosition = FramePosition::Head { seen: 0, length: 0, kind: 0, flags: 0 };
/// Limit: credit for frames that carry nothing: a thousand at once.
const CREDIT_MAX: u64 = 50_000;
/// Credit that comes back in a second: a hundred frames that carry nothing.
const CREDIT_PER_SECOND: u64 = 5_000;
/// Minimum credit that is added at once; less is not worth the rounding.
const EARNED_LEAST: u64 = 100;
/// Cost of a frame that opens no stream and carries nothing.
const COST: u64 = 50;
/// Cost of a frame that widens a window, which large answers need often.
const COST_OF_WINDOW: u64 = 1;

impl FrameParser {
    /// Returns the position at the start of a connection.
    const fn new(now: Instant) -> Self {
        let (at, fields) = (FramePosition::Passing(PREFACE_BYTES), FieldBlock::new());
        Self { at, fields, credit: CREDIT_MAX, since: now }
    }

    /// Follows the received bytes, and makes h2 refuse a `#` in a `:path`; returns false if the credit does
    /// not suffice for their frames.
    fn afford(&mut self, mut bytes: &mut [u8], now: Instant) -> bool {
        let earned = now.duration_since(self.since).as_micros() * u128::from(CREDIT_PER_SECOND);
        let earned = u64::try_from(earned / 1_000_000).unwrap_or(u64::MAX);
        if earned >= EARNED_LEAST {
            self.credit = self.credit.saturating_add(earned).min(CREDIT_MAX);
            self.since = now;
        }
        while let Some(byte) = bytes.first_mut() {
            let mut step = 1;
            self.at = match self.at {
                FramePosition::Passing(left) => {
                    step = left.min(bytes.len());
                    if left > step { FramePosition::Passing(left - step) } else { HEAD }
                }
                FramePosition::Head { seen, length, kind, flags } => {
                    let (length, kind, flags) = match seen {
                        0..=2 => (length << 8 | usize::from(*byte), kind, flags),
                        3 => (length, *byte, flags),
                        4 => (length, kind, *byte),
                        _ => (length, kind, flags),
                    };
                    match seen + 1 {
                        HEAD_BYTES => {
                            if !self.spend_credit(kind) {
                                return false;
                            }
                            self.payload(length, kind, flags)
                        }
                        seen => FramePosition::Head { seen, length, kind, flags },
                    }
                }
                FramePosition::Fields { left, is_padded: true, lead, .. } => {
                    fields(left - 1, lead, usize::from(*byte))
                }
                FramePosition::Fields { left, lead: 0, padding, .. } if left > padding => {
                    match self.fields.idle() {
                        0 => self.fields.next(byte),
                        idle => {
                            step = idle.min(left - padding).min(bytes.len());
                            self.fields.skip(step);
                        }
                    }
                    fields(left - step, 0, padding)
                }
                FramePosition::Fields { left, lead, padding, .. } => {
                    fields(left - 1, lead.saturating_sub(1), padding)
                }
            };
            bytes = bytes.get_mut(step..).unwrap_or_default();
        }
        true
    }

    /// Returns the position after the head of a frame.
    const fn payload(&mut self, length: usize, kind: u8, flags: u8) -> FramePosition {
        match (kind, length) {
            (_, 0) => HEAD,
            (HEADERS, left) => {
                self.fields = FieldBlock::new();
                let lead = if flags & PRIORITY == 0 { 0 } else { PRIORITY_BYTES };
                FramePosition::Fields { left, is_padded: flags & PADDED != 0, lead, padding: 0 }
            }
            (CONTINUATION, left) => {
                FramePosition::Fields { left, is_padded: false, lead: 0, padding: 0 }
            }
            (_, left) => FramePosition::Passing(left),
        }
    }

    fn spend_credit(&mut self, kind: u8) -> bool {
        let cost = match kind {
            // h2 counts what is wrong with these.
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

/// Returns the position in a frame with fields, with `left` bytes to come.
const fn fields(left: usize, lead: usize, padding: usize) -> FramePosition {
    match left {
        0 => HEAD,
        left => FramePosition::Fields { left, is_padded: false, lead, padding },
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

    /// Returns how many of these frames can be afforded, in pieces of `piece` bytes.
    fn count_affordable(
        frames: &mut FrameParser,
        kind: u8,
        payload: usize,
        piece: usize,
        now: Instant,
    ) -> usize {
        let one = frame(kind, payload);
        (0..100_000)
            .take_while(|_| one.clone().chunks_mut(piece).all(|part| frames.afford(part, now)))
            .count()
    }

    #[test]
    fn what_costs_nothing_to_send_can_be_afforded_a_thousand_times() {
        let now = Instant::now();
        for piece in [1, 4, 9, 17, 100] {
            let mut frames = FrameParser::new(now);
            assert!(frames.afford(&mut [0; PREFACE_BYTES], now));
            assert_eq!(count_affordable(&mut frames, PING, 8, piece, now), 1000);
            let later = now + Duration::from_secs(2);
            assert!(frames.afford(&mut [], later));
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
            let mut frames = FrameParser::new(now);
            assert!(frames.afford(&mut [0; PREFACE_BYTES], now));
            assert_eq!(count_affordable(&mut frames, kind, payload, 7, now), count, "{kind}");
        }
    }

    proptest::proptest! {
        /// Frames in any pieces: the same bytes are passed on.
        #[test]
        fn pieces_do_not_matter(
            payloads in proptest::collection::vec(
                (0_u8..10, proptest::num::u8::ANY, proptest::collection::vec(0_u8..=255, 0..60)),
                0..8,
            ),
            piece in 1_usize..40,
        ) {
            let mut bytes = vec![0; PREFACE_BYTES];
            for (kind, flags, payload) in payloads {
                let length = u8::try_from(payload.len()).unwrap();
                bytes.extend([0, 0, length, kind, flags, 0, 0, 0, 1]);
                bytes.extend(payload);
            }
            let now = Instant::now();
            let (mut whole, mut pieces) = (bytes.clone(), bytes);
            proptest::prop_assert!(FrameParser::new(now).afford(&mut whole, now));
            let mut frames = FrameParser::new(now);
            for piece in pieces.chunks_mut(piece) {
                proptest::prop_assert!(frames.afford(piece, now));
            }
            proptest::prop_assert_eq!(whole, pieces);
        }
    }
}
