//! The results of `lookup` and `audit verify` as JSON: they say what the text says, also when the command fails.

use std::path::Path;
use std::process::Command;

use audit_journal::note::CheckpointSigner;
use gpconnect_simulator::sds::{Records, SdsFault};
use serde_json::Value;

use testkit::process::serve_with;
use testkit::sds::{BOOK, READ, Registry, SLOTS};
use testkit::test_bed::segments;
use testkit::{TestBed, TestRequest};

/// Output of one command as text and as JSON, which must end alike.
struct BothForms {
    code: i32,
    /// Standard output and standard error of the text form.
    text: String,
    said: String,
    json: Value,
}

impl BothForms {
    fn of(arguments: &[&str]) -> Self {
        let run = |more: &[&str]| {
            let mut command = Command::new(testkit::program());
            let output = command.args(arguments).args(more).output().unwrap();
            let utf8 = |bytes| String::from_utf8(bytes).unwrap();
            (output.status.code().unwrap(), utf8(output.stdout), utf8(output.stderr))
        };
        let (code, text, said) = run(&[]);
        let (json_code, json, json_said) = run(&["--json"]);
        assert_eq!((code, &said), (json_code, &json_said), "{arguments:?}: {json}");
        let json = serde_json::from_str(&json).unwrap_or_else(|why| panic!("{why}: {json}"));
        let both = Self { code, text, said, json };
        assert_eq!(both.json["ok"], code == 0, "{arguments:?}: {}", both.json);
        both
    }

    fn list(&self, name: &str) -> &[Value] {
        self.json[name].as_array().unwrap()
    }

    /// Returns how many lines of the text begin so.
    fn count(&self, start: &str) -> usize {
        self.text.lines().filter(|line| line.starts_with(start)).count()
    }

    /// Asserts that the error of the text form is the one fault of the JSON; returns it.
    fn fault(&self) -> &Value {
        let [fault] = self.list("faults") else { panic!("{}", self.json) };
        assert_eq!(self.said, format!("spine-proxy: {}\n", text(&fault["text"])));
        fault
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value}"))
}

/// Looks a practice up in both forms, and asserts that both say the same.
fn lookup(config: &Path, practice: &str, interaction: &str) -> BothForms {
    let both =
        BothForms::of(&["lookup", "--config", config.to_str().unwrap(), practice, interaction]);
    let json = &both.json;
    assert!(text(&json["interaction"]).ends_with(interaction), "{json}");
    match json["practice"].as_str() {
        Some(practice) => assert!(both.text.contains(&format!("practice    {practice}\n"))),
        None => assert_eq!(both.text, ""),
    }
    assert_eq!(both.list("cached").len(), both.count("in snapshot "));
    assert_eq!(both.list("queries").len(), both.count("asked "));
    for query in both.list("queries") {
        let [source, question, outcome] =
            ["source", "question", "outcome"].map(|name| text(&query[name]));
        assert!(both.text.contains(&format!("asked       {source} for {question}: {outcome} in ")));
        assert!(query["took_ms"].is_u64(), "{query}");
    }
    let odd: Vec<_> =
        both.text.lines().filter_map(|line| line.strip_prefix("unusual     ")).collect();
    assert_eq!(both.list("oddities"), odd);
    assert_eq!(both.list("systems").len(), both.text.matches(" party key ").count());
    for system in both.list("systems") {
        let [asid, key, root] = ["asid", "party_key", "root"].map(|name| text(&system[name]));
        let source = text(&json["source"]);
        let line = format!("{source:<11} ASID {asid} party key {key} at {root}\n");
        assert!(both.text.contains(&line), "{line}: {}", both.text);
    }
    if json["source"].is_string() {
        let others = both.list("other_interactions").len();
        assert!(both.text.contains(&format!("also has    {others} other interactions\n")));
    }
    match both.code {
        0 => assert_eq!((both.list("faults").len(), both.list("systems").len()), (0, 1), "{json}"),
        _ => drop(both.fault().clone()),
    }
    both
}

fn root(ods: &str) -> String {
    format!("https://provider.example.nhs.uk/{ods}/STU3/1/gpconnect")
}

fn practice(ods: &str, asid: &str, root: &str) -> Records {
    Records::practice(ods, asid, &format!("{ods}-{asid}"), root, &[SLOTS, BOOK, READ])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_as_json_says_what_its_text_says() {
    let ods = ["P00000", "P00001", "P00002", "P00003"];
    let records = practice(ods[0], "918100000000", &root(ods[0]))
        .and(practice(ods[1], "918100000001", &root(ods[1])))
        .and(practice(ods[1], "918100000011", &format!("{}/two", root(ods[1]))))
        .and(practice(ods[2], "918100000002", "http://provider.example.nhs.uk/P00002"))
        .and(practice(ods[3], "918100000003", &root(ods[3])));
    let registry = Registry::new(records, "").await;
    registry.sds.set(Some(ods[3]), SdsFault::Status(500));
    let bed = registry.test_bed().await;
    let config = bed.path("spine-proxy.toml");
    let found = lookup(&config, "p00000", "search:slot-1");
    assert_eq!((found.code, &found.json["source"]), (0, &"sds-api".into()));
    assert_eq!(found.json["practice"], "P00000");
    assert_eq!(found.list("systems")[0]["asid"], "918100000000");
    assert_eq!(found.list("other_interactions").len(), 2);
    let questions: Vec<_> = found.list("queries").iter().map(|query| &query["question"]).collect();
    assert_eq!(questions, ["handlers", "systems", "handlers"]);
    let several = lookup(&config, ods[1], "search:slot-1");
    assert_eq!((several.code, several.list("systems").len()), (1, 2));
    assert!(text(&several.fault()["text"]).starts_with("2 systems are registered"));
    let odd = lookup(&config, ods[2], "search:slot-1");
    assert_eq!((odd.code, odd.list("oddities")), (1, &["bad_address".into()][..]));
    let failed = lookup(&config, ods[3], "search:slot-1");
    assert_eq!((failed.code, &failed.json["source"]), (1, &Value::Null));
    assert_eq!(failed.fault()["text"], "no answer: not available: 500 Internal Server Error");
    let unknown = lookup(&config, "Z00000", "search:slot-1");
    assert_eq!(unknown.code, 1);
    assert!(text(&unknown.fault()["text"]).starts_with("nothing is registered"));
    let no_code = lookup(&config, "*", "search:slot-1");
    assert_eq!((no_code.code, &no_code.json["practice"]), (78, &Value::Null));
    // A fault of the configuration has its place, as in the JSON of `check`.
    bed.replace("directory.toml", "nonsense");
    let faulty = lookup(&config, ods[0], "search:slot-1");
    assert_eq!(faulty.code, 78);
    let path = bed.path("directory.toml");
    assert_eq!(faulty.fault()["file"], path.to_str().unwrap(), "{}", faulty.json);
}

/// Verifies journals in both forms, and asserts that both say the same.
fn verify(journals: &[&Path], more: &[&str]) -> BothForms {
    let folders = journals.iter().map(|path| path.to_str().unwrap());
    let arguments: Vec<_> =
        ["audit", "verify"].into_iter().chain(folders).chain(more.iter().copied()).collect();
    let both = BothForms::of(&arguments);
    for found in both.list("journals") {
        let last = &found["last"];
        let (lines, first, segments) = (&found["lines"], &found["first"], &found["segments"]);
        let seq = &last["seq"];
        for line in [
            format!("{lines} lines, numbers {first} to {seq}, in {segments} files\n"),
            format!("last line: {seq}:{}\n", text(&last["chain"])),
        ] {
            assert!(both.text.contains(&line), "{line}: {}", both.text);
        }
        for fault in found["faults"].as_array().unwrap() {
            let line = format!("FAULT: {}\n", text(&fault["text"]));
            assert!(both.text.contains(&line), "{line}: {}", both.text);
            let file = text(&fault["file"]);
            let place = match fault["line"].as_u64() {
                Some(line) => format!("{file}, line {line}: "),
                None => format!("{file}: "),
            };
            assert!(text(&fault["text"]).starts_with(&place), "{place}: {fault}");
        }
    }
    let faults = both.list("journals").iter();
    let faults: usize = faults.map(|found| found["faults"].as_array().unwrap().len()).sum();
    assert_eq!(faults, both.count("FAULT: "));
    let (code, words) = match both.json["verdict"].as_str() {
        Some("proven") => (0, "\nPROVEN: "),
        Some("not_proven") => (3, "\nNOT PROVEN: "),
        Some("contradiction") => (1, "\nCONTRADICTION: "),
        Some(other) => panic!("{other}"),
        None => (1, ""),
    };
    assert_eq!(both.code, code, "{}", both.json);
    assert!(both.text.contains(words), "{}", both.text);
    assert_eq!(both.json["verdict"].is_null(), !both.list("faults").is_empty(), "{}", both.json);
    both
}

/// Returns a test bed with the public key of its finished journal `own`, which is signed.
async fn signed_journal() -> (TestBed, String) {
    let origin = "gw1.example.nhs.uk/audit/1";
    let pem = CheckpointSigner::generate_pem().unwrap();
    let key = CheckpointSigner::from_pkcs8_pem(&pem, origin).unwrap().verifier().to_string();
    let bed = TestBed::new().await;
    bed.replace("audit.key", &pem);
    let config = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
    let config =
        format!("{config}\n[audit.checkpoints]\norigin = \"{origin}\"\nkeys = [\"audit.key\"]\n");
    let mut served = serve_with(Command::new(testkit::program()), &bed, &config);
    for request in [TestRequest::book(), TestRequest::slots()] {
        assert_eq!(request.send_to(&bed, served.address).await.status, 200);
    }
    served.signal("TERM");
    assert!(served.child.wait().unwrap().success());
    (bed, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_as_json_says_what_its_text_says() {
    let (bed, key) = signed_journal().await;
    let own = bed.path("own");
    let keyed = ["--key", &*key];
    let proven = verify(&[&own], &keyed);
    assert_eq!(proven.json["verdict"], "proven");
    let found = &proven.list("journals")[0];
    assert_eq!(found["journal"], own.to_str().unwrap());
    assert_eq!((&found["lines"], &found["proof"]["lines"]), (&5.into(), &5.into()));
    let proof = &found["proof"];
    let times = format!("of {} to {} by", text(&proof["from"]), text(&proof["to"]));
    assert!(proven.text.contains(&times), "{times}: {}", proven.text);
    assert!(proven.text.contains(&format!("signed by {}\n", text(&proof["keys"][0]))));
    let unproven = verify(&[&own], &[]);
    assert_eq!(unproven.json["verdict"], "not_proven");
    let copies = verify(&[&own], &["--copies", "--key", &key]);
    assert_eq!(copies.list("journals")[0]["journal"], Value::Null);
    // What is named must be there.
    let missing = own.with_file_name("missing");
    let named: [&[&str]; 2] = [&["--copies"], &["--checkpoints", missing.to_str().unwrap()]];
    for (journals, more) in [(&[&*own, &*missing][..], named[0]), (&[&*own], named[1])] {
        let without = verify(journals, &[&keyed, more].concat());
        assert!(
            text(&without.fault()["text"]).contains("missing: No such file"),
            "{}",
            without.json
        );
    }
    // The worst verdict counts, in whichever order.
    let segment = segments(&own).pop().unwrap();
    let harmed = bed.path("harmed");
    std::fs::create_dir(&harmed).unwrap();
    let sound = std::fs::read_to_string(&segment).unwrap();
    let lines: Vec<_> = sound.lines().collect();
    let damaged = [lines[0], "damaged", lines[2], lines[3], lines[4], ""].join("\n");
    std::fs::write(harmed.join(segment.file_name().unwrap()), damaged).unwrap();
    for journals in [[&*harmed, &*own], [&*own, &*harmed]] {
        let contradicted = verify(&journals, &keyed);
        assert_eq!(contradicted.json["verdict"], "contradiction");
        let verdicts: Vec<_> =
            contradicted.list("journals").iter().map(|found| &found["verdict"]).collect();
        assert!(verdicts.contains(&&"proven".into()), "{verdicts:?}");
    }
    let damage = verify(&[&harmed], &keyed);
    assert_eq!(damage.list("journals")[0]["faults"][0]["line"], 2);
    // What cannot be read ends the command; what was found before it is there.
    let nowhere = bed.path("nowhere");
    let missing = verify(&[&own, &nowhere], &keyed);
    assert_eq!(missing.list("journals").len(), 1);
    assert!(text(&missing.fault()["text"]).contains("nowhere"));
}
