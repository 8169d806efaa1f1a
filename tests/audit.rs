//! The journal when the disk fails, and the numbering when it goes on.

use crate::support::{Act, Call, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_cannot_be_written_refuses_requests() {
    let full = |files: &mut crate::support::stage::Files| {
        files.edit("spine-proxy.toml", |text| text.replace("\"audit.jsonl\"", "\"/dev/full\""));
    };
    let stage = Stage::with(full).await;
    let mut asked = 0;
    loop {
        let answer = stage.hears(Call::slots()).await;
        if answer.token() == Some("audit_unavailable") {
            assert_eq!(answer.status, 503);
            assert!(answer.header("retry-after").is_some());
            answer.is_a_proper_refusal();
            break;
        }
        asked += 1;
    }
    assert_eq!(stage.provider.received().len(), asked, "a refused request was sent");
    let metrics = stage.server.metrics.text().0;
    assert!(!metrics.contains("spine_proxy_audit_write_failures_total 0"));
    stage.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_numbered_without_gaps_over_a_restart() {
    let stage = Stage::new().await;
    stage.hears(Call::slots()).await;
    stage.hears(Call::slots().without("Ssp-From")).await;
    let lines = stage.lines().await;
    let config = stage.path("spine-proxy.toml");
    let prepared = spine_proxy::commands::Prepared::load(&config, 1).unwrap();
    let again = spine_proxy::commands::serve::Server::start(prepared, None).unwrap();
    stage.provider.does(Act::ok());
    Call::slots().send_to(&stage, again.addresses[0]).await;
    again.stop().await;
    let after = stage.lines().await;
    assert_eq!(lines.len(), 3);
    assert_eq!(after.len(), 5);
    for (at, line) in after.iter().enumerate() {
        assert_eq!(line["seq"], at + 1);
    }
}
