//! An answer's body, and the entry that closes with it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{EndedBy, Entry};

/// A response body that closes its entry with its last byte, or when it is dropped.
#[derive(Debug)]
pub struct Followed<B> {
    pub(super) body: B,
    pub(super) entry: Entry,
}

impl<B> Body for Followed<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.entry.bytes_out += u64::try_from(bytes).unwrap_or(u64::MAX);
                // A sized body may never be asked for its end.
                if self.body.is_end_stream() {
                    self.entry.ended = Some(EndedBy::Gateway);
                }
            }
            Poll::Ready(Some(Err(_))) => self.entry.ended = Some(EndedBy::Provider),
            Poll::Ready(None) => self.entry.ended = Some(EndedBy::Gateway),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Followed<B> {
    /// Whether the answer had no body to begin with: then it is complete when its head is.
    pub fn close_if_empty(&mut self)
    where
        B: Body,
    {
        if self.body.is_end_stream() {
            self.entry.ended = Some(EndedBy::Gateway);
        }
    }
}
