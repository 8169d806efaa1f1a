//! Outages, each forced on the running program: what its log, `/readyz`, its metrics and its console say then is what
//! `docs/operate/outages.md` has.

use testkit::process::{GatewayProcess, get, serve_with_log_level};
use testkit::redis::{PASSWORD, Redis};
use testkit::{ProviderAction, TestBed, TestRequest};

use gpconnect_simulator::pki::Leaf;

const OUTAGES: &str = include_str!("../docs/operate/outages.md");

/// Signs of an outage, as its row has them.
struct Signs {
    /// Start of the row.
    outage: &'static str,
    /// Beginnings and parts of messages in the log.
    log: &'static [&'static str],
    /// Parts of a line of `/readyz`, in their order; empty if it says nothing.
    ready: &'static [&'static str],
    /// True if `/readyz` answers 503.
    is_red: bool,
    /// Metrics without their prefix, with the labels that the row has, each with the values that it then has.
    metrics: &'static [(&'static str, Value)],
}

/// Value of a metric during an outage.
enum Value {
    /// 0.
    Zero,
    /// Above 0.
    Positive,
    /// A time that has passed.
    Past,
}

use Value::{Past, Positive, Zero};

/// Cells of an outage's row: alerts, metrics, log, `/readyz`.
fn row(outage: &str) -> [&'static str; 4] {
    let mut rows = OUTAGES.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let row =
        rows.find(|row| row.starts_with(outage)).unwrap_or_else(|| panic!("no row: {outage}"));
    let cells: Vec<_> = row.split(" | ").collect();
    let [_, alerts, metrics, log, ready] = cells[..] else { panic!("{row}") };
    [alerts, metrics, log, ready]
}

/// Returns true if a line has these parts in their order.
fn has_parts(line: &str, parts: &[&str]) -> bool {
    let mut rest = line;
    parts.iter().all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

/// Returns true if a series of the metric with these labels has the value.
fn has_value(metrics: &str, metric: &str, wanted: &Value) -> bool {
    let (name, labels) = metric.trim_end_matches('}').split_once('{').unwrap_or((metric, ""));
    let prefix = format!("spine_proxy_{name}");
    let series = metrics.lines().filter_map(|line| line.strip_prefix(&prefix)?.rsplit_once(' '));
    let mut values = series
        .filter(|(shown, _)| shown.is_empty() || shown.starts_with('{'))
        .filter(|(shown, _)| shown.contains(labels))
        .map(|(_, value)| value.parse::<f64>().unwrap());
    let now_s = testkit::test_bed::now_s() as f64;
    values.any(|value| match wanted {
        Zero => value == 0.0,
        Positive => value > 0.0,
        Past => value > 0.0 && value < now_s,
    })
}

/// Asserts that the program shows an outage as its row says, and that the row says all of it.
async fn expect(served: &GatewayProcess, signs: &Signs) {
    let [_, metrics_cell, log_cell, ready_cell] = row(signs.outage);
    for text in signs.log {
        assert!(log_cell.contains(text), "{}: the row does not have {text}", signs.outage);
        while !served.log.lock().unwrap().contains(text) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    let answer = get(served.admin, "/readyz").await;
    let status = if signs.is_red { "503" } else { "200" };
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{}: {answer}", signs.outage);
    assert!(ready_cell.trim_start_matches('*').starts_with(status), "{}", signs.outage);
    match signs.ready {
        [] => assert!(ready_cell.ends_with('–') && !answer.contains("[!]"), "{answer}"),
        parts => {
            assert!(
                answer.lines().any(|line| has_parts(line, parts)),
                "{}: {answer}",
                signs.outage
            );
            assert!(has_parts(ready_cell, parts), "{}: {ready_cell}", signs.outage);
        }
    }
    // The console says the same in its own marks.
    let console = get(served.admin, "/console").await.replace("&quot;", "\"");
    assert!(console.starts_with("HTTP/1.1 200 "), "{console}");
    assert_eq!(console.contains("Not ready"), signs.is_red, "{}: {console}", signs.outage);
    let parts: Vec<_> =
        signs.ready.iter().map(|part| part.trim_start_matches(['[', ']', '!', '-'])).collect();
    assert!(has_parts(&console, &parts), "{}: {console}", signs.outage);
    let metrics = served.metrics().await;
    for (metric, wanted) in signs.metrics {
        assert!(metrics_cell.contains(metric), "{}: the row does not have {metric}", signs.outage);
        assert!(has_value(&metrics, metric, wanted), "{}: {metric}: {metrics}", signs.outage);
    }
}

/// Starts the program with a changed configuration.
fn serve(bed: &TestBed, change: impl FnOnce(String) -> String) -> GatewayProcess {
    let config = change(bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\""));
    let program = std::process::Command::new(testkit::program());
    serve_with_log_level(program, bed, &config, "info")
}

async fn ask(bed: &TestBed, served: &GatewayProcess, request: TestRequest) -> u16 {
    request.send_to(bed, served.address).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_for_consumers_that_is_overdue() {
    let bed = TestBed::new().await;
    bed.replace("overdue.pem", &bed.pki.revocation_lists(&[], -1).unwrap());
    let served = serve(&bed, |config| config.replacen("crl.pem", "overdue.pem", 1));
    assert_eq!(ask(&bed, &served, TestRequest::slots()).await, 495);
    let signs = Signs {
        outage: "A revocation list for consumers is overdue",
        log: &[
            "revocation list overdue",
            "a consumer was refused because of its client certificate",
        ],
        ready: &["[!]client_crl ", ": revocation list overdue"],
        is_red: false,
        metrics: &[
            ("crl_next_update_timestamp_seconds", Past),
            ("alarms", Positive),
            ("refusals_total{token=\"certificate_status_unknown\"}", Positive),
        ],
    };
    expect(&served, &signs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_for_practices_that_is_overdue() {
    let bed = TestBed::new().await;
    bed.replace("overdue.pem", &bed.pki.revocation_lists(&[], -1).unwrap());
    let served = serve(&bed, |config| {
        let (ours, theirs) = config.split_once("[provider-tls]").unwrap();
        format!("{ours}[provider-tls]{}", theirs.replacen("crl.pem", "overdue.pem", 1))
    });
    assert_eq!(ask(&bed, &served, TestRequest::slots()).await, 502);
    let signs = Signs {
        outage: "A revocation list for practices is overdue",
        log: &["revocation list overdue", "a provider gave no answer: the request was refused"],
        ready: &["[!]provider_crl ", ": revocation list overdue"],
        is_red: false,
        metrics: &[
            ("crl_next_update_timestamp_seconds", Past),
            ("refusals_total{token=\"provider_not_reached\"}", Positive),
        ],
    };
    expect(&served, &signs).await;
}

/// The list of the root alone.
fn without_sub_authority(bed: &TestBed) -> String {
    let lists = bed.pki.revocation_lists(&[], 30).unwrap();
    lists.split_inclusive("-----END X509 CRL-----\n").next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_a_subordinate_authority_of_consumers_that_is_missing() {
    let bed = TestBed::new().await;
    bed.replace("root.pem", &without_sub_authority(&bed));
    let served = serve(&bed, |config| config.replacen("crl.pem", "root.pem", 1));
    assert_eq!(ask(&bed, &served, TestRequest::slots()).await, 495);
    let signs = Signs {
        outage: "The list of a subordinate authority that consumers send is missing",
        log: &["no revocation list covers a certificate of this authority"],
        ready: &[
            "[!]",
            "requests of the last ten minutes were refused because the revocation status of their certificate is not known",
        ],
        is_red: false,
        metrics: &[
            ("refusals_total{token=\"certificate_status_unknown\"}", Positive),
            ("alarms", Positive),
        ],
    };
    expect(&served, &signs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_a_subordinate_authority_of_practices_that_is_missing() {
    let bed = TestBed::new().await;
    bed.replace("root.pem", &without_sub_authority(&bed));
    let served = serve(&bed, |config| {
        let (ours, theirs) = config.split_once("[provider-tls]").unwrap();
        format!("{ours}[provider-tls]{}", theirs.replacen("crl.pem", "root.pem", 1))
    });
    for _ in 0..5 {
        assert_eq!(ask(&bed, &served, TestRequest::slots()).await, 502);
    }
    let signs = Signs {
        outage: "The list of a subordinate authority that practices send is missing",
        log: &["a provider gave no answer: the request was refused"],
        ready: &["practices' systems whose circuit is open after failures: "],
        is_red: false,
        metrics: &[
            ("refusals_total{token=\"provider_not_reached\"}", Positive),
            ("provider_circuits_open", Positive),
        ],
    };
    expect(&served, &signs).await;
    let log = served.log.lock().unwrap().clone();
    let named = log
        .lines()
        .any(|line| has_parts(line, &["invalid peer certificate: ", "Throwaway sub authority"]));
    assert!(named && !log.contains("NoList"), "the cause names the authority in words: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_proxy_that_expires() {
    let bed = TestBed::new().await;
    let served = serve(&bed, |config| config);
    let leaf = Leaf { days: (-9, -1), ..Leaf::named("ssp.example.nhs.uk") };
    let expired = bed.pki.issue(&leaf).unwrap();
    bed.replace("server.pem", &expired.chain);
    bed.replace("server.key", &expired.key);
    let signs = Signs {
        outage: "A certificate of the proxy itself expires",
        log: &["the certificate expired on"],
        ready: &["[!]", "expired"],
        is_red: false,
        metrics: &[("alarms", Positive), ("config_last_reload_successful", Zero)],
    };
    expect(&served, &signs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_finds_a_fault() {
    let bed = TestBed::new().await;
    let served = serve(&bed, |config| config);
    let secret = "redis://user:a-secret@127.0.0.1";
    bed.replace("own.toml", &format!("{}\n[nonsense]\nurl = \"{secret}\n", bed.text("own.toml")));
    let signs = Signs {
        outage: "A reload finds a fault",
        log: &["; the last good state stays in force"],
        ready: &["[!]"],
        is_red: false,
        metrics: &[("alarms", Positive), ("config_last_reload_successful", Zero)],
    };
    expect(&served, &signs).await;
    // The file's text may hold a secret, by mistake; what is asked for without a token does not.
    for path in ["/readyz", "/reload", "/console"] {
        let answer = get(served.admin, path).await;
        assert!(!answer.contains("a-secret"), "{path}: {answer}");
    }
    let ready = get(served.admin, "/readyz").await;
    assert!(ready.contains("own.toml: line "), "{ready}");
    assert!(!served.log.lock().unwrap().contains("a-secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn practices_that_answer_with_errors() {
    for (status, outage, opens) in [
        ("503 Busy", "A practice answers 502, 503 or 504", true),
        ("500 Broken", "A practice answers 500", false),
    ] {
        let bed = TestBed::new().await;
        bed.provider.set_action(ProviderAction::answer(status, "", "{}"));
        let served = serve(&bed, |config| config);
        for _ in 0..5 {
            assert!(ask(&bed, &served, TestRequest::slots()).await >= 500);
        }
        let mut signs = Signs {
            outage,
            log: &[],
            ready: &[],
            is_red: false,
            metrics: &[("provider_responses_total{class=\"5xx\"}", Positive)],
        };
        if opens {
            signs.log = &["circuit opened: the practice's system has failed too often"];
            signs.ready = &["practices' systems whose circuit is open after failures: "];
        }
        expect(&served, &signs).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn practices_that_cut_connections() {
    let bed = TestBed::new().await;
    let served = serve(&bed, |config| config);
    bed.provider.set_action(ProviderAction::Close);
    assert_eq!(ask(&bed, &served, TestRequest::book()).await, 502);
    for _ in 0..4 {
        assert_eq!(ask(&bed, &served, TestRequest::slots()).await, 502);
    }
    let signs = Signs {
        outage: "A practice's connection ends before its answer",
        log: &[
            "the outcome of a write is not known",
            "a provider gave no answer: the request was refused",
        ],
        ready: &["practices' systems whose circuit is open after failures: "],
        is_red: false,
        metrics: &[
            ("refusals_total{token=\"provider_failed\"}", Positive),
            ("refusals_total{token=\"outcome_unknown\"}", Positive),
        ],
    };
    expect(&served, &signs).await;
    let log = served.log.lock().unwrap().clone();
    let unknown =
        log.lines().find(|line| line.contains("the outcome of a write is not known")).unwrap();
    for part in [
        "\"level\":\"ERROR\"",
        "\"method\":\"POST\"",
        "\"interaction\":\"fhir:rest:create:appointment-1\"",
        "\"ods\":\"A20047\"",
        "\"host\":\"provider.example.nhs.uk\"",
        "\"token\":\"outcome_unknown\"",
        "\"trace_id\":",
        "\"cause\":\"the connection failed before the answer: ",
    ] {
        assert!(unknown.contains(part), "{part}: {unknown}");
    }
    assert_eq!(unknown.matches("\"trace_id\":").count(), 1, "{unknown}");

    let bed = TestBed::new().await;
    let served = serve(&bed, |config| config);
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"cut\":".to_vec();
    bed.provider.set_action(ProviderAction::WriteAndClose(cut));
    assert!(!TestRequest::slots().send_to(&bed, served.address).await.complete);
    let signs = Signs {
        outage: "A practice's connection ends within its answer",
        log: &["the provider broke off its answer, or stopped sending"],
        ready: &[],
        is_red: false,
        metrics: &[
            ("provider_answers_cut_total", Positive),
            ("http_requests_total{outcome=\"aborted\"}", Zero),
        ],
    };
    expect(&served, &signs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_takes_no_writes() {
    let bed = TestBed::new().await;
    let Some(redis) = Redis::start(bed.folder.path()).await else { return };
    bed.replace("redis.password", PASSWORD);
    let address = redis.address;
    let served = serve(&bed, |config| {
        format!(
            "{config}\n[redis]\nurl = \"redis://{address}/0\"\n\
             password-file = \"redis.password\"\nwait = \"5s\"\ngateways = 2\n"
        )
    });
    assert_eq!(ask(&bed, &served, TestRequest::slots()).await, 200);
    redis.make_replica().await;
    while served.metric("redis_up").await == 1 {
        assert_eq!(ask(&bed, &served, TestRequest::slots()).await, 200);
    }
    let signs = Signs {
        outage: "Redis answers READONLY",
        log: &["Redis cannot be used: this gateway goes on alone"],
        ready: &["[!]nothing is shared with other gateways"],
        is_red: false,
        metrics: &[("redis_up", Zero), ("alarms", Positive)],
    };
    expect(&served, &signs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full() {
    let bed = TestBed::with(|files| files.set("audit", "disk-reserve = \"1000000 GiB\"")).await;
    let served = serve(&bed, |config| config);
    let log = "the journal's file system is nearly full";
    while !served.log.lock().unwrap().contains(log) {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&bed, &served, TestRequest::slots()).await, 503);
    let signs = Signs {
        outage: "The journal's disk is full",
        log: &["the journal's file system is nearly full", "the audit journal cannot be written"],
        ready: &["[-]audit: "],
        is_red: true,
        metrics: &[
            ("audit_healthy", Zero),
            ("refusals_total{token=\"audit_unavailable\"}", Positive),
        ],
    };
    expect(&served, &signs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_service_that_does_not_answer() {
    let bed = TestBed::new().await;
    bed.replace("sds.key", "an-invented-key");
    let served = serve(&bed, |config| {
        config.replace(
            "[directory]\n",
            "[directory]\nsds-api = { url = \"https://localhost:1/FHIR/R4\", key-file = \"sds.key\", tls = { \
             authorities = [\"ca.pem\"], crl = [\"crl.pem\"] } }\n",
        )
    });
    let unknown = || {
        let root = "https://provider.example.nhs.uk/P00001/STU3/1/gpconnect";
        let request = TestRequest::slots().target("/P00001/STU3/1/gpconnect/Slot?status=free");
        request.without("Ssp-To").claim("aud", root.into())
    };
    while served.metric("directory_source_circuit_open{source=\"sds-api\"}").await == 0 {
        assert_eq!(ask(&bed, &served, unknown()).await, 503);
    }
    let signs = Signs {
        outage: "SDS does not answer",
        log: &[
            "a directory source gave no usable answer",
            "circuit opened: the directory source has failed too often",
        ],
        ready: &["[!]the directory source ", " is not queried for now"],
        is_red: false,
        metrics: &[
            ("directory_source_circuit_open", Positive),
            ("alarms", Positive),
            ("refusals_total{token=\"directory_unavailable\"}", Positive),
        ],
    };
    expect(&served, &signs).await;
}
