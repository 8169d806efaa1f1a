//! Server-Sent Events that tell an open page to refresh itself.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::Semaphore;

use super::super::answers::{AdminResponse, response, text};
use super::super::{TOTAL_MAX, WRITE_MAX};

/// Time between two events.
const EVERY: Duration = Duration::from_secs(5);
/// Limit: events of one stream, after which the browser connects again.
const EVENTS_MAX: u32 = 10;

const _: () = assert!(
    EVERY.as_secs() * (EVENTS_MAX as u64) + WRITE_MAX.as_secs() <= TOTAL_MAX.as_secs(),
    "a stream ends before its connection is cut"
);

/// Returns a stream with an event every few seconds, or 503 if too many are open.
pub(super) fn stream(streams: &Arc<Semaphore>) -> AdminResponse {
    let Ok(place) = Arc::clone(streams).try_acquire_owned() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "too many pages update themselves\n");
    };
    let events = stream::unfold((0, place), |(count, place)| async move {
        if count >= EVENTS_MAX {
            return None;
        }
        if count > 0 {
            tokio::time::sleep(EVERY).await;
        }
        let event = format!("retry: {}\nevent: tick\ndata: {count}\n\n", EVERY.as_millis());
        let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(event)));
        Some((frame, (count + 1, place)))
    });
    response(StatusCode::OK, StreamBody::new(events).boxed_unsync(), "text/event-stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_by_itself_and_leaves_its_place() {
        let streams = Arc::new(Semaphore::new(1));
        let open = stream(&streams);
        assert_eq!(stream(&streams).status(), StatusCode::SERVICE_UNAVAILABLE);
        let began = tokio::time::Instant::now();
        let text = open.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert_eq!(text.matches("event: tick\n").count(), 10, "{text}");
        assert!(began.elapsed() < TOTAL_MAX);
        assert_eq!(stream(&streams).status(), StatusCode::OK);
    }
}
