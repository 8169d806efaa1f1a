//! The hostile catalogue's section B: HTTP/2 as frames that no library would write.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use testkit::frames::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, FieldEncoding, Frame, GOAWAY, HEADERS, PING,
    PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, encode_field, field, frame,
};
use testkit::raw_connection::RawConnection;
use testkit::{ProviderAction, TestBed, TestRequest};

pub(super) type Line = RawConnection<TlsStream<TcpStream>>;

/// What must become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It ends, or this stream does, and no request reaches a provider.
    Fails,
    /// A refusal of ours, and the provider is not asked.
    Refused,
}

fn slots_block() -> Vec<u8> {
    frames::block(&TestRequest::slots(), &[])
}

/// A search for slots with these fields besides, or instead of those they name.
fn with(fields: &[(&str, &str)]) -> Vec<u8> {
    let names: Vec<_> =
        fields.iter().map(|(name, _)| *name).filter(|n| n.starts_with(':')).collect();
    let (mut pseudo, mut rest) = (Vec::new(), frames::block(&TestRequest::slots(), &names));
    for (name, value) in fields {
        let block = if name.starts_with(':') { &mut pseudo } else { &mut rest };
        block.extend(field(name, value));
    }
    pseudo.extend(rest);
    pseudo
}

fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, block)
}

pub(super) fn ask(stream: u32, block: &[u8]) -> Vec<u8> {
    headers(stream, END_STREAM, block)
}

pub(super) async fn connect(bed: &TestBed) -> Line {
    let mut wire = RawConnection::new(TestRequest::slots().http2().connect(bed).await.unwrap());
    let hello = [frames::PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    wire.stream.write_all(&hello).await.unwrap();
    wire
}

/// Writes, and reads all that comes until the connection ends, or this stream does.
async fn hears(bed: &TestBed, bytes: &[u8], stream: u32) -> Vec<Frame> {
    let wire = connect(bed).await;
    let (reader, mut writer) = tokio::io::split(wire.stream);
    let mut wire = RawConnection { stream: reader, unread: wire.unread };
    let writing = async {
        drop(writer.write_all(bytes).await);
        drop(writer.flush().await);
    };
    let reading = async {
        let mut heard = Vec::new();
        while let Some(frame) = wire.frame().await {
            let ends = frame.stream == stream && (frame.ends_stream() || frame.kind == RST_STREAM);
            heard.push(frame);
            if ends {
                break;
            }
        }
        heard
    };
    tokio::join!(writing, reading).1
}

/// Fields that are not in order, by number.
fn requests() -> Vec<(&'static str, &'static str, Then, Vec<u8>)> {
    use Then::{Fails, Refused};
    let regular_first = [field("x-first", "1"), slots_block()].concat();
    let twice = [field(":path", "/a"), slots_block()].concat();
    vec![
        ("B10", "an authority that is not Host", Refused, with(&[("host", "evil.nhs.uk")])),
        ("B10", "two paths", Fails, twice),
        ("B10", "a pseudo field after others", Fails, regular_first),
        ("B10", "a name in capitals", Fails, with(&[("X-Odd", "1")])),
        ("B10", "connection", Fails, with(&[("connection", "ssp-to")])),
        ("B10", "te: gzip", Fails, with(&[("te", "gzip")])),
        ("B10", "transfer-encoding", Fails, with(&[("transfer-encoding", "chunked")])),
        ("B10", "an upgrade", Fails, with(&[("upgrade", "h2c")])),
        ("B10", "no path", Fails, frames::block(&TestRequest::slots(), &[":path"])),
        ("B10", "no method", Fails, frames::block(&TestRequest::slots(), &[":method"])),
        ("B10", "a pseudo field nobody knows", Fails, with(&[(":odd", "1")])),
        ("B11", "a length, and nothing", Fails, with(&[("content-length", "3")])),
        ("B11", "two lengths", Fails, with(&[("content-length", "0"), ("content-length", "1")])),
        ("B12", "a path without a slash", Fails, with(&[(":path", "slots")])),
        ("B12", "a line end in the path", Fails, with(&[(":path", "/a\r\nSsp-From: 1")])),
        (
            "B12",
            "a fragment",
            Fails,
            with(&[(":path", &format!("{}#&a=b", TestRequest::slots().target))]),
        ),
        ("B12", "an asterisk", Refused, with(&[(":path", "*")])),
        ("B13", "CONNECT with a path", Fails, with(&[(":method", "CONNECT")])),
        ("E2", "a line end in a value", Fails, with(&[("x-odd", "a\r\nssp-to: 1")])),
        ("E6", "an underscore", Refused, with(&[("ssp_to", "918999198994")])),
        ("B5", "2,000 crumbs of a cookie", Fails, with(&vec![("cookie", "a=b"); 2000])),
        ("B5", "200 fields", Refused, with(&vec![("x-crumb", "a"); 200])),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_none_reaches_nobody() {
    let bed = TestBed::new().await;
    for (id, what, then, block) in requests() {
        let lines = bed.exchange_lines().await.len();
        let heard = hears(&bed, &ask(1, &block), 1).await;
        let statuses: Vec<_> = heard.iter().filter_map(Frame::status).collect();
        match then {
            Then::Refused => {
                assert_eq!(statuses.len(), 1, "{id} {what}: {heard:?}");
                assert!(statuses[0] != 200, "{id} {what}");
                assert_eq!(
                    bed.wait_for_closed_line(lines + 1).await["outcome"],
                    "refused",
                    "{id} {what}"
                );
            }
            // What the library refuses it may answer itself, with 431 and no record.
            Then::Fails => {
                assert!(!statuses.contains(&200), "{id} {what}: {heard:?}");
                assert_eq!(bed.exchange_lines().await.len(), lines, "{id} {what}");
            }
        }
        assert!(bed.provider.received().is_empty(), "{id} {what}: the provider was asked");
    }
    bed.wait_until_idle().await;
    assert_eq!(bed.send(TestRequest::slots().http2()).await.status, 200);
}

/// B12: however a path and its frames are written, a fragment is never cut off, and the connection is
/// as good as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_with_a_fragment_ends_its_stream_and_no_other() {
    let bed = TestBed::new().await;
    let mut wire = connect(&bed).await;
    let rest = frames::block(&TestRequest::slots(), &[":path"]);
    let (pseudo, headers) = rest.split_at(rest.len() - header_bytes());
    let mut stream = 1;
    for how in [
        FieldEncoding::Indexed(0x04),
        FieldEncoding::Indexed(0x44),
        FieldEncoding::Indexed(0x15),
        FieldEncoding::IndexedHuffman(0x04),
        FieldEncoding::IndexedHuffman(0x44),
        FieldEncoding::Huffman,
    ] {
        for end in ["", "#", "#&start=ge2026-11-23", "&a=%23&b='!()*+,;~[]{}^`|$@", "&a=b#c#d"] {
            let target = format!("{}{end}", TestRequest::slots().target);
            let path = encode_field(how, ":path", &target);
            let block = [pseudo, &path, headers].concat();
            let asked = bed.provider.received().len();
            wire.stream.write_all(&in_pieces(stream, &block)).await.unwrap();
            let last = loop {
                let frame = wire.frame().await.expect("an answer");
                assert_ne!(frame.kind, GOAWAY, "{how:?} {end}");
                if frame.stream == stream && (frame.kind == RST_STREAM || frame.ends_stream()) {
                    break frame;
                }
            };
            assert_eq!(last.kind == RST_STREAM, end.contains('#'), "{how:?} {end}");
            let received = bed.provider.received().split_off(asked);
            match received.as_slice() {
                [] => assert!(end.contains('#'), "{how:?} {end}"),
                [one] => assert!(one.start.ends_with(&format!("{end} HTTP/1.1")), "{how:?} {end}"),
                more => panic!("{} requests", more.len()),
            }
            stream += 2;
        }
    }
}

/// The length of a search's fields after the pseudo fields, the path left out.
fn header_bytes() -> usize {
    let pseudo = [(":method", "GET"), (":scheme", "https"), (":authority", "ssp.example.nhs.uk")];
    let pseudo: usize = pseudo.iter().map(|(name, value)| field(name, value).len()).sum();
    frames::block(&TestRequest::slots(), &[":path"]).len() - pseudo
}

/// A request whose block comes in a padded frame with a priority, and two more.
fn in_pieces(stream: u32, block: &[u8]) -> Vec<u8> {
    const PADDED: u8 = 0x8;
    const WITH_PRIORITY: u8 = 0x20;
    let (first, rest) = block.split_at(block.len() / 3);
    let (second, third) = rest.split_at(rest.len() / 3);
    let first = [&[7, 0, 0, 0, 0, 16], first, &[0; 7]].concat();
    [
        frame(HEADERS, END_STREAM | PADDED | WITH_PRIORITY, stream, &first),
        frame(CONTINUATION, 0, stream, second),
        frame(CONTINUATION, END_HEADERS, stream, third),
    ]
    .concat()
}

/// Frames that may not stand where they stand, by number: each ends the connection.
fn breaches() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let block = slots_block();
    let (half, rest) = block.split_at(block.len() / 2);
    let open = headers(1, 0, &frames::block(&TestRequest::book(), &[]));
    let two_to_31 = 0x7fff_ffff_u32.to_be_bytes();
    let other = frame(PING, 0, 0, &[0; 8]);
    vec![
        ("B14", "an even stream", ask(2, &block)),
        ("B14", "DATA on an idle stream", frame(DATA, END_STREAM, 1, b"x")),
        ("B14", "a stream used again", [ask(3, &block), ask(1, &block)].concat()),
        ("B14", "HEADERS on stream 0", ask(0, &block)),
        ("B14", "PUSH_PROMISE from a consumer", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("B14", "SETTINGS on a stream", frame(SETTINGS, 0, 1, &[])),
        ("B14", "SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("B14", "a PING of 7 bytes", frame(PING, 0, 0, &[0; 7])),
        ("B14", "GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8])),
        ("B14", "another frame between HEADERS and CONTINUATION", {
            [frame(HEADERS, END_STREAM, 1, half), other, frame(CONTINUATION, END_HEADERS, 1, rest)]
                .concat()
        }),
        ("B14", "CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, rest)),
        ("B14", "a field block that is none", ask(1, &[0xff; 40])),
        ("B14", "a frame larger than was agreed", frame(DATA, 0, 1, &vec![0; 70_000])),
        ("B15", "a window beyond 2^31 of the connection", {
            frame(WINDOW_UPDATE, 0, 0, &two_to_31).repeat(2)
        }),
        ("B15", "a window that grows by nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("B3", "CONTINUATION without an end", {
            let mut bytes = frame(HEADERS, END_STREAM, 1, half);
            for _ in 0..20_000 {
                bytes.extend(frame(CONTINUATION, 0, 1, &field("x-flood", "a")));
            }
            bytes
        }),
        ("B4", "empty DATA without an end", {
            [open, frame(DATA, 0, 1, &[]).repeat(100_000)].concat()
        }),
        ("B1", "streams reset as soon as they are opened", {
            let reset = |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            let pair = |n: u32| [ask(2 * n + 1, &block), reset(2 * n + 1)].concat();
            (0..2000).flat_map(pair).collect()
        }),
        ("B2", "streams that we are made to reset", {
            let bad = |stream| frame(WINDOW_UPDATE, 0, stream, &[0; 4]);
            let pair = |n: u32| [ask(2 * n + 1, &block), bad(2 * n + 1)].concat();
            (0..2000).flat_map(pair).collect()
        }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breach_of_the_protocol_ends_the_connection() {
    let bed = TestBed::with(|files| {
        files.add("[throttle]\ncertificate-per-second = 100000\nconsumer-per-second = 100000");
    })
    .await;
    for (id, what, bytes) in breaches() {
        let heard = hears(&bed, &bytes, 0).await;
        let goaway = heard.iter().find(|frame| frame.kind == GOAWAY);
        assert!(goaway.is_none_or(|frame| frame.code() != Some(0)), "{id} {what}: {heard:?}");
    }
    // Whatever went out for streams that were reset has come back.
    bed.wait_until_idle().await;
    assert_eq!(bed.send(TestRequest::slots().http2()).await.status, 200);
}

/// B4's other side: small frames are no attack.
#[tokio::test(flavor = "multi_thread")]
async fn small_frames_of_many_streams_pass() {
    let bed = TestBed::new().await;
    let mut wire = connect(&bed).await;
    let block = frames::block(&TestRequest::book(), &[]);
    let streams = (0..50).map(|n| 2 * n + 1);
    let mut bytes: Vec<u8> =
        streams.clone().flat_map(|stream| headers(stream, 0, &block)).collect();
    for _ in 0..20 {
        bytes.extend(streams.clone().flat_map(|stream| frame(DATA, 0, stream, &[b' '; 100])));
    }
    bytes.extend(streams.flat_map(|stream| frame(DATA, END_STREAM, stream, b"{}")));
    wire.stream.write_all(&bytes).await.unwrap();
    let mut answered = 0;
    while answered < 50 {
        let frame = wire.frame().await.expect("answers");
        assert!(!matches!(frame.kind, GOAWAY | RST_STREAM), "{frame:?}");
        answered += usize::from(frame.status() == Some(200));
    }
    assert_eq!(bed.provider.received().len(), 50);
    let length = 2002;
    assert!(bed.provider.received().iter().all(|request| request.body.len() == length));
}

/// B6: what carries nothing is borne as long as it is little, with a certificate or without.
#[tokio::test(flavor = "multi_thread")]
async fn floods_of_control_frames_are_borne_or_end_the_connection() {
    let bed = TestBed::new().await;
    let kinds = [
        ("PING", frame(PING, 0, 0, &[1; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("a kind nobody knows", frame(0x77, 0, 0, &[1; 8])),
    ];
    for (number, (what, flood)) in kinds.into_iter().enumerate() {
        let few = [flood.repeat(200), ask(1, &slots_block())].concat();
        let heard = hears(&bed, &few, 1).await;
        assert!(heard.iter().any(|frame| frame.status() == Some(200)), "{what}: {heard:?}");
        hears(&bed, &flood.repeat(100_000), 1).await;
        bed.wait_until_idle().await;
        let flooded = bed.metric("connection_errors_total{reason=\"flooded\"}");
        assert_eq!(flooded, u64::try_from(number).unwrap() + 1, "{what}");
    }
    // Windows are widened as often as answers are large.
    let windows = frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()).repeat(10_000);
    let heard = hears(&bed, &[windows, ask(1, &slots_block())].concat(), 1).await;
    assert!(heard.iter().any(|frame| frame.status() == Some(200)));
}

/// B17.
#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_those_agreed_are_refused() {
    let bed = TestBed::with(|files| {
        files.add("[listener.limits]\nstreams-max = 10\n[throttle]\npractice-exchanges-max = 100");
    })
    .await;
    let told = std::sync::Arc::new(tokio::sync::Notify::new());
    let answer = testkit::provider::answer("200 OK", "", "{}");
    bed.provider
        .set_action(ProviderAction::WriteWhenNotified(std::sync::Arc::clone(&told), answer));
    let mut wire = connect(&bed).await;
    let block = slots_block();
    let bytes: Vec<u8> = (0..14).flat_map(|n| ask(2 * n + 1, &block)).collect();
    wire.stream.write_all(&bytes).await.unwrap();
    let mut refused = 0;
    while refused < 4 {
        let frame = wire.frame().await.expect("refusals");
        if frame.kind == RST_STREAM {
            assert_eq!(frame.code(), Some(7), "REFUSED_STREAM");
            refused += 1;
        }
    }
    bed.provider.wait_for_requests(10).await;
    assert_eq!(bed.provider.received().len(), 10);
    drop(wire);
    told.notify_waiters();
    bed.wait_until_idle().await;
}

/// B7 and B8: silence after the preface, inside a head, inside a body.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_falls_silent_is_let_go() {
    let bed = TestBed::with(|files| {
        files.add("[listener.limits]\nhead = \"200ms\"\nidle = \"200ms\"\n[provider.deadlines]\nbody-idle = \"200ms\"");
    })
    .await;
    let block = slots_block();
    for bytes in [Vec::new(), frame(HEADERS, END_STREAM, 1, &block[..20])] {
        hears(&bed, &bytes, 1).await;
    }
    assert!(bed.exchange_lines().await.is_empty());
    let open = headers(1, 0, &frames::block(&TestRequest::book(), &[]));
    let heard = hears(&bed, &[open, frame(DATA, 0, 1, b"{")].concat(), 1).await;
    assert!(heard.iter().any(|frame| frame.status() == Some(0)), "{heard:?}");
    assert_eq!(bed.wait_for_closed_line(1).await["refusal"], "body_timed_out");
    assert!(bed.provider.received().iter().all(|request| !request.complete));
    bed.wait_until_idle().await;
}

/// A stream may be reset without an error in the middle of a booking: what came of it is no booking.
#[tokio::test(flavor = "multi_thread")]
async fn a_booking_whose_stream_is_reset_never_looks_whole() {
    let bed = TestBed::new().await;
    for (count, code) in [0_u32, 2, 8].into_iter().enumerate() {
        let mut wire = connect(&bed).await;
        let block = frames::block(&TestRequest::book(), &[]);
        let bytes = [headers(1, 0, &block), frame(DATA, 0, 1, b"{\"half\":")].concat();
        wire.stream.write_all(&bytes).await.unwrap();
        while bed.provider.connections() == count {
            tokio::task::yield_now().await;
        }
        let reset = frame(RST_STREAM, 0, 1, &code.to_be_bytes());
        wire.stream.write_all(&reset).await.unwrap();
        let record = bed.wait_for_closed_line(count + 1).await;
        assert_eq!(record["sent_whole"], false, "{code}: {record}");
        bed.provider.wait_for_closed_connections(count + 1).await;
        assert!(bed.provider.received().iter().all(|request| !request.complete), "{code}");
    }
    bed.wait_until_idle().await;
}
