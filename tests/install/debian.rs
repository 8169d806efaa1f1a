//! The Debian package: its files fit each other, and the commands of the page lead to a refused request.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use testkit::report_missing;
use testkit::repository::root;

use super::{PAGE, config, free_ports, memory_bound, run, said, stops_within_s};

/// Folders of the system that files of the package name, as the package has them.
const FOLDERS: [&str; 5] = [
    "/etc/spine-proxy",
    "/usr/bin/spine-proxy",
    "/usr/lib/spine-proxy",
    "/usr/share/doc/spine-proxy",
    "/var/lib/spine-proxy",
];

/// The files of the package below a folder, which stands for the root of a system: texts name it instead.
struct Laid {
    folder: TempDir,
    ports: [String; 2],
}

/// Returns the paths that the last component of a pattern stands for.
fn expanded(pattern: &str) -> Vec<PathBuf> {
    let path = root().join(pattern);
    let (folder, name) = (path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap());
    let Some((begin, end)) = name.split_once('*') else { return vec![path.clone()] };
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let fits = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        path.is_file() && name.starts_with(begin) && name.ends_with(end)
    };
    let found: Vec<_> = entries.filter(fits).collect();
    assert!(!found.is_empty(), "{pattern}");
    found
}

/// Returns the source and the place of each file of the package, but for what is generated.
fn assets() -> Vec<(PathBuf, String)> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Value = toml::from_str(&manifest).unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    let mut all = Vec::new();
    for asset in deb["assets"].as_array().unwrap() {
        let text = |at: usize| asset[at].as_str().unwrap();
        if text(0).starts_with("target/") {
            continue;
        }
        for source in expanded(text(0)) {
            let name = source.file_name().unwrap().to_str().unwrap();
            all.push((source.clone(), format!("/{}{name}", text(1))));
        }
    }
    // cargo-deb adds the units of this name.
    let units = &deb["systemd-units"][0];
    assert_eq!(units["unit-name"].as_str(), Some("spine-proxy"));
    for end in ["service", "socket"] {
        let name = format!("spine-proxy.{end}");
        let source = root().join(units["unit-scripts"].as_str().unwrap()).join(&name);
        all.push((source, format!("/usr/lib/systemd/system/{name}")));
    }
    all
}

impl Laid {
    fn new() -> Self {
        let laid = Self { folder: tempfile::tempdir().unwrap(), ports: free_ports() };
        for (source, place) in assets() {
            let place = laid.at(&place);
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::copy(&source, &place).unwrap();
            if !place.starts_with(laid.at("/usr/share")) {
                let text = std::fs::read_to_string(&place).unwrap();
                std::fs::write(&place, laid.moved(&text)).unwrap();
            }
        }
        std::fs::create_dir_all(laid.at("/usr/bin")).unwrap();
        symlink(testkit::program(), laid.at("/usr/bin/spine-proxy")).unwrap();
        for (name, from) in
            [("systemctl", root().join(".ci/systemctl")), ("apt-get", "/bin/true".into())]
        {
            symlink(from, laid.at("/usr/bin").join(name)).unwrap();
        }
        // As the script of the package does.
        std::fs::create_dir_all(laid.at("/var/lib/spine-proxy")).unwrap();
        laid
    }

    /// Returns where a path of the system is.
    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path.trim_start_matches('/'))
    }

    /// Returns a text with the paths and ports that it names moved here.
    fn moved(&self, text: &str) -> String {
        let mut text = text.replace("8443", &self.ports[0]).replace("9090", &self.ports[1]);
        for folder in FOLDERS {
            text = text.replace(folder, self.at(folder).to_str().unwrap());
        }
        text
    }

    /// Returns a command that finds the programs of the package before others.
    fn command(&self, program: &str) -> Command {
        let path = std::env::var_os("PATH").unwrap();
        let path = std::env::split_paths(&path);
        let path = std::env::join_paths([self.at("/usr/bin")].into_iter().chain(path)).unwrap();
        let mut command = Command::new(program);
        command.current_dir(self.folder.path()).env("PATH", path);
        command.env("UNITS", self.at("/usr/lib/systemd/system")).env("STATE", self.folder.path());
        command
    }
}

impl Drop for Laid {
    fn drop(&mut self) {
        if let Ok(pid) = std::fs::read_to_string(self.at("spine-proxy.pid")) {
            drop(Command::new("kill").args(["-KILL", pid.trim()]).output());
        }
    }
}

/// Returns the values of a setting in a unit.
fn settings(unit: &str, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("deploy").join(unit)).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).collect()
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("version").output().is_ok();
    if !found {
        report_missing(program);
    }
    found
}

/// The page's commands as root, but for what needs root: the package is laid out elsewhere, and nothing is installed.
#[test]
fn the_commands_of_the_page_lead_from_an_empty_folder_to_a_refused_request() {
    if !is_installed("openssl") || !is_installed("curl") {
        return;
    }
    let (_, block) = PAGE.split_once("<!-- debian -->\n```sh\n").unwrap();
    let block = block.split("```").next().unwrap();
    assert!(block.lines().count() < 30);
    let laid = Laid::new();
    let mut shell = laid.command("bash");
    let output = shell.args(["-eu", "-c", &laid.moved(block)]).output().unwrap();
    let log = std::fs::read_to_string(laid.at("spine-proxy.log")).unwrap_or_default();
    assert!(output.status.success(), "{}{log}", said(&output));
    let printed = said(&output);
    for part in ["[+]accepting", "details=\"certificate_unknown\"", "\"OperationOutcome\""] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    assert!(laid.at("/var/lib/spine-proxy/audit").exists());
}

#[test]
fn the_packages_configuration_fits_its_units() {
    let config = config(&root().join("deploy/debian/spine-proxy.toml"));
    let mut addresses = config.listener.addresses.clone();
    addresses.push(config.admin.address);
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    assert_eq!(settings("spine-proxy.socket", "ListenStream"), addresses);
    let journal = config.audit.journal.clone();
    assert_eq!(settings("spine-proxy.service", "StateDirectory"), ["spine-proxy"]);
    assert!(journal.starts_with("/var/lib/spine-proxy"), "{}", journal.display());
    let stop: u64 = settings("spine-proxy.service", "TimeoutStopSec")[0].parse().unwrap();
    assert!(stop >= stops_within_s(&config), "{stop}");
    assert_eq!(settings("spine-proxy.service", "LimitCORE"), ["0"]);
    // A credential is read at a start only, and a key that belongs to a dynamic user cannot be renewed by another.
    assert_eq!(settings("spine-proxy.service", "LoadCredential"), Vec::<String>::new());
    assert_eq!(settings("spine-proxy.service", "DynamicUser"), Vec::<String>::new());
    for key in ["ExecStartPre", "ExecStart"] {
        let line = &settings("spine-proxy.service", key)[0];
        let (_, path) = line.split_once("--config ").unwrap();
        let is_there = assets().iter().any(|(_, place)| place == path);
        assert!(is_there, "{key}: {path} is not in the package");
    }
}

#[test]
fn the_units_limit_of_memory_holds_the_default_configuration_with_eight_workers() {
    let laid = Laid::new();
    let pki = laid
        .command("sh")
        .arg(laid.at("/usr/lib/spine-proxy/throwaway-pki"))
        .arg(laid.at("/etc/spine-proxy/tls"))
        .stdout(Stdio::null())
        .status();
    if !is_installed("openssl") {
        return;
    }
    assert!(pki.unwrap().success());
    let path = laid.at("/etc/spine-proxy/spine-proxy.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("[listener]\n", "[listener]\nworkers = 8\n")).unwrap();
    let bound = memory_bound(&run(&["check", "--config", path.to_str().unwrap()]));
    let limit = settings("spine-proxy.service", "MemoryMax");
    let limit: f64 = limit[0].strip_suffix('G').unwrap().parse().unwrap();
    assert!(bound <= limit * f64::from(1 << 30), "{bound}");
}

/// Paths in units, in the configuration and on the page lead to files of the package.
#[test]
fn each_file_that_the_package_names_is_in_it() {
    let places: Vec<_> = assets().into_iter().map(|(_, place)| place).collect();
    let folders = ["/usr/lib/spine-proxy/", "/usr/share/doc/spine-proxy/"];
    let mut named = 0;
    for (source, _) in assets() {
        let text = std::fs::read_to_string(&source).unwrap();
        for folder in folders {
            for (at, _) in text.match_indices(folder) {
                let is_end = |c: char| c.is_whitespace() || "`'\"),;:*".contains(c);
                let path = text[at..].split(is_end).next().unwrap().trim_end_matches(['.', '/']);
                let below = format!("{path}/");
                let is_there = places.iter().any(|one| one == path || one.starts_with(&below));
                assert!(is_there, "{}: {path}", source.display());
                named += 1;
            }
        }
    }
    assert!(named > 8, "{named}");
}

#[test]
fn systemd_finds_the_sandboxes_of_the_units_tight() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return report_missing("systemd-analyze");
    }
    let journal = std::fs::read_dir(root().join("deploy/journal")).unwrap();
    let units = journal.map(|entry| entry.unwrap().path());
    let units = units.filter(|path| path.extension().is_some_and(|end| end == "service"));
    for unit in units.chain([root().join("deploy/spine-proxy.service")]) {
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["security", "--offline=true", "--threshold=20", "--no-pager"]);
        let output = analyze.arg(&unit).output().unwrap();
        assert!(output.status.success(), "{}: {}", unit.display(), said(&output));
    }
}

/// Names of the program's commands, from its help.
fn commands() -> Vec<String> {
    let help = run(&["--help"]);
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let list = list.split("\n\n").next().unwrap();
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.map(|line| line.split_whitespace().next().unwrap().to_owned());
    names.filter(|name| name != "help").collect()
}

#[test]
fn man_pages_and_completions_have_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man");
    run(&["man", "--out", pages.to_str().unwrap()]);
    let commands = commands();
    assert!(commands.iter().any(|name| name == "serve") && commands.len() > 6, "{commands:?}");
    let scripts = ["bash", "fish", "zsh"].map(|shell| run(&["completions", shell]));
    for name in &commands {
        let page = std::fs::read_to_string(pages.join(format!("spine-proxy-{name}.1"))).unwrap();
        assert!(page.contains(&format!("spine\\-proxy\\-{name}")), "{page}");
        assert!(scripts.iter().all(|script| script.contains(name)), "{name}");
    }
    let verify = pages.join("spine-proxy-audit-verify.1");
    assert!(std::fs::read_to_string(verify).unwrap().contains("key"));
    assert!(pages.join("spine-proxy.1").exists());
}

#[test]
fn completions_for_a_reader_that_has_gone_end_without_a_fault() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(testkit::program());
    let output = command.args(["completions", "bash"]).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(said(&output), "");
}

/// `certs` and the script of the package make the same files, as `deploy/spine-proxy.toml` and others name them.
#[test]
fn the_script_makes_the_files_of_the_command_certs() {
    if !is_installed("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.collect();
        // What each keeps to issue more certificates.
        names.retain(|name| name != "ca.key" && name != "authority");
        names.sort();
        names
    };
    let (made, scripted) = (folder.path().join("certs"), folder.path().join("script"));
    run(&["certs", made.to_str().unwrap()]);
    let script = Command::new(root().join("deploy/throwaway-pki")).arg(&scripted).output().unwrap();
    assert!(script.status.success(), "{}", said(&script));
    assert_eq!(names(&made), names(&scripted));
}
