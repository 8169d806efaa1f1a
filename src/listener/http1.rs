//! An HTTP/1.1 connection: hyper is given only what the [`Validator`] has passed.
//!
//! A head is held back until it is complete. A refused head ends hyper's input: exchanges under way are
//! answered first, and then the refusal is written on the connection.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;
use tokio_util::sync::CancellationToken;

use super::ListenerLimits;
use super::validator::{InputFault, Validator};
use super::write_pace::{PaceBreach, WritePace};
use crate::refusal::Refusal;

/// Limit: bytes of hyper's own head buffer. The proxy's limits are lower, so that it answers 414 and 431
/// itself.
const HEAD_BUFFER_BYTES: usize = 128 * 1024;
/// Limit: hyper's own count of header lines.
const HEADERS_MAX: usize = 128;

/// Future of an answer; boxed, so that an idle connection does not hold the memory of a request.
pub(crate) type Answering<B> =
    Pin<Box<dyn Future<Output = Result<Response<B>, Infallible>> + Send>>;

/// Serves a connection until it ends, or until an exchange has ended after `close` is cancelled.
///
/// The last request that the connection may carry cancels `close`. `refuse` makes the response to a refused
/// head. While no request comes, hyper's buffers are given back: 16 KiB that it would hold for each
/// connection.
///
/// # Errors
/// Returns hyper's error, or one of writing a refusal or closing the connection.
pub(crate) async fn serve<S, B, F>(
    stream: S,
    limits: &ListenerLimits,
    close: CancellationToken,
    answer: F,
    refuse: impl FnOnce(&RefusedHead) -> Vec<u8>,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    F: Fn(Request<Incoming>) -> Answering<B> + Unpin,
{
    let (carried, requests_max) = (AtomicUsize::new(0), limits.requests_max);
    let closes = close.clone();
    let service = service_fn(|request| {
        if carried.fetch_add(1, Ordering::Relaxed) + 1 >= requests_max {
            closes.cancel();
        }
        answer(request)
    });
    let mut stream = Validated::new(stream, limits);
    loop {
        let mut serving = Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.idle)
            // Some consumers close their side once they have sent a request.
            .half_close(true)
            .max_buf_size(HEAD_BUFFER_BYTES)
            .max_headers(HEADERS_MAX)
            .preserve_header_case(true)
            .serve_connection(TokioIo::new(stream), &service);
        let ended = tokio::select! {
            ended = poll_fn(|context| serving.poll_without_shutdown(context)) => Some(ended),
            () = close.cancelled() => None,
        };
        match ended {
            Some(ended) => ended?,
            None => {
                Pin::new(&mut serving).graceful_shutdown();
                poll_fn(|context| serving.poll_without_shutdown(context)).await?;
            }
        }
        stream = serving.into_parts().io.into_inner();
        if !stream.wakes(limits.idle, &close).await {
            break;
        }
    }
    if let Some(head) = stream.refused_after_all_others() {
        stream.write_all(&refuse(&head)).await?;
    }
    stream.shutdown().await?;
    match stream.end {
        // hyper has seen no byte of such a head, and takes its end for the end of the connection.
        Some(InputEnd::Late) => Err(io::Error::from(PaceBreach::Head).into()),
        Some(InputEnd::Theirs | InputEnd::Refused { .. } | InputEnd::Broken | InputEnd::Rests)
        | None => Ok(()),
    }
}

/// Time without a byte either way after which a connection between requests gives back hyper's buffers.
const REST: Duration = Duration::from_millis(500);

/// Error with which a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// An error while hyper served it.
    #[error(transparent)]
    Served(#[from] hyper::Error),
    /// An error while a refusal was written or the connection closed.
    #[error(transparent)]
    Closed(#[from] io::Error),
}

/// A head that was refused before it became a request.
#[derive(Debug)]
pub(crate) struct RefusedHead {
    /// Reason of the refusal.
    pub(crate) refusal: Refusal,
    /// Bytes of the head as far as it was read, and perhaps of what followed it.
    pub(crate) bytes: BytesMut,
}

/// Stream of an HTTP/1.1 connection: what hyper reads has been validated, and what it writes is held to a
/// pace.
#[derive(Debug)]
struct Validated<S> {
    stream: S,
    pace: WritePace,
    validator: Validator,
    /// Bytes read and not passed on: first those that have been validated, then an incomplete head.
    held: BytesMut,
    /// Number of bytes of `held` that have been validated.
    valid: usize,
    /// Reason why nothing follows, if nothing does.
    end: Option<InputEnd>,
    refused: Option<RefusedHead>,
    head: Duration,
    head_timer: Option<Pin<Box<Sleep>>>,
    /// Time at which bytes last went either way.
    active: Instant,
    rest_timer: Option<Pin<Box<Sleep>>>,
    linger: Duration,
    lingering: Option<(Pin<Box<Sleep>>, usize)>,
}

/// Reason why no more input is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InputEnd {
    /// The consumer has closed its side.
    Theirs,
    /// A head was refused; `is_next` once hyper has answered all before it, and asks for more.
    Refused { is_next: bool },
    /// A body broke its framing.
    Broken,
    /// A head did not end in time.
    Late,
    /// The connection rests: hyper sees an end for now, so that it gives back its buffers.
    Rests,
}

/// Number of bytes by which a head that does not come at once is read.
const STEP_BYTES: usize = 4 * 1024;
/// Limit: bytes read and discarded of what a consumer still sends after its last answer.
const LINGER_BYTES_MAX: usize = 1 << 20;

impl<S> Validated<S> {
    /// Wraps a stream under the limits' deadline for a head, from its first byte, and their `linger`.
    ///
    /// A consumer that still sends is read from for `linger` after its last answer, so that a reset does not
    /// overtake that.
    fn new(stream: S, limits: &ListenerLimits) -> Self {
        Self {
            stream,
            pace: WritePace::new(limits.taking()),
            validator: Validator::new(),
            held: BytesMut::new(),
            valid: 0,
            end: None,
            refused: None,
            head: limits.head,
            head_timer: None,
            active: Instant::now(),
            rest_timer: None,
            linger: limits.linger,
            lingering: None,
        }
    }

    /// Ends the input after what has been validated.
    fn end(&mut self, fault: InputFault) {
        let bytes = self.held.split_off(self.valid);
        match fault {
            InputFault::Head(refusal) => {
                self.end = Some(InputEnd::Refused { is_next: false });
                self.refused = Some(RefusedHead { refusal, bytes });
            }
            InputFault::Body => self.end = Some(InputEnd::Broken),
        }
    }

    /// Validates the held bytes, of which none have been validated yet.
    fn validate(&mut self) {
        let scan = self.validator.scan(&self.held);
        self.valid = scan.passed;
        if let Some(fault) = scan.fault {
            self.end(fault);
        }
    }

    /// Returns the refused head if everything before it has been answered, and none of those answers ended
    /// the connection.
    fn refused_after_all_others(&mut self) -> Option<RefusedHead> {
        match self.end {
            Some(InputEnd::Refused { is_next: true }) => self.refused.take(),
            _ => None,
        }
    }

    /// Passes on what has been validated, as far as `out` has space.
    fn pass(&mut self, out: &mut ReadBuf<'_>) {
        let count = self.valid.min(out.remaining());
        // `valid` counts bytes of `held`.
        let (valid, _) = self.held.split_at(count);
        out.put_slice(valid);
        self.held.advance(count);
        self.valid -= count;
        if self.held.is_empty() {
            // Frees the memory of a large head.
            self.held = BytesMut::new();
        }
    }

    /// Returns true if the consumer may still be sending bytes that nobody will read.
    fn is_cut_short(&self) -> bool {
        match self.end {
            Some(InputEnd::Theirs | InputEnd::Rests) => false,
            Some(InputEnd::Refused { .. } | InputEnd::Broken | InputEnd::Late) => true,
            None => !self.validator.is_between_messages(),
        }
    }

    /// Returns once nothing has been read or written for [`REST`], and never within a message.
    ///
    /// Within an answer hyper asks for more only if its request has not ended, or has ended after all of the
    /// answer was handed over, some of which may still wait for the consumer.
    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.validator.is_between_messages() || self.pace.is_waiting() {
            return Poll::Pending;
        }
        loop {
            let until = self.active + REST;
            let timer =
                self.rest_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            ready!(timer.as_mut().poll(context));
            if until <= Instant::now() {
                self.rest_timer = None;
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }

    /// Returns an error once the deadline of the awaited head has passed.
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let head = self.head;
        let timer = self.head_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(head)));
        timer.as_mut().poll(context).map(|()| {
            self.end = Some(InputEnd::Late);
            PaceBreach::Head.into()
        })
    }
}

impl<S: AsyncRead + Unpin> Validated<S> {
    /// Reads into the caller's buffer, and takes back a head that is incomplete: most heads come whole, and
    /// are never copied.
    fn poll_straight(
        &mut self,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, out))?;
        // Reading only appends.
        let (_, read) = out.filled().split_at(before);
        if read.is_empty() {
            self.end = Some(InputEnd::Theirs);
        }
        let scan = self.validator.scan(read);
        let (_, incomplete) = read.split_at(scan.passed);
        self.held.extend_from_slice(incomplete);
        out.set_filled(before + scan.passed);
        if let Some(fault) = scan.fault {
            self.end(fault);
        }
        Poll::Ready(Ok(()))
    }

    /// Waits while the connection rests; returns true once its consumer sends something.
    ///
    /// Returns false if the consumer closes its side or sends nothing until `idle` is over, if `close` is
    /// cancelled, or if the connection does not rest. No buffer is held meanwhile.
    async fn wakes(&mut self, idle: Duration, close: &CancellationToken) -> bool {
        if self.end != Some(InputEnd::Rests) {
            return false;
        }
        let until = self.active + idle;
        // In this order, so that nothing is read that would not be answered.
        tokio::select! {
            biased;
            () = close.cancelled() => false,
            is_sent = poll_fn(|context| self.poll_first(context)) => is_sent,
            () = tokio::time::sleep_until(until) => false,
        }
    }

    fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let mut first = [0; STEP_BYTES];
        let mut first = ReadBuf::new(&mut first);
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut first));
        if read.is_err() || first.filled().is_empty() {
            // Many consumers close between messages without a TLS `close_notify`, or with a reset.
            self.end = Some(InputEnd::Theirs);
            return Poll::Ready(false);
        }
        self.end = None;
        self.active = Instant::now();
        self.held.extend_from_slice(first.filled());
        self.validate();
        Poll::Ready(true)
    }

    /// Reads more of an incomplete head.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.held.reserve(STEP_BYTES);
        match poll_read_buf(Pin::new(&mut self.stream), context, &mut self.held) {
            Poll::Pending => return self.poll_head(context).map(Err),
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(read) => drop(read?),
        }
        self.validate();
        if self.valid > 0 {
            self.head_timer = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Validated<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        while out.filled().len() == before {
            if self.valid > 0 {
                self.pass(out);
                break;
            }
            match self.end {
                Some(InputEnd::Theirs | InputEnd::Rests) => break,
                Some(InputEnd::Refused { .. }) => {
                    self.end = Some(InputEnd::Refused { is_next: true });
                    break;
                }
                Some(InputEnd::Broken) => {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                Some(InputEnd::Late) => return Poll::Ready(Err(PaceBreach::Head.into())),
                None if self.held.is_empty() => match self.poll_straight(context, out)? {
                    Poll::Ready(()) => self.active = Instant::now(),
                    Poll::Pending => {
                        ready!(self.poll_rest(context));
                        self.end = Some(InputEnd::Rests);
                    }
                },
                None => ready!(self.poll_more(context))?,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Validated<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.active = Instant::now();
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.pace.judge(context, polled, |count| *count)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.active = Instant::now();
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

    /// Closes the connection, after input has been read and discarded for a while.
    ///
    /// Closing with unread bytes resets the connection, and a reset can overtake the last answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            let polled = Pin::new(&mut this.stream).poll_shutdown(context);
            ready!(this.pace.judge(context, polled, |()| 0))?;
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
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};
    use tokio::io::{AsyncReadExt as _, DuplexStream};
    use tokio::task::JoinHandle;

    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    /// Serves one end of a pipe that holds 4 KiB. Each request is answered after `wait`, whether or not its
    /// body has come, with `bytes` and its number.
    fn serving(limits: ListenerLimits, wait: Duration, bytes: usize) -> DuplexStream {
        serving_to_the_end(limits, wait, bytes).0
    }

    /// Returns also the task that ends with the connection.
    fn serving_to_the_end(
        limits: ListenerLimits,
        wait: Duration,
        bytes: usize,
    ) -> (DuplexStream, JoinHandle<()>) {
        let (ours, theirs) = tokio::io::duplex(4 * 1024);
        let served = AtomicUsize::new(0);
        let answer = move |request: Request<Incoming>| -> Answering<Full<Bytes>> {
            let number = served.fetch_add(1, Ordering::Relaxed) + 1;
            tokio::spawn(request.into_body().collect());
            Box::pin(async move {
                tokio::time::sleep(wait).await;
                Ok(Response::new(Full::from(format!("{}({number})", "x".repeat(bytes)))))
            })
        };
        let refuse = |head: &RefusedHead| format!("refused: {}", head.refusal).into_bytes();
        let served = tokio::spawn(async move {
            let ended = serve(theirs, &limits, CancellationToken::new(), answer, refuse).await;
            ended.unwrap_or_default();
        });
        (ours, served)
    }

    /// Reads until this text has come.
    async fn hear(stream: &mut DuplexStream, end: &str) -> String {
        let mut heard = String::new();
        while !heard.ends_with(end) {
            heard.push(char::from(stream.read_u8().await.unwrap()));
        }
        heard
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_rests_between_messages_and_in_none() {
        let (mut ours, theirs) = tokio::io::duplex(1024);
        let mut stream = Validated::new(theirs, &ListenerLimits::default());
        let close = CancellationToken::new();
        let mut bytes = [0; 256];
        for _ in 0..2 {
            assert_eq!(stream.read(&mut bytes).await.unwrap(), 0);
            assert_eq!(stream.end, Some(InputEnd::Rests));
            ours.write_all(GET).await.unwrap();
            assert!(stream.wakes(100 * REST, &close).await);
            assert_eq!(stream.read(&mut bytes).await.unwrap(), GET.len());
        }
        let head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n";
        ours.write_all(head).await.unwrap();
        assert_eq!(stream.read(&mut bytes).await.unwrap(), head.len());
        let read = tokio::time::timeout(10 * REST, stream.read(&mut bytes));
        assert!(read.await.is_err(), "its body is to come");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_goes_on_after_a_rest_as_it_did_before() {
        let mut stream = serving(ListenerLimits::default(), Duration::ZERO, 0);
        for (number, piece) in [(1, GET.len()), (2, GET.len()), (3, 1), (4, 7)] {
            for piece in GET.chunks(piece) {
                stream.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let heard = hear(&mut stream, &format!("({number})")).await;
            assert!(
                heard.starts_with("HTTP/1.1 200 OK\r\n") && !heard.contains("close"),
                "{heard}"
            );
            tokio::time::sleep(4 * REST).await;
        }
        stream.write_all(&[GET, GET, b"GET / HTTP/1.1\nHost: x\r\n\r\n"].concat()).await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        let answers = ["(5)", "(6)", "refused: "].map(|part| heard.find(part));
        assert!(answers.is_sorted() && answers.iter().all(Option::is_some), "{heard}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_takes_longer_than_a_rest_ends_no_connection() {
        let mut stream = serving(ListenerLimits::default(), 5 * REST, 0);
        for number in 1..3 {
            stream.write_all(GET).await.unwrap();
            let heard = hear(&mut stream, &format!("({number})")).await;
            assert!(!heard.contains("close"), "{heard}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_ends_with_its_answer_ends_at_once_however_long_that_takes() {
        for request in [
            "GET / HTTP/1.0\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        ] {
            let mut stream = serving(ListenerLimits::default(), 5 * REST, 0);
            let since = Instant::now();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut heard = String::new();
            stream.read_to_string(&mut heard).await.unwrap();
            assert!(heard.ends_with("(1)"), "{heard}");
            assert!(since.elapsed() < 6 * REST, "{:?}", since.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_head_behind_a_slow_answer_is_answered_after_it() {
        let mut stream = serving(ListenerLimits::default(), 5 * REST, 0);
        stream.write_all(&[GET, b"GET / HTTP/1.1\nHost: x\r\n\r\n"].concat()).await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        let parts = ["(1)", "refused: "].map(|part| heard.find(part));
        assert!(parts.is_sorted() && parts.iter().all(Option::is_some), "{heard}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_long_after_its_answer_is_no_request() {
        let mut stream = serving(ListenerLimits::default(), Duration::ZERO, 0);
        let post = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", GET.len());
        stream.write_all(post.as_bytes()).await.unwrap();
        hear(&mut stream, "(1)").await;
        tokio::time::sleep(10 * REST).await;
        stream.write_all(GET).await.unwrap();
        stream.write_all(GET).await.unwrap();
        hear(&mut stream, "(2)").await;
        let more = tokio::time::timeout(REST, stream.read_u8()).await;
        assert!(more.is_err(), "the body was answered");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_waits_for_its_consumer_is_sent_whole() {
        let mut stream = serving(ListenerLimits::default(), Duration::ZERO, 20_000);
        let post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n";
        stream.write_all(post).await.unwrap();
        tokio::time::sleep(REST / 10).await;
        stream.write_all(b"hello").await.unwrap();
        tokio::time::sleep(10 * REST).await;
        let heard = hear(&mut stream, "(1)").await;
        assert_eq!(heard.matches('x').count(), 20_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_rests_ends_with_its_idle_time() {
        for idle in [Duration::from_secs(1), Duration::from_secs(60)] {
            let mut stream =
                serving(ListenerLimits { idle, ..ListenerLimits::default() }, Duration::ZERO, 0);
            stream.write_all(GET).await.unwrap();
            hear(&mut stream, "(1)").await;
            let since = Instant::now();
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
            let idled = since.elapsed();
            assert!(idled >= idle && idled < idle + REST, "{idled:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_consumer_that_reads_no_answer_loses_its_connection_whatever_it_sends_and_when() {
        for (bytes, body) in [(0, 5), (3_000, 5), (20_000, 5), (20_000, 10_000)] {
            for (wait, gap) in [(0, 0), (0, 1), (0, 20), (5, 1), (5, 20)] {
                let (mut stream, end) =
                    serving_to_the_end(ListenerLimits::default(), wait * REST, bytes);
                let sender = tokio::spawn(async move {
                    let post =
                        format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {body}\r\n\r\n");
                    for part in [post.as_bytes(), &vec![b'x'; body], GET] {
                        if stream.write_all(part).await.is_err() {
                            return;
                        }
                        tokio::time::sleep(gap * REST).await;
                    }
                    std::future::pending::<()>().await;
                });
                let ended = tokio::time::timeout(10_000 * REST, end).await;
                sender.abort();
                assert!(ended.is_ok(), "{bytes} {body} {wait} {gap}");
            }
        }
    }
}
