//! Relay between an LDAP server and the LDAP library that checks each message first.
//!
//! Security: the library accepts messages of any length and depth, so each one is read whole and checked
//! against limits here.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// Maximum size of the messages that answer one search, in bytes.
const ANSWER_BYTES_MAX: usize = 2 << 20;
/// Maximum number of BER elements in the messages that answer one search.
const ANSWER_ELEMENTS_MAX: usize = 50_000;
/// Maximum depth of nested elements in a message. A search result entry has five levels.
const DEPTH_MAX: usize = 8;
/// Maximum number of searches under way on one connection.
const SEARCHES_MAX: usize = 256;

/// BER tags (RFC 4511 §4): of the universal class, and of operations.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEARCH_ENTRY: u8 = 0x64;
const SEARCH_REFERENCE: u8 = 0x73;
const INTERMEDIATE: u8 = 0x79;

/// Starts a task that relays bytes between a server and the library; returns the library's socket.
pub(super) fn between(server: TlsStream<TcpStream>) -> io::Result<StdUnixStream> {
    let (library, ours) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let ours = UnixStream::from_std(ours)?;
    tokio::spawn(async move {
        match carry(ours, server).await {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => tracing::warn!(
                %error,
                "the SDS LDAP server sent a malformed or oversized message: its connection was closed; \
                 the next search opens another"
            ),
            Err(error) => tracing::debug!(
                %error,
                "the TLS connection to the SDS LDAP server failed; the next search opens another"
            ),
            Ok(()) => {}
        }
    });
    Ok(library)
}

async fn carry(library: UnixStream, server: TlsStream<TcpStream>) -> io::Result<()> {
    let (mut questions, answers_to) = library.into_split();
    let (answers_from, mut to_server) = tokio::io::split(server);
    let ask = async {
        tokio::io::copy(&mut questions, &mut to_server).await?;
        to_server.shutdown().await
    };
    // The first side to end drops both sockets, which closes the other side too.
    tokio::select! {
        ended = ask => ended,
        ended = answers(BufReader::new(answers_from), answers_to) => ended,
    }
}

async fn answers(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let (mut searches, mut message) = (Searches::default(), Vec::new());
    while read_message(&mut from, &mut message).await? {
        searches.take(&message)?;
        to.write_all(&message).await?;
    }
    Ok(())
}

fn malformed(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Reads one message; returns false at the end of the stream.
async fn read_message(
    from: &mut (impl AsyncRead + Unpin),
    message: &mut Vec<u8>,
) -> io::Result<bool> {
    message.clear();
    let mut head = [0; 2];
    if from.read(head.get_mut(..1).unwrap_or_default()).await? == 0 {
        return Ok(false);
    }
    from.read_exact(head.get_mut(1..).unwrap_or_default()).await?;
    message.extend_from_slice(&head);
    let [tag, first] = head;
    if tag != SEQUENCE {
        return Err(malformed("an answer is not an LDAP message"));
    }
    let length = match first {
        0..=0x7f => usize::from(first),
        0x81..=0x84 => {
            let mut bytes = [0; 4];
            let count = usize::from(first & 0x7f);
            let used = bytes.get_mut(4 - count..).unwrap_or_default();
            from.read_exact(used).await?;
            message.extend_from_slice(used);
            usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX)
        }
        _ => return Err(malformed("an LDAP message has an indefinite or oversized length")),
    };
    if length > ANSWER_BYTES_MAX {
        return Err(malformed("an LDAP message is longer than 2 MiB"));
    }
    let head = message.len();
    message.resize(head + length, 0);
    from.read_exact(message.get_mut(head..).unwrap_or_default()).await?;
    Ok(true)
}

/// Bytes and elements of the answers to searches under way, by message id.
#[derive(Debug, Default)]
struct Searches(HashMap<u32, (usize, usize)>);

impl Searches {
    /// Checks a message and adds it to the count of its search.
    ///
    /// # Errors
    /// Returns an error if the message is malformed or its search exceeds a limit.
    fn take(&mut self, message: &[u8]) -> io::Result<()> {
        let mut elements = 0;
        let mut outer = Elements { rest: message, left: 1 };
        let (_, body) = outer.next_of(SEQUENCE)?;
        well_formed(body, DEPTH_MAX, &mut elements)?;
        let mut parts = Elements { rest: body, left: 3 };
        let (_, id) = parts.next_of(INTEGER)?;
        let id = match id {
            [first, ..] if id.len() <= 4 && *first < 0x80 => {
                id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte))
            }
            _ => return Err(malformed("an LDAP message has an invalid message ID")),
        };
        let Some((operation, content)) = parts.next()? else {
            return Err(malformed("an LDAP message has no operation"));
        };
        // RFC 4511 §4.2: operations are of the application class.
        if operation & 0xc0 != 0x40 {
            return Err(malformed("an LDAP message has no operation"));
        }
        if operation == SEARCH_ENTRY {
            entry(content)?;
        }
        let known = self.0.len();
        let (bytes, counted) = self.0.entry(id).or_default();
        *bytes += message.len();
        *counted += elements;
        if *bytes > ANSWER_BYTES_MAX || *counted > ANSWER_ELEMENTS_MAX {
            return Err(malformed(
                "the answer to a search is longer than 2 MiB or 50,000 elements",
            ));
        }
        if !matches!(operation, SEARCH_ENTRY | SEARCH_REFERENCE | INTERMEDIATE) {
            self.0.remove(&id);
        } else if known >= SEARCHES_MAX {
            return Err(malformed("an LDAP server answers more than 256 searches at once"));
        }
        Ok(())
    }
}

/// Reader of BER elements that follow one another.
struct Elements<'a> {
    rest: &'a [u8],
    /// Number of elements that may follow.
    left: usize,
}

impl<'a> Elements<'a> {
    /// Returns the tag and content of the next element; `None` at the end.
    fn next(&mut self) -> io::Result<Option<(u8, &'a [u8])>> {
        let [tag, first, rest @ ..] = self.rest else {
            return match self.rest {
                [] => Ok(None),
                _ => Err(malformed("an element of an LDAP message is truncated")),
            };
        };
        let (length, rest) = match *first {
            short @ 0..=0x7f => (usize::from(short), rest),
            long @ 0x81..=0x84 => {
                let (bytes, rest) = rest
                    .split_at_checked(usize::from(long & 0x7f))
                    .ok_or_else(|| malformed("an element of an LDAP message is truncated"))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => {
                return Err(malformed(
                    "an element of an LDAP message has an indefinite or oversized length",
                ));
            }
        };
        // LDAP has no tags of several bytes.
        if tag & 0x1f == 0x1f || self.left == 0 {
            return Err(malformed("an LDAP message has an unexpected element"));
        }
        let (content, rest) = rest
            .split_at_checked(length)
            .ok_or_else(|| malformed("an element of an LDAP message is longer than the message"))?;
        (self.rest, self.left) = (rest, self.left - 1);
        Ok(Some((*tag, content)))
    }

    /// Returns the next element; fails if it is missing or has another tag.
    fn next_of(&mut self, due: u8) -> io::Result<(u8, &'a [u8])> {
        match self.next()? {
            Some((tag, content)) if tag == due => Ok((tag, content)),
            _ => Err(malformed("an LDAP message lacks a required element")),
        }
    }
}

/// Checks and counts all elements, `depth` levels deep at most.
fn well_formed(content: &[u8], depth: usize, count: &mut usize) -> io::Result<()> {
    const CONSTRUCTED: u8 = 0x20;
    let mut elements = Elements { rest: content, left: usize::MAX };
    while let Some((tag, inner)) = elements.next()? {
        *count += 1;
        if tag & CONSTRUCTED == 0 {
            continue;
        }
        let Some(depth) = depth.checked_sub(1) else {
            return Err(malformed("an LDAP message is nested deeper than 8 levels"));
        };
        well_formed(inner, depth, count)?;
    }
    Ok(())
}

/// Checks a search result entry (RFC 4511 §4.5.2): a name, and attributes with their values.
fn entry(content: &[u8]) -> io::Result<()> {
    let mut parts = Elements { rest: content, left: 2 };
    parts.next_of(OCTET_STRING)?;
    let (_, attributes) = parts.next_of(SEQUENCE)?;
    let mut attributes = Elements { rest: attributes, left: usize::MAX };
    while !attributes.rest.is_empty() {
        let (_, attribute) = attributes.next_of(SEQUENCE)?;
        let mut attribute = Elements { rest: attribute, left: 2 };
        attribute.next_of(OCTET_STRING)?;
        let (_, values) = attribute.next_of(SET)?;
        let mut values = Elements { rest: values, left: usize::MAX };
        while !values.rest.is_empty() {
            values.next_of(OCTET_STRING)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x84], &length[..], content].concat()
    }

    fn message(id: &[u8], operation: &[u8]) -> Vec<u8> {
        tlv(SEQUENCE, &[&tlv(INTEGER, id), operation].concat())
    }

    /// Relays bytes; returns those that reach the library, and the relay's result.
    async fn carried(bytes: &[u8]) -> (Vec<u8>, io::Result<()>) {
        let mut out = Vec::new();
        let ended = answers(bytes, &mut out).await;
        (out, ended)
    }

    fn an_entry() -> Vec<u8> {
        let values = tlv(SET, &tlv(OCTET_STRING, b"A20047"));
        let attribute = tlv(SEQUENCE, &[tlv(OCTET_STRING, b"nhsIDCode"), values].concat());
        let attributes = tlv(SEQUENCE, &attribute);
        tlv(SEARCH_ENTRY, &[tlv(OCTET_STRING, b"ou=x"), attributes].concat())
    }

    #[tokio::test]
    async fn whole_answers_pass_byte_for_byte() {
        let done = tlv(0x65, &[0x0a, 1, 0, 4, 0, 4, 0]);
        let one = [message(&[2], &an_entry()), message(&[2], &done)].concat();
        let many = one.repeat(10_000);
        let (out, ended) = carried(&many).await;
        assert!(ended.is_ok() && out == many, "{ended:?}");
    }

    #[tokio::test]
    async fn what_the_library_could_not_bear_ends_the_connection() {
        let mut deep = Vec::new();
        for _ in 0..100_000 {
            deep =
                [&[SEQUENCE, 0x84], &u32::try_from(deep.len()).unwrap().to_be_bytes()[..], &deep]
                    .concat();
            if deep.len() > 100_000 {
                break;
            }
        }
        let nested = message(&[2], &tlv(SEARCH_ENTRY, &deep));
        let endless = message(&[2], &an_entry()).repeat(40_000);
        for (what, bytes) in [
            ("an empty message", tlv(SEQUENCE, b"")),
            ("no operation", message(&[2], b"")),
            ("a number that is none", message(&[], &an_entry())),
            ("a number below nought", message(&[0x80], &an_entry())),
            ("a long number", message(&[1; 5], &an_entry())),
            ("gigabytes", vec![SEQUENCE, 0x84, 0x40, 0, 0, 0]),
            ("no length", vec![SEQUENCE, 0x80, 0, 0]),
            ("a nameless entry", message(&[2], &tlv(SEARCH_ENTRY, &tlv(OCTET_STRING, b"")))),
            ("an element that is too long", message(&[2], &[SEARCH_ENTRY, 0x7f])),
            ("a universal operation", message(&[2], &tlv(SEQUENCE, b""))),
            ("depth", nested),
            ("an answer without an end", endless),
        ] {
            let (out, ended) = carried(&bytes).await;
            assert!(ended.is_err(), "{what}");
            assert!(out.len() <= ANSWER_BYTES_MAX, "{what}: {}", out.len());
        }
    }
}
