//! A stream with the two deadlines hyper has no word for: a head that does not end, and a consumer
//! that takes nothing.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

/// How many exchanges a connection carries.
#[derive(Debug)]
pub(super) struct Activity {
    exchanges: AtomicUsize,
    carried: AtomicUsize,
    untaken: AtomicUsize,
    taken: AtomicUsize,
    changed: Notify,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            exchanges: AtomicUsize::new(0),
            carried: AtomicUsize::new(0),
            untaken: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            changed: Notify::new(),
        }
    }

    fn is_idle(&self) -> bool {
        self.exchanges.load(Ordering::Acquire) == 0
    }

    /// Exchanges carried so far, the present ones included.
    fn carried(&self) -> usize {
        self.carried.load(Ordering::Acquire)
    }

    /// Returns once answers have waited for `stall` and none was taken from: over HTTP/2 a consumer
    /// stops taking by its window, which the socket does not show.
    pub(super) async fn stalled(&self, stall: Duration) {
        loop {
            let taken = self.taken.load(Ordering::Acquire);
            let waiting = self.untaken.load(Ordering::Acquire) > 0;
            tokio::time::sleep(stall).await;
            let unmoved = self.taken.load(Ordering::Acquire) == taken;
            if waiting && unmoved && self.untaken.load(Ordering::Acquire) > 0 {
                return;
            }
        }
    }

    /// Returns once no exchange has been carried for `first` from the start, or for `idle` later.
    pub(super) async fn quiet(&self, first: Duration, idle: Duration) {
        loop {
            let carried = self.carried();
            let wait = if carried == 0 { first } else { idle };
            let changed = self.changed.notified();
            let unchanged = tokio::time::timeout(wait, changed).await.is_err();
            if unchanged && self.is_idle() && self.carried() == carried {
                return;
            }
        }
    }
}

/// Keeps a connection busy until dropped.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Busy {
    pub(super) fn new(activity: &Arc<Activity>) -> Self {
        activity.exchanges.fetch_add(1, Ordering::AcqRel);
        activity.carried.fetch_add(1, Ordering::AcqRel);
        activity.changed.notify_waiters();
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.exchanges.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_waiters();
    }
}

/// Whether an answer waits for its consumer, or for its provider.
#[derive(Debug)]
pub(super) struct Taking {
    activity: Arc<Activity>,
    waits_for_consumer: bool,
}

impl Taking {
    /// An answer that nothing has been taken of.
    pub(super) fn new(busy: &Busy) -> Self {
        busy.0.untaken.fetch_add(1, Ordering::AcqRel);
        Self { activity: Arc::clone(&busy.0), waits_for_consumer: true }
    }

    /// The consumer has asked for more, and there is more for it to take, or not yet.
    pub(super) fn note(&mut self, more: bool) {
        self.activity.taken.fetch_add(1, Ordering::AcqRel);
        match (self.waits_for_consumer, more) {
            (true, false) => self.activity.untaken.fetch_sub(1, Ordering::AcqRel),
            (false, true) => self.activity.untaken.fetch_add(1, Ordering::AcqRel),
            (true, true) | (false, false) => 0,
        };
        self.waits_for_consumer = more;
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.note(false);
    }
}

/// The stream of one connection.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
    head: Option<Duration>,
    write_stall: Duration,
    /// When the head under way began, and how many exchanges had been carried by then.
    head_since: Option<(usize, Instant)>,
    head_timer: Option<Pin<Box<Sleep>>>,
    stall_timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    /// `head` is the deadline of an HTTP/1 head; HTTP/2 frames have none here.
    pub(super) fn new(
        stream: S,
        activity: Arc<Activity>,
        head: Option<Duration>,
        write_stall: Duration,
    ) -> Self {
        Self {
            stream,
            activity,
            head,
            write_stall,
            head_since: None,
            head_timer: None,
            stall_timer: None,
        }
    }

    /// After a read: a head is under way from its first byte until its exchange is carried.
    fn note_read(&mut self, got_bytes: bool) {
        let carried = self.activity.carried();
        let in_head = self.head_since.is_some_and(|(before, _)| before == carried);
        if !in_head {
            self.head_timer = None;
            let begins = got_bytes && self.activity.is_idle();
            self.head_since = begins.then(|| (carried, Instant::now()));
        }
    }

    /// While a read waits inside a head, its deadline runs.
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let (Some((_, since)), Some(head)) = (self.head_since, self.head) else {
            return Poll::Pending;
        };
        let timer =
            self.head_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(since + head)));
        timer.as_mut().poll(context).map(|()| io::ErrorKind::TimedOut.into())
    }

    /// While a write waits, its deadline runs; any progress ends it.
    fn watch_write<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stall_timer = None;
            return polled;
        }
        let stall = self.write_stall;
        let timer = self.stall_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        timer.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.note_read(buffer.filled().len() > before);
        if polled.is_pending() && self.activity.is_idle() {
            return self.poll_head(context).map(Err);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch_write(context, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.watch_write(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch_write(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.watch_write(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
