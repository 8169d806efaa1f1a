//! HTTP/1.1 messages read without an HTTP library, so that a test sees each byte as it was sent.

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A message as it was received.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// The request or status line.
    pub start: String,
    /// Header lines in order, names in the case received.
    pub headers: Vec<(String, String)>,
    /// The body, decoded if it was chunked.
    pub body: Vec<u8>,
    /// True if the body ended as its framing announces.
    pub complete: bool,
    /// The lines of a chunked body's framing: the size of each chunk with its extension, then the trailers.
    pub framing: Vec<String>,
}

impl Message {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    fn length(&self) -> Option<usize> {
        self.header("content-length").and_then(|length| length.parse().ok())
    }

    fn chunked(&self) -> bool {
        self.header("transfer-encoding")
            .is_some_and(|coding| coding.to_ascii_lowercase().contains("chunked"))
    }
}

/// A stream, with the bytes that were read from it and not yet used.
pub struct RawConnection<S> {
    pub stream: S,
    pub unread: Vec<u8>,
}

impl<S: AsyncRead + Unpin> RawConnection<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Reads a head, or returns `None` if the stream ends before one.
    pub async fn head(&mut self) -> Option<Message> {
        loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                let text: String = head[..end].iter().map(|byte| char::from(*byte)).collect();
                let mut lines = text.split("\r\n");
                let start = lines.next()?.to_owned();
                let headers = lines.filter_map(|line| line.split_once(':'));
                let headers = headers
                    .map(|(n, v)| (n.to_owned(), v.trim_matches([' ', '\t']).to_owned()))
                    .collect();
                return Some(Message { start, headers, ..Message::default() });
            }
            if !self.read_more().await {
                return None;
            }
        }
    }

    /// Reads the body that a head announces.
    pub async fn body(&mut self, message: &mut Message, until_close: bool) {
        if message.chunked() {
            message.complete = self.chunks(message).await;
        } else if let Some(length) = message.length() {
            while self.unread.len() < length && self.read_more().await {}
            let have = length.min(self.unread.len());
            message.body = self.unread.drain(..have).collect();
            message.complete = have == length;
        } else if until_close {
            while self.read_more().await {}
            message.body = std::mem::take(&mut self.unread);
            message.complete = true;
        } else {
            message.complete = true;
        }
    }

    /// Reads and discards `length` bytes. Returns the number read, less if the stream ends before.
    pub async fn drain(&mut self, length: usize) -> usize {
        let mut seen = 0;
        loop {
            seen += self.unread.len();
            self.unread.clear();
            if seen >= length || !self.read_more().await {
                return seen;
            }
        }
    }

    async fn chunks(&mut self, message: &mut Message) -> bool {
        loop {
            let Some(line) = self.line().await else { return false };
            let line = String::from_utf8_lossy(&line).into_owned();
            let digits = line.split(';').next().unwrap().trim();
            let Ok(size) = usize::from_str_radix(digits, 16) else { return false };
            message.framing.push(line);
            if size == 0 {
                return self.trailers(message).await;
            }
            while self.unread.len() < size + 2 {
                if !self.read_more().await {
                    return false;
                }
            }
            message.body.extend(self.unread.drain(..size));
            self.unread.drain(..2);
        }
    }

    /// Reads the trailers. Returns whether they are complete.
    async fn trailers(&mut self, message: &mut Message) -> bool {
        while let Some(line) = self.line().await {
            if line.is_empty() {
                return true;
            }
            message.framing.push(String::from_utf8_lossy(&line).into_owned());
        }
        false
    }

    /// Returns the next line without its CRLF.
    async fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = find(&self.unread, b"\r\n") {
                let line = self.unread.drain(..end).collect();
                self.unread.drain(..2);
                return Some(line);
            }
            if !self.read_more().await {
                return None;
            }
        }
    }

    /// Reads more bytes into `unread`. Returns false at the end of the stream.
    pub async fn read_more(&mut self) -> bool {
        self.read().await.is_ok_and(|count| count > 0)
    }

    /// Reads to the end. Returns whether the peer announced it, in TLS by `close_notify`.
    pub async fn ends_cleanly(&mut self) -> bool {
        loop {
            match self.read().await {
                Ok(0) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    async fn read(&mut self) -> std::io::Result<usize> {
        let mut buffer = vec![0; 64 * 1024];
        let count = self.stream.read(&mut buffer).await?;
        self.unread.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
