//! `certs`: writes a throwaway PKI for the demonstration, tests and development. It is never for real use:
//! its private keys lie unprotected beside the certificates.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};
use gpconnect_simulator::pki::{IssuedCertificate, KeptPki, Leaf, Pki};
use rustls::pki_types::ServerName;

use super::print;
use crate::failure::Failure;

/// Options of `certs`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct CertsOptions {
    /// Folder to write a new PKI into; it is created if it does not exist.
    folder: Option<PathBuf>,
    #[command(subcommand)]
    task: Option<CertsTask>,
}

/// Task on a PKI that `certs FOLDER` has written.
#[derive(Debug, Subcommand)]
enum CertsTask {
    /// Issues one more certificate, such as that of another consumer.
    Issue(IssueTask),
    /// Revokes a certificate: writes crl.pem anew.
    Revoke {
        /// Folder of the PKI.
        folder: PathBuf,
        /// Name of the certificate's files, without extension, such as `consumer`.
        name: String,
    },
}

/// Options of `certs issue`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "one for each switch of the command line")]
struct IssueTask {
    /// Folder of the PKI.
    folder: PathBuf,
    /// Name of the files, without extension.
    name: String,
    /// DNS name or IP address in the certificate; may be given several times. The first is the common name, unless there is
    /// --common-name.
    #[arg(long = "for", required = true, value_name = "DNS-NAME")]
    names: Vec<String>,
    /// Common name, such as one that is none of the names.
    #[arg(long, value_name = "NAME", conflicts_with = "common_name_only")]
    common_name: Option<String>,
    /// Leaves the names out of the subject alternative name, so that only the common name has one.
    #[arg(long)]
    common_name_only: bool,
    /// Validity that has ended.
    #[arg(long, conflicts_with = "not_yet")]
    expired: bool,
    /// Validity that has not begun.
    #[arg(long)]
    not_yet: bool,
    /// Leaves the sub authority's certificate out of the chain.
    #[arg(long)]
    without_sub_authority: bool,
}

/// File name, common name and SAN of each certificate that `certs` issues; the example configuration uses
/// them.
const LEAVES: [(&str, &str, &[&str]); 5] = [
    ("server", "ssp.example.nhs.uk", &["ssp.example.nhs.uk", "localhost", "127.0.0.1"]),
    ("gateway", "gateway.ssp.example.nhs.uk", &["gateway.ssp.example.nhs.uk"]),
    ("consumer", "hub.example.nhs.uk", &["hub.example.nhs.uk"]),
    ("provider", "provider.example.nhs.uk", &["provider.example.nhs.uk"]),
    ("sds", "sds.example.nhs.uk", &["sds.example.nhs.uk"]),
];
/// Folder within that of a PKI, with what is needed to issue and to revoke.
const AUTHORITY: &str = "authority";
/// Days for which a revocation list is valid.
const LIST_DAYS: i64 = 30;

/// Writes a throwaway PKI into a folder, issues a certificate from one, or revokes a certificate.
///
/// # Errors
/// Returns an error if the folder or a file cannot be read or written, or a file already exists.
pub fn run(wanted: &CertsOptions) -> Result<(), Failure> {
    let done = match (&wanted.task, &wanted.folder) {
        (Some(CertsTask::Issue(task)), _) => issue(task),
        (Some(CertsTask::Revoke { folder, name }), _) => revoke_and_print(folder, name),
        (None, Some(folder)) => write_all(folder),
        (None, None) => Ok(()),
    };
    done.map_err(Failure::Environment)
}

fn write_all(folder: &Path) -> anyhow::Result<()> {
    let pki = write_authority(folder)?;
    for (file, name, names) in LEAVES {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let issued = pki.issue(&Leaf { names, ..Leaf::named(name) })?;
        write_issued(folder, file, &issued)?;
        print_issued(folder, file, name);
    }
    print("Valid for thirty days. For trying out only, never for real use.");
    Ok(())
}

/// Creates authorities and writes their files into a folder, with `crl.pem`, which revokes nothing.
pub(crate) fn write_authority(folder: &Path) -> anyhow::Result<Pki> {
    let authority = folder.join(AUTHORITY);
    std::fs::create_dir_all(&authority)
        .with_context(|| format!("cannot create the folder {}", authority.display()))?;
    let pki = Pki::new(jiff::Timestamp::now().as_second())?;
    let put = |name: &str, text: &str| write(&folder.join(name), text);
    put("ca.pem", &pki.authority())?;
    let kept = pki.keep();
    write(&authority.join("ca.key"), &kept.root_key)?;
    write(&authority.join("sub-ca.pem"), &kept.sub)?;
    write(&authority.join("sub-ca.key"), &kept.sub_key)?;
    put("crl.pem", &pki.revocation_lists(&[], LIST_DAYS)?)?;
    Ok(pki)
}

/// Writes a certificate, its key and its serial number.
pub(crate) fn write_issued(
    folder: &Path,
    file: &str,
    issued: &IssuedCertificate,
) -> anyhow::Result<()> {
    let put =
        |extension: &str, text: &str| write(&folder.join(format!("{file}.{extension}")), text);
    put("pem", &issued.chain)?;
    put("key", &issued.key)?;
    write(&serial(folder, file), &format!("{}\n", issued.serial))
}

/// Prints the files of a certificate with its common name.
fn print_issued(folder: &Path, file: &str, common_name: &str) {
    let shown = folder.join(format!("{file}.pem"));
    print(format_args!("{} and .key: {common_name}", shown.display()));
}

/// Returns the path of a certificate's serial number, by which it is revoked.
fn serial(folder: &Path, file: &str) -> PathBuf {
    folder.join(AUTHORITY).join(format!("{file}.serial"))
}

fn issue(task: &IssueTask) -> anyhow::Result<()> {
    let IssueTask { folder, name, names, common_name_only, .. } = task;
    let pki = kept(folder)?;
    let first = names.first().map(String::as_str).unwrap_or_default();
    let common_name = task.common_name.as_deref().unwrap_or(first);
    let days = match (task.expired, task.not_yet) {
        (true, _) => EXPIRED,
        (false, true) => NOT_YET_VALID,
        (false, false) => (-1, 30),
    };
    let names = if *common_name_only { Vec::new() } else { names.clone() };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    ensure!(
        !name.is_empty() && name.bytes().all(is_plain),
        "{name:?} is not a plain name for files: letters, digits, hyphens and underscores"
    );
    for dns_name in &names {
        let is_name = ServerName::try_from(dns_name.as_str()).is_ok();
        ensure!(is_name, "--for {dns_name:?} is neither a DNS name nor an IP address");
    }
    for extension in ["pem", "key"] {
        let file = folder.join(format!("{name}.{extension}"));
        ensure!(!file.exists(), "cannot create {}: it exists", file.display());
    }
    let issued = pki.issue(&Leaf { names, days, ..Leaf::named(common_name) })?;
    let issued = if task.without_sub_authority { issued.without_sub_authority() } else { issued };
    write_issued(folder, name, &issued)?;
    print_issued(folder, name, common_name);
    Ok(())
}

/// Validity that has ended, in days from now.
pub(crate) const EXPIRED: (i64, i64) = (-30, -1);
/// Validity that has not begun, in days from now.
pub(crate) const NOT_YET_VALID: (i64, i64) = (1, 30);

/// Revokes a certificate of a PKI that has been written: writes `crl.pem` anew.
pub(crate) fn revoke(folder: &Path, name: &str) -> anyhow::Result<()> {
    let mut pki = kept(folder)?;
    // Two commands at a time would lose a revocation. The lock ends with the file.
    let lock = folder.join(AUTHORITY).join("ca.key");
    let lock = File::open(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
    lock.lock().context("cannot lock the authority")?;
    let serial = read(&serial(folder, name))?;
    let list = folder.join(AUTHORITY).join("revoked");
    let before = if list.exists() { read(&list)? } else { String::new() };
    ensure!(!before.lines().any(|line| line == serial.trim()), "{name} is revoked already");
    let revoked = format!("{before}{}\n", serial.trim());
    let serials = revoked.lines().map(str::parse).collect::<Result<Vec<u64>, _>>();
    let serials = serials.with_context(|| format!("{} is damaged", list.display()))?;
    pki.crl_number = u64::try_from(serials.len())?.saturating_add(1);
    let lists = pki.revocation_lists(&serials, LIST_DAYS)?;
    // In this order, so that a command that has failed can be repeated.
    replace(&folder.join("crl.pem"), &lists)?;
    replace(&list, &revoked)
}

fn revoke_and_print(folder: &Path, name: &str) -> anyhow::Result<()> {
    revoke(folder, name)?;
    print(format_args!("{name} is revoked; {} has the new list", folder.join("crl.pem").display()));
    Ok(())
}

/// Returns the authorities of a PKI that `certs FOLDER` has written.
fn kept(folder: &Path) -> anyhow::Result<Pki> {
    let file = |name: &str| read(&folder.join(name));
    let kept_file = |name: &str| read(&folder.join(AUTHORITY).join(name));
    let kept = KeptPki {
        root: file("ca.pem")?,
        root_key: kept_file("ca.key")?,
        sub: kept_file("sub-ca.pem")?,
        sub_key: kept_file("sub-ca.key")?,
    };
    Ok(Pki::from_kept(kept, jiff::Timestamp::now().as_second())?)
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file that only its owner may read; an existing file is never overwritten.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let options = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = options.with_context(|| format!("cannot create {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// Replaces a file at once, so that no reader sees a part of it.
pub(crate) fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    if new.exists() {
        std::fs::remove_file(&new).with_context(|| format!("cannot remove {}", new.display()))?;
    }
    write(&new, text)?;
    std::fs::rename(&new, path).with_context(|| format!("cannot write {}", path.display()))
}
