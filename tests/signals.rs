//! What a process does when it is sent a signal.

use testkit::process::serve;
use testkit::{Act, Call, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_though_no_file_has_changed() {
    let stage = Stage::new().await;
    let served = serve(&stage);
    let reloads = "spine_proxy_reloads_total{result=\"ok\"}";
    assert!(served.metrics().await.contains(&format!("{reloads} 1")));
    served.signal("HUP");
    while !served.metrics().await.contains(&format!("{reloads} 2")) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_cuts_short_what_is_under_way_and_records_it() {
    let stage = std::sync::Arc::new(Stage::new().await);
    stage.provider.does(Act::Silence);
    let mut served = serve(&stage);
    let (asking, at) = (std::sync::Arc::clone(&stage), served.1);
    let asked = tokio::spawn(async move { Call::slots().send_to(&asking, at).await });
    stage.provider.has_received(1).await;
    served.signal("TERM");
    // The first has been heard once nobody is accepted any more.
    while tokio::net::TcpStream::connect(at).await.is_ok() {
        tokio::task::yield_now().await;
    }
    served.signal("TERM");
    assert!(served.0.wait().unwrap().success());
    assert!(asked.await.is_err(), "it was cut short");
    let records = stage.journal("own");
    let last: serde_json::Value =
        serde_json::from_str(records.lines().rfind(|line| line.contains("closed")).unwrap())
            .unwrap();
    assert_eq!(last["event"], "closed");
    assert_eq!(last["outcome"], "aborted");
    assert_eq!(last["ended_by"], "shutdown");
}
