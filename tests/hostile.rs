//! The hostile catalogue, row by row: the answer, the record, and what the provider saw.
#![expect(clippy::print_stdout, reason = "a row that fails is named by the last line printed")]

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use testkit::call::hear;
use testkit::stage::row;
use testkit::wire::Wire;
use testkit::{Call, Stage};

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
async fn plays(stage: &Stage, Row { id, what, bytes, then }: Row, pieces: usize) {
    println!("{id} {what} in {pieces}: {then:?}");
    let (asked, recorded) = (stage.provider.received().len(), stage.lines().await.len());
    let stream = Call::slots().connect(stage).await.unwrap();
    let (reader, mut writer) = tokio::io::split(stream);
    let mut wire = Wire::new(reader);
    let judged = async {
        match then {
            Then::Passes(count) => {
                for _ in 0..count {
                    assert_eq!(hear(&mut wire).await.expect("an answer").status, 200);
                }
            }
            Then::Refused(token) | Then::RefusedAndClosed(token) => {
                let answer = hear(&mut wire).await.expect("an answer");
                assert_eq!(answer.token(), Some(token), "{answer:?}");
                assert_eq!(answer.status, row(token).status);
                answer.is_a_proper_refusal();
                if then == Then::RefusedAndClosed(token) {
                    assert_eq!(answer.header("connection"), Some("close"));
                    assert!(!wire.more().await, "nothing follows");
                }
            }
            Then::Broken => {
                let answer = hear(&mut wire).await;
                assert!(answer.is_none_or(|answer| answer.token() == Some("body_cut")));
                assert!(!wire.more().await, "nothing follows");
            }
        }
    };
    // An answer may come, and the connection end, before all is written.
    let writing = writes(&mut writer, &bytes, pieces);
    tokio::join!(writing, judged);
    let count = if let Then::Passes(count) = then { count } else { 1 };
    let before = stage.lines().await;
    let closed = before[..recorded].iter().filter(|line| line["event"] == "closed").count();
    let record = stage.closed(closed + count).await;
    let whole = |skipped| {
        let received = stage.provider.received().split_off(skipped);
        received.into_iter().filter(|request| request.complete).count()
    };
    match then {
        Then::Passes(count) => {
            assert_eq!(whole(asked), count);
            assert_eq!(record["outcome"], "answered");
        }
        Then::Refused(token) | Then::RefusedAndClosed(token) => {
            assert_eq!(stage.provider.received().len(), asked, "the provider was asked");
            assert_eq!(record["refusal"], token);
            assert_eq!(stage.lines().await.len(), recorded + 1, "one line");
        }
        Then::Broken => {
            assert_eq!(whole(asked), 0, "a whole request reached the provider");
            assert_eq!(record["refusal"], "body_cut");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_input_over_http1_comes_to_what_it_should() {
    let stage = Stage::new().await;
    for row in http1::rows() {
        plays(&stage, row, 1).await;
    }
    stage.is_calm().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_input_over_http1_comes_to_the_same_in_pieces() {
    let stage = Stage::new().await;
    for row in http1::rows().into_iter().chain(http1::legitimate()) {
        plays(&stage, row, 60).await;
    }
    stage.is_calm().await;
}

/// A32, and statuses the Spine Secure Proxy keeps for itself.
#[tokio::test(flavor = "multi_thread")]
async fn http_without_tls_is_told_so_or_hung_up_on() {
    let stage = Stage::new().await;
    let plain = async |address| {
        let mut wire = Wire::new(TcpStream::connect(address).await.unwrap());
        wire.stream.write_all(&Call::book().bytes()).await.unwrap();
        let answer = hear(&mut wire).await;
        assert!(!wire.more().await, "nothing follows");
        answer
    };
    let answer = plain(stage.address()).await.unwrap();
    assert_eq!((answer.status, answer.token()), (497, Some("plain_http")));
    answer.is_a_proper_refusal();
    assert_eq!(stage.counted("tls_handshakes_total{result=\"plain_http\"}"), 1);
    assert_eq!(stage.counted("refusals_total{token=\"plain_http\"}"), 1);
    assert!(stage.lines().await.is_empty() && stage.provider.dialled() == 0);
    let stage = Stage::with(|files| files.set("tls", "plain-http = \"close\"")).await;
    assert!(plain(stage.address()).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_real_consumers_send_passes() {
    let stage = Stage::new().await;
    for row in http1::legitimate() {
        plays(&stage, row, 1).await;
    }
    stage.is_calm().await;
}
