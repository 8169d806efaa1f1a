//! HTTP/2 frames, written and read one by one, so that a test can send what no HTTP/2 library would.

use tokio::io::AsyncRead;

use super::raw_connection::RawConnection;
use super::request::TestRequest;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as it was received.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// The code of a `GOAWAY` or `RST_STREAM`.
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().unwrap()))
    }

    /// The status of a response's HEADERS, where it is the first field and in the static table.
    pub fn status(&self) -> Option<u16> {
        if self.kind != HEADERS {
            return None;
        }
        match self.payload.first()? {
            0x88 => Some(200),
            0x8c => Some(400),
            0x8d => Some(404),
            0x8e => Some(500),
            _ => Some(0),
        }
    }
}

/// Encodes a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Encodes a header field as a literal, without indexing and without Huffman coding.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        length(&mut bytes, text.len());
        bytes.extend(text.bytes());
    }
    bytes
}

/// The symbols of visible ASCII by the length of their Huffman code, in the order of the codes. Spec: RFC
/// 7541, appendix B.
const SYMBOLS: [(u32, &str); 11] = [
    (5, "012aceiost"),
    (6, " %-./3456789=A_bdfghlmnpru"),
    (7, ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, "&*,;XZ"),
    (10, "!\"()?"),
    (11, "'+|"),
    (12, "#>"),
    (13, "\0$@[]~"),
    (14, "^}"),
    (15, "<`{"),
    (19, "\\"),
];

/// Encodes a text in Huffman coding.
fn huffman(text: &str) -> Vec<u8> {
    let mut bits = String::new();
    for letter in text.chars() {
        let (mut code, mut before) = (0_u32, 0);
        for (length, symbols) in SYMBOLS {
            code <<= length - before;
            if let Some(at) = symbols.find(letter) {
                let code = code + u32::try_from(at).unwrap();
                let digits = usize::try_from(length).unwrap();
                bits.push_str(&format!("{code:0digits$b}"));
                break;
            }
            (code, before) = (code + u32::try_from(symbols.len()).unwrap(), length);
        }
    }
    bits.push_str(&"1".repeat((8 - bits.len() % 8) % 8));
    let bytes = bits.as_bytes().chunks(8);
    bytes.map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap()).collect()
}

/// HPACK encoding of a header field.
#[derive(Debug, Clone, Copy)]
pub enum FieldEncoding {
    /// Name by an index, which is this first byte; value without Huffman coding.
    Indexed(u8),
    /// Name by an index, which is this first byte; value in Huffman coding.
    IndexedHuffman(u8),
    /// Name and value in Huffman coding.
    Huffman,
}

/// Encodes a header field in a given encoding.
pub fn encode_field(how: FieldEncoding, name: &str, value: &str) -> Vec<u8> {
    let mut bytes = match how {
        FieldEncoding::Indexed(first) | FieldEncoding::IndexedHuffman(first) => vec![first],
        FieldEncoding::Huffman => {
            let name = huffman(name);
            let mut bytes = vec![0];
            length(&mut bytes, name.len());
            bytes[1] |= 0x80;
            bytes.extend(name);
            bytes
        }
    };
    let at = bytes.len();
    let value =
        if matches!(how, FieldEncoding::Indexed(_)) { value.into() } else { huffman(value) };
    length(&mut bytes, value.len());
    if !matches!(how, FieldEncoding::Indexed(_)) {
        bytes[at] |= 0x80;
    }
    bytes.extend(value);
    bytes
}

/// Encodes a request's field block without the fields named in `without`.
pub fn block(call: &TestRequest, without: &[&str]) -> Vec<u8> {
    let request = call.clone().http2().request();
    let path = request.uri().path_and_query().unwrap().as_str();
    let pseudo = [
        (":method", request.method().as_str()),
        (":scheme", "https"),
        (":authority", "ssp.example.nhs.uk"),
        (":path", path),
    ];
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    let fields = pseudo.into_iter().chain(headers).filter(|(name, _)| !without.contains(name));
    fields.flat_map(|(name, value)| field(name, value)).collect()
}

/// Appends an integer with a prefix of seven bits (RFC 7541, section 5.1).
fn length(bytes: &mut Vec<u8>, length: usize) {
    if length < 127 {
        return bytes.push(u8::try_from(length).unwrap());
    }
    bytes.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
}

impl<S: AsyncRead + Unpin> RawConnection<S> {
    /// Reads a frame, or returns `None` if the stream ends before one.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(&[a, b, c, kind, flags, d, e, f, g]) = self.unread.first_chunk() {
                let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                if self.unread.len() >= 9 + length {
                    let payload = self.unread.drain(..9 + length).skip(9).collect();
                    let stream = u32::from_be_bytes([d & 0x7f, e, f, g]);
                    return Some(Frame { kind, flags, stream, payload });
                }
            }
            if !self.read_more().await {
                return None;
            }
        }
    }
}
