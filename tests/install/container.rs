//! The container: what `compose.yaml` mounts and starts, and a request through all of it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use testkit::report_missing;
use testkit::repository::root;

use super::{
    config, copy_with, free_ports, memory_bound, python, run, said, stops_within_s, strings, yaml,
};

/// Returns the compose file, if there is something that reads YAML.
fn compose() -> Option<Value> {
    let file = root().join("deploy/container/compose.yaml");
    python().map(|python| yaml(&python, &file).remove(0))
}

/// Returns the sources of a service's mounted files, and where they are mounted.
fn mounts(service: &Value) -> Vec<(PathBuf, PathBuf)> {
    let all = strings(&service["volumes"]).into_iter().filter(|mount| mount.starts_with('.'));
    let pair = |mount: &str| {
        let (from, rest) = mount.split_once(':').unwrap();
        let to = rest.strip_suffix(":ro").unwrap_or_else(|| panic!("{mount} can be written"));
        (root().join("deploy/container").join(from), PathBuf::from(to))
    };
    all.map(pair).collect()
}

/// Returns the services that run this program.
fn own(compose: &Value) -> Vec<(&String, &Value)> {
    let all = compose["services"].as_object().unwrap().iter();
    all.filter(|(_, service)| service["image"] == "spine-proxy:lab").collect()
}

#[test]
fn the_compose_file_fits_the_schema_of_compose_files() {
    let Some(python) = python() else { return };
    let file = root().join("deploy/container/compose.yaml");
    let mut check = Command::new(python);
    check.args(["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]);
    let output = check.arg(file).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn each_file_that_the_compose_file_mounts_is_there() {
    let Some(compose) = compose() else { return };
    let mut count = 0;
    for (name, service) in compose["services"].as_object().unwrap() {
        for (from, _) in mounts(service) {
            assert!(from.exists(), "{name}: {}", from.display());
            count += 1;
        }
        for mount in strings(&service["volumes"]) {
            let (volume, _) = mount.split_once(':').unwrap();
            let volumes = compose["volumes"].as_object().unwrap();
            assert!(volume.starts_with('.') || volumes.contains_key(volume), "{name}: {volume}");
        }
    }
    assert!(count > 8, "{count}");
}

#[test]
fn the_program_accepts_the_commands_of_the_compose_file() {
    let Some(compose) = compose() else { return };
    let own = own(&compose);
    assert_eq!(own.len(), 4);
    for (name, service) in own {
        let mut command = strings(&service["command"]);
        if let Some(path) = command.iter().find(|argument| argument.ends_with(".toml")) {
            let is_mounted = mounts(service).iter().any(|(_, to)| to == Path::new(path));
            assert!(is_mounted, "{name}: {path}");
        }
        command.push("--help");
        run(&command);
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(strings(&service["cap_drop"]), ["ALL"], "{name}");
    }
}

#[test]
fn ports_networks_and_limits_of_the_compose_file_are_those_of_the_configuration() {
    let Some(compose) = compose() else { return };
    let gateway = &compose["services"]["gateway"];
    let config = config(&root().join("deploy/container/spine-proxy.toml"));
    let published = strings(&gateway["ports"]);
    let ports = [config.listener.addresses[0].port(), config.admin.address.port()];
    for port in ports {
        assert!(published.contains(&format!("127.0.0.1:{port}:{port}").as_str()), "{port}");
    }
    let subnet = &compose["networks"]["spine"]["ipam"]["config"][0]["subnet"];
    let networks: Vec<_> = config.provider.networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, [subnet.as_str().unwrap()]);
    let grace = gateway["stop_grace_period"].as_str().unwrap().strip_suffix('s').unwrap();
    assert!(grace.parse::<u64>().unwrap() >= stops_within_s(&config));
    let containerfile = include_str!("../../deploy/container/Containerfile");
    for port in ports {
        assert!(containerfile.contains("\nEXPOSE ") && containerfile.contains(&port.to_string()));
    }
    // The names by which the containers find each other are those of the certificates.
    for (service, name) in [("provider", "provider.example.nhs.uk"), ("sds", "sds.example.nhs.uk")]
    {
        let aliases = &compose["services"][service]["networks"]["spine"]["aliases"];
        assert_eq!(strings(aliases), [name]);
    }
}

/// A running process of the program, killed when this is dropped.
struct Running(Child);

impl Running {
    /// Starts the program; returns once a line of its output has the text.
    fn start(arguments: &[&str], until: &str) -> Self {
        let mut command = Command::new(testkit::program());
        let streams = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = Self(streams.spawn().unwrap());
        let (stdout, stderr) = (running.0.stdout.take().unwrap(), running.0.stderr.take().unwrap());
        let mut lines: Box<dyn BufRead + Send> = match arguments {
            ["simulate", ..] => Box::new(BufReader::new(stdout)),
            _ => Box::new(BufReader::new(stderr)),
        };
        let (mut text, mut line) = (String::new(), String::new());
        while !line.contains(until) {
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "{arguments:?}: {text}");
            text.push_str(&line);
        }
        // Its pipe stays open while it runs.
        std::thread::spawn(move || lines.lines().for_each(drop));
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts each service of this program with the files that the compose file gives it, on loopback instead of a network
/// of containers: the provider, the directory and the gateway, in this order.
fn started(folder: &Path, [consumers, admin, provider, sds]: &[String; 4]) -> [Running; 3] {
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let moved = |name: &str, replaced: &[(&str, &str)]| {
        copy_with(&root().join("deploy/container").join(name), &folder.join(name), replaced);
        at(name)
    };
    let local = |port: &str| format!("127.0.0.1:{port}");
    run(&["certs", &at("tls")]);
    moved("directory.toml", &[]);
    moved("sds-api-key.txt", &[]);
    let simulator = moved("simulator.toml", &[("0.0.0.0:9443", &local(provider))]);
    // Nobody resolves the network's names here: the directory is `localhost`, with a certificate for that name.
    let directory = [
        ("0.0.0.0:9444", local(sds)),
        (":9443/", format!(":{provider}/")),
        ("tls/sds", "tls/server".to_owned()),
    ];
    let directory = moved("sds.toml", &directory.each_ref().map(|(old, new)| (*old, new.as_str())));
    let hosts = format!("hosts = {{ \"provider.example.nhs.uk\" = \"127.0.0.1:{provider}\" }}");
    let gateway = [
        ("0.0.0.0:8443", local(consumers)),
        ("0.0.0.0:9090", local(admin)),
        ("\"172.30.91.0/24\"]", format!("\"127.0.0.0/8\"]\n{hosts}")),
        ("sds.example.nhs.uk:9444", format!("localhost:{sds}")),
        ("/var/lib/spine-proxy", at("")),
    ];
    let gateway =
        moved("spine-proxy.toml", &gateway.each_ref().map(|(old, new)| (*old, new.as_str())));
    assert!(memory_bound(&run(&["check", "--config", &gateway])) <= 4.0 * f64::from(1 << 30));
    [
        Running::start(&["simulate", "provider", "--config", &simulator], "A20047"),
        Running::start(&["simulate", "sds", "--config", &directory], "SDS FHIR API"),
        Running::start(&["serve", "--config", &gateway], "admin port listening"),
    ]
}

#[test]
fn a_request_passes_through_the_services_of_the_compose_file() {
    if Command::new("curl").arg("--version").output().is_err() {
        return report_missing("curl");
    }
    let folder = tempfile::tempdir().unwrap();
    let ports = free_ports();
    let _services = started(folder.path(), &ports);
    let [consumers, _, provider, _] = &ports;
    let service_root =
        format!("https://provider.example.nhs.uk:{provider}/A20047/STU3/1/gpconnect");
    let interaction = "urn:nhs:names:services:gpconnect:fhir:rest:read:metadata-1";
    let token = ["token", "--ods", "A00001", "--interaction", interaction, "--audience"];
    let token = run(&[&token[..], &[&service_root]].concat());
    let tls = |name: &str| folder.path().join("tls").join(name);
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--include", "--cacert"]).arg(tls("ca.pem"));
    curl.arg("--cert").arg(tls("consumer.pem")).arg("--key").arg(tls("consumer.key"));
    for header in [
        "Ssp-TraceID: 09a01679-2564-0fb4-5129-aecc81ea2706",
        "Ssp-From: 200000000359",
        "Ssp-To: 918999198993",
        &format!("Ssp-InteractionID: {interaction}"),
        &format!("Authorization: Bearer {}", token.trim()),
    ] {
        curl.args(["-H", header]);
    }
    let url = format!("https://localhost:{consumers}/{service_root}/metadata");
    let answer = said(&curl.arg(url).output().unwrap());
    assert!(answer.starts_with("HTTP/2 200"), "{answer}");
    assert!(answer.contains("CapabilityStatement"), "{answer}");
}
