//! Warnings of `check`: settings and files that can be served by, and that an operator should look at.

use std::process::Command;

use crate::support::Stage;

/// The warnings of `check` about a stage's files.
fn warnings(stage: &Stage) -> Vec<String> {
    let mut check = Command::new(env!("CARGO_BIN_EXE_spine-proxy"));
    let checked = check.args(["check", "--config"]).arg(stage.path("spine-proxy.toml")).output();
    let checked = checked.unwrap();
    let said = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.status.code(), Some(0), "{said}");
    let text = String::from_utf8(checked.stdout).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("warning: ")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_that_together_allow_every_address_are_warned_of() {
    let stage = Stage::new().await;
    let text = stage.text("spine-proxy.toml");
    let every = |family: &str| format!("together allow every {family} address to be dialled");
    let (v4, v6) = (every("IPv4"), every("IPv6"));
    for (networks, v4_words, v6_words) in [
        (&["0.0.0.0/1", "128.0.0.0/1"][..], Some(&*v4), None),
        (&["128.0.0.0/1", "64.0.0.0/2", "0.0.0.0/2", "10.0.0.0/8"], Some(&v4), None),
        (&["127.0.0.0/8", "::/1", "8000::/1"], None, Some(&*v6)),
        (&["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"], Some(&v4), Some(&v6)),
        (&["0.0.0.0/0", "10.0.0.0/8"], Some("0.0.0.0/0 allows every address"), None),
        (&["0.0.0.0/1", "128.0.0.0/2", "8000::/1"], None, None),
        (&["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"], None, None),
    ] {
        let written = format!("networks = {networks:?}");
        stage.replace("spine-proxy.toml", &text.replace("networks = [\"127.0.0.0/8\"]", &written));
        let found = warnings(&stage);
        let found: Vec<_> = found.iter().filter(|text| text.contains(" every ")).collect();
        let words: Vec<_> = v4_words.into_iter().chain(v6_words).collect();
        assert_eq!(found.len(), words.len(), "{networks:?}: {found:?}");
        for (text, words) in found.iter().zip(words) {
            assert!(text.contains(words), "{networks:?}: {text}");
        }
    }
}
