//! The documented examples in `deploy/` work as they stand.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use spine_proxy::server::Prepared;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_spine-proxy");

/// A copy of `deploy/` with a throwaway PKI beside it, as the repository has them.
struct Site {
    folder: TempDir,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (status, said) = output(&["certs"], &folder.path().join("certs"));
        assert!(status.success(), "{said}");
        let (from, to) = (Path::new(env!("CARGO_MANIFEST_DIR")), folder.path());
        std::fs::create_dir(to.join("deploy")).unwrap();
        for file in ["deploy/spine-proxy.toml", "deploy/directory.toml"] {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
        Self { folder }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("deploy/spine-proxy.toml")
    }

    /// Changes only the two ports, to free ones.
    fn on_free_ports(self) -> Self {
        let text = std::fs::read_to_string(self.config()).unwrap();
        let free = text.replacen("127.0.0.1:8443", "127.0.0.1:0", 1);
        let free = free.replacen("127.0.0.1:9090", "127.0.0.1:0", 1);
        assert_eq!(free.matches("\"127.0.0.1:0\"").count(), 2, "the example has other ports");
        std::fs::write(self.config(), free).unwrap();
        self
    }
}

/// Runs the program with these arguments and a path. Returns its exit status and output.
fn output(arguments: &[&str], path: &Path) -> (ExitStatus, String) {
    let output = Command::new(PROGRAM).args(arguments).arg(path).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status, String::from_utf8(said).unwrap())
}

#[test]
fn the_example_configuration_loads_with_everything_it_names() {
    let site = Site::new();
    let prepared = Prepared::load(&site.config(), 1).unwrap();
    assert_eq!(prepared.directory.providers().count(), 4);
    assert!(!prepared.config.lab, "an example must not be a laboratory");
    assert!(prepared.config.compatibility.is_empty(), "an example must not be lenient");
}

#[test]
fn the_example_configuration_passes_its_check() {
    let site = Site::new();
    // As in a checkout under umask 002.
    for (path, mode) in [("", 0o775), ("spine-proxy.toml", 0o664), ("directory.toml", 0o664)] {
        let path = site.folder.path().join("deploy").join(path);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let (status, said) = output(&["check", "--config"], &site.config());
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(!said.contains("others may"), "{said}");
    assert!(said.contains("listening on    127.0.0.1:8443"), "{said}");
}

#[test]
fn a_mistake_in_the_example_configuration_is_named_and_ends_with_78() {
    let site = Site::new();
    let text = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), text.replace("[listener]\n", "[listener]\nworker = 4\n"))
        .unwrap();
    let (status, said) = output(&["check", "--config"], &site.config());
    assert_eq!(status.code(), Some(78), "{said}");
    assert!(said.contains("unknown field `worker`"), "{said}");
}

#[test]
fn commented_keys_of_the_example_show_the_defaults() {
    let text = include_str!("../deploy/spine-proxy.toml");
    let shown =
        |line: &&str| line.starts_with('#') && line.contains(" = ") && !line.starts_with("# ");
    // A key that is shown commented may be uncommented: it is known, and its value legal.
    let uncommented: String = text
        .lines()
        .map(|line| if shown(&line) { &line[1..] } else { line })
        .flat_map(|line| [line, "\n"])
        .collect();
    let parse = |text: &str| {
        let mut config = spine_proxy::config::Config::parse(text, "deploy.toml".as_ref()).unwrap();
        config.sha256.clear();
        config
    };
    let (commented, uncommented) = (parse(text), parse(&uncommented));
    assert_eq!(format!("{uncommented:?}"), format!("{commented:?}"));
}

/// The number of a size or a period, and its unit.
fn number_and_unit(value: &str) -> Option<(&str, &str)> {
    let text = value.strip_prefix('"')?.strip_suffix('"')?;
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    number.parse::<u64>().ok().map(|_| (number, unit.trim_start()))
}

#[test]
fn every_size_and_period_in_the_example_needs_its_unit() {
    let text = include_str!("../deploy/spine-proxy.toml");
    let mut keys = Vec::new();
    for (at, line) in text.lines().enumerate() {
        // A table that is an example itself holds periods too, but is not in force.
        let shown = line.strip_prefix("# memory-max").map(|value| ("memory-max", value));
        let shown = shown.or_else(|| line.strip_prefix('#')?.split_once(' '));
        let Some((key, value)) = shown.filter(|(key, _)| !key.is_empty()) else { continue };
        let Some((number, unit)) = number_and_unit(value.trim_start_matches([' ', '='])) else {
            continue;
        };
        keys.push(key);
        let right = match unit {
            "B" | "KiB" | "MiB" | "GiB" => format!("write \"{number} B\" or \"{number} KiB\""),
            _ => format!("write \"{number}s\""),
        };
        for wrong in [number.to_owned(), format!("\"{number}\"")] {
            let mut lines: Vec<_> = text.lines().collect();
            let bare = format!("{key} = {wrong}");
            lines[at] = &bare;
            let refused = spine_proxy::config::Config::parse(&lines.join("\n"), "x.toml".as_ref());
            let refused = refused.expect_err(&bare).to_string();
            let words = format!("{wrong} has no unit; {right}");
            assert!(refused.contains(&words), "{words} is not in {refused}");
            assert!(refused.contains(&format!("at line {},", at + 1)), "{refused}");
        }
    }
    for key in ["head-max", "target-max", "segment-size", "disk-reserve", "memory-max", "idle"] {
        assert!(keys.contains(&key), "{key} is not in {keys:?}");
    }
    assert!(keys.len() > 30, "{keys:?}");
}

#[test]
fn the_example_configuration_is_served_until_told_to_stop() {
    let site = Site::new().on_free_ports();
    let mut serving = Command::new(PROGRAM)
        .args(["serve", "--config"])
        .arg(site.config())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(serving.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut log = String::new();
    let listening = lines.by_ref().any(|line| {
        log.push_str(&line);
        line.contains("\"admin port listening\"")
    });
    assert!(listening, "{log}");
    let told = Command::new("kill").arg(serving.id().to_string()).status().unwrap();
    assert!(told.success());
    log.extend(lines);
    assert_eq!(serving.wait().unwrap().code(), Some(0), "{log}");
    assert!(log.contains("\"the proxy has stopped\""), "{log}");
    assert!(site.folder.path().join("deploy/audit").exists());
}

#[test]
fn the_units_sockets_are_the_configurations_addresses() {
    let site = Site::new();
    let config = Prepared::load(&site.config(), 1).unwrap().config;
    let unit = include_str!("../deploy/spine-proxy.socket");
    let sockets = unit.lines().filter_map(|line| line.strip_prefix("ListenStream="));
    let sockets: Vec<std::net::SocketAddr> = sockets.map(|text| text.parse().unwrap()).collect();
    let mut meant = config.listener.addresses.clone();
    meant.push(config.admin.address);
    assert_eq!(sockets, meant);
    let service = include_str!("../deploy/spine-proxy.service");
    let patience = service.lines().find_map(|line| line.strip_prefix("TimeoutStopSec="));
    let drain = config.listener.limits.drain.as_secs();
    assert!(patience.unwrap().parse::<u64>().unwrap() > drain, "killed before it has drained");
}
