//! Reloads as the log tells them, and keys and certificates that are replaced one after the other.

use testkit::process::{GatewayProcess, serve};
use testkit::{TestBed, TestRequest};

/// Returns once the log has these words.
async fn logged(served: &GatewayProcess, words: &str) {
    while !served.log.lock().unwrap().contains(words) {
        tokio::task::yield_now().await;
    }
}

/// Returns once a metric has a value.
async fn until(served: &GatewayProcess, series: &str, value: u64) {
    while served.metric(series).await != value {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_and_its_certificate_that_are_renamed_one_after_the_other_are_one_reload() {
    for (first, second) in [("key", "pem"), ("pem", "key")] {
        let bed = TestBed::new().await;
        let served = serve(&bed);
        let renew = |kind: &str| {
            bed.replace(&format!("server.{kind}"), &bed.text(&format!("gateway.{kind}")));
        };
        renew(first);
        logged(&served, "a key does not match its certificate: waiting for the other file").await;
        assert_eq!(TestRequest::slots().send_to(&bed, served.address).await.status, 200);
        renew(second);
        until(&served, "reloads_total{result=\"ok\"}", 2).await;
        assert_eq!(served.metric("reloads_total{result=\"failed\"}").await, 0);
        logged(&served, "configuration and files reloaded").await;
        let log = served.log.lock().unwrap().clone();
        assert!(!log.contains("\"level\":\"ERROR\""), "no alarm was raised: {log}");
        for kind in ["key", "pem"] {
            let file = bed.path(&format!("server.{kind}"));
            let words = format!("reload: file {} has changed", file.display());
            assert!(log.contains(&words), "{words}: {log}");
        }
        let serial = format!("server {}: ", bed.path("server.pem").display());
        let change = log.lines().find(|line| line.contains(&serial)).unwrap();
        assert!(change.contains(", serial ") && change.contains("(before: serial "), "{change}");
    }
}

/// Takes as long as the second file is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_stays_without_its_certificate_raises_an_alarm_and_the_last_pair_stays() {
    let bed = TestBed::new().await;
    let served = serve(&bed);
    let good = bed.text("server.key");
    bed.replace("server.key", &bed.text("gateway.key"));
    until(&served, "reloads_total{result=\"failed\"}", 1).await;
    assert_eq!(served.metric("alarms").await, 1);
    logged(&served, "reload: fault: ").await;
    let log = served.log.lock().unwrap().clone();
    let waits = log.find("waiting for the other file").unwrap();
    assert!(waits < log.find("\"level\":\"ERROR\"").unwrap(), "{log}");
    assert_eq!(TestRequest::slots().send_to(&bed, served.address).await.status, 200);
    bed.replace("server.key", &good);
    until(&served, "alarms", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_what_a_reload_has_changed() {
    let bed = TestBed::new().await;
    let served = serve(&bed);
    bed.replace("crl.pem", &bed.pki.revocation_lists(&[], 20).unwrap());
    let path = bed.path("crl.pem");
    logged(&served, &format!("reload: client_crl {}: CN=", path.display())).await;
    logged(&served, "(before: number ").await;
    bed.replace(
        "directory.toml",
        &format!("{}\n[[deny]]\nods = [\"Z99999\"]\n", bed.text("directory.toml")),
    );
    logged(&served, "agreements, 1 denied (before: 2 consumer systems, 3 practices").await;
    bed.replace("own.toml", &format!("{}\n[compatibility.200000000359]\n", bed.text("own.toml")));
    logged(&served, "reload: configuration section compatibility has changed").await;
    bed.replace("directory.toml", "nonsense");
    logged(&served, "reload: fault: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_of_the_log_takes_effect_without_a_restart() {
    let bed = TestBed::new().await;
    let served = serve(&bed);
    let ok = "reloads_total{result=\"ok\"}";
    let told = || served.log.lock().unwrap().matches("configuration and files reloaded").count();
    bed.replace("own.toml", &bed.text("own.toml").replace("\"trace\"", "\"error\""));
    until(&served, ok, 2).await;
    logged(&served, "configuration and files reloaded").await;
    served.signal("HUP");
    until(&served, ok, 3).await;
    assert_eq!(told(), 1, "errors alone are logged");
    bed.replace("own.toml", &bed.text("own.toml").replace("\"error\"", "\"info\""));
    until(&served, ok, 4).await;
    served.signal("HUP");
    while told() < 2 {
        tokio::task::yield_now().await;
    }
}
