//! The process and its service manager: messages of `sd_notify(3)`, and the command `reload`.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output};
use std::time::Duration;

use testkit::TestBed;
use testkit::process::{GatewayProcess, serve, serve_with};

/// The socket of a service manager.
struct Manager(UnixDatagram);

impl Manager {
    /// Starts the program over a test bed's files, with this manager and a watchdog.
    fn serve(bed: &TestBed) -> (Self, GatewayProcess) {
        let path = bed.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        // A message that never comes fails the test.
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_spine-proxy"));
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
        let text = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
        (Self(socket), serve_with(command, bed, &text))
    }

    /// Returns the next message other than signs of life.
    fn next(&self) -> String {
        loop {
            let message = self.any();
            if message != "WATCHDOG=1\n" {
                return message;
            }
        }
    }

    fn any(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.0.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_learns_of_start_reload_faults_and_stop() {
    let bed = TestBed::new().await;
    let (manager, mut served) = Manager::serve(&bed);
    let ready = manager.next();
    assert!(ready.starts_with("READY=1\nSTATUS=serving on 127.0.0.1:"), "{ready}");
    assert!(ready.contains(&served.address.to_string()), "{ready}");
    assert!(ready.ends_with("; 0 alarms\n"), "{ready}");
    served.signal("HUP");
    let begins = manager.next();
    assert!(begins.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{begins}");
    let ended = manager.next();
    assert!(ended.starts_with("READY=1\nSTATUS=serving on 127.0.0.1:"), "{ended}");
    assert!(ended.contains("; last reload ") && ended.ends_with(": ok; 0 alarms\n"), "{ended}");
    let good = bed.text("own.toml");
    // Whether the file's own change or the signal is first, the fault is reported.
    bed.replace("own.toml", "not = [a configuration");
    while !manager.next().ends_with(": 1 faults; 1 alarms\n") {}
    bed.replace("own.toml", &good);
    while !manager.next().contains(": ok; ") {}
    served.signal("TERM");
    while !manager.next().starts_with("STOPPING=1\n") {}
    assert!(served.child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn signs_of_life_come_while_no_request_does() {
    let bed = TestBed::new().await;
    let (manager, _served) = Manager::serve(&bed);
    for _ in 0..5 {
        while manager.any() != "WATCHDOG=1\n" {}
    }
}

/// Runs `reload` with a configuration.
fn reload(bed: &TestBed, arguments: &[&str]) -> Output {
    let config = bed.path("own.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_spine-proxy"));
    command.args(["reload", "--config"]).arg(config).args(arguments).output().unwrap()
}

/// Starts the program with a fixed admin port, which `reload` finds in the configuration.
fn serve_on_known_port(bed: &TestBed) -> GatewayProcess {
    let served = serve(bed);
    // The running process has it from the system, and keeps it.
    let text = bed.text("own.toml");
    let admin = format!("[admin]\naddress = \"{}\"", served.admin);
    assert!(text.contains("[admin]\naddress = \"127.0.0.1:0\""), "{text}");
    bed.replace("own.toml", &text.replace("[admin]\naddress = \"127.0.0.1:0\"", &admin));
    served
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_by_command_ends_when_the_process_has_reloaded_and_says_what_is_wrong() {
    let bed = TestBed::new().await;
    let served = serve_on_known_port(&bed);
    let pid = served.child.id().to_string();
    for arguments in [&[][..], &["--pid", &pid]] {
        let good = reload(&bed, arguments);
        assert_eq!(good.status.code(), Some(0), "{}", stderr(&good));
        let said = String::from_utf8(good.stdout).unwrap();
        assert!(said.contains(&format!("process {pid} has reloaded")), "{said}");
    }
    // It has ended before the command did: what was changed before is in force after.
    let text = bed.text("directory.toml");
    bed.replace("directory.toml", &text.replace("hub.example", "moved.example"));
    assert_eq!(reload(&bed, &[]).status.code(), Some(0));
    let unknown = testkit::TestRequest::slots().send_to(&bed, served.address).await;
    assert_eq!(unknown.token(), Some("certificate_unknown"));
    bed.replace("server.pem", "nonsense");
    let faulty = reload(&bed, &[]);
    assert_eq!(faulty.status.code(), Some(1));
    let said = stderr(&faulty);
    assert!(said.contains("server.pem") && said.contains("last good state"), "{said}");
    let text = bed.text("own.toml");
    bed.replace("own.toml", "not = [a configuration");
    let broken = reload(&bed, &[]);
    assert_eq!(broken.status.code(), Some(1));
    let said = stderr(&broken);
    assert!(said.contains("own.toml") && said.contains("nothing was reloaded"), "{said}");
    bed.replace("own.toml", &text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_by_command_of_no_process_says_that_there_is_none() {
    let bed = TestBed::new().await;
    let served = serve_on_known_port(&bed);
    let nobody = reload(&bed, &["--pid", "4194999"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(
        stderr(&nobody).contains("cannot send SIGHUP to process 4194999"),
        "{}",
        stderr(&nobody)
    );
    drop(served);
    let nobody = reload(&bed, &[]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(
        stderr(&nobody).contains("no spine-proxy answers on the admin port"),
        "{}",
        stderr(&nobody)
    );
}
