//! The process and its service manager: messages of `sd_notify(3)`.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use testkit::TestBed;
use testkit::process::{GatewayProcess, serve_with};

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
