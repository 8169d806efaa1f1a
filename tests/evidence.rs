//! Evidence that the journal gives: signed checkpoints, witnesses, receipts and proofs.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use audit_journal::note::{Checkpoint, CheckpointSigner, SignedNote, VerifierKey};
use audit_journal::tree::{TreeHead, verify_consistency};
use audit_journal::{Verdict, VerifyWith, verify};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use testkit::process::{GatewayProcess, get, serve_with};
use testkit::provider::answer;
use testkit::{ProviderAction, TestBed, TestRequest};

const ORIGIN: &str = "gw1.example.nhs.uk/audit/1";
const RECEIPT: &str = "spine-proxy-receipt";

/// A test bed, and the configuration of a process whose journal is signed and copied to the folder `copies`.
struct SignedBed {
    bed: TestBed,
    key: VerifierKey,
    config: String,
}

impl SignedBed {
    /// `more` are further lines of the section on checkpoints.
    async fn new(more: &str) -> Self {
        let pem = CheckpointSigner::generate_pem().unwrap();
        let signer = CheckpointSigner::from_pkcs8_pem(&pem, ORIGIN).unwrap();
        let key = signer.verifier().clone();
        let bed = TestBed::new().await;
        bed.replace("audit.key", &pem);
        std::fs::create_dir(bed.path("copies")).unwrap();
        let config = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
        let config = format!(
            "{config}\n[audit.checkpoints]\norigin = \"{ORIGIN}\"\nkeys = [\"audit.key\"]\n\
             copies = [\"copies\"]\n{more}\n"
        );
        Self { bed, key, config }
    }

    fn serve(&self) -> GatewayProcess {
        serve_with(Command::new(testkit::program()), &self.bed, &self.config)
    }

    fn with(&self) -> VerifyWith {
        VerifyWith { keys: vec![self.key.clone()], ..VerifyWith::default() }
    }

    fn folder(&self) -> PathBuf {
        self.bed.path("own")
    }

    /// Runs the command `audit` with the journal's folder and key.
    fn audit(&self, task: &str, more: &[&str]) -> (i32, String) {
        let (folder, key) = (self.folder(), self.key.to_string());
        let arguments = [&[task, folder.to_str().unwrap(), "--key", &key], more].concat();
        audit(&arguments)
    }
}

/// Runs the command `audit`; returns its exit code and output.
fn audit(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(testkit::program()).arg("audit").args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn stop(mut served: GatewayProcess) -> String {
    served.signal("TERM");
    assert!(served.child.wait().unwrap().success());
    let log = served.log.lock().unwrap();
    log.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_journal_is_proven_by_its_folder_its_copies_and_its_log() {
    let signed = SignedBed::new("").await;
    let served = signed.serve();
    for _ in 0..3 {
        assert_eq!(TestRequest::book().send_to(&signed.bed, served.address).await.status, 200);
        assert_eq!(TestRequest::slots().send_to(&signed.bed, served.address).await.status, 200);
    }
    assert_eq!(served.metric("audit_signing").await, 1);
    while served.metric("audit_checkpoint_timestamp_seconds").await == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!get(served.admin, "/readyz").await.contains("checkpoints"));
    drop(stop(served));
    let log = loop {
        if let Ok(log) = std::fs::read_to_string(signed.bed.path("own.log")) {
            break log;
        }
        tokio::task::yield_now().await;
    };
    let (code, text) = signed.audit("verify", &[]);
    assert!(code == 0 && text.contains("PROVEN: lines 1 to "), "{text}");
    // The same notes are in the copy and in the log, as the last one shows.
    let name = "00000000000000000001.checkpoints.jsonl";
    let kept = std::fs::read_to_string(signed.folder().join(name)).unwrap();
    assert_eq!(kept.lines().count(), 2, "at the start and at the stop: {kept}");
    let copy = signed.bed.path("copies").join(name);
    let last: Value = serde_json::from_str(kept.lines().last().unwrap()).unwrap();
    assert!(log.contains(last["note"].to_string().trim_matches('"')), "{log}");
    std::fs::remove_file(signed.folder().join(name)).unwrap();
    assert_eq!(signed.audit("verify", &[]).0, 3, "nothing is left that proves it");
    let (code, text) = signed.audit("verify", &["--checkpoints", copy.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    let note = signed.bed.path("note");
    std::fs::write(&note, last["note"].as_str().unwrap()).unwrap();
    let (code, text) = signed.audit("verify", &["--checkpoints", note.to_str().unwrap()]);
    assert_eq!(code, 0, "a note alone is enough: {text}");
}

/// The folder is emptied: the copies tell. Requests are served and recorded as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_contradicts_its_checkpoints_is_not_signed_and_operations_are_told() {
    let signed = SignedBed::new("").await;
    let served = signed.serve();
    assert_eq!(TestRequest::book().send_to(&signed.bed, served.address).await.status, 200);
    drop(stop(served));
    std::fs::remove_dir_all(signed.folder()).unwrap();
    let served = signed.serve();
    assert_eq!(served.metric("audit_signing").await, 0);
    let ready = get(served.admin, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    assert!(ready.contains("[!]audit checkpoints are not signed: the journal in "), "{ready}");
    assert!(ready.contains("its end was removed, or an older copy took its place"), "{ready}");
    assert_eq!(TestRequest::book().send_to(&signed.bed, served.address).await.status, 200);
    drop(stop(served));
    assert!(!signed.folder().join("00000000000000000001.checkpoints.jsonl").exists());
    let copy = signed.bed.path("copies/00000000000000000001.checkpoints.jsonl");
    let (code, text) = signed.audit("verify", &["--checkpoints", copy.to_str().unwrap()]);
    assert!(code == 1 && text.contains("the journal was rewritten"), "{text}");
    // A new name begins a new history.
    let config = signed.config.replace("audit/1", "audit/2");
    let served = serve_with(Command::new(testkit::program()), &signed.bed, &config);
    assert_eq!(served.metric("audit_signing").await, 1);
    drop(stop(served));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_parties_of_a_booking_get_a_receipt_that_the_journal_must_match() {
    let signed = SignedBed::new("receipts = true").await;
    let served = signed.serve();
    signed.bed.provider.set_action(ProviderAction::Write(answer(
        "201 Created",
        &format!("{RECEIPT}: forged\r\n"),
        "{}",
    )));
    let booking = TestRequest::book().set(RECEIPT, "forged");
    let answer = booking.send_to(&signed.bed, served.address).await;
    let receipt = answer.header(RECEIPT).unwrap().to_owned();
    let received = signed.bed.provider.received();
    assert_eq!(received[0].header(RECEIPT), Some(&*receipt));
    let search = TestRequest::slots().set(RECEIPT, "forged");
    signed.bed.provider.set_action(ProviderAction::ok());
    assert_eq!(search.send_to(&signed.bed, served.address).await.header(RECEIPT), None);
    assert_eq!(signed.bed.provider.received()[1].header(RECEIPT), None);
    drop(stop(served));
    let (origin, head) = receipt.split_once(' ').unwrap();
    assert_eq!(origin, ORIGIN);
    let (code, text) = signed.audit("verify", &["--head", head]);
    assert_eq!(code, 0, "{text}");
    let opened = line(&signed, "opened");
    assert!(head.starts_with(&format!("{}:", opened["seq"])));
    assert!(head.ends_with(opened["chain"].as_str().unwrap()));
}

/// Returns the first line of the journal with this event.
fn line(signed: &SignedBed, event: &str) -> Value {
    let text = testkit::test_bed::journal(&signed.folder());
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.into_iter().find(|line| line["event"] == event).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_is_proven_to_others_without_the_journal() {
    let signed = SignedBed::new("").await;
    let served = signed.serve();
    assert_eq!(TestRequest::book().send_to(&signed.bed, served.address).await.status, 200);
    drop(stop(served));
    let id = line(&signed, "opened")["id"].as_str().unwrap().to_owned();
    let folder = signed.folder();
    let prove = |id: &str| audit(&["prove", folder.to_str().unwrap(), "--id", id]);
    let (code, proof) = prove(&id);
    assert_eq!(code, 0, "{proof}");
    let file = signed.bed.path("proof.json");
    let check = |proof: &str, key: &str| {
        std::fs::write(&file, proof).unwrap();
        audit(&["check", file.to_str().unwrap(), "--key", key])
    };
    let key = signed.key.to_string();
    let (code, text) = check(&proof, &key);
    assert!(code == 0 && text.contains("PROVEN: every line is"), "{text}");
    assert_eq!(text.matches("is in the tree of its first").count(), 2, "{text}");
    let stranger = CheckpointSigner::generate_pem().unwrap();
    let stranger = CheckpointSigner::from_pkcs8_pem(&stranger, ORIGIN).unwrap();
    assert_eq!(check(&proof, &stranger.verifier().to_string()).0, 3);
    let changed = proof.replacen("A20047", "A20048", 1);
    assert_ne!(changed, proof);
    let (code, text) = check(&changed, &key);
    assert!(code == 1 && text.contains("line 1 of the proof is FALSE"), "{text}");
    let (code, text) = prove("00000000-0000-4000-8000-000000000000");
    assert!(code == 1 && text.contains("holds no line with this id"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_made_for_its_owner_alone_and_shown_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.key");
    let path = file.to_str().unwrap();
    let (code, made) = audit(&["key", "new", path, "--origin", ORIGIN]);
    assert!(code == 0 && made.starts_with(&format!("{ORIGIN}+")), "{made}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(audit(&["key", "show", path, "--origin", ORIGIN]), (0, made));
    let (code, text) = audit(&["key", "new", path, "--origin", ORIGIN]);
    assert!(code == 1 && text.contains("exists"), "no key is overwritten: {text}");
    let (code, text) = audit(&["key", "show", path, "--origin", "a b"]);
    assert!(code == 78 && text.contains("name"), "{text}");
}

/// A start and a reload say what is in force, so that it can be told later what was allowed then.
#[tokio::test(flavor = "multi_thread")]
async fn starts_and_reloads_record_the_configuration_and_the_directory_in_force() {
    let signed = SignedBed::new("").await;
    let bed = &signed.bed;
    let served = signed.serve();
    let sum = |name: &str| {
        let output = Command::new("sha256sum").arg(bed.path(name)).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
    };
    let started = line(&signed, "started");
    assert_eq!(started["config_sha256"], sum("own.toml"));
    assert_eq!(started["directory_sha256"], sum("directory.toml"));
    assert_eq!(started["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&started["origin"], &started["tree"]), (&json!(ORIGIN), &json!([])));
    assert!(["synchronised", "unknown"].contains(&started["clock"].as_str().unwrap()));
    bed.replace("directory.toml", &format!("{}\n# changed\n", bed.text("directory.toml")));
    served.signal("HUP");
    let reloaded = loop {
        let text = testkit::test_bed::journal(&signed.folder());
        if let Some(line) = text.lines().find(|line| line.contains("\"event\":\"reloaded\"")) {
            break serde_json::from_str::<Value>(line).unwrap();
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(reloaded["config_sha256"], started["config_sha256"]);
    assert_eq!(reloaded["directory_sha256"], sum("directory.toml"));
    assert_eq!(reloaded["faults"], 0);
    assert!(reloaded["trust_generation"].as_u64() > started["trust_generation"].as_u64());
}

/// The record of a booking meets the booking at the practice by its logical id.
#[tokio::test(flavor = "multi_thread")]
async fn the_record_of_a_booking_names_the_appointment_and_its_version() {
    let bed = TestBed::new().await;
    for (at, (status, location, expected)) in [
        (
            "201 Created",
            "Location: https://p.nhs.uk/x/Appointment/148/_history/1\r\n",
            "Appointment/148/_history/1",
        ),
        ("201 Created", "Location: Appointment/148\r\n", "Appointment/148"),
        ("201 Created", "Location: /Appointment/9434765919\r\n", ""),
        ("201 Created", "Location: /Patient/148\r\n", ""),
        ("201 Created", "", ""),
        ("400 Bad Request", "Location: Appointment/148\r\n", ""),
    ]
    .into_iter()
    .enumerate()
    {
        bed.provider.set_action(ProviderAction::Write(answer(status, location, "{}")));
        bed.send(TestRequest::book()).await;
        let closed = bed.wait_for_closed_line(at + 1).await;
        assert_eq!(closed["resource"].as_str().unwrap_or_default(), expected, "{location}");
    }
}

/// A witness as C2SP tlog-witness describes it, over plain HTTP.
struct TestWitness {
    signer: CheckpointSigner,
    log: VerifierKey,
    seen: Mutex<Option<TreeHead>>,
    /// Further lines of an answer with its signature.
    added: Mutex<String>,
    /// Answer to give instead.
    forced: Mutex<Option<(&'static str, String)>>,
    /// Numbers of lines in the checkpoints that it has signed.
    signed: Mutex<Vec<u64>>,
}

impl TestWitness {
    /// Returns the socket and the key of a witness that is not started yet.
    async fn prepare() -> (TcpListener, CheckpointSigner) {
        let pem = CheckpointSigner::generate_pem().unwrap();
        let signer = CheckpointSigner::from_pkcs8_pem(&pem, "trust.example/w1").unwrap();
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), signer)
    }

    fn start(listener: TcpListener, signer: CheckpointSigner, log: &VerifierKey) -> Arc<Self> {
        let witness = Arc::new(Self {
            signer,
            log: log.clone(),
            seen: Mutex::new(None),
            added: Mutex::default(),
            forced: Mutex::new(None),
            signed: Mutex::new(Vec::new()),
        });
        let serving = Arc::clone(&witness);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.answer(stream).await;
            }
        });
        witness
    }

    async fn answer(&self, mut stream: TcpStream) {
        let mut text = Vec::new();
        while !is_whole(&text) {
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => text.extend_from_slice(&buffer[..read]),
            }
        }
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("POST /witness/add-checkpoint HTTP/1.1\r\n"), "{text}");
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        let forced = self.forced.lock().unwrap().clone();
        let (status, body) = match forced {
            Some((status, forced)) if forced == AS_MANY => (status, format!("{}\n", size_of(body))),
            Some(forced) => forced,
            None => self.add_checkpoint(body),
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all([head, body].concat().as_bytes()).await.unwrap_or_default();
    }

    fn add_checkpoint(&self, body: &str) -> (&'static str, String) {
        let (proof, note) = body.split_once("\n\n").unwrap();
        let mut proof = proof.lines();
        let old: u64 = proof.next().unwrap().strip_prefix("old ").unwrap().parse().unwrap();
        let proof: Vec<_> = proof.map(|hash| hash.parse().unwrap()).collect();
        let note: SignedNote = note.parse().unwrap();
        assert!(note.verified_by(&self.log).unwrap().is_some());
        let new = note.text().parse::<Checkpoint>().unwrap().head();
        let mut seen = self.seen.lock().unwrap();
        let size = seen.map_or(0, |seen| seen.size);
        if old != size {
            return ("409 Conflict", format!("{size}\n"));
        }
        if let Some(seen) = seen.filter(|seen| seen.size > 0)
            && !verify_consistency(&seen, &new, &proof)
        {
            return ("422 Unprocessable Entity", String::new());
        }
        *seen = Some(new);
        self.signed.lock().unwrap().push(new.size);
        let signatures = self.signer.sign(note.text(), 1_800_000_000).unwrap();
        ("200 OK", format!("{}\n{}", signatures[1], self.added.lock().unwrap()))
    }

    /// Returns once it has signed a checkpoint of at least this many lines.
    async fn has_signed(&self, lines: u64) {
        while self.signed.lock().unwrap().last().is_none_or(|last| *last < lines) {
            tokio::task::yield_now().await;
        }
    }
}

/// Stands for the number of lines in the checkpoint that is sent, as an answer to give.
const AS_MANY: &str = "as many";

/// Returns the number of lines in the checkpoint of a request's body.
fn size_of(body: &str) -> u64 {
    let (_, note) = body.split_once("\n\n").unwrap();
    note.parse::<SignedNote>().unwrap().text().parse::<Checkpoint>().unwrap().size
}

/// Returns true if the text is a whole HTTP request.
fn is_whole(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.to_lowercase();
    let length = length.split("content-length: ").nth(1).unwrap();
    body.len() >= length.split("\r\n").next().unwrap().parse().unwrap()
}

/// Returns a signed test bed with a witness, which is running.
async fn witnessed() -> (SignedBed, Arc<TestWitness>) {
    let (listener, signer) = TestWitness::prepare().await;
    let (address, key) = (listener.local_addr().unwrap(), signer.verifier().as_cosigner());
    let more = format!(
        "every = \"1s\"\nwitnesses = [{{ url = \"http://{address}/witness/\", key = \"{key}\" }}]"
    );
    let signed = SignedBed::new(&more).await;
    let witness = TestWitness::start(listener, signer, &signed.key);
    (signed, witness)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_countersigns_each_checkpoint_and_over_restarts() {
    let (signed, witness) = witnessed().await;
    let mut lines = 1;
    for _ in 0..2 {
        let served = signed.serve();
        witness.has_signed(lines).await;
        assert_eq!(TestRequest::book().send_to(&signed.bed, served.address).await.status, 200);
        lines += 2;
        witness.has_signed(lines).await;
        drop(stop(served));
        // The line about the stop, and the one about the next start.
        lines += 2;
    }
    let with =
        VerifyWith { witnesses: vec![witness.signer.verifier().as_cosigner()], ..signed.with() };
    let found = verify(&signed.folder(), &with).unwrap();
    assert!(found.is_sound(), "{:?}", found.faults);
    let seen = found.proof.witnessed["trust.example/w1"];
    // The process may have ended before the witness could sign the last checkpoint.
    assert!(seen.lines >= lines - 2 && seen.at_s == 1_800_000_000, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_has_seen_another_history_ends_the_signing() {
    for (status, body, said) in [
        ("409 Conflict", "1000\n", "has seen 1000 lines of this journal, which has "),
        ("409 Conflict", AS_MANY, "has seen as many lines of this journal, but others"),
        ("422 Unprocessable Entity", "", "has seen other lines of this journal"),
    ] {
        let (signed, witness) = witnessed().await;
        let served = signed.serve();
        witness.has_signed(1).await;
        *witness.forced.lock().unwrap() = Some((status, body.to_owned()));
        assert_eq!(TestRequest::book().send_to(&signed.bed, served.address).await.status, 200);
        while served.metric("audit_signing").await == 1 {
            tokio::task::yield_now().await;
        }
        let ready = get(served.admin, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 200") && ready.contains(said), "{ready}");
        assert_eq!(TestRequest::book().send_to(&signed.bed, served.address).await.status, 200);
    }
}

/// No copy knows the checkpoints that were removed with the lines: only the witness does.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_behind_its_witness_is_not_signed_once() {
    let (signed, witness) = witnessed().await;
    let served = signed.serve();
    assert_eq!(TestRequest::book().send_to(&signed.bed, served.address).await.status, 200);
    witness.has_signed(3).await;
    drop(stop(served));
    std::fs::remove_dir_all(signed.folder()).unwrap();
    std::fs::remove_dir_all(signed.bed.path("copies")).unwrap();
    std::fs::create_dir(signed.bed.path("copies")).unwrap();
    let served = signed.serve();
    let mut ready = get(served.admin, "/readyz").await;
    while !ready.contains("lines of this journal, which has 0") {
        tokio::task::yield_now().await;
        ready = get(served.admin, "/readyz").await;
    }
    assert_eq!(TestRequest::book().send_to(&signed.bed, served.address).await.status, 200);
    assert_eq!(served.metric("audit_signing").await, 0);
    drop(stop(served));
    let found = verify(&signed.folder(), &signed.with()).unwrap();
    assert_eq!(found.proof.lines, 0);
}

/// A witness that was restored from an old backup begins anew, and says so by the size that it has seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_has_lost_its_state_is_no_contradiction() {
    let (signed, witness) = witnessed().await;
    let served = signed.serve();
    witness.has_signed(1).await;
    *witness.seen.lock().unwrap() = None;
    witness.signed.lock().unwrap().clear();
    assert_eq!(TestRequest::book().send_to(&signed.bed, served.address).await.status, 200);
    witness.has_signed(3).await;
    assert_eq!(served.metric("audit_signing").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_fails_or_signs_wrongly_is_counted_and_asked_again() {
    let (signed, witness) = witnessed().await;
    let series = "audit_checkpoint_failures_total{place=\"witness\"}";
    let forged = signed_by_a_stranger();
    *witness.forced.lock().unwrap() = Some(("200 OK", forged));
    let served = signed.serve();
    while served.metric(series).await == 0 {
        tokio::task::yield_now().await;
    }
    *witness.forced.lock().unwrap() = None;
    assert_eq!(TestRequest::book().send_to(&signed.bed, served.address).await.status, 200);
    witness.has_signed(3).await;
    assert_eq!(served.metric("audit_signing").await, 1);
    drop(stop(served));
    let found = verify(&signed.folder(), &signed.with()).unwrap();
    assert_eq!(found.verdict(), Verdict::Proven, "by the journal's key: {:?}", found.faults);
}

/// An answer may have a line more, such as by somebody on the way: one in the journal's own name would make
/// its verification fail for good.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_witnesss_answer_only_its_own_signature_is_kept() {
    let (signed, witness) = witnessed().await;
    let pem = CheckpointSigner::generate_pem().unwrap();
    let stranger = CheckpointSigner::from_pkcs8_pem(&pem, ORIGIN).unwrap();
    let head = TreeHead { size: 1, root: [0; 32].into() };
    let text = Checkpoint::new(ORIGIN, head).unwrap().to_string();
    let forged = stranger.sign(&text, 0).unwrap().remove(0).bytes().to_vec();
    let forged = [&signed.key.id()[..], &forged].concat();
    let forged = base64_simd::STANDARD.encode_to_string(forged);
    *witness.added.lock().unwrap() = format!("\u{2014} {ORIGIN} {forged}\n");
    let served = signed.serve();
    witness.has_signed(1).await;
    assert_eq!(TestRequest::book().send_to(&signed.bed, served.address).await.status, 200);
    witness.has_signed(3).await;
    drop(stop(served));
    let with =
        VerifyWith { witnesses: vec![witness.signer.verifier().as_cosigner()], ..signed.with() };
    let found = verify(&signed.folder(), &with).unwrap();
    assert!(found.is_sound(), "{:?}", found.faults);
    assert!(found.proof.witnessed["trust.example/w1"].lines > 0);
}

fn signed_by_a_stranger() -> String {
    let pem = CheckpointSigner::generate_pem().unwrap();
    let stranger = CheckpointSigner::from_pkcs8_pem(&pem, "trust.example/w1").unwrap();
    let head = TreeHead { size: 1, root: [0; 32].into() };
    let text = Checkpoint::new(ORIGIN, head).unwrap().to_string();
    format!("{}\n", stranger.sign(&text, 1_800_000_000).unwrap()[1])
}

/// A key that cannot be used ends the start with an error that names its file.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_an_unusable_key_or_witness_says_which() {
    let signed = SignedBed::new("").await;
    let text = &signed.config;
    let refused = |text: &str| {
        signed.bed.replace("own.toml", text);
        let output = Command::new(testkit::program())
            .args(["serve", "--config"])
            .arg(signed.bed.path("own.toml"))
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = refused(&text.replace("audit.key", "ca.pem"));
    assert!(code == Some(78) && said.contains("ca.pem"), "{said}");
    let key = signed.key.as_cosigner();
    let witness = format!("{text}witnesses = [{{ url = \"ftp://w1\", key = \"{key}\" }}]\n");
    let (code, said) = refused(&witness);
    assert!(code == Some(78) && said.contains("must begin with https:// or http://"), "{said}");
    let (code, said) = refused(&witness.replace("ftp", "http"));
    assert!(code == Some(78) && said.contains("must begin with https://, unless"), "{said}");
    let witness = witness.replace("ftp", "https");
    let (code, said) = refused(&witness);
    assert!(code == Some(78) && said.contains("names no file"), "{said}");
}
