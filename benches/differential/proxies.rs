//! The proxies: this one, nginx and `HAProxy`, each with the test bed's certificates in front of the
//! test bed's provider.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::support::program::Program;
use crate::support::servers::{Ended, free_address, installed, listens};
use testkit::TestBed;

/// A proxy under comparison, ended when dropped.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    _running: Running,
}

enum Running {
    Ours { _program: Program },
    Theirs { _child: Ended },
}

/// All that are installed, ours first; says loudly who is missing.
pub(crate) async fn all(bed: &TestBed) -> Vec<Proxy> {
    let program = Program::start(bed, |text| text);
    let address = program.address();
    let mut proxies =
        vec![Proxy { name: "spine-proxy", address, _running: Running::Ours { _program: program } }];
    for (name, start) in [("nginx", nginx as Start), ("haproxy", haproxy)] {
        let Some(path) = installed(name) else {
            println!("**{name} IS NOT INSTALLED: it is left out of the comparison.**\n");
            continue;
        };
        let address = free_address().await;
        let running = Running::Theirs { _child: Ended(start(bed, &path, address)) };
        assert!(listens(address).await, "{name} does not listen; its log is on standard error");
        proxies.push(Proxy { name, address, _running: running });
    }
    proxies
}

type Start = fn(&TestBed, &str, SocketAddr) -> Child;

/// As it comes, but for the room that a target of 32 KiB needs.
fn nginx(bed: &TestBed, path: &str, address: SocketAddr) -> Child {
    let (folder, provider) = (bed.folder.path().display(), bed.provider.address);
    let kept = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let kept: String =
        kept.iter().map(|kind| format!("  {kind}_temp_path {folder}/nginx-{kind};\n")).collect();
    let config = format!(
        "daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
  access_log off;
{kept}  large_client_header_buffers 4 32k;
  server {{
    listen {address} ssl;
    server_name ssp.example.nhs.uk;
    ssl_certificate {folder}/server.pem;
    ssl_certificate_key {folder}/server.key;
    ssl_client_certificate {folder}/ca.pem;
    ssl_verify_client on;
    ssl_verify_depth 2;
    location / {{
      proxy_pass https://{provider};
      proxy_ssl_certificate {folder}/gateway.pem;
      proxy_ssl_certificate_key {folder}/gateway.key;
    }}
  }}
}}
"
    );
    bed.replace("nginx.conf", &config);
    let config = bed.path("nginx.conf");
    let log = bed.path("nginx.log");
    let mut command = Command::new(path);
    command.arg("-e").arg(log).arg("-p").arg(bed.folder.path()).arg("-c").arg(config);
    command.stdout(Stdio::null()).spawn().expect("nginx starts")
}

/// As it comes, but for the room that a target of 32 KiB needs.
fn haproxy(bed: &TestBed, path: &str, address: SocketAddr) -> Child {
    for name in ["server", "gateway"] {
        let both = bed.text(&format!("{name}.pem")) + &bed.text(&format!("{name}.key"));
        bed.replace(&format!("{name}-both.pem"), &both);
    }
    let (folder, provider) = (bed.folder.path().display(), bed.provider.address);
    let config = format!(
        "global
  tune.bufsize 40960
defaults
  mode http
  timeout connect 3s
  timeout client 10s
  timeout server 10s
frontend consumers
  bind {address} ssl crt {folder}/server-both.pem ca-file {folder}/ca.pem verify required alpn http/1.1
  default_backend providers
backend providers
  server provider {provider} ssl verify none crt {folder}/gateway-both.pem
"
    );
    bed.replace("haproxy.cfg", &config);
    let mut command = Command::new(path);
    command.arg("-db").arg("-f").arg(bed.path("haproxy.cfg"));
    command.stdout(Stdio::null()).spawn().expect("HAProxy starts")
}
