//! `certs`: a throwaway PKI, more certificates from it, and revocation, judged by OpenSSL and by a lab's proxy.

use std::path::Path;
use std::process::{Command, Output};

use testkit::{program, report_missing};

use crate::call::{CallLab, stderr};

fn certs(arguments: &[&str]) -> Output {
    Command::new(program()).arg("certs").args(arguments).output().unwrap()
}

/// Returns what OpenSSL says of a certificate, with revocation; `None` if it is not installed.
fn judged(folder: &Path, name: &str) -> Option<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    let ran = Command::new("openssl")
        .args(["verify", "-crl_check", "-CAfile", &file("ca.pem")])
        .args(["-untrusted", &file("authority/sub-ca.pem"), "-CRLfile", &file("sub-crl.pem")])
        .arg(file(&format!("{name}.pem")))
        .output();
    let Ok(ran) = ran else {
        report_missing("openssl");
        return None;
    };
    Some(String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned())
}

/// Puts the list of the sub authority, the second of the file, in one of its own.
fn split_list(folder: &Path) {
    let lists = std::fs::read_to_string(folder.join("crl.pem")).unwrap();
    let second = lists.rfind("-----BEGIN X509 CRL-----").unwrap();
    std::fs::write(folder.join("sub-crl.pem"), &lists[second..]).unwrap();
}

#[test]
fn certificates_are_issued_from_a_kept_authority_and_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pki");
    let shown = path.display().to_string();
    assert_eq!(certs(&[&shown]).status.code(), Some(0));
    for more in [
        &["night", "--for", "night.example.nhs.uk"][..],
        &["other", "--for", "other.example.nhs.uk", "--for", "127.0.0.1"],
        &["expired", "--for", "hub.example.nhs.uk", "--expired"],
        &["early", "--for", "hub.example.nhs.uk", "--not-yet"],
        &["bare", "--for", "hub.example.nhs.uk", "--without-sub-authority"],
        &["common", "--for", "hub.example.nhs.uk", "--common-name-only"],
    ] {
        let issued = certs(&[&["issue", &shown], more].concat());
        assert_eq!(issued.status.code(), Some(0), "{more:?}");
    }
    let text = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
    assert_eq!(text("bare.pem").matches("BEGIN CERTIFICATE").count(), 1);
    assert_eq!(text("night.pem").matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(certs(&["revoke", &shown, "night"]).status.code(), Some(0));
    for (task, said) in [
        (&["revoke", &shown, "night"][..], "revoked already"),
        (&["revoke", &shown, "nobody"], "nobody.serial"),
        (&["issue", &shown, "night", "--for", "x.example"], "cannot create"),
        (&["issue", &shown, "../x", "--for", "x.example"], "not a plain name"),
        (&[&shown], "cannot create"),
    ] {
        let refused = certs(task);
        assert_eq!(refused.status.code(), Some(1), "{task:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(said), "{task:?}: {refused:?}");
    }
    split_list(&path);
    for (name, said) in [
        ("consumer", ": OK"),
        ("other", ": OK"),
        ("common", ": OK"),
        ("night", "certificate revoked"),
        ("expired", "certificate has expired"),
        ("early", "certificate is not yet valid"),
    ] {
        let Some(judged) = judged(&path, name) else { return };
        assert!(judged.contains(said), "{name}: {judged}");
    }
    assert_eq!(certs(&["revoke", &shown, "other"]).status.code(), Some(0));
    split_list(&path);
    for name in ["night", "other"] {
        let Some(judged) = judged(&path, name) else { return };
        assert!(judged.contains("certificate revoked"), "{name}: {judged}");
    }
}

#[test]
fn no_revocation_is_lost_and_one_that_has_failed_can_be_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let shown = folder.path().join("pki").display().to_string();
    assert!(certs(&[&shown]).status.success());
    let names: Vec<_> = (0..8).map(|number| format!("c{number}")).collect();
    for name in &names {
        assert!(certs(&["issue", &shown, name, "--for", "hub.example.nhs.uk"]).status.success());
    }
    let revoke = |name: &String| assert!(certs(&["revoke", &shown, name]).status.success());
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(move || revoke(name));
        }
    });
    let revoked = || std::fs::read_to_string(format!("{shown}/authority/revoked")).unwrap();
    assert_eq!(revoked().lines().count(), 8, "{}", revoked());
    let obstacle = format!("{shown}/crl.new");
    std::fs::create_dir(&obstacle).unwrap();
    assert_eq!(certs(&["revoke", &shown, "consumer"]).status.code(), Some(1));
    std::fs::remove_dir(&obstacle).unwrap();
    assert!(certs(&["revoke", &shown, "consumer"]).status.success());
    assert_eq!(revoked().lines().count(), 9);
    for (name, dns_name, said) in [
        ("", "x.example", "is not a plain name for files"),
        ("a\nb", "x.example", "is not a plain name for files"),
        ("x", "", "is neither a DNS name nor an IP address"),
        ("x", "a b", "is neither a DNS name nor an IP address"),
        ("x", "a..b", "is neither a DNS name nor an IP address"),
    ] {
        let refused = certs(&["issue", &shown, name, "--for", dns_name]);
        assert_eq!(refused.status.code(), Some(1), "{name:?} {dns_name:?}");
        assert!(stderr(&refused).contains(said), "{}", stderr(&refused));
    }
}

/// Calls with a certificate of the lab's folder; returns what the command says.
fn called(lab: &CallLab, name: &str) -> String {
    let folder = lab.lab.text("/folder");
    let file = |extension: &str| format!("{folder}/{name}.{extension}");
    let output = Command::new(program())
        .args(["call", "metadata", "A20047", "--expect", "200", "--lab"])
        .arg(lab.file())
        .args(["--certificate", &file("pem"), "--key", &file("key")])
        .output()
        .unwrap();
    assert_eq!(output.status.success(), !stderr(&output).contains("refused"), "{output:?}");
    stderr(&output)
}

#[test]
fn a_lab_accepts_new_certificates_and_refuses_those_that_are_not_right() {
    let lab = CallLab::start();
    let folder = lab.lab.text("/folder").to_owned();
    for (name, more, said) in [
        ("right", &["--for", "hub.example.nhs.uk"][..], "200 OK"),
        ("second", &["--for", "other.example.nhs.uk", "--for", "hub.example.nhs.uk"], "200 OK"),
        ("common", &["--for", "hub.example.nhs.uk", "--common-name-only"], "200 OK"),
        ("san-alone", &["--for", "hub.example.nhs.uk", "--common-name", "a person"], "200 OK"),
        (
            "wrong",
            &["--for", "other.example.nhs.uk", "--common-name", "hub.example.nhs.uk"],
            "certificate_unknown",
        ),
        ("nobody", &["--for", "nobody.example.nhs.uk"], "certificate_unknown"),
        ("old", &["--for", "hub.example.nhs.uk", "--expired"], "certificate_expired"),
        ("early", &["--for", "hub.example.nhs.uk", "--not-yet"], "certificate_expired"),
        (
            "bare",
            &["--for", "hub.example.nhs.uk", "--without-sub-authority"],
            "certificate_invalid",
        ),
    ] {
        let issued = certs(&[&["issue", &folder, name], more].concat());
        assert_eq!(issued.status.code(), Some(0), "{name}: {}", stderr(&issued));
        let answer = called(&lab, name);
        assert!(answer.contains(said), "{name}: {answer}");
    }
    assert_eq!(certs(&["revoke", &folder, "right"]).status.code(), Some(0));
    // The proxy finds the new list within a second.
    while !called(&lab, "right").contains("certificate_revoked") {
        std::thread::yield_now();
    }
    assert!(called(&lab, "second").contains("200 OK"));
    let refused = lab.lab.described["refused_certificates"].as_object().unwrap();
    assert_eq!(refused.len(), 6);
    for name in refused.keys() {
        let answer = called(&lab, &name.replace('_', "-"));
        assert!(answer.contains("495"), "{name}: {answer}");
    }
}
