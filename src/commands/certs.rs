//! `certs`: writes a throwaway PKI for the demonstration, tests and development. It is never for real use:
//! its private keys lie unprotected beside the certificates.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use gpconnect_simulator::pki::{Leaf, Pki};

use super::print;
use crate::failure::Failure;

/// File name, common name and SAN of each certificate that `certs` issues; the example configuration uses
/// them.
const LEAVES: [(&str, &str, &[&str]); 5] = [
    ("server", "ssp.example.nhs.uk", &["ssp.example.nhs.uk", "localhost", "127.0.0.1"]),
    ("gateway", "gateway.ssp.example.nhs.uk", &["gateway.ssp.example.nhs.uk"]),
    ("consumer", "hub.example.nhs.uk", &["hub.example.nhs.uk"]),
    ("provider", "provider.example.nhs.uk", &["provider.example.nhs.uk"]),
    ("sds", "sds.example.nhs.uk", &["sds.example.nhs.uk"]),
];

/// Writes a throwaway PKI into a folder, which is created if it does not exist.
///
/// # Errors
/// Returns an error if the folder or a file cannot be written, or a file already exists.
pub fn run(folder: &Path) -> Result<(), Failure> {
    write_all(folder).map_err(Failure::Environment)
}

fn write_all(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create the folder {}", folder.display()))?;
    let pki = Pki::new(jiff::Timestamp::now().as_second())?;
    let put = |name: &str, text: &str| write(&folder.join(name), text);
    put("ca.pem", &pki.authority())?;
    put("crl.pem", &pki.revocation_lists(&[], 30)?)?;
    for (file, name, names) in LEAVES {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let issued = pki.issue(&Leaf { names, ..Leaf::named(name) })?;
        put(&format!("{file}.pem"), &issued.chain)?;
        put(&format!("{file}.key"), &issued.key)?;
        print(format_args!("{} and .key: {name}", folder.join(format!("{file}.pem")).display()));
    }
    print("Valid for thirty days. For trying out only, never for real use.");
    Ok(())
}

/// Writes a file that only its owner may read; an existing file is never overwritten.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let options = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = options.with_context(|| format!("cannot create {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
