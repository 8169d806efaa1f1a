//! HTTP/1.1 read byte by byte, so that nothing between us and the wire can be polite.

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A message as it came.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// The request or status line.
    pub start: String,
    /// Header lines in order, names as spelt.
    pub headers: Vec<(String, String)>,
    /// The body, decoded if it was chunked.
    pub body: Vec<u8>,
    /// Whether the body ended as its framing said.
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

/// A stream with what was read too far.
pub struct Wire<S> {
    pub stream: S,
    pub unread: Vec<u8>,
}

impl<S: AsyncRead + Unpin> Wire<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Reads a head; nothing if the stream ends before one.
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
            if !self.more().await {
                return None;
            }
        }
    }

    /// Reads the body a head announces.
    pub async fn body(&mut self, message: &mut Message, until_close: bool) {
        if message.chunked() {
            message.complete = self.chunks(message).await;
        } else if let Some(length) = message.length() {
            while self.unread.len() < length && self.more().await {}
            let have = length.min(self.unread.len());
            message.body = self.unread.drain(..have).collect();
            message.complete = have == length;
        } else if until_close {
            while self.more().await {}
            message.body = std::mem::take(&mut self.unread);
            message.complete = true;
        } else {
            message.complete = true;
        }
    }

    /// Reads and forgets `length` bytes.
    pub async fn drain(&mut self, length: usize) -> usize {
        let mut seen = 0;
        loop {
            seen += self.unread.len();
            self.unread.clear();
            if seen >= length || !self.more().await {
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
                if !self.more().await {
                    return false;
                }
            }
            message.body.extend(self.unread.drain(..size));
            self.unread.drain(..2);
        }
    }

    /// Passes over trailers; answers whether they end.
    async fn trailers(&mut self, message: &mut Message) -> bool {
        while let Some(line) = self.line().await {
            if line.is_empty() {
                return true;
            }
            message.framing.push(String::from_utf8_lossy(&line).into_owned());
        }
        false
    }

    /// The next line without its end.
    async fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = find(&self.unread, b"\r\n") {
                let line = self.unread.drain(..end).collect();
                self.unread.drain(..2);
                return Some(line);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    pub async fn more(&mut self) -> bool {
        self.read().await.is_ok_and(|count| count > 0)
    }

    /// Reads to the end; returns whether that was announced, which TLS does by `close_notify`.
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
