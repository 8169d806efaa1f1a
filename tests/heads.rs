//! Heads of requests that arrive in pieces, slowly, without an end, or as large as allowed.

use spine_proxy::fuzzing::Validator;
use tokio::io::AsyncWriteExt as _;

use testkit::provider::DRIP;
use testkit::raw_connection::RawConnection;
use testkit::request::read_answer;
use testkit::{Answer, TestBed, TestRequest};

/// Bytes at the start of a head without the end of a line that are refused.
const FIRST_LINE_BYTES: usize = 64 * 1024;
/// Bytes of the largest head.
const HEAD_BYTES: usize = 124 * 1024;

/// A test bed whose configuration lets pass as much as it may.
async fn lenient() -> TestBed {
    let limits = "[request]\ntarget-max = \"60 KiB\"\nhead-max = \"120 KiB\"\nheaders-max = 127";
    TestBed::with(|files| files.add(limits)).await
}

/// Writes bytes on a connection of their own that stays open, and returns the answer, after which the connection
/// must end if it is a refusal.
async fn told(bed: &TestBed, bytes: &[u8]) -> Answer {
    let (reader, mut writer) = tokio::io::split(TestRequest::slots().connect(bed).await.unwrap());
    let mut wire = RawConnection::new(reader);
    let writing = async {
        drop(writer.write_all(bytes).await);
        drop(writer.flush().await);
    };
    let ((), answer) = tokio::join!(writing, read_answer(&mut wire));
    let answer = answer.expect("an answer");
    if answer.token().is_some() {
        answer.assert_refusal_form();
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(!wire.read_more().await, "nothing follows");
    }
    answer
}

#[test]
fn no_byte_of_a_head_is_looked_at_twice_however_it_comes() {
    let head = TestRequest::slots().bytes();
    for piece in [1, 2, 7, 100] {
        let (mut validator, mut before) = (Validator::new(), 0_usize);
        for end in (piece..head.len()).step_by(piece) {
            let mut bytes = head[..end].to_vec();
            // A bare line feed is refused where it is seen. The byte before a line's end may be looked at once more.
            bytes[..before.saturating_sub(1)].fill(b'\n');
            let scan = validator.scan(&bytes);
            assert_eq!((scan.passed, scan.fault), (0, None), "{end} bytes by {piece}");
            before = end;
        }
        let scan = validator.scan(&head);
        assert_eq!((scan.passed, scan.fault), (head.len(), None), "by {piece}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_line_is_refused_at_64_kib_without_waiting_for_its_end() {
    let bed = lenient().await;
    let long = |bytes: usize| {
        let target = TestRequest::slots().target;
        format!("{target}&a={}", "a".repeat(bytes - target.len() - "&a=".len()))
    };
    let longest = TestRequest::slots().target(&long(60 * 1024));
    assert_eq!(told(&bed, &longest.bytes()).await.status, 200);
    let line = format!("GET {}", long(2 * FIRST_LINE_BYTES));
    let answer = told(&bed, &line.as_bytes()[..FIRST_LINE_BYTES]).await;
    assert_eq!((answer.status, answer.token()), (414, Some("target_too_long")));
    // Though an empty line came before it.
    let line = format!("\r\n{line}");
    assert_eq!(told(&bed, &line.as_bytes()[..FIRST_LINE_BYTES]).await.status, 414);
    assert_eq!(bed.provider.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_refused_at_124_kib_without_waiting_for_its_end() {
    let bed = lenient().await;
    let with = |bytes: usize| {
        let target = format!("{}&a={}", TestRequest::slots().target, "a".repeat(30_000));
        let call = (0..3).fold(TestRequest::slots().target(&target), |call, number| {
            call.with(&format!("x-{number}"), &"v".repeat(30_000))
        });
        let rest = call.bytes().len() + "x-rest: \r\n".len();
        call.with("x-rest", &"v".repeat(bytes - rest)).bytes()
    };
    assert_eq!(told(&bed, &with(HEAD_BYTES)).await.status, 200);
    let answer = told(&bed, &with(2 * HEAD_BYTES)[..HEAD_BYTES]).await;
    assert_eq!((answer.status, answer.token()), (431, Some("head_too_large")));
    assert_eq!(bed.provider.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_has_no_more_than_128_lines_besides_the_first() {
    let bed = lenient().await;
    let own = TestRequest::slots().bytes().windows(2).filter(|pair| pair == b"\r\n").count() - 2;
    let with = |lines: usize| {
        let more = (own..lines).map(|number| format!("x-{number}"));
        more.fold(TestRequest::slots(), |call, name| call.with(&name, "v")).bytes()
    };
    // 128 are read, of which the configuration lets no more than 127 pass.
    assert_eq!(told(&bed, &with(127)).await.status, 200);
    for lines in [128, 129, 1000] {
        let answer = told(&bed, &with(lines)).await;
        assert_eq!((answer.status, answer.token()), (431, Some("head_too_large")), "{lines}");
    }
    assert_eq!(bed.provider.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_a_head_runs_from_its_first_byte() {
    let limits = "[listener.limits]\nhead = \"200ms\"\nidle = \"10m\"";
    let bed = TestBed::with(|files| files.add(limits)).await;
    let call = TestRequest::slots();
    let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
    for _ in 0..2 {
        // Meanwhile another connection begins a head and outlives its deadline.
        let mut other = RawConnection::new(call.connect(&bed).await.unwrap());
        other.stream.write_all(b"G").await.unwrap();
        assert!(!other.read_more().await, "a head without an end is not answered");
        wire.stream.write_all(&call.bytes()).await.unwrap();
        assert_eq!(read_answer(&mut wire).await.expect("an answer").status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_a_head_is_not_extended_by_partial_data() {
    let limits = "[listener.limits]\nhead = \"300ms\"\nidle = \"10m\"";
    let bed = TestBed::with(|files| files.add(limits)).await;
    let stream = TestRequest::slots().connect(&bed).await.unwrap();
    let (reader, mut writer) = tokio::io::split(stream);
    let mut wire = RawConnection::new(reader);
    let dripping = async {
        // However slow the machine, these take four times the deadline and more.
        for byte in TestRequest::slots().bytes().iter().take(60) {
            tokio::time::sleep(DRIP).await;
            if writer.write_all(&[*byte]).await.is_err() || writer.flush().await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let late = async {
        for _ in 0..60 {
            tokio::time::sleep(DRIP).await;
        }
    };
    tokio::select! {
        more = wire.read_more() => assert!(!more, "a head without an end is not answered"),
        () = dripping => {}
        () = late => panic!("each byte begins the deadline again"),
    }
}
