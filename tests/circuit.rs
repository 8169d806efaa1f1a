//! The circuit of a practice's system that fails too often opens, and one request at a time probes it.

use std::sync::Arc;

use tokio::sync::Notify;

use testkit::provider::answer;
use testkit::{Act, Call, Stage};

async fn stage(limits: &str) -> Stage {
    Stage::with(|files| files.add(&format!("[throttle]\n{limits}"))).await
}

fn busy(retry_after: &str) -> Act {
    Act::answer("503 Busy", &format!("Retry-After: {retry_after}\r\n"), "{}")
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_in_a_row_spare_a_practice_and_no_other() {
    let stage = stage("practice-failures-max = 3").await;
    stage.provider.does(Act::CloseAfterHead);
    for call in [Call::slots(), Call::slots().http2(), Call::slots()] {
        assert_eq!(stage.hears(call).await.token(), Some("provider_failed"));
    }
    for call in [Call::slots(), Call::book(), Call::book().http2()] {
        let refused = stage.refuses(call, "provider_circuit_open").await;
        let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=12).contains(&after), "{after}");
    }
    assert_eq!(stage.counted("provider_circuits_opened_total"), 1);
    stage.provider.does(Act::ok());
    let other = Call::slots().target("/B82617/STU3/1/gpconnect/Slot").without("Ssp-To");
    let root = testkit::stage::OTHER_ROOT;
    assert_eq!(stage.hears(other.claim("aud", root.into())).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_probes_and_its_success_lets_all_in_again() {
    let stage = stage("practice-failures-max = 1\npractice-circuit-open = \"200ms\"").await;
    stage.provider.does(Act::Close);
    assert_eq!(stage.hears(Call::slots()).await.status, 502);
    let told = Arc::new(Notify::new());
    stage.provider.does(Act::WriteWhenTold(Arc::clone(&told), answer("200 OK", "", "{}")));
    let probe = async {
        loop {
            let answer = stage.hears(Call::slots()).await;
            if answer.token() != Some("provider_circuit_open") {
                return answer;
            }
        }
    };
    let others = async {
        stage.provider.has_received(2).await;
        let refused = stage.hears(Call::slots()).await;
        told.notify_one();
        refused
    };
    let (probe, other) = tokio::join!(probe, others);
    assert_eq!((probe.status, other.token()), (200, Some("provider_circuit_open")));
    stage.provider.does(Act::ok());
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_whose_consumer_hangs_up_makes_room_for_the_next() {
    let stage = stage("practice-failures-max = 1\npractice-circuit-open = \"100ms\"").await;
    stage.provider.does(Act::Close);
    assert_eq!(stage.hears(Call::slots()).await.status, 502);
    stage.provider.does(Act::Silence);
    let call = Call::slots().http2();
    loop {
        let asked = stage.provider.received().len();
        let probe = stage.hears(call.clone());
        tokio::select! {
            answer = probe => assert_eq!(answer.token(), Some("provider_circuit_open")),
            () = stage.provider.has_received(asked + 1) => break,
        }
    }
    stage.provider.does(Act::ok());
    while stage.hears(Call::slots()).await.token() == Some("provider_circuit_open") {}
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
}

/// G17.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_503_spares_for_as_long_as_the_provider_asks() {
    let stage = stage("practice-failures-max = 2").await;
    stage.provider.does(busy("33"));
    for _ in 0..2 {
        let passed = stage.hears(Call::slots()).await;
        assert_eq!((passed.status, passed.header("retry-after")), (503, Some("33")));
        assert_eq!(passed.token(), None, "the provider's own answer");
    }
    let refused = stage.refuses(Call::slots(), "provider_circuit_open").await;
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((30..=34).contains(&after), "{after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_spare_nobody_whatever_they_say_and_nor_do_consumers() {
    let stage = stage("practice-failures-max = 1\npractice-failures-percent = 1").await;
    for status in ["500 Oh", "429 Slow", "404 None", "409 Taken", "422 Odd"] {
        stage.provider.does(Act::answer(status, "", "{}"));
        for _ in 0..3 {
            assert_eq!(stage.hears(Call::slots()).await.token(), None);
        }
    }
    let short = Call::book().unframed().with("Transfer-Encoding", "chunked").body(b"g\r\n");
    assert_eq!(stage.hears(short).await.token(), Some("body_cut"));
    stage.provider.does(Act::ok());
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
}
