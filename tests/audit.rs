//! The journal: its numbering when it goes on, its segments, its chain.

use crate::support::{Act, Call, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_numbered_without_gaps_over_a_restart() {
    let stage = Stage::new().await;
    stage.hears(Call::slots()).await;
    stage.hears(Call::slots().without("Ssp-From")).await;
    let stage = stage.restarts().await;
    stage.provider.does(Act::ok());
    stage.hears(Call::slots()).await;
    stage.server.trail.flush().await;
    let lines: Vec<serde_json::Value> =
        stage.journal("audit").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    let expected =
        ["started", "opened", "closed", "closed", "stopped", "started", "opened", "closed"];
    assert_eq!(events, expected);
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(line["seq"], at + 1);
    }
}
