//! Reactions of the process to signals.

use testkit::process::serve;
use testkit::{ProviderAction, TestBed, TestRequest};

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_though_no_file_has_changed() {
    let bed = TestBed::new().await;
    let served = serve(&bed);
    let reloads = "spine_proxy_reloads_total{result=\"ok\"}";
    assert!(served.metrics().await.contains(&format!("{reloads} 1")));
    served.signal("HUP");
    while !served.metrics().await.contains(&format!("{reloads} 2")) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_open_exchanges_and_records_them() {
    let bed = std::sync::Arc::new(TestBed::new().await);
    bed.provider.set_action(ProviderAction::Silence);
    let mut served = serve(&bed);
    let (asking, at) = (std::sync::Arc::clone(&bed), served.address);
    let asked = tokio::spawn(async move { TestRequest::slots().send_to(&asking, at).await });
    bed.provider.wait_for_requests(1).await;
    served.signal("TERM");
    // The first signal has been handled once no connection is accepted any more.
    while tokio::net::TcpStream::connect(at).await.is_ok() {
        tokio::task::yield_now().await;
    }
    served.signal("TERM");
    assert!(served.child.wait().unwrap().success());
    assert!(asked.await.is_err(), "it was cut short");
    let records = bed.journal("own");
    let last: serde_json::Value =
        serde_json::from_str(records.lines().rfind(|line| line.contains("closed")).unwrap())
            .unwrap();
    assert_eq!(last["event"], "closed");
    assert_eq!(last["outcome"], "aborted");
    assert_eq!(last["ended_by"], "shutdown");
}
