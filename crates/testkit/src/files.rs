//! Files of a test bed, which a test can change before the gateway starts.

use std::collections::HashMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Files by name, not yet written.
#[derive(Default)]
pub struct Files(HashMap<String, String>);

impl Files {
    pub fn put(&mut self, name: &str, text: &str) {
        self.0.insert(name.to_owned(), text.to_owned());
    }

    pub fn copy(&mut self, from: &str, to: &str) {
        let text = self.0[from].clone();
        self.put(to, &text);
    }

    /// Appends to the configuration.
    pub fn add(&mut self, text: &str) {
        self.edit("spine-proxy.toml", |before| format!("{before}\n{text}"));
    }

    /// Puts a line at the beginning of the configuration.
    pub fn prepend(&mut self, text: &str) {
        self.edit("spine-proxy.toml", |before| format!("{text}\n{before}"));
    }

    /// Puts a line into a section of the configuration.
    pub fn set(&mut self, section: &str, line: &str) {
        let section = format!("[{section}]\n");
        self.edit("spine-proxy.toml", |text| {
            assert!(text.contains(&section));
            text.replace(&section, &format!("{section}{line}\n"))
        });
    }

    pub fn edit(&mut self, name: &str, change: impl FnOnce(String) -> String) {
        let text = self.0.remove(name).unwrap();
        self.0.insert(name.to_owned(), change(text));
    }

    /// Raises the limits that a test would run into only because all its requests come from one address and
    /// many tests share the machine. A limit that the test sets itself stays.
    pub fn relax_limits(&mut self) {
        self.set_if_absent("listener.limits", "address-handshakes-per-second", "100000");
        self.set_if_absent("throttle", "delay-max", "\"10m\"");
        self.set_if_absent("audit", "wait", "\"1m\"");
        self.set_if_absent("audit", "disk-reserve", "\"0 B\"");
        self.set_if_absent("audit", "unverified-per-second", "100000");
    }

    fn set_if_absent(&mut self, section: &str, key: &str, value: &str) {
        let text = &self.0["spine-proxy.toml"];
        let mut sections = text.split("\n[");
        let own =
            sections.find(|own| own.trim_start_matches('[').starts_with(&format!("{section}]")));
        if own.is_some_and(|own| own.contains(&format!("\n{key} ="))) {
            return;
        }
        if !text.contains(&format!("[{section}]\n")) {
            self.add(&format!("[{section}]\n"));
        }
        self.set(section, &format!("{key} = {value}"));
    }

    pub fn write(&self, folder: &Path) {
        for (name, text) in &self.0 {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            if name.ends_with(".key") {
                std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            }
        }
    }
}
