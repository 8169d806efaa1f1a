//! The reading side of an HTTP/1.1 connection: hyper is given what has been judged, and nothing else.
//!
//! A head is held back until it is whole. In place of one that is refused hyper is given a request of
//! ours, so that the line refuses it, in the consumer's language and with a record; nothing follows it.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Sleep;
use tokio_util::io::poll_read_buf;

use super::watched::Breach;
use crate::request::{Fault, Framing, HeadFault};

/// A connection's requests: how many there were, whether one waits for its answer, and which of them
/// stands in for a head that was refused, and why it was.
#[derive(Debug, Default)]
pub(crate) struct Screening {
    served: AtomicUsize,
    answered: AtomicUsize,
    asked: Notify,
    refused: OnceLock<(usize, HeadFault)>,
}

impl Screening {
    /// Another request is served; the fault of the head it stands in for, if it does.
    pub(super) fn next(&self) -> Option<HeadFault> {
        let number = self.served.fetch_add(1, Ordering::Relaxed);
        self.asked.notify_waiters();
        self.refused.get().filter(|(at, _)| *at == number).map(|(_, fault)| fault.clone())
    }

    /// Requests served so far.
    pub(super) fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    /// One of them has its answer.
    pub(super) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns once a request waits for its answer.
    pub(super) async fn asked(&self) {
        let asked = self.asked.notified();
        if self.answered.load(Ordering::Relaxed) == self.served() {
            asked.await;
        }
    }
}

/// The stream of one HTTP/1.1 connection.
#[derive(Debug)]
pub(crate) struct Screened<S> {
    stream: S,
    framing: Framing,
    screening: Arc<Screening>,
    /// Read and not passed on: first what has been judged, then a head that has not ended.
    held: BytesMut,
    /// How much of it has been judged.
    judged: usize,
    /// Why nothing follows.
    end: Option<End>,
    head: Duration,
    head_timer: Option<Pin<Box<Sleep>>>,
    linger: Duration,
    lingering: Option<(Pin<Box<Sleep>>, usize)>,
}

/// Why nothing more is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The consumer has ended its side.
    Theirs,
    /// A head was refused.
    Refused,
    /// A body broke its framing.
    Broken,
}

/// What hyper is given in place of a head that is refused. The method is one of nobody's.
const STAND_IN: &[u8] = b"- / HTTP/1.1\r\n\r\n";
/// How much a head that does not come at once is read by.
const STEP_BYTES: usize = 4 * 1024;
/// Limit: bytes read and thrown away of what a consumer still sends after its last answer.
const LINGER_BYTES_MAX: usize = 1 << 20;

impl<S> Screened<S> {
    /// `head` is a head's deadline from its first byte; `linger` is how long a consumer that still
    /// sends is read from after its last answer, so that a reset does not overtake it.
    pub(super) fn new(
        stream: S,
        screening: Arc<Screening>,
        head: Duration,
        linger: Duration,
    ) -> Self {
        Self {
            stream,
            framing: Framing::new(),
            screening,
            held: BytesMut::new(),
            judged: 0,
            end: None,
            head,
            head_timer: None,
            linger,
            lingering: None,
        }
    }

    /// Nothing follows what has been judged.
    fn end(&mut self, fault: Fault) {
        self.held.truncate(self.judged);
        match fault {
            Fault::Head(refusal) => {
                self.held.extend_from_slice(STAND_IN);
                self.judged = self.held.len();
                self.end = Some(End::Refused);
                let refused = (self.framing.heads(), HeadFault(refusal));
                // There is one: nothing is judged after it.
                self.screening.refused.set(refused).unwrap_or_default();
            }
            Fault::Body => self.end = Some(End::Broken),
        }
    }

    /// Gives what has been judged, as far as there is room.
    fn pass(&mut self, out: &mut ReadBuf<'_>) {
        let count = self.judged.min(out.remaining());
        out.put_slice(self.held.get(..count).unwrap_or_default());
        self.held.advance(count);
        self.judged -= count;
        if self.held.is_empty() {
            // A large head does not leave its room behind.
            self.held = BytesMut::new();
        }
    }

    /// Whether the consumer may still be sending what nobody will read.
    fn is_cut_short(&self) -> bool {
        match self.end {
            Some(End::Theirs) => false,
            Some(End::Refused | End::Broken) => true,
            None => !self.framing.is_between_messages(),
        }
    }

    /// While a head is waited for, its deadline runs.
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let head = self.head;
        let timer = self.head_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(head)));
        timer.as_mut().poll(context).map(|()| Breach::Head.into())
    }
}

impl<S: AsyncRead + Unpin> Screened<S> {
    /// Reads to where it is asked for, and takes back what is a head without an end: the usual head
    /// comes whole and is never copied.
    fn poll_straight(
        &mut self,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, out))?;
        let read = out.filled().get(before..).unwrap_or_default();
        if read.is_empty() {
            self.end = Some(End::Theirs);
        }
        let scan = self.framing.scan(read);
        self.held.extend_from_slice(read.get(scan.passed..).unwrap_or_default());
        out.set_filled(before + scan.passed);
        if let Some(fault) = scan.fault {
            self.end(fault);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads more of a head that has not ended.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.held.reserve(STEP_BYTES);
        match poll_read_buf(Pin::new(&mut self.stream), context, &mut self.held) {
            Poll::Pending => return self.poll_head(context).map(Err),
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(read) => drop(read?),
        }
        let scan = self.framing.scan(&self.held);
        self.judged = scan.passed;
        if let Some(fault) = scan.fault {
            self.end(fault);
        }
        if self.judged > 0 {
            self.head_timer = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Screened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        while out.filled().len() == before {
            if self.judged > 0 {
                self.pass(out);
                break;
            }
            match self.end {
                Some(End::Theirs | End::Refused) => break,
                Some(End::Broken) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                None if self.held.is_empty() => ready!(self.poll_straight(context, out))?,
                None => ready!(self.poll_more(context))?,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Screened<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Closing with unread bytes resets the connection, and a reset can overtake the last answer: so
    /// what is still sent is read for a while, and thrown away.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
            if !this.is_cut_short() {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = this.linger;
        let (timer, left) = this
            .lingering
            .get_or_insert_with(|| (Box::pin(tokio::time::sleep(linger)), LINGER_BYTES_MAX));
        while timer.as_mut().poll(context).is_pending() {
            let mut scratch = [0; STEP_BYTES];
            let mut scratch = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut this.stream).poll_read(context, &mut scratch));
            *left = left.saturating_sub(scratch.filled().len());
            if read.is_err() || scratch.filled().is_empty() || *left == 0 {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
