//! The commands as an operator runs them: output and exit codes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use serde_json::Value;

use testkit::TestBed;
use testkit::files::Files;
use testkit::process::serve;

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spine-proxy")).args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// `check` and `serve` alike refuse a test bed's files once `change` has been at them.
async fn refused(change: impl Fn(&TestBed)) -> String {
    let bed = TestBed::new().await;
    change(&bed);
    let config = bed.path("spine-proxy.toml");
    let config = config.to_str().unwrap();
    let checked = run(&["check", "--config", config]);
    assert_eq!(checked.status.code(), Some(78), "{}", stderr(&checked));
    let served = run(&["serve", "--config", config]);
    assert_eq!(served.status.code(), Some(78), "{}", stderr(&served));
    let (checked, served) = (stderr(&checked), stderr(&served));
    let fault = checked.strip_prefix("spine-proxy: ").unwrap().trim_end();
    // A service writes a log line, unless it could not read how to.
    match served.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok()) {
        Some(line) => {
            assert_eq!(line["level"], "ERROR");
            assert_eq!(line["message"], format!("spine-proxy cannot serve and ends: {fault}"));
        }
        None => assert_eq!(served, checked),
    }
    checked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fatal_error_at_the_start_is_a_line_of_the_log_once_the_configuration_is_read() {
    let served = |bed: &TestBed| {
        let served = run(&["serve", "--config", bed.path("spine-proxy.toml").to_str().unwrap()]);
        assert_eq!(served.status.code(), Some(78));
        stderr(&served)
    };
    let bed = TestBed::new().await;
    bed.replace("server.pem", "nonsense");
    for line in served(&bed).lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
    bed.replace(
        "spine-proxy.toml",
        &format!("{}\n[log]\nformat = \"human\"\n", bed.text("spine-proxy.toml")),
    );
    let human = served(&bed);
    assert!(human.contains("ERROR") && human.contains("server.pem"), "{human}");
    assert!(!human.contains('\x1b'), "no colours where there is no terminal: {human:?}");
    bed.replace("spine-proxy.toml", "nonsense");
    let plain = served(&bed);
    assert!(plain.starts_with("spine-proxy: ") && plain.contains("spine-proxy.toml"), "{plain}");
}

/// Parses the output of `check --json` with these arguments; returns it with the exit code.
fn check_json(bed: &TestBed, arguments: &[&str]) -> (Value, Option<i32>) {
    let config = bed.path("spine-proxy.toml");
    let checked =
        run(&[&["check", "--json", "--config", config.to_str().unwrap()], arguments].concat());
    let text = String::from_utf8(checked.stdout).unwrap();
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (report, checked.status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn check_as_json_has_what_would_be_served_with_expiry_dates_and_warnings() {
    let bed = TestBed::new().await;
    let (report, code) = check_json(&bed, &["--strict"]);
    assert_eq!((code, &report["ok"]), (Some(0), &true.into()), "{report}");
    let path = bed.path("spine-proxy.toml");
    assert_eq!(report["configuration"]["path"], path.to_str().unwrap());
    assert_eq!(report["configuration"]["sha256"].as_str().unwrap().len(), 64);
    let served = &report["served"];
    assert_eq!(served["addresses"], serde_json::json!(["127.0.0.1:0"]));
    assert_eq!(served["directory"]["consumers"], 2);
    assert_eq!(served["directory"]["practices"], 3);
    assert_eq!(served["networks"], serde_json::json!(["127.0.0.0/8"]));
    let interactions = served["interactions"].as_array().unwrap();
    assert!(interactions.iter().any(|one| one["method"] == "GET" && one["path"] == "/Slot"));
    for used_as in ["server", "client", "authority", "client_crl", "provider_crl"] {
        let of_use = |entry: &&Value| entry["use"] == used_as;
        let entry = report["expiries"].as_array().unwrap().iter().find(of_use).unwrap();
        assert!(entry["until"].as_str().unwrap().ends_with('Z'), "{entry}");
        let (name, number) = match used_as.ends_with("crl") {
            true => ("issuer", "number"),
            false => ("subject", "serial"),
        };
        assert!(entry[name].is_string() && entry[number].is_string(), "{entry}");
    }
    assert_eq!(report["warnings"], serde_json::json!([]));
    edit(&bed, "spine-proxy.toml", "[\"127.0.0.0/8\"]", "[\"127.0.0.0/8\", \"0.0.0.0/0\"]");
    std::fs::set_permissions(bed.path("server.key"), Permissions::from_mode(0o644)).unwrap();
    for (arguments, code) in [(&[][..], 0), (&["--strict"], 78)] {
        let (report, exit) = check_json(&bed, arguments);
        assert_eq!((exit, &report["ok"]), (Some(code), &(code == 0).into()));
        let warnings = report["warnings"].as_array().unwrap();
        let about = |name: &str, value: &str| {
            warnings.iter().any(|warning| warning[name].as_str().unwrap_or("").ends_with(value))
        };
        assert!(about("key", "provider.networks") && about("file", "/server.key"), "{warnings:?}");
        assert_eq!(report["faults"], serde_json::json!([]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_as_json_says_what_is_wrong_and_where() {
    let bed = TestBed::new().await;
    bed.replace("server.pem", "nonsense");
    let (report, code) = check_json(&bed, &[]);
    assert_eq!((code, &report["ok"]), (Some(78), &false.into()));
    assert!(report["served"].is_null());
    let fault = &report["faults"][0];
    assert_eq!(fault["keys"], serde_json::json!(["tls.certificates.chain"]));
    assert_eq!(fault["file"], bed.path("server.pem").to_str().unwrap());
    assert_eq!(fault["line"], line(&bed, "certificates"));
    edit(&bed, "spine-proxy.toml", "workers = 1", "worker = 1");
    let (report, code) = check_json(&bed, &[]);
    assert_eq!((code, &report["ok"]), (Some(78), &false.into()));
    let fault = &report["faults"][0];
    assert!(fault["text"].as_str().unwrap().contains("unknown field `worker`"), "{fault}");
    assert_eq!(fault["file"], bed.path("spine-proxy.toml").to_str().unwrap());
    assert_eq!(fault["line"], line(&bed, "worker = 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_the_revocation_lists_of_one_file_apart() {
    let bed = TestBed::new().await;
    let checked = run(&["check", "--config", bed.path("spine-proxy.toml").to_str().unwrap()]);
    let text = String::from_utf8(checked.stdout).unwrap();
    let lists = text.lines().filter(|line| line.contains(" client_crl "));
    let lists: std::collections::BTreeSet<_> = lists.collect();
    assert_eq!(lists.len(), 2, "{text}");
    assert!(lists.iter().all(|line| line.contains("(CN=") && line.contains("number")), "{text}");
}

#[test]
fn the_version_has_the_commit() {
    let text = String::from_utf8(run(&["--version"]).stdout).unwrap();
    let version = concat!("spine-proxy ", env!("CARGO_PKG_VERSION"), " (");
    let commit = text.strip_prefix(version).and_then(|rest| rest.strip_suffix(")\n")).unwrap();
    assert!(!commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_begins_with_what_is_started_and_from_what() {
    let bed = TestBed::new().await;
    let mut served = serve(&bed);
    served.signal("TERM");
    assert!(served.child.wait().unwrap().success());
    let first = served.log.lock().unwrap().split_inclusive('}').find_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["message"] == "spine-proxy starts").then_some(line)
    });
    let first = first.unwrap();
    assert_eq!(first["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(first["configuration"], bed.path("own.toml").to_str().unwrap());
    assert_eq!(first["configuration_sha256"].as_str().unwrap().len(), 64);
    assert_eq!((&first["consumers"], &first["practices"]), (&2.into(), &3.into()));
    for name in ["commit", "authorities", "addresses", "admin"] {
        assert!(!first[name].as_str().unwrap().is_empty(), "{name}: {first}");
    }
}

/// Checks a value against the parts of JSON Schema that the schemas here use.
fn fits(schema: &Value, value: &Value, root: &Value) -> Result<(), String> {
    if let Some(name) = schema["$ref"].as_str() {
        let found = root.pointer(name.strip_prefix('#').unwrap()).unwrap();
        return fits(found, value, root);
    }
    let any = schema["anyOf"].as_array().or(schema["oneOf"].as_array());
    if let Some(forms) = any {
        let results: Vec<_> = forms.iter().map(|form| fits(form, value, root)).collect();
        let fitting = results.iter().any(Result::is_ok);
        return if fitting { Ok(()) } else { Err(format!("{value}: {results:?}")) };
    }
    let of_type = &schema["type"];
    let types = of_type.as_array().map_or(std::slice::from_ref(of_type), Vec::as_slice);
    let types: Vec<&str> = types.iter().filter_map(Value::as_str).collect();
    let own = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is_listed = schema["enum"].as_array().is_none_or(|values| values.contains(value))
        && schema.get("const").is_none_or(|only| only == value);
    if !is_listed || !(types.is_empty() || types.contains(&own)) {
        return Err(format!("{value} is not {schema}"));
    }
    if let (Value::Array(items), Some(each)) = (value, schema.get("items")) {
        items.iter().try_for_each(|item| fits(each, item, root))?;
    }
    let Value::Object(members) = value else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten() {
        members.get(name.as_str().unwrap()).ok_or(format!("{name} is missing"))?;
    }
    for (name, member) in members {
        let more = &schema["additionalProperties"];
        let patterns =
            schema["patternProperties"].as_object().into_iter().flat_map(|all| all.values());
        match (schema["properties"].get(name), more, patterns.into_iter().next()) {
            (Some(of), ..) | (None, _, Some(of)) => fits(of, member, root)?,
            (None, Value::Bool(false), None) => return Err(format!("{name} is not known")),
            (None, Value::Object(_), None) => fits(more, member, root)?,
            (None, _, None) => {}
        }
    }
    Ok(())
}

#[test]
fn the_shipped_examples_fit_their_schemas_and_a_mistake_does_not() {
    let folder = testkit::repository::root().join("deploy");
    for (of, file, known, unknown) in [
        ("configuration", "spine-proxy.toml", "\nnames = ", "\nname = "),
        ("directory", "directory.toml", "\nasids = ", "\nasid = "),
        ("simulator", "simulator.toml", "\nbase-path = ", "\nbase-pathe = "),
        ("lab", "lab.toml", "\nasid = ", "\nasids = "),
    ] {
        let printed = run(&["check", "--schema", of]);
        assert_eq!(printed.status.code(), Some(0), "{}", stderr(&printed));
        let schema: Value = serde_json::from_slice(&printed.stdout).unwrap();
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let value = |text: &str| toml::from_str::<Value>(text).unwrap();
        assert_eq!(fits(&schema, &value(&text), &schema), Ok(()), "{of}");
        assert!(text.contains(known), "{file}");
        let wrong = value(&text.replacen(known, unknown, 1));
        assert!(fits(&schema, &wrong, &schema).is_err(), "{of}");
    }
    let (default, named) =
        (run(&["check", "--schema"]), run(&["check", "--schema", "configuration"]));
    assert_eq!(default.stdout, named.stdout);
}

fn edit(bed: &TestBed, name: &str, from: &str, to: &str) {
    let text = bed.text(name);
    assert!(text.contains(from));
    bed.replace(name, &text.replace(from, to));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_the_configuration_is_named_with_line_and_caret() {
    for (from, to, words) in [
        ("workers = 1", "worker = 1", &["line 5", "unknown field `worker`", "^"][..]),
        ("workers = 1", "workers = \"one\"", &["line 5", "invalid type", "^"]),
        ("[listener]", "[listener]\nlimits.idle = \"60\"", &["line 3", "^"]),
        ("[listener]", "[request]\ntarget-max = \"1 foot\"\n[listener]", &["line 3", "^"]),
        (
            "[listener]",
            "[request]\nhead-max = 64\n[listener]",
            &["line 3", "head-max", "64 has no unit; write \"64 B\" or \"64 KiB\""],
        ),
        (
            "[listener]",
            "[request]\nhead-max = \"64 kilobytes\"\n[listener]",
            &["line 3", "\"64 kilobytes\" has no known unit; write \"64 KiB\""],
        ),
        (
            "[directory]",
            "[directory]\ndeadlines.spare = \"10s\"",
            &["spare", "^", "renamed: write `circuit-open`"],
        ),
        (
            "[throttle]",
            "[throttle]\npractice-spared = \"10s\"",
            &["practice-spared", "^", "renamed: write `practice-circuit-open`"],
        ),
        (
            "[audit]",
            "[audit]\nsegment-age = 2",
            &["segment-age = 2", "^", "2 has no unit; write \"2s\""],
        ),
        (
            "[listener]",
            "allowed = [\"appointment\"]\n[listener]",
            &["\"appointment\"", "appointments"],
        ),
        (
            "[audit]",
            "[compatibility.200000000359]\nerrors = \"gpconnect\"\n[audit]",
            &["lab = true"],
        ),
        ("[audit]", "[compatibility.2000]\n[audit]", &["twelve digits"]),
        ("workers = 1", "workers = 0", &["listener.workers"]),
        ("networks = [\"127.0.0.0/8\"]", "networks = []", &["provider.networks"]),
        ("crl = [\"crl.pem\"]", "", &["missing field `crl`"]),
        (
            "[provider-tls]",
            "[provider-tls]\nhttp2 = \"off\"",
            &["http2 = \"off\"", "^", "HTTP/2 to providers has been removed"],
        ),
    ] {
        let text = refused(|bed| edit(bed, "spine-proxy.toml", from, to)).await;
        assert!(text.contains("spine-proxy.toml"), "{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text}");
        }
    }
}

const ENCRYPTED: &str =
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_used_is_named() {
    type Change = Box<dyn Fn(&TestBed)>;
    let put = |name: &'static str, text: &'static str| -> Change {
        Box::new(move |bed: &TestBed| bed.replace(name, text))
    };
    let gone = |name: &'static str| -> Change {
        Box::new(move |bed: &TestBed| std::fs::remove_file(bed.path(name)).unwrap())
    };
    let swap = |to: &'static str, from: &'static str| -> Change {
        Box::new(move |bed: &TestBed| bed.replace(to, &bed.text(from)))
    };
    let expired: Change = Box::new(|bed: &TestBed| {
        bed.replace("server.pem", &bed.text("expired.pem"));
        bed.replace("server.key", &bed.text("expired.key"));
    });
    for (change, words) in [
        (gone("server.pem"), &["server.pem", "No such file"][..]),
        (gone("directory.toml"), &["directory.toml", "No such file"]),
        (gone("crl.pem"), &["crl.pem"]),
        (gone("spine-proxy.toml"), &["spine-proxy.toml", "No such file"]),
        (put("server.key", "not a key"), &["server.key", "private key"]),
        (put("ca.pem", "not a certificate"), &["ca.pem", "no certificate"]),
        (put("crl.pem", "not a list"), &["crl.pem"]),
        (put("directory.toml", "[[provider]]\n"), &["directory.toml", "missing field"]),
        (swap("server.key", "hub.key"), &["server.key", "does not match the certificate"]),
        (swap("gateway.key", "hub.key"), &["gateway.key", "does not match the certificate"]),
        (expired, &["server.pem", "expired on"]),
        (swap("ca.pem", "hub.pem"), &["ca.pem", "CN=hub.example.nhs.uk is not an authority's"]),
        (put("server.key", ENCRYPTED), &["server.key", "is encrypted", "openssl pkey"]),
    ] {
        let text = refused(change).await;
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text}");
        }
    }
}

/// The number of the first line of the configuration that begins so, counted from 1.
fn line(bed: &TestBed, start: &str) -> usize {
    let text = bed.text("spine-proxy.toml");
    text.lines().position(|line| line.starts_with(start)).unwrap() + 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_a_file_names_the_key_and_the_line_that_name_the_file() {
    let sds = "[directory.sds-api]\nurl = \"https://sds.example.nhs.uk/FHIR/R4\"\n";
    let sds_tls = "tls = { authorities = [\"sds-ca.pem\"], crl = \"none\" }";
    let sds = format!("{sds}key-file = \"sds.key\"\n{sds_tls}\n[audit]");
    let token = "[admin]\ntoken-file = \"admin.token\"";
    let shared = "[redis]\ngateways = 1\nurl = \"redis://127.0.0.1:1\"\n\
                  password-file = \"redis.password\"\n[audit]";
    for ((from, to), (file, text), (start, key)) in [
        (("", ""), ("server.pem", Some("nonsense")), ("certificates", "tls.certificates.chain")),
        (("", ""), ("server.key", None), ("certificates", "tls.certificates.key")),
        (
            ("crl = [\"crl.pem\"]\n\n[prov", "crl = [\"a.crl\"]\n\n[prov"),
            ("a.crl", None),
            ("crl = [\"a.crl\"]", "tls.crl"),
        ),
        (("", ""), ("gateway.key", Some("")), ("certificate =", "provider-tls.certificate.key")),
        (("", ""), ("directory.toml", Some("nonsense")), ("file =", "directory.file")),
        (("[admin]", token), ("admin.token", None), ("token-file", "admin.token-file")),
        (("[admin]", token), ("admin.token", Some("short")), ("token-file", "admin.token-file")),
        (("[audit]", &sds), ("sds.key", None), ("key-file", "directory.sds-api.key-file")),
        (
            ("[audit]", &sds),
            ("sds-ca.pem", Some("")),
            ("tls = { auth", "directory.sds-api.tls.authorities"),
        ),
        (("[audit]", shared), ("redis.password", None), ("password-file", "redis.password-file")),
    ] {
        let place = std::sync::Mutex::new(String::new());
        let refused = refused(|bed| {
            edit(bed, "spine-proxy.toml", from, to);
            for file in ["sds-ca.pem", "sds.key"] {
                bed.replace(file, &bed.text("ca.pem"));
            }
            match text {
                Some(text) => bed.replace(file, text),
                None => drop(std::fs::remove_file(bed.path(file))),
            }
            let config = bed.path("spine-proxy.toml");
            let line = line(bed, start);
            let file = bed.path(file);
            *place.lock().unwrap() =
                format!("{}:{line}: {key}: {}: ", config.display(), file.display());
        });
        let refused = refused.await;
        let place = place.into_inner().unwrap();
        assert!(refused.contains(&place), "{place} is not in {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_a_file_that_two_keys_name_names_both() {
    let text = refused(|bed| bed.replace("ca.pem", "nonsense")).await;
    assert!(text.contains(": tls.authorities, line "), "{text}");
    assert!(text.contains(": provider-tls.authorities: "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_reported_with_its_address_and_exit_code_1() {
    let bed = TestBed::new().await;
    let taken = bed.address().to_string();
    edit(
        &bed,
        "spine-proxy.toml",
        "addresses = [\"127.0.0.1:0\"]",
        &format!("addresses = [\"{taken}\"]"),
    );
    let served = run(&["serve", "--config", bed.path("spine-proxy.toml").to_str().unwrap()]);
    assert_eq!(served.status.code(), Some(1));
    assert!(stderr(&served).contains(&format!("cannot listen on {taken}")), "{}", stderr(&served));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_prints_what_would_be_served() {
    let bed = TestBed::new().await;
    let checked = run(&["check", "--config", bed.path("spine-proxy.toml").to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
    let text = String::from_utf8(checked.stdout).unwrap();
    for word in
        ["2 consumer systems, 3 practices", "search:slot-1 GET /Slot", "127.0.0.0/8", "crl.pem"]
    {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
}

#[test]
fn the_schema_forbids_unknown_keys_and_knows_every_section() {
    let printed = run(&["check", "--schema"]);
    assert_eq!(printed.status.code(), Some(0));
    let schema: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    for section in ["listener", "tls", "provider", "provider-tls", "directory", "audit", "admin"] {
        assert!(schema["properties"][section].is_object(), "{section}");
    }
}

#[test]
fn a_token_is_minted_for_an_interaction() {
    let root = "https://provider.example.nhs.uk/A20047/STU3/1/gpconnect";
    let minted = run(&["token", "--audience", root, "--ods", "A00001"]);
    assert_eq!(minted.status.code(), Some(0));
    let token = String::from_utf8(minted.stdout).unwrap();
    assert_eq!(token.trim().split('.').count(), 3);
    let wrong = run(&["token", "--audience", root, "--ods", "A00001", "--interaction", "urn:x"]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn a_throwaway_pki_is_never_written_over_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("certs");
    let path = path.to_str().unwrap();
    assert_eq!(run(&["certs", path]).status.code(), Some(0));
    let again = run(&["certs", path]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("ca.pem"));
}

/// Used by other files; named here so that the test bed's ways to change files are all of use.
#[tokio::test(flavor = "multi_thread")]
async fn lab_switches_are_shown_where_they_are_allowed() {
    let lab = |files: &mut Files| files.prepend("lab = true");
    let bed = TestBed::with(lab).await;
    let checked = run(&["check", "--config", bed.path("spine-proxy.toml").to_str().unwrap()]);
    assert!(String::from_utf8(checked.stdout).unwrap().contains("LAB"));
}
