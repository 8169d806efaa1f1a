//! Keys and lines of the configuration that name a file, to locate a file's fault.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Config;

/// Configuration file and the places in it that name files.
#[derive(Debug, Clone, Default)]
pub(super) struct ConfigPaths {
    config: PathBuf,
    places: Vec<ConfigPath>,
}

/// Key that names a file, and its line, counted from 1.
#[derive(Debug, Clone)]
struct ConfigPath {
    file: PathBuf,
    key: String,
    line: usize,
}

impl ConfigPaths {
    /// Finds the places in `text`, the contents of the file `config`, that name one of `files`.
    pub(super) fn new(text: &str, config: &Path, files: &[PathBuf]) -> Self {
        let mut strings = Vec::new();
        if let Ok(table) = DeTable::parse(text) {
            collect(table.get_ref(), "", &mut strings);
        }
        let ends: Vec<_> = text.match_indices('\n').map(|(at, _)| at).collect();
        let folder = config.parent().unwrap_or_else(|| Path::new(""));
        let places = strings.into_iter().map(|(key, value, start)| ConfigPath {
            file: folder.join(value),
            key,
            line: ends.partition_point(|end| *end < start) + 1,
        });
        let mut places: Vec<_> = places.filter(|place| files.contains(&place.file)).collect();
        places.sort_by_key(|place| place.line);
        Self { config: config.to_owned(), places }
    }

    /// Returns the places that name a file, or else its folder.
    fn naming(&self, file: &Path) -> Vec<&ConfigPath> {
        let naming = |path: &Path| -> Vec<_> {
            self.places.iter().filter(|place| place.file == path).collect()
        };
        let places = naming(file);
        match (places.is_empty(), file.parent()) {
            (true, Some(folder)) => naming(folder),
            (true, None) | (false, _) => places,
        }
    }

    /// Returns the text of a fault of `file`, preceded by the places that name the file or its folder.
    fn locate(&self, file: &Path, fault: &dyn Display) -> String {
        let places = self.naming(file);
        let Some((ConfigPath { key, line, .. }, others)) = places.split_first() else {
            return fault.to_string();
        };
        let mut text = format!("{}:{line}: {key}", self.config.display());
        for ConfigPath { key, line, .. } in others {
            text.push_str(&format!(", line {line}: {key}"));
        }
        format!("{text}: {fault}")
    }
}

impl Config {
    /// Returns the path of the file that the configuration was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.places.config
    }

    /// Returns the text of a fault; for a fault of a file, preceded by the keys and lines that name the file.
    #[must_use]
    pub fn locate(&self, file: Option<&Path>, fault: &dyn Display) -> String {
        file.map_or_else(|| fault.to_string(), |file| self.places.locate(file, fault))
    }

    /// Returns a fault with its text as [`Config::locate`] writes it, and the keys that name the file.
    #[must_use]
    pub fn located(&self, file: Option<&Path>, fault: &dyn Display) -> LocatedFault {
        let places = file.map(|file| self.places.naming(file)).unwrap_or_default();
        LocatedFault {
            text: self.locate(file, fault),
            file: file.map(Path::to_owned),
            line: places.first().map(|place| place.line),
            keys: places.into_iter().map(|place| place.key.clone()).collect(),
        }
    }
}

/// Fault of a file that the configuration names, or of a setting, with the keys that name the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct LocatedFault {
    text: String,
    /// File at fault, if it is one.
    pub file: Option<PathBuf>,
    /// Keys of the configuration that name the file or its folder.
    pub keys: Vec<String>,
    /// Line of the configuration with the first of these keys, counted from 1.
    pub line: Option<usize>,
}

/// Key, value and byte offset of a string in the configuration.
type PathText = (String, String, usize);

fn collect(table: &DeTable<'_>, prefix: &str, strings: &mut Vec<PathText>) {
    for (key, value) in table {
        collect_value(value, &format!("{prefix}{}", key.get_ref()), strings);
    }
}

fn collect_value(value: &Spanned<DeValue<'_>>, key: &str, strings: &mut Vec<PathText>) {
    match value.get_ref() {
        DeValue::String(text) => {
            strings.push((key.to_owned(), text.to_string(), value.span().start));
        }
        DeValue::Array(items) => {
            items.iter().for_each(|item| collect_value(item, key, strings));
        }
        DeValue::Table(table) => collect(table, &format!("{key}."), strings),
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
[tls]
certificates = [
    { chain = \"a.pem\", key = \"a.key\" },
]
authorities = [\"ca.pem\", \"/other/ca.pem\"]
crl = [\"lists\"]
reject = \"http\"
[provider-tls]
authorities = [\"ca.pem\"]
";

    #[test]
    fn a_fault_of_a_file_names_every_key_and_line_that_names_it() {
        let files = ["a.pem", "a.key", "ca.pem", "lists"].map(|name| Path::new("/etc").join(name));
        let files = [files.to_vec(), vec!["/other/ca.pem".into()]].concat();
        let places = ConfigPaths::new(TEXT, "/etc/proxy.toml".as_ref(), &files);
        for (file, text) in [
            ("/etc/a.pem", "/etc/proxy.toml:3: tls.certificates.chain: bad"),
            ("/etc/a.key", "/etc/proxy.toml:3: tls.certificates.key: bad"),
            (
                "/etc/ca.pem",
                "/etc/proxy.toml:5: tls.authorities, line 9: provider-tls.authorities: bad",
            ),
            ("/other/ca.pem", "/etc/proxy.toml:5: tls.authorities: bad"),
            ("/etc/lists", "/etc/proxy.toml:6: tls.crl: bad"),
            ("/etc/lists/1.crl", "/etc/proxy.toml:6: tls.crl: bad"),
            ("/etc/http", "bad"),
            ("tls", "bad"),
        ] {
            assert_eq!(places.locate(file.as_ref(), &"bad"), text);
        }
    }
}
