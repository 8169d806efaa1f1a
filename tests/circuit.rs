//! The circuit of a practice's system that fails too often opens, and one request at a time probes it.

use std::sync::Arc;

use tokio::sync::Notify;

use testkit::provider::answer;
use testkit::{ProviderAction, TestBed, TestRequest};

async fn bed(limits: &str) -> TestBed {
    TestBed::with(|files| files.add(&format!("[throttle]\n{limits}"))).await
}

fn busy(retry_after: &str) -> ProviderAction {
    ProviderAction::answer("503 Busy", &format!("Retry-After: {retry_after}\r\n"), "{}")
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_in_a_row_spare_a_practice_and_no_other() {
    let bed = bed("practice-failures-max = 3").await;
    bed.provider.set_action(ProviderAction::CloseAfterHead);
    for call in [TestRequest::slots(), TestRequest::slots().http2(), TestRequest::slots()] {
        assert_eq!(bed.send(call).await.token(), Some("provider_failed"));
    }
    for call in [TestRequest::slots(), TestRequest::book(), TestRequest::book().http2()] {
        let refused = bed.expect_refusal(call, "provider_circuit_open").await;
        let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=12).contains(&after), "{after}");
    }
    assert_eq!(bed.metric("provider_circuits_opened_total"), 1);
    bed.provider.set_action(ProviderAction::ok());
    let other = TestRequest::slots().target("/B82617/STU3/1/gpconnect/Slot").without("Ssp-To");
    let root = testkit::test_bed::OTHER_ROOT;
    assert_eq!(bed.send(other.claim("aud", root.into())).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_probes_and_its_success_lets_all_in_again() {
    let bed = bed("practice-failures-max = 1\npractice-circuit-open = \"200ms\"").await;
    bed.provider.set_action(ProviderAction::Close);
    assert_eq!(bed.send(TestRequest::slots()).await.status, 502);
    let told = Arc::new(Notify::new());
    bed.provider.set_action(ProviderAction::WriteWhenNotified(
        Arc::clone(&told),
        answer("200 OK", "", "{}"),
    ));
    let probe = async {
        loop {
            let answer = bed.send(TestRequest::slots()).await;
            if answer.token() != Some("provider_circuit_open") {
                return answer;
            }
        }
    };
    let others = async {
        bed.provider.wait_for_requests(2).await;
        let refused = bed.send(TestRequest::slots()).await;
        told.notify_one();
        refused
    };
    let (probe, other) = tokio::join!(probe, others);
    assert_eq!((probe.status, other.token()), (200, Some("provider_circuit_open")));
    bed.provider.set_action(ProviderAction::ok());
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_whose_consumer_hangs_up_makes_room_for_the_next() {
    let bed = bed("practice-failures-max = 1\npractice-circuit-open = \"100ms\"").await;
    bed.provider.set_action(ProviderAction::Close);
    assert_eq!(bed.send(TestRequest::slots()).await.status, 502);
    bed.provider.set_action(ProviderAction::Silence);
    let call = TestRequest::slots().http2();
    loop {
        let asked = bed.provider.received().len();
        let probe = bed.send(call.clone());
        tokio::select! {
            answer = probe => assert_eq!(answer.token(), Some("provider_circuit_open")),
            () = bed.provider.wait_for_requests(asked + 1) => break,
        }
    }
    bed.provider.set_action(ProviderAction::ok());
    while bed.send(TestRequest::slots()).await.token() == Some("provider_circuit_open") {}
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
}

/// G17.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_503_spares_for_as_long_as_the_provider_asks() {
    let bed = bed("practice-failures-max = 2").await;
    bed.provider.set_action(busy("33"));
    for _ in 0..2 {
        let passed = bed.send(TestRequest::slots()).await;
        assert_eq!((passed.status, passed.header("retry-after")), (503, Some("33")));
        assert_eq!(passed.token(), None, "the provider's own answer");
    }
    let refused = bed.expect_refusal(TestRequest::slots(), "provider_circuit_open").await;
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((30..=34).contains(&after), "{after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_and_consumers_do_not_open_the_circuit() {
    let bed = bed("practice-failures-max = 1\npractice-failures-percent = 1").await;
    for status in ["500 Oh", "429 Slow", "404 None", "409 Taken", "422 Odd"] {
        bed.provider.set_action(ProviderAction::answer(status, "", "{}"));
        for _ in 0..3 {
            assert_eq!(bed.send(TestRequest::slots()).await.token(), None);
        }
    }
    let short = TestRequest::book()
        .without_content_length()
        .with("Transfer-Encoding", "chunked")
        .body(b"g\r\n");
    assert_eq!(bed.send(short).await.token(), Some("body_cut"));
    bed.provider.set_action(ProviderAction::ok());
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
}
