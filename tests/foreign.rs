//! Foreign consumers: programs of others, run against a test bed.
//!
//! If a program is not installed, its test passes and reports that it is missing, or fails if `CI` is
//! `true`.

use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use gpconnect_simulator::pki::{KeyKind, Leaf, Pki};
use spine_proxy::claims;
use tokio::sync::Notify;

use testkit::process::get;
use testkit::provider::answer;
use testkit::test_bed::{self, now_s};
use testkit::{ProviderAction, TestBed, report_missing};

const BODY: &str = r#"{"ok":true}"#;
const QUERY: &str = "status=free&_include%3Arecurse=Schedule%3aactor&_include[]=Slot:schedule\
     &searchFilter=https://fhir.nhs.uk/Id/ods|A20047%7c%7C&start=ge2026-11-23T09:00:00+00:00!$";

/// Runs a program to its end. Returns `None` if it is not installed.
async fn run(program: &'static str, arguments: Vec<String>) -> Option<Output> {
    let job = move || Command::new(program).args(arguments).stdin(Stdio::null()).output();
    match tokio::task::spawn_blocking(job).await.unwrap() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            report_missing(program);
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn token(scope: &str) -> String {
    let organisation = test_bed::HUB_ODS.parse().unwrap();
    claims::mint(&claims::example_claims(test_bed::ROOT, &organisation, scope, now_s()))
}

/// A test bed whose proxy has an RSA certificate besides the ECDSA one, and one of another name; both
/// are another authority's.
async fn bed_with_both() -> TestBed {
    let pki = Pki::new(now_s()).unwrap();
    let rsa = pki.issue(&Leaf { key: KeyKind::Rsa, ..Leaf::named("ssp.example.nhs.uk") }).unwrap();
    let other = pki.issue(&Leaf::named("other.example.nhs.uk")).unwrap();
    let bed = TestBed::with(|files| {
        for (name, issued) in [("rsa", &rsa), ("other", &other)] {
            files.put(&format!("{name}.pem"), &issued.chain);
            files.put(&format!("{name}.key"), &issued.key);
        }
        files.edit("spine-proxy.toml", |text| {
            let ours = r#"{ chain = "server.pem", key = "server.key" }"#;
            let all = ["rsa", "other"]
                .map(|name| format!(r#", {{ chain = "{name}.pem", key = "{name}.key" }}"#));
            text.replace(ours, &format!("{ours}{}", all.concat()))
        });
    })
    .await;
    bed.replace("other-ca.pem", &pki.authority());
    bed
}

/// Arguments of curl besides the target.
struct Curl<'a> {
    bed: &'a TestBed,
    certificate: bool,
    authority: &'a str,
    options: Vec<String>,
}

impl<'a> Curl<'a> {
    fn new(bed: &'a TestBed, options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self { bed, certificate: true, authority: "ca.pem", options }
    }

    /// Asks; answers with curl's exit code, the body, the status and the version of HTTP.
    async fn ask(self, target: &str, interaction: &str, scope: &str) -> Option<Said> {
        let path = |name: &str| self.bed.path(name).display().to_string();
        let port = self.bed.address().port();
        let interaction = format!("urn:nhs:names:services:gpconnect:fhir:rest:{interaction}");
        let mut arguments: Vec<String> =
            ["--silent", "--show-error", "--path-as-is", "--globoff"].map(str::to_owned).to_vec();
        arguments.extend(["--noproxy".to_owned(), "*".to_owned()]);
        arguments.extend(["--max-time".to_owned(), "60".to_owned()]);
        arguments.extend(["--cacert".to_owned(), path(self.authority)]);
        if self.certificate {
            arguments.extend(["--cert".to_owned(), path("hub.pem")]);
            arguments.extend(["--key".to_owned(), path("hub.key")]);
        }
        arguments.push("--resolve".to_owned());
        arguments.push(format!("ssp.example.nhs.uk:{port}:127.0.0.1"));
        for header in [
            "Ssp-TraceID: 09a01679-2564-4fb4-9129-aecc81ea2706".to_owned(),
            format!("Ssp-From: {}", test_bed::HUB),
            format!("Ssp-To: {}", test_bed::TO),
            format!("Ssp-InteractionID: {interaction}"),
            "Accept: application/fhir+json".to_owned(),
            format!("Authorization: Bearer {}", token(scope)),
        ] {
            arguments.extend(["--header".to_owned(), header]);
        }
        arguments.extend(["--write-out".to_owned(), "\n%{http_code} %{http_version}".to_owned()]);
        arguments.extend(self.options);
        arguments.push(format!("https://ssp.example.nhs.uk:{port}{target}"));
        let output = run("curl", arguments).await?;
        let (body, last) = {
            let all = text(&output.stdout);
            let (body, last) = all.rsplit_once('\n').unwrap_or_default();
            (body.to_owned(), last.to_owned())
        };
        Some(Said { code: output.status.code(), body, last, error: text(&output.stderr) })
    }
}

#[derive(Debug)]
struct Said {
    code: Option<i32>,
    body: String,
    /// Status and version.
    last: String,
    error: String,
}

impl Said {
    fn is_the_providers(&self, version: &str) {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.last, format!("200 {version}"), "{self:?}");
        assert_eq!(self.body, BODY);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_searches_and_books_in_every_form_of_the_target_and_version_of_http() {
    let bed = TestBed::new().await;
    let url = format!("/{}", test_bed::ROOT);
    let practice = format!("/{}/STU3/1/gpconnect", test_bed::ODS);
    let booking = r#"{"resourceType":"Appointment"}"#;
    for root in [&url, &practice] {
        for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let slots = format!("{root}/Slot?{QUERY}");
            let curl = Curl::new(&bed, &[option]);
            let Some(said) = curl.ask(&slots, "search:slot-1", "organization/*.read").await else {
                return;
            };
            said.is_the_providers(version);
            let received = bed.provider.received().pop().unwrap();
            assert_eq!(
                received.start,
                format!("GET /A20047/STU3/1/gpconnect/Slot?{QUERY} HTTP/1.1")
            );
            let post = [
                option,
                "--header",
                "Content-Type: application/fhir+json",
                "--header",
                "Expect: 100-continue",
                "--data-binary",
                booking,
            ];
            let book = format!("{root}/Appointment");
            let curl = Curl::new(&bed, &post);
            let said = curl.ask(&book, "create:appointment-1", "patient/*.write").await.unwrap();
            said.is_the_providers(version);
            let received = bed.provider.received().pop().unwrap();
            assert_eq!(received.start, "POST /A20047/STU3/1/gpconnect/Appointment HTTP/1.1");
            assert_eq!(received.body, booking.as_bytes());
        }
    }
    let port = bed.address().port();
    let absolute = format!("https://ssp.example.nhs.uk:{port}{url}/Slot?{QUERY}");
    let curl = Curl::new(&bed, &["--http1.1", "--request-target", &absolute]);
    let said = curl.ask("/", "search:slot-1", "organization/*.read").await.unwrap();
    said.is_the_providers("1.1");
    let received = bed.provider.received().pop().unwrap();
    assert_eq!(received.start, format!("GET /A20047/STU3/1/gpconnect/Slot?{QUERY} HTTP/1.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_without_a_certificate_gets_496_over_either_version_of_tls() {
    let bed = TestBed::new().await;
    for options in [["--tls-max", "1.2"], ["--tlsv1.3", "--http1.1"]] {
        let mut curl = Curl::new(&bed, &options);
        curl.certificate = false;
        let target = format!("/{}/metadata", test_bed::ROOT);
        let said = curl.ask(&target, "read:metadata-1", "organization/*.read").await;
        let Some(said) = said else { return };
        assert!(said.last.starts_with("496 "), "{said:?}");
        assert!(said.body.contains("OperationOutcome"));
    }
    assert!(bed.provider.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_connects_with_the_ciphers_that_must_connect_and_no_others() {
    let bed = bed_with_both().await;
    let target = format!("/{}/metadata", test_bed::ROOT);
    for options in [
        vec!["--tlsv1.3"],
        vec!["--tlsv1.3", "--tls13-ciphers", "TLS_AES_128_GCM_SHA256"],
        vec!["--tlsv1.3", "--tls13-ciphers", "TLS_AES_256_GCM_SHA384"],
        vec!["--tls-max", "1.2"],
        vec!["--tls-max", "1.2", "--ciphers", "ECDHE-RSA-AES128-GCM-SHA256"],
        vec!["--tls-max", "1.2", "--ciphers", "ECDHE-RSA-AES256-GCM-SHA384"],
        vec!["--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256"],
        vec!["--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES256-GCM-SHA384"],
    ] {
        let mut curl = Curl::new(&bed, &options);
        if options.iter().any(|option| option.starts_with("ECDHE-RSA")) {
            curl.authority = "other-ca.pem";
        }
        let said = curl.ask(&target, "read:metadata-1", "organization/*.read").await;
        let Some(said) = said else { return };
        assert_eq!(said.last, "200 2", "{options:?}: {said:?}");
    }
    for cipher in [
        "ECDHE-RSA-AES256-SHA384",
        "ECDHE-RSA-AES256-SHA",
        "ECDHE-ECDSA-AES256-SHA384",
        "DHE-RSA-AES128-GCM-SHA256",
        "DHE-RSA-AES256-GCM-SHA384",
        "DHE-RSA-AES256-SHA256",
        "DHE-RSA-AES256-SHA",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "AES128-SHA256",
        "NULL-SHA256",
        "NULL-MD5",
    ] {
        is_shut_out(&bed, &["--tls-max", "1.2", "--ciphers", cipher]).await;
    }
    is_shut_out(&bed, &["--tlsv1.3", "--tls13-ciphers", "TLS_CHACHA20_POLY1305_SHA256"]).await;
}

/// The handshake fails by our doing: 35 and an alert, not 59, which is curl not knowing a cipher.
async fn is_shut_out(bed: &TestBed, options: &[&str]) {
    let mut options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
    for option in &mut options {
        if option.contains("NULL") {
            option.push_str(":@SECLEVEL=0");
        }
    }
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let target = format!("/{}/metadata", test_bed::ROOT);
    let curl = Curl::new(bed, &options);
    let Some(said) = curl.ask(&target, "read:metadata-1", "organization/*.read").await else {
        return;
    };
    assert_eq!(said.code, Some(35), "{options:?}: {said:?}");
    assert!(said.error.contains(" alert "), "{options:?}: {said:?}");
}

/// Runs the consumer on the JDK's own client with these arguments besides the usual ones, and returns
/// what it prints; nothing if a program is missing.
fn java(bed: &TestBed, more: &[&str]) -> impl Future<Output = Option<String>> + use<> {
    let path = |name: &str| bed.path(name).display().to_string();
    let export = ["pkcs12", "-export", "-passout", "pass:changeit"].map(str::to_owned);
    let files = ["-in", &path("hub.pem"), "-inkey", &path("hub.key"), "-out", &path("hub.p12")];
    let export = export.into_iter().chain(files.map(str::to_owned)).collect();
    let arguments = [
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/Consumer.java"),
        &format!("localhost:{}", bed.address().port()),
        &path("hub.p12"),
        "changeit",
        &path("ca.pem"),
        &format!("{}{JAVAS_SLOTS}", test_bed::ROOT),
        &token("organization/*.read"),
        &format!("{}/Appointment", test_bed::ROOT),
        &token("patient/*.write"),
    ];
    let arguments = [&arguments[..], more].concat().into_iter().map(str::to_owned).collect();
    async {
        let exported = run("openssl", export).await?;
        assert!(exported.status.success(), "{}", text(&exported.stderr));
        let output = run("java", arguments).await?;
        let error = text(&output.stderr);
        if error.contains("jdk.compiler") {
            report_missing("java with a compiler");
            return None;
        }
        assert!(output.status.success(), "{error}");
        Some(text(&output.stdout))
    }
}

const JAVAS_SLOTS: &str = "/Slot?status=free&_include:recurse=Schedule%3aactor";

#[tokio::test(flavor = "multi_thread")]
async fn javas_own_client_searches_and_books_over_both_versions_of_http() {
    let bed = TestBed::new().await;
    let Some(said) = java(&bed, &[]).await else { return };
    let expected = ["GET HTTP_1_1", "POST HTTP_1_1", "GET HTTP_2", "POST HTTP_2"];
    let expected = expected.map(|asked| format!("{asked} 200 {BODY}\n")).concat();
    assert_eq!(said, expected);
    let received = bed.provider.received();
    assert_eq!(received[0].start, format!("GET /A20047/STU3/1/gpconnect{JAVAS_SLOTS} HTTP/1.1"));
    assert_eq!(received[2].start, received[0].start);
    assert_eq!(received[3].body, br#"{"resourceType":"Appointment"}"#);
}

/// The JDK's client abandons open requests when it receives `GOAWAY`.
#[tokio::test(flavor = "multi_thread")]
async fn javas_own_client_loses_no_booking_under_way_at_a_stop_or_when_enough_was_carried() {
    for (stops, limits) in [(true, ""), (false, "requests-max = 5")] {
        let bed = TestBed::with(|files| files.add(&format!("[listener.limits]\n{limits}"))).await;
        let told: Vec<_> = (0..8).map(|_| Arc::new(Notify::new())).collect();
        let mut waiting = told.clone();
        let body = answer("200 OK", "", BODY);
        bed.provider.set_script(move |request| match request.start.starts_with("GET") {
            true => ProviderAction::Write(body.clone()),
            false => ProviderAction::WriteWhenNotified(waiting.pop().unwrap(), body.clone()),
        });
        let mut java = std::pin::pin!(java(&bed, &["8"]));
        let TestBed { server, provider, folder: _folder, .. } = bed;
        let admin = server.admin;
        let said = tokio::select! {
            said = &mut java => said,
            () = provider.wait_for_requests(9) => {
                let stopping = async {
                    if stops {
                        server.stop().await;
                    }
                };
                let told = async {
                    while stops && get(admin, "/readyz").await.starts_with("HTTP/1.1 200") {}
                    told.iter().for_each(|told| told.notify_one());
                };
                tokio::join!(java, stopping, told).0
            }
        };
        let Some(said) = said else { return };
        let bookings = format!("POST HTTP_2 200 {BODY}\n").repeat(8);
        assert_eq!(said, format!("GET HTTP_2 200 {BODY}\n{bookings}"));
    }
}

async fn s_client(bed: &TestBed, options: &[&str]) -> Option<Output> {
    let connect = ["s_client", "-connect", &bed.address().to_string()].map(str::to_owned);
    let options = options.iter().map(|option| (*option).to_owned());
    run("openssl", connect.into_iter().chain(options).collect()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_is_refused_tls_1_1_and_before() {
    let bed = bed_with_both().await;
    for version in ["-tls1_1", "-tls1"] {
        let options = [version, "-cipher", "DEFAULT:@SECLEVEL=0"];
        let Some(output) = s_client(&bed, &options).await else { return };
        let error = text(&output.stderr);
        assert!(!output.status.success());
        assert!(error.contains("SSL alert number"), "{version}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_without_a_server_name_gets_the_default_certificate() {
    let bed = bed_with_both().await;
    for (options, name) in [
        (vec!["-noservername"], "ssp.example.nhs.uk"),
        (vec!["-servername", "unknown.example.nhs.uk"], "ssp.example.nhs.uk"),
        (vec!["-servername", "ssp.example.nhs.uk"], "ssp.example.nhs.uk"),
        (vec!["-servername", "other.example.nhs.uk"], "other.example.nhs.uk"),
    ] {
        let Some(output) = s_client(&bed, &options).await else { return };
        let said = text(&output.stdout);
        let subject = said.lines().find(|line| line.starts_with("subject=")).unwrap_or_default();
        assert!(subject.ends_with(name), "{options:?}: {subject} {}", text(&output.stderr));
    }
}

#[test]
fn a_test_whose_program_is_missing_is_reported_at_the_end() {
    let mut suite = Command::new(std::env::current_exe().unwrap());
    suite.args(["foreign::openssl", "foreign::curl"]);
    suite.env("PATH", "").env_remove("CI").env_remove("NEXTEST_RUN_ID");
    let output = suite.output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success(), "{} {said}", text(&output.stdout));
    let tests = said.lines().filter(|line| line.starts_with("NOT TESTED: foreign::")).count();
    assert!(tests > 3, "{said}");
    let end = said.lines().last().unwrap();
    let ends = ["curl, openssl", "openssl, curl"];
    let ends = ends.map(|programs| format!("{tests} not tested: {programs} are missing"));
    assert!(ends.contains(&end.to_owned()), "{said}");
}
