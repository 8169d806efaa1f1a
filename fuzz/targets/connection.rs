//! A consumer's HTTP/1.1 connection, as the listener serves it, over a pipe. However the bytes are cut,
//! each head that the validator passes becomes one request, the same in method, target and body, and a head
//! that it refuses is refused after them; nobody but the service answers; and a connection whose consumer
//! has ended its side ends without waiting for a deadline.
//!
//! The first byte is the length of the pieces; if it is nought, all comes at once.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use spine_proxy::fuzzing::{self, InputFault, Validator};
use spine_proxy::refusal::Refusal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

pub(crate) fn check(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else { return };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    let (seen, answers) = runtime.block_on(plays(bytes, usize::from(*piece)));
    let due = due(bytes);
    let cut = seen.iter().position(|request| request.body.is_none());
    match cut {
        // Nobody knows where the next one would begin.
        Some(at) => assert!(at + 1 == seen.len() && at < due.len()),
        None => assert_eq!(seen.len(), due.len(), "{seen:?} for {due:?}"),
    }
    for (request, due) in seen.iter().zip(&due) {
        match (&due.fault, &request.refused) {
            (None, None) => {
                assert_eq!((&request.method, &request.target), (&due.method, &due.target));
                assert!(request.body.as_ref().is_none_or(|body| *body == due.body()));
            }
            (due, is) => assert_eq!(due, is),
        }
    }
    assert!(answers <= seen.len());
    assert!(cut.is_some() || answers == seen.len(), "{answers} answers for {seen:?}");
}

/// A request as the service saw it.
#[derive(Debug)]
struct Seen {
    method: String,
    target: String,
    refused: Option<Refusal>,
    /// None if it did not come whole.
    body: Option<Vec<u8>>,
}

type Notes = Arc<Mutex<Vec<Seen>>>;

/// Writes the bytes piece by piece, and says what was seen and how often it was answered.
async fn plays(bytes: &[u8], piece: usize) -> (Vec<Seen>, usize) {
    let notes = Notes::default();
    let (consumer, proxy) = tokio::io::duplex(PIPE_BYTES);
    let (takes, refuses) = (Arc::clone(&notes), Arc::clone(&notes));
    let answer = move |request| -> Answering { Box::pin(answer(request, Arc::clone(&takes))) };
    let refuse = move |refusal: &Refusal, head: &[u8]| refuse(refusal, head, &refuses);
    let serving = fuzzing::serve(proxy, answer, refuse);
    let (mut reader, mut writer) = tokio::io::split(consumer);
    let sending = async {
        for piece in bytes.chunks(if piece == 0 { PIPE_BYTES } else { piece }) {
            // Who was refused need not be listened to.
            if writer.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        drop(writer.shutdown().await);
    };
    let mut answers = Vec::new();
    let began = Instant::now();
    // How it ended is seen in what came of it.
    let (_, (), heard) = tokio::join!(serving, sending, reader.read_to_end(&mut answers));
    heard.unwrap();
    assert_eq!(began.elapsed().as_secs(), 0, "a deadline was waited for");
    let seen = std::mem::take(&mut *notes.lock().unwrap());
    (seen, count(&answers))
}

async fn answer(
    request: Request<Incoming>,
    notes: Notes,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let seen = Seen {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        refused: None,
        body: None,
    };
    let number = {
        let mut notes = notes.lock().unwrap();
        notes.push(seen);
        notes.len()
    };
    if let Ok(body) = body.collect().await {
        notes.lock().unwrap()[number - 1].body = Some(body.to_bytes().to_vec());
    }
    let mut response = Response::new(Empty::new());
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    response.headers_mut().insert(NUMBER, HeaderValue::from(number));
    Ok(response)
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Empty<Bytes>>, Infallible>> + Send>>;

fn refuse(refusal: &Refusal, head: &[u8], notes: &Notes) -> Vec<u8> {
    // Whatever the head is, it can be looked at.
    let readable = spine_proxy::request::readable(head);
    let mut notes = notes.lock().unwrap();
    notes.push(Seen {
        method: readable.method.to_string(),
        target: readable.uri.to_string(),
        refused: Some(refusal.clone()),
        body: Some(Vec::new()),
    });
    format!("HTTP/1.1 400 \r\n{NUMBER}: {}\r\n\r\n", notes.len()).into_bytes()
}

const PIPE_BYTES: usize = 64 * 1024;
const NUMBER: &str = "x-number";

/// How many answers there are, all the service's.
fn count(mut answers: &[u8]) -> usize {
    let mut count = 0;
    while !answers.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(end)) = response.parse(answers) else {
            panic!("half an answer: {:?}", String::from_utf8_lossy(answers));
        };
        // That one is asked for by reading the body.
        if response.code != Some(100) {
            count += 1;
            let number = response.headers.iter().find(|header| header.name == NUMBER);
            let number = number.map(|header| header.value.to_vec());
            assert_eq!(number, Some(count.to_string().into_bytes()), "not the service's answer");
        }
        answers = &answers[end..];
    }
    count
}

/// A request as it should be seen.
#[derive(Debug, Default)]
struct Due {
    method: String,
    target: String,
    is_chunked: bool,
    /// What follows its head, until it ends.
    rest: Vec<u8>,
    fault: Option<Refusal>,
}

/// Returns the requests that the validator finds in the bytes, up to the one that is the connection's last.
fn due(bytes: &[u8]) -> Vec<Due> {
    let (mut validator, mut held, mut due) = (Validator::new(), Vec::new(), Vec::<Due>::new());
    let mut is_last = false;
    for byte in bytes {
        if is_last && validator.is_between_messages() {
            break;
        }
        held.push(*byte);
        let heads = validator.heads();
        let scan = validator.scan(&held);
        let new: Vec<u8> = held.drain(..scan.passed).collect();
        if validator.heads() > heads {
            let (next, closes) = parsed(&new);
            due.push(next);
            is_last = closes;
        } else if let Some(due) = due.last_mut() {
            due.rest.extend(new);
        }
        match scan.fault {
            None => {}
            Some(InputFault::Head(refusal)) => {
                due.push(Due { fault: Some(refusal), ..Due::default() });
                break;
            }
            Some(InputFault::Body) => break,
        }
    }
    due
}

/// A head, and whether it asks for the connection's end.
fn parsed(head: &[u8]) -> (Due, bool) {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut headers);
    assert_eq!(request.parse(head), Ok(httparse::Status::Complete(head.len())));
    let is = |header: &httparse::Header<'_>, name: &str| header.name.eq_ignore_ascii_case(name);
    let lines = request.headers.iter().filter(|header| is(header, "connection"));
    let values = lines.filter_map(|header| HeaderValue::from_bytes(header.value).ok());
    let values: Vec<String> =
        values.filter_map(|value| value.to_str().ok().map(str::to_ascii_lowercase)).collect();
    let says =
        |word| values.iter().flat_map(|value| value.split(',')).any(|one| one.trim() == word);
    let closes = says("close") || (request.version == Some(0) && !says("keep-alive"));
    let target = request.path.unwrap().parse::<http::Uri>().unwrap().to_string();
    let due = Due {
        method: request.method.unwrap().to_owned(),
        target,
        is_chunked: request.headers.iter().any(|header| is(header, "transfer-encoding")),
        ..Due::default()
    };
    (due, closes)
}

impl Due {
    /// The body, its chunks put together.
    fn body(&self) -> Vec<u8> {
        if !self.is_chunked {
            return self.rest.clone();
        }
        let (mut rest, mut body) = (self.rest.as_slice(), Vec::new());
        loop {
            let end = rest.windows(2).position(|pair| pair == b"\r\n").unwrap();
            let digits = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let digits = std::str::from_utf8(&rest[..digits]).unwrap();
            let size = usize::from_str_radix(digits, 16).unwrap();
            if size == 0 {
                return body;
            }
            body.extend(&rest[end + 2..end + 2 + size]);
            rest = &rest[end + 2 + size + 2..];
        }
    }
}
