//! Providers that choose HTTP/2: one connection for many exchanges, and what a refused or departing
//! one means for a request.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::frames::{self, GOAWAY, RST_STREAM};
use crate::support::http2_provider::{Http2Provider, Move, answer, head};
use crate::support::stage::provider_tls;
use crate::support::{Call, Stage};

async fn stage() -> (Stage, Http2Provider) {
    let stage = Stage::with(|files| {
        files.set("provider-tls", "http2 = \"offer\"");
        files.add("[throttle]\npractice-failures-max = 100");
    })
    .await;
    let tls = provider_tls(&stage.pki, &stage.issued["provider"]);
    let provider = Http2Provider::start(&tls).await;
    stage.redial(provider.address).await;
    (stage, provider)
}

fn refuse(stream: u32) -> Vec<u8> {
    frames::frame(RST_STREAM, 0, stream, &7_u32.to_be_bytes())
}

/// A GOAWAY: the streams up to this one have been looked at, and no others.
fn depart(last: u32) -> Vec<u8> {
    frames::frame(GOAWAY, 0, 0, &[last.to_be_bytes(), 0_u32.to_be_bytes()].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_exchanges_share_one_connection() {
    let (stage, provider) = stage().await;
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    let calls = [Call::slots(), Call::slots().http2(), Call::book(), Call::book().http2()];
    let calls = calls.iter().cycle().take(24).cloned();
    for answer in join_all(calls.map(|call| stage.hears(call))).await {
        assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));
    }
    assert_eq!((provider.connections(), provider.received().len()), (1, 25));
    let booked = provider.received().iter().filter(|(_, body)| body == &Call::book().body).count();
    assert_eq!(booked, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_does_not_choose_it_is_spoken_to_as_before() {
    let stage = Stage::with(|files| files.set("provider-tls", "http2 = \"offer\"")).await;
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    assert!(stage.provider.received()[0].start.ends_with(" HTTP/1.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_did_not_look_at_is_repeated_or_said_to_be_unsent() {
    for says in [refuse as fn(u32) -> Vec<u8>, |stream| depart(stream - 2)] {
        let (stage, provider) = stage().await;
        assert_eq!(stage.hears(Call::slots()).await.status, 200);
        // On the connection that was there before, it is refused; on a fresh one it is heard.
        provider.plays(move |stream| match stream {
            1 => Move::Write(answer(stream, b"{}")),
            _ => Move::Write(says(stream)),
        });
        assert_eq!(stage.hears(Call::slots()).await.status, 200);
        assert_eq!(stage.counted("provider_retries_total"), 1);
        assert_eq!(stage.hears(Call::slots()).await.status, 200);
        let refused = stage.hears(Call::book()).await;
        assert_eq!(refused.token(), Some("provider_not_reached"), "its body is gone: {refused:?}");
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(stage.closed(4).await["sent_whole"], json!(false));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_whose_stream_fails_later_is_not_repeated() {
    let (stage, provider) = stage().await;
    provider
        .plays(|stream| Move::Write(frames::frame(RST_STREAM, 0, stream, &2_u32.to_be_bytes())));
    let answer = stage.hears(Call::book()).await;
    assert_eq!(answer.token(), Some("outcome_unknown"));
    provider.plays(|_| Move::WriteAndClose(Vec::new()));
    let answer = stage.hears(Call::book()).await;
    assert_eq!(answer.token(), Some("outcome_unknown"));
    assert_eq!(provider.received().len(), 2);
}

/// E8: what HTTP/1.1 would take for two headers cannot come out of one.
#[tokio::test(flavor = "multi_thread")]
async fn no_header_of_a_provider_is_two() {
    let (stage, provider) = stage().await;
    for value in ["a\r\nset-cookie: b", "a\nb", "a\0b"] {
        provider.plays(move |stream| {
            let mut bytes = head(stream, &[("x-odd", value)]);
            bytes.extend(frames::frame(frames::DATA, frames::END_STREAM, stream, b"{}"));
            Move::Write(bytes)
        });
        for call in [Call::slots(), Call::slots().http2()] {
            let answer = stage.hears(call).await;
            assert_eq!(answer.token(), Some("provider_failed"), "{answer:?}");
        }
    }
}
