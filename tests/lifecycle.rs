//! The process under load: restarts without a refused request, many reloads, and exhaustion of file
//! descriptors.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::net::TcpStream;

use testkit::files::Files;
use testkit::not_tested::report_missing;
use testkit::process::{GatewayProcess, serve, serve_with};
use testkit::{TestBed, TestRequest};

/// The requests of a test are not an attack.
fn hurried(files: &mut Files) {
    files.add("[throttle]\ncertificate-per-second = 100000\nconsumer-per-second = 100000");
}

/// Requests on separate connections, until stopped; each must be answered.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn on(bed: &Arc<TestBed>, address: SocketAddr) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let calls = [
            TestRequest::slots(),
            TestRequest::book(),
            TestRequest::slots().http2(),
            TestRequest::book().http2(),
        ];
        let tasks = calls.map(|call| {
            let (bed, stop, answered) = (Arc::clone(bed), Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let answer = call.send_to(&bed, address).await;
                    assert_eq!((answer.status, answer.complete), (200, true), "{answer:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Self { stop, answered, tasks: tasks.into() }
    }

    /// Returns once so many more have been answered.
    async fn goes_on(&self, count: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        while self.answered.load(Ordering::Relaxed) < before + count {
            assert!(!self.tasks.iter().any(tokio::task::JoinHandle::is_finished), "one failed");
            tokio::task::yield_now().await;
        }
    }

    async fn ends(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.answered.load(Ordering::Relaxed)
    }
}

/// The program, given this socket as a service manager would.
fn serve_handed(bed: &TestBed, socket: &std::net::TcpListener, journal: &str) -> GatewayProcess {
    let address = socket.local_addr().unwrap();
    let handed = OwnedFd::from(socket.try_clone().unwrap());
    let text = bed.text("spine-proxy.toml").replace("\"audit\"", &format!("\"{journal}\""));
    let text = text.replacen("127.0.0.1:0", &address.to_string(), 1);
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("exec env LISTEN_PID=$$ LISTEN_FDS=1 \"$0\" \"$@\" 3<&0 </dev/null")
        .arg(env!("CARGO_BIN_EXE_spine-proxy"))
        .stdin(handed);
    serve_with(command, bed, &text)
}

/// Ids of the exchanges in a journal, and how many lines closed one.
fn closed(bed: &TestBed, journal: &str) -> usize {
    let text = bed.journal(journal);
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let (mut open, mut closed) = (HashSet::new(), 0);
    for line in lines {
        let id = || line["id"].as_str().unwrap().to_owned();
        match line["event"].as_str().unwrap() {
            "opened" => assert!(open.insert(id())),
            "closed" => {
                open.remove(&id());
                closed += 1;
            }
            // The second process's configuration replaces the file that the first one watches.
            other => assert!(["started", "reloaded", "stopped"].contains(&other), "{line}"),
        }
    }
    assert!(open.is_empty(), "opened and never closed: {open:?}");
    closed
}

fn handed_socket() -> std::net::TcpListener {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(1024).unwrap();
    socket.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_a_passed_socket_loses_no_request() {
    let bed = Arc::new(TestBed::with(hurried).await);
    let socket = handed_socket();
    let mut served = serve_handed(&bed, &socket, "own");
    let load = Load::on(&bed, served.address);
    for _ in 0..3 {
        load.goes_on(20).await;
        served.signal("TERM");
        let ended =
            tokio::task::spawn_blocking(move || served.child.wait().unwrap()).await.unwrap();
        assert!(ended.success());
        served = serve_handed(&bed, &socket, "own");
    }
    load.goes_on(20).await;
    let answered = load.ends().await;
    served.signal("TERM");
    assert!(
        tokio::task::spawn_blocking(move || served.child.wait().unwrap()).await.unwrap().success()
    );
    assert_eq!(closed(&bed, "own"), answered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_takes_over_beside_the_old_one() {
    let bed = Arc::new(TestBed::with(hurried).await);
    let socket = handed_socket();
    let mut old = serve_handed(&bed, &socket, "old");
    let load = Load::on(&bed, old.address);
    load.goes_on(20).await;
    let mut new = serve_handed(&bed, &socket, "new");
    load.goes_on(20).await;
    old.signal("TERM");
    assert!(
        tokio::task::spawn_blocking(move || old.child.wait().unwrap()).await.unwrap().success()
    );
    load.goes_on(20).await;
    let answered = load.ends().await;
    new.signal("TERM");
    assert!(
        tokio::task::spawn_blocking(move || new.child.wait().unwrap()).await.unwrap().success()
    );
    assert_eq!(closed(&bed, "old") + closed(&bed, "new"), answered);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unexpected_passed_socket_prevents_the_start() {
    let bed = TestBed::new().await;
    let handed = OwnedFd::from(handed_socket());
    let output = Command::new("sh")
        .arg("-c")
        .arg("exec env LISTEN_PID=$$ LISTEN_FDS=1 \"$0\" serve --config \"$1\" 3<&0 </dev/null")
        .arg(env!("CARGO_BIN_EXE_spine-proxy"))
        .arg(bed.path("spine-proxy.toml"))
        .stdin(handed)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is not in the configuration"), "{said}");
}

/// H16.
#[tokio::test(flavor = "multi_thread")]
async fn many_sighups_under_load_lose_no_request() {
    let bed = Arc::new(TestBed::with(hurried).await);
    let served = serve(&bed);
    let load = Load::on(&bed, served.address);
    for _ in 0..50 {
        served.signal("HUP");
        load.goes_on(1).await;
    }
    // A reload with an invalid configuration is rejected, and the last valid one stays in force.
    let good = bed.text("own.toml");
    bed.replace("own.toml", "not = [a configuration");
    served.signal("HUP");
    let failed = "spine_proxy_reloads_total{result=\"failed\"} 0";
    while served.metrics().await.contains(failed) {
        tokio::task::yield_now().await;
    }
    load.goes_on(20).await;
    bed.replace("own.toml", &good);
    load.ends().await;
}

/// G20: accepting neither ends nor spins when there are no descriptors left.
#[tokio::test(flavor = "multi_thread")]
async fn descriptors_that_run_out_neither_end_nor_spin_the_acceptor() {
    let bed = TestBed::with(|files| {
        hurried(files);
        files.add("[listener.limits]\nhandshake = \"60s\"");
    })
    .await;
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("ulimit -n 64; exec \"$0\" \"$@\"")
        .arg(env!("CARGO_BIN_EXE_spine-proxy"));
    let text = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
    let mut served = serve_with(command, &bed, &text);
    let mut held = Vec::new();
    while !served.log.lock().unwrap().contains("cannot accept") {
        let ended = served.child.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?} {}", served.log.lock().unwrap());
        if held.len() < 80 {
            held.push(TcpStream::connect(served.address).await.unwrap());
        }
        tokio::task::yield_now().await;
    }
    drop(held);
    assert_eq!(TestRequest::slots().send_to(&bed, served.address).await.status, 200);
    let errors = served.metric("accept_errors_total").await;
    assert!((1..1000).contains(&errors), "{errors} tries to accept");
}

/// Rounds of requests to another gateway within which a process must have come to rest.
const ROUNDS_MAX: usize = 50;
/// Consecutive rounds in which it reads nothing.
const QUIET_ROUNDS: usize = 5;

/// System calls by which a file is opened, looked at or read.
const READS: &str = "trace=%file,%fstat,%statfs,%fstatfs,read,readv,pread64,preadv,getdents64";

/// The program under strace, which writes down each system call by which a file is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_at_rest_reads_no_file_and_looks_at_none() {
    let works = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    if !works.is_ok_and(|status| status.success()) {
        report_missing("strace");
        return;
    }
    let bed = TestBed::with(hurried).await;
    let calls = bed.path("calls");
    let mut command = Command::new("strace");
    // As a process of its own, so that what is started is the program.
    command.args(["-D", "-f", "-y", "-qq", "-e", READS, "-o"]).arg(&calls);
    command.arg(env!("CARGO_BIN_EXE_spine-proxy"));
    let text = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
    let served = serve_with(command, &bed, &text);
    assert_eq!(TestRequest::slots().send_to(&bed, served.address).await.status, 200);
    // A read of what is no file shows no path.
    let reads = || {
        let calls = std::fs::read_to_string(&calls).unwrap();
        let is_of_a_file = |call: &&str| {
            let is_rest = call.contains(" resumed>");
            !is_rest && (!call.contains(" read(") || call.contains("</"))
        };
        calls.lines().filter(is_of_a_file).map(str::to_owned).collect::<Vec<_>>()
    };
    let (mut before, mut quiet) = (reads(), 0);
    assert!(before.iter().any(|call| call.contains("directory.toml")), "{before:?}");
    for _ in 0..ROUNDS_MAX {
        for _ in 0..50 {
            bed.send(TestRequest::slots()).await;
        }
        let now = reads();
        quiet = if now.len() == before.len() { quiet + 1 } else { 0 };
        if quiet == QUIET_ROUNDS {
            return;
        }
        before = now;
    }
    let last: Vec<_> = before.iter().rev().take(10).collect();
    panic!("it does not come to rest: {last:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_looked_at_all_the_time_where_the_kernel_refuses_to_watch_them() {
    let may = Command::new("unshare").args(["-rm", "true"]).status();
    if !may.is_ok_and(|status| status.success()) {
        report_missing("a user namespace (unshare -rm)");
        return;
    }
    let bed = TestBed::with(hurried).await;
    let mut command = Command::new("unshare");
    let no_watches = "echo 0 >/proc/sys/user/max_inotify_instances && exec \"$0\" \"$@\"";
    command.args(["-r", "sh", "-c", no_watches, env!("CARGO_BIN_EXE_spine-proxy")]);
    let text = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
    let served = serve_with(command, &bed, &text);
    while !served.log.lock().unwrap().contains("refuses a watch") {
        tokio::task::yield_now().await;
    }
    let unknown = Some("certificate_unknown");
    for (from, to, token) in [("hub", "moved", unknown), ("moved", "hub", None)] {
        let name = |name| format!("{name}.example.nhs.uk");
        let text = bed.text("directory.toml").replace(&name(from), &name(to));
        bed.replace("directory.toml", &text);
        while TestRequest::slots().send_to(&bed, served.address).await.token() != token {}
    }
}
