//! The hostile catalogue, row by row: the answer, the record, and what the provider saw.
#![expect(clippy::print_stdout, reason = "a row that fails is named by the last line printed")]

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use testkit::raw_connection::RawConnection;
use testkit::request::read_answer;
use testkit::test_bed::row;
use testkit::{TestBed, TestRequest};

mod consumers;
mod coverage;
pub(crate) use coverage::SHOWN_BY;
mod goaway;
pub(crate) mod http1;
mod http2;

use http1::{Row, Then};

/// Writes in so many pieces, as far as anybody takes them.
async fn writes(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8], pieces: usize) {
    for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
        if writer.write_all(piece).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Writes a row's bytes, in so many pieces, on a connection of its own, and judges what came of them.
async fn plays(bed: &TestBed, Row { id, what, bytes, then }: Row, pieces: usize) {
    println!("{id} {what} in {pieces}: {then:?}");
    let (asked, recorded) = (bed.provider.received().len(), bed.exchange_lines().await.len());
    let stream = TestRequest::slots().connect(bed).await.unwrap();
    let (reader, mut writer) = tokio::io::split(stream);
    let mut wire = RawConnection::new(reader);
    let judged = async {
        match then {
            Then::Passes(count) => {
                for _ in 0..count {
                    assert_eq!(read_answer(&mut wire).await.expect("an answer").status, 200);
                }
            }
            Then::Refused(token) | Then::RefusedAndClosed(token) => {
                let answer = read_answer(&mut wire).await.expect("an answer");
                assert_eq!(answer.token(), Some(token), "{answer:?}");
                assert_eq!(answer.status, row(token).status);
                answer.assert_refusal_form();
                if then == Then::RefusedAndClosed(token) {
                    assert_eq!(answer.header("connection"), Some("close"));
                    assert!(!wire.read_more().await, "nothing follows");
                }
            }
            Then::Broken => {
                let answer = read_answer(&mut wire).await;
                assert!(answer.is_none_or(|answer| answer.token() == Some("body_cut")));
                assert!(!wire.read_more().await, "nothing follows");
            }
        }
    };
    // An answer may come, and the connection end, before all is written.
    let writing = writes(&mut writer, &bytes, pieces);
    tokio::join!(writing, judged);
    let count = if let Then::Passes(count) = then { count } else { 1 };
    let before = bed.exchange_lines().await;
    let closed = before[..recorded].iter().filter(|line| line["event"] == "closed").count();
    let record = bed.wait_for_closed_line(closed + count).await;
    let whole = |skipped| {
        let received = bed.provider.received().split_off(skipped);
        received.into_iter().filter(|request| request.complete).count()
    };
    match then {
        Then::Passes(count) => {
            assert_eq!(whole(asked), count);
            assert_eq!(record["outcome"], "answered");
        }
        Then::Refused(token) | Then::RefusedAndClosed(token) => {
            assert_eq!(bed.provider.received().len(), asked, "the provider was asked");
            assert_eq!(record["refusal"], token);
            assert_eq!(bed.exchange_lines().await.len(), recorded + 1, "one line");
        }
        Then::Broken => {
            assert_eq!(whole(asked), 0, "a whole request reached the provider");
            assert_eq!(record["refusal"], "body_cut");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_input_over_http1_comes_to_what_it_should() {
    let bed = TestBed::new().await;
    for row in http1::rows() {
        plays(&bed, row, 1).await;
    }
    bed.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_input_over_http1_comes_to_the_same_in_pieces() {
    let bed = TestBed::new().await;
    for row in http1::rows().into_iter().chain(http1::legitimate()) {
        plays(&bed, row, 60).await;
    }
    bed.wait_until_idle().await;
}

/// A32, and statuses the Spine Secure Proxy keeps for itself.
#[tokio::test(flavor = "multi_thread")]
async fn http_without_tls_is_told_so_or_hung_up_on() {
    let bed = TestBed::new().await;
    let plain = async |address| {
        let mut wire = RawConnection::new(TcpStream::connect(address).await.unwrap());
        wire.stream.write_all(&TestRequest::book().bytes()).await.unwrap();
        let answer = read_answer(&mut wire).await;
        assert!(!wire.read_more().await, "nothing follows");
        answer
    };
    let answer = plain(bed.address()).await.unwrap();
    assert_eq!((answer.status, answer.token()), (497, Some("plain_http")));
    answer.assert_refusal_form();
    assert_eq!(bed.metric("tls_handshakes_total{result=\"plain_http\"}"), 1);
    assert_eq!(bed.metric("refusals_total{token=\"plain_http\"}"), 1);
    assert!(bed.exchange_lines().await.is_empty() && bed.provider.accepted_connections() == 0);
    let bed = TestBed::with(|files| files.set("tls", "plain-http = \"close\"")).await;
    assert!(plain(bed.address()).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_real_consumers_send_passes() {
    let bed = TestBed::new().await;
    for row in http1::legitimate() {
        plays(&bed, row, 1).await;
    }
    bed.wait_until_idle().await;
}
