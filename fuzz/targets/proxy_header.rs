//! The PROXY protocol header of a load balancer. Its length is known as soon as it is whole and not before,
//! whatever follows; no header is longer than the limit; and the address read is the one that a header written
//! from it has.

use std::net::SocketAddr;

use spine_proxy::fuzzing::{PROXY_HEADER_BYTES_MAX, proxy_header_length, proxy_header_source};

pub(crate) fn check(data: &[u8]) {
    let whole = proxy_header_length(data);
    let Ok(Some(length)) = whole else {
        // What is no header does not become one by more bytes.
        if whole.is_err() {
            assert_eq!(proxy_header_length(&[data, b"\r\n"].concat()), whole);
        }
        // Nothing that comes whole is waited for without an end.
        assert!(whole.is_err() || data.len() < PROXY_HEADER_BYTES_MAX);
        return;
    };
    assert!(0 < length && length <= data.len() && length <= PROXY_HEADER_BYTES_MAX);
    let header = &data[..length];
    assert_eq!(proxy_header_length(header), Ok(Some(length)), "without what follows");
    for cut in 0..length {
        assert_eq!(proxy_header_length(&header[..cut]), Ok(None), "its first {cut} bytes");
    }
    if let Ok(Some(source)) = proxy_header_source(header) {
        assert_eq!(source.ip(), source.ip().to_canonical());
        for again in [version_1(source), version_2(source)] {
            assert_eq!(proxy_header_length(&again), Ok(Some(again.len())));
            assert_eq!(proxy_header_source(&again), Ok(Some(source)));
        }
    }
}

fn version_1(source: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (ip, port) = (source.ip(), source.port());
    format!("PROXY {family} {ip} {ip} {port} 443\r\n").into_bytes()
}

fn version_2(source: SocketAddr) -> Vec<u8> {
    let (family, ip) = match source {
        SocketAddr::V4(source) => (0x11, source.ip().octets().to_vec()),
        SocketAddr::V6(source) => (0x21, source.ip().octets().to_vec()),
    };
    let length = u16::try_from(2 * ip.len() + 4).unwrap().to_be_bytes();
    let port = source.port().to_be_bytes();
    let fixed: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21";
    [fixed, &[family], &length, &ip, &ip, &port, &[1, 187]].concat()
}
