//! PROXY protocol headers, versions 1 and 2, by which a load balancer says whose connection it passes on.
//!
//! Spec: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, sections 2.1 and 2.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use memchr::memchr;

use crate::metrics::HandshakeResult;

/// Limit: bytes of a header, as many as nginx accepts. Version 2 allows 65,551.
pub const PROXY_HEADER_BYTES_MAX: usize = 4096;
/// Limit: bytes of a header of version 1, its line end included.
const V1_BYTES_MAX: usize = 107;
/// Number of bytes of version 2 before the addresses.
const V2_FIXED_BYTES: usize = 16;
/// Number of bytes by which [`begins`] recognises a header.
pub(super) const START_BYTES: usize = V2_START.len();

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Reason why a PROXY protocol header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderFault {
    /// The connection begins with something else.
    #[error("there is none")]
    Missing,
    /// The header is longer than [`PROXY_HEADER_BYTES_MAX`], or a line of version 1 than 107 bytes.
    #[error("it is too long: more than 107 bytes in version 1, or more than 4096 in version 2")]
    TooLong,
    /// The connection was closed in the middle of the header.
    #[error("the connection was closed in the middle of it")]
    Cut,
    /// The version is neither 1 nor 2.
    #[error("its version is neither 1 nor 2")]
    Version,
    /// The header does not follow the specification.
    #[error("it does not follow the specification")]
    Malformed,
}

impl ProxyHeaderFault {
    pub(super) const fn result(self) -> HandshakeResult {
        match self {
            Self::Missing => HandshakeResult::ProxyHeaderMissing,
            Self::TooLong | Self::Cut | Self::Version | Self::Malformed => {
                HandshakeResult::ProxyHeaderMalformed
            }
        }
    }
}

/// Returns true if the first [`START_BYTES`] of a connection are those of a header.
pub(super) fn begins(start: &[u8]) -> bool {
    start.starts_with(V1_START) || start.starts_with(V2_START)
}

/// Returns the length of the header that a connection's first bytes begin with, or `None` if its end has not
/// come: then all of them belong to it.
///
/// # Errors
/// Returns the fault by which they are not the start of a header.
pub fn proxy_header_length(bytes: &[u8]) -> Result<Option<usize>, ProxyHeaderFault> {
    let may_become = |start: &[u8]| bytes.iter().zip(start).all(|(byte, due)| byte == due);
    if may_become(V1_START) {
        return match memchr(b'\n', bytes.get(..V1_BYTES_MAX).unwrap_or(bytes)) {
            Some(end) => Ok(Some(end + 1)),
            None if bytes.len() >= V1_BYTES_MAX => Err(ProxyHeaderFault::TooLong),
            None => Ok(None),
        };
    }
    if !may_become(V2_START) {
        return Err(ProxyHeaderFault::Missing);
    }
    if bytes.get(V2_START.len()).is_some_and(|version| version >> 4 != 2) {
        return Err(ProxyHeaderFault::Version);
    }
    let Some([.., high, low]) = bytes.first_chunk::<V2_FIXED_BYTES>() else { return Ok(None) };
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
    if length > PROXY_HEADER_BYTES_MAX {
        return Err(ProxyHeaderFault::TooLong);
    }
    Ok((bytes.len() >= length).then_some(length))
}

/// Returns the client's address and port from a whole header. An IPv4 address within IPv6 becomes IPv4.
///
/// Returns `None` if the header names none, as that of a load balancer's own health check: `LOCAL`, `UNKNOWN`,
/// or not TCP over IP. The connection's own address then applies, as the specification has it.
///
/// # Errors
/// Returns the fault of a header that cannot be used.
pub fn proxy_header_source(header: &[u8]) -> Result<Option<SocketAddr>, ProxyHeaderFault> {
    let source = match header.split_first_chunk::<V2_FIXED_BYTES>() {
        Some(([start @ .., command, family, _, _], addresses)) if start == V2_START => {
            v2_source(*command, *family, addresses)
        }
        _ => v1_source(header),
    }?;
    Ok(source.map(|source| SocketAddr::new(source.ip().to_canonical(), source.port())))
}

fn v2_source(
    version_and_command: u8,
    family: u8,
    addresses: &[u8],
) -> Result<Option<SocketAddr>, ProxyHeaderFault> {
    match (version_and_command, family) {
        // LOCAL: whatever follows is to be ignored.
        (0x20, _) => Ok(None),
        // TCP over IPv4: both addresses, then both ports.
        (0x21, 0x11) => match addresses.first_chunk() {
            Some([a, b, c, d, _, _, _, _, high, low, _, _]) => {
                let port = u16::from_be_bytes([*high, *low]);
                Ok(Some((Ipv4Addr::new(*a, *b, *c, *d), port).into()))
            }
            None => Err(ProxyHeaderFault::Malformed),
        },
        // TCP over IPv6.
        (0x21, 0x21) => match addresses.split_first_chunk::<16>() {
            Some((
                source,
                [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, high, low, _, _, ..],
            )) => {
                let port = u16::from_be_bytes([*high, *low]);
                Ok(Some((Ipv6Addr::from(*source), port).into()))
            }
            _ => Err(ProxyHeaderFault::Malformed),
        },
        // Unspecified, UDP, and UNIX sockets.
        (0x21, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => Ok(None),
        _ => Err(ProxyHeaderFault::Malformed),
    }
}

fn v1_source(header: &[u8]) -> Result<Option<SocketAddr>, ProxyHeaderFault> {
    let line = header.strip_suffix(b"\r\n").ok_or(ProxyHeaderFault::Malformed)?;
    let rest = line.strip_prefix(V1_START).ok_or(ProxyHeaderFault::Malformed)?;
    // What follows UNKNOWN is to be ignored.
    if rest == b"UNKNOWN" || rest.starts_with(b"UNKNOWN ") {
        return Ok(None);
    }
    let rest = str::from_utf8(rest).map_err(|_| ProxyHeaderFault::Malformed)?;
    let source = match rest.split_once(' ') {
        Some(("TCP4", rest)) => v1_address::<Ipv4Addr>(rest),
        Some(("TCP6", rest)) => v1_address::<Ipv6Addr>(rest),
        _ => None,
    };
    source.map(Some).ok_or(ProxyHeaderFault::Malformed)
}

/// Returns the source of the words after the protocol: both addresses, then both ports.
fn v1_address<A: FromStr + Into<IpAddr>>(words: &str) -> Option<SocketAddr> {
    let mut words = words.split(' ');
    let source: A = words.next()?.parse().ok()?;
    let _destination: A = words.next()?.parse().ok()?;
    let (source_port, _destination_port) = (port(words.next()?)?, port(words.next()?)?);
    words.next().is_none().then(|| SocketAddr::new(source.into(), source_port))
}

/// Reads a port: decimal, without a sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let has_zeros = text.len() > 1 && text.starts_with('0');
    if is_plain && !has_zeros { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    use ProxyHeaderFault::{Malformed, Missing, TooLong, Version};

    /// Returns a header of version 2.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2_START, &[command, family], &length, rest].concat()
    }

    /// Returns the length and source of the header that `bytes` begin with, as a connection has them.
    fn read(bytes: &[u8]) -> Result<(usize, Option<SocketAddr>), ProxyHeaderFault> {
        let length = proxy_header_length(bytes)?.expect("a whole header");
        Ok((length, proxy_header_source(&bytes[..length])?))
    }

    fn address(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_header_of_version_1_names_the_source() {
        for (line, source) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.2 50000 443\r\n", address("192.0.2.1:50000")),
            ("PROXY TCP6 2001:db8::1 2001:db8::2 0 65535\r\n", address("[2001:db8::1]:0")),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", address("192.0.2.1:1")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN 192.0.2.1 \u{e9}\r\n", None),
        ] {
            let bytes = [line.as_bytes(), b"\x16\x03\x01\n"].concat();
            assert_eq!(read(&bytes), Ok((line.len(), source)), "{line:?}");
        }
    }

    #[test]
    fn a_line_of_version_1_that_does_not_follow_the_specification_is_refused() {
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.2 50000 443\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 50000\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 50000 443 \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 50000 443 1\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.2 50000 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 50000 65536\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +5000 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 05000 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 5000 \r\n",
            "PROXY TCP4 192.0.2 198.51.100.2 50000 443\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 50000 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.2 50000 443\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.2 50000 443\r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.2 50000 443\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(read(line.as_bytes()), Err(Malformed), "{line:?}");
        }
    }

    #[test]
    fn a_header_of_version_2_names_the_source() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0xc3, 0x50, 1, 0xbb];
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        v6[32..].copy_from_slice(&v4[8..]);
        let mut mapped = v6;
        mapped[..16].copy_from_slice(&"::ffff:192.0.2.1".parse::<Ipv6Addr>().unwrap().octets());
        let with_field = [&v4[..], &[4, 0, 3, 1, 2, 3]].concat();
        for (command, family, rest, source) in [
            (0x21, 0x11, &v4[..], address("192.0.2.1:50000")),
            (0x21, 0x11, &with_field, address("192.0.2.1:50000")),
            (0x21, 0x21, &v6, address("[2001:db8::1]:50000")),
            (0x21, 0x21, &mapped, address("192.0.2.1:50000")),
            (0x20, 0x11, &v4, None),
            (0x20, 0x11, &[], None),
            (0x20, 0x00, &[], None),
            (0x21, 0x00, &[], None),
            (0x21, 0x12, &v4, None),
            (0x21, 0x31, &[0; 216], None),
        ] {
            let header = v2(command, family, rest);
            let bytes = [&header[..], b"\x16\x03\x01"].concat();
            assert_eq!(read(&bytes), Ok((header.len(), source)), "{command:x} {family:x}");
        }
    }

    #[test]
    fn a_header_of_version_2_that_does_not_follow_the_specification_is_refused() {
        for (command, family, rest, fault) in [
            (0x21, 0x11, &[0; 11][..], Malformed),
            (0x21, 0x21, &[0; 35], Malformed),
            (0x22, 0x11, &[0; 12], Malformed),
            (0x21, 0x41, &[0; 12], Malformed),
            (0x21, 0x13, &[0; 12], Malformed),
            (0x11, 0x11, &[0; 12], Version),
            (0x21, 0x11, &[0; PROXY_HEADER_BYTES_MAX - 15], TooLong),
        ] {
            assert_eq!(read(&v2(command, family, rest)), Err(fault), "{command:x} {family:x}");
        }
        let longest = v2(0x21, 0x11, &[0; PROXY_HEADER_BYTES_MAX - 16]);
        assert_eq!(read(&longest).map(|(length, _)| length), Ok(PROXY_HEADER_BYTES_MAX));
    }

    #[test]
    fn what_is_not_the_start_of_a_header_is_refused_at_its_first_other_byte() {
        for bytes in [&b"\x16"[..], b"PROXZ", b"PROXY\r", b"POST / HTTP/1.1", b"\r\n\r\n\r", b"\n"]
        {
            assert_eq!(proxy_header_length(bytes), Err(Missing), "{bytes:?}");
        }
        assert_eq!(proxy_header_length(&[b"PROXY ", &[b'x'; 101][..]].concat()), Err(TooLong));
        assert_eq!(proxy_header_length(&[b"PROXY ", &[b'x'; 100][..]].concat()), Ok(None));
        assert_eq!(proxy_header_length(b""), Ok(None));
    }
}
