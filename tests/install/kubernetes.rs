//! The kustomize base: manifests fit their schemas, and agree with the configuration that they mount.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testkit::report_missing;
use testkit::repository::root;

use super::{
    PAGE, config, copy_with, memory_bound, python, run, said, stops_within_s, strings, yaml,
};

const TLS: &str = "/run/spine-proxy/tls";

/// Returns the manifests of the base as its files have them, without the kustomization itself.
fn manifests(python: &Path) -> Vec<Value> {
    let folder = root().join("deploy/kubernetes");
    let kustomization = yaml(python, &folder.join("kustomization.yaml"));
    let files = strings(&kustomization[0]["resources"]);
    assert_eq!(files.len(), 6);
    files.iter().flat_map(|file| yaml(python, &folder.join(file))).collect()
}

fn of_kind<'a>(manifests: &'a [Value], kind: &str) -> &'a Value {
    manifests.iter().find(|manifest| manifest["kind"] == kind).unwrap_or_else(|| panic!("{kind}"))
}

/// Puts the configuration of the base into a folder, with the files of its Secret as a kubelet mounts them: links to
/// links, which one rename replaces all at once.
fn mounted(folder: &Path) -> String {
    let (secret, data) = (folder.join("tls"), folder.join("tls/..2026_11_28"));
    run(&["certs", data.to_str().unwrap()]);
    symlink("..2026_11_28", secret.join("..data")).unwrap();
    for entry in std::fs::read_dir(&data).unwrap() {
        let entry = entry.unwrap();
        std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(0o440)).unwrap();
        let name = entry.file_name();
        symlink(Path::new("..data").join(&name), secret.join(&name)).unwrap();
    }
    let base = root().join("deploy/kubernetes");
    let moved =
        [(TLS, secret.to_str().unwrap()), ("/var/lib/spine-proxy", folder.to_str().unwrap())];
    let path = folder.join("spine-proxy.toml");
    copy_with(&base.join("spine-proxy.toml"), &path, &moved);
    std::fs::copy(base.join("directory.toml"), folder.join("directory.toml")).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_configuration_of_the_config_map_passes_its_check_with_a_mounted_secret() {
    let folder = tempfile::tempdir().unwrap();
    let checked = run(&["check", "--config", &mounted(folder.path())]);
    let warnings: Vec<_> = checked.lines().filter(|line| line.starts_with("warning")).collect();
    // The page says that this one is expected.
    let is_of_admin_port = |line: &&str| line.contains("admin") && line.contains("0.0.0.0:9090");
    assert!(warnings.len() == 1 && warnings.iter().all(is_of_admin_port), "{warnings:#?}");
}

#[test]
fn the_manifests_fit_the_schemas_of_kubernetes() {
    let Some(python) = python() else { return };
    if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
        return report_missing("kubectl");
    }
    let base = root().join("deploy/kubernetes");
    let built = Command::new("kubectl").arg("kustomize").arg(base).output().unwrap();
    assert!(built.status.success(), "{}", said(&built));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &built.stdout).unwrap();
    let mut validate = Command::new(&python);
    validate.args(["-m", "kubernetes_validate", "--strict", "-k", "1.32.0"]).arg(file.path());
    let output = validate.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let (all, printed) = (yaml(&python, file.path()), said(&output));
    // The ConfigMap is generated; a ServiceMonitor is not of Kubernetes itself, and has no schema here.
    assert_eq!(all.len(), manifests(&python).len() + 1);
    assert_eq!(printed.matches(" passed for resource ").count(), all.len() - 1, "{printed}");
    let map = of_kind(&all, "ConfigMap");
    assert_eq!(map["metadata"]["name"], "spine-proxy");
    assert!(map["data"]["spine-proxy.toml"].as_str().unwrap().contains("[listener]"));
    assert!(all.iter().all(|manifest| manifest["metadata"]["namespace"].is_null()));
}

#[test]
fn a_pod_is_stopped_later_than_the_configuration_takes_to_drain() {
    let Some(python) = python() else { return };
    let manifests = manifests(&python);
    let pod = &of_kind(&manifests, "StatefulSet")["spec"]["template"]["spec"];
    let config = config(&root().join("deploy/kubernetes/spine-proxy.toml"));
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace >= stops_within_s(&config), "{grace} < {}", stops_within_s(&config));
    // The pod has left the service before its port closes.
    let probe = &pod["containers"][0]["readinessProbe"];
    let number = |key: &str| probe[key].as_u64().unwrap();
    let noticed = (number("periodSeconds") + number("timeoutSeconds")) * number("failureThreshold");
    assert!(config.listener.limits.drain_delay.as_secs() >= noticed, "{noticed}");
}

#[test]
fn ports_probes_and_policies_are_those_of_the_configuration() {
    let Some(python) = python() else { return };
    let manifests = manifests(&python);
    let config = config(&root().join("deploy/kubernetes/spine-proxy.toml"));
    let [consumers] = config.listener.addresses[..] else { panic!("one address") };
    assert!(consumers.ip().is_unspecified() && config.admin.address.ip().is_unspecified());
    let pod = &of_kind(&manifests, "StatefulSet")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let ports = [("https", consumers.port()), ("admin", config.admin.address.port())];
    for (at, (name, port)) in ports.into_iter().enumerate() {
        assert_eq!(container["ports"][at]["name"], name);
        assert_eq!(container["ports"][at]["containerPort"], port);
    }
    for (probe, path) in
        [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
    {
        assert_eq!(container[probe]["httpGet"]["path"], path);
        assert_eq!(container[probe]["httpGet"]["port"], "admin");
        // A kubelet asks by the pod's address; another Host would need `admin.names`.
        assert!(container[probe]["httpGet"]["host"].is_null());
    }
    let policy = &of_kind(&manifests, "NetworkPolicy")["spec"];
    let outward = &policy["egress"][1]["to"][0]["ipBlock"]["cidr"];
    let networks: Vec<_> = config.provider.networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, [outward.as_str().unwrap()]);
    for port in [&policy["ingress"][0], &policy["ingress"][1]] {
        assert!(["https", "admin"].contains(&port["ports"][0]["port"].as_str().unwrap()));
    }
    let service = of_kind(&manifests, "Service");
    assert_eq!(service["spec"]["ports"][0]["targetPort"], "https");
}

/// Everything selects the pods by labels that they have.
#[test]
fn selectors_select_the_pods() {
    let Some(python) = python() else { return };
    let manifests = manifests(&python);
    let set = of_kind(&manifests, "StatefulSet");
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert!(labels.as_object().is_some_and(|labels| !labels.is_empty()));
    assert_eq!(&set["spec"]["selector"]["matchLabels"], labels);
    for (kind, pointer) in [
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
    ] {
        assert_eq!(of_kind(&manifests, kind).pointer(pointer), Some(labels), "{kind}");
    }
    let services: Vec<_> = manifests.iter().filter(|one| one["kind"] == "Service").collect();
    assert!(services.iter().all(|service| service["spec"]["selector"] == *labels));
    let headless = &set["spec"]["serviceName"];
    let admin = services.iter().find(|service| service["metadata"]["name"] == *headless).unwrap();
    let monitor = &of_kind(&manifests, "ServiceMonitor")["spec"];
    assert_eq!(monitor["selector"]["matchLabels"], admin["metadata"]["labels"]);
    assert_eq!(monitor["endpoints"][0]["port"], admin["spec"]["ports"][0]["name"]);
    assert_eq!(admin["metadata"]["labels"][monitor["jobLabel"].as_str().unwrap()], "spine-proxy");
    let scaled = &of_kind(&manifests, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"];
    assert_eq!((&scaled["kind"], &scaled["name"]), (&set["kind"], &set["metadata"]["name"]));
}

#[test]
fn the_pod_has_no_rights_and_mounts_each_file_that_the_configuration_names() {
    let Some(python) = python() else { return };
    let manifests = manifests(&python);
    let set = &of_kind(&manifests, "StatefulSet")["spec"];
    let (pod, container) = (&set["template"]["spec"], &set["template"]["spec"]["containers"][0]);
    // What the profile `restricted` asks for, and a root that cannot be written.
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["automountServiceAccountToken"], false);
    let own = &container["securityContext"];
    assert_eq!(own["allowPrivilegeEscalation"], false);
    assert_eq!(own["readOnlyRootFilesystem"], true);
    assert_eq!(strings(&own["capabilities"]["drop"]), ["ALL"]);
    let containerfile = include_str!("../../deploy/container/Containerfile");
    let user = pod["securityContext"]["runAsUser"].as_u64().unwrap();
    assert!(containerfile.contains(&format!("\nUSER {user}:{user}\n")));
    assert_eq!(pod["securityContext"]["fsGroup"], user);

    let mounts = container["volumeMounts"].as_array().unwrap();
    let mounted = |path: &str| mounts.iter().find(|mount| mount["mountPath"] == path).unwrap();
    assert!(mounts.iter().all(|mount| mount["subPath"].is_null()), "it would not be renewed");
    assert_eq!(mounted(TLS)["name"], "tls");
    assert_eq!(mounted("/var/lib/spine-proxy")["name"], "journal");
    let command = strings(&container["args"]);
    assert_eq!(command[1..], ["--config", "/etc/spine-proxy/spine-proxy.toml"]);
    assert_eq!(mounted("/etc/spine-proxy")["name"], "config");
    let volumes = pod["volumes"].as_array().unwrap();
    let secret = volumes.iter().find(|volume| volume["name"] == "tls").unwrap();
    assert!(
        PAGE.contains(&format!("generic {} ", secret["secret"]["secretName"].as_str().unwrap()))
    );
    let text = include_str!("../../deploy/kubernetes/spine-proxy.toml");
    for (at, _) in text.match_indices(TLS) {
        let name = text[at + TLS.len() + 1..].split('"').next().unwrap();
        assert!(PAGE.contains(&format!("--from-file={name}")), "{name}");
    }
}

#[test]
fn the_pods_limit_of_memory_holds_its_configuration() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let bound = memory_bound(&run(&["check", "--config", &mounted(folder.path())]));
    let manifests = manifests(&python);
    let pod = &of_kind(&manifests, "StatefulSet")["spec"]["template"]["spec"];
    let resources = &pod["containers"][0]["resources"];
    let limit = resources["limits"]["memory"].as_str().unwrap();
    assert_eq!(resources["requests"]["memory"], limit);
    let limit: f64 = limit.strip_suffix("Gi").unwrap().parse().unwrap();
    assert!(bound <= limit * f64::from(1 << 30), "{bound}");
}
