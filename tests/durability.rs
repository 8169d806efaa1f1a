//! The journal and its disk: writes are recorded before they are sent, a crash loses no record, and a disk
//! failure is reported.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use audit_journal::note::CheckpointSigner;
use audit_journal::{Verdict, Verified, VerifyWith};
use serde_json::{Value, json};

use testkit::disk::{FaultyDisk, serve_on_small_disk};
use testkit::files::Files;
use testkit::process::{GatewayProcess, serve};
use testkit::test_bed::{journal, segments};
use testkit::{Answer, ProviderAction, TestBed, TestRequest};

/// Lifts limits, and has the journal signed once a second.
fn hurried(files: &mut Files) {
    files.put("audit.key", &KEY);
    files.add("[throttle]\ncertificate-per-second = 100000\nconsumer-per-second = 100000");
    files.add(&format!(
        "[audit.checkpoints]\norigin = \"{ORIGIN}\"\nkeys = [\"audit.key\"]\nevery = \"1s\""
    ));
}

const ORIGIN: &str = "gw1.example.nhs.uk/audit/1";
static KEY: LazyLock<String> = LazyLock::new(|| CheckpointSigner::generate_pem().unwrap());

fn lines(text: &str) -> Vec<Value> {
    // An incomplete line is skipped: it is being written, or a crash cut it.
    text.split_inclusive('\n').filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn of<'a>(lines: &'a [Value], event: &'a str, member: &'a str) -> BTreeSet<&'a str> {
    lines
        .iter()
        .filter(|line| line["event"] == event)
        .filter_map(|line| line[member].as_str())
        .collect()
}

/// Verifies a journal with the key, which signed only what was on disk.
fn verified(folder: &std::path::Path) -> Verified {
    let signer = CheckpointSigner::from_pkcs8_pem(&KEY, ORIGIN).unwrap();
    let with = VerifyWith { keys: vec![signer.verifier().clone()], ..VerifyWith::default() };
    audit_journal::verify(folder, &with).unwrap()
}

fn is_sound(folder: &std::path::Path) -> Verified {
    let found = verified(folder);
    assert!(found.is_sound(), "{:?}", found.faults);
    found
}

fn booking(number: usize) -> TestRequest {
    TestRequest::book().set("Ssp-TraceID", &format!("{number:08x}-0000-4000-8000-000000000000"))
}

/// A write waits while the disk is blocked; a read does not.
#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_a_write_is_sent_before_its_line_is_on_disk() {
    let bed = Arc::new(TestBed::with(|files| files.set("audit", "wait = \"1m\"")).await);
    let Some((disk, served)) = FaultyDisk::serve(&bed) else { return };
    let at = served.address;
    disk.set_fault("hold");
    let (booking, held) = (Arc::clone(&bed), booking(1));
    let booked = tokio::spawn(async move { held.send_to(&booking, at).await });
    disk.wait_until_blocked().await;
    // The line was passed to the journal and is not on disk yet.
    assert_eq!(of(&lines(&journal(&bed.path("own"))), "opened", "id").len(), 1);
    assert_eq!(of(&lines(&journal(&disk.synced_folder())), "opened", "id").len(), 0);
    assert_eq!(TestRequest::slots().send_to(&bed, at).await.status, 200);
    assert_eq!(bed.provider.received().len(), 1, "the read alone was sent");
    assert_eq!(bed.provider.accepted_connections(), 1);
    assert!(!booked.is_finished());
    disk.clear_fault("hold");
    assert_eq!(booked.await.unwrap().status, 200);
    assert_eq!(bed.provider.received().len(), 2);
    let booked = "00000001-0000-4000-8000-000000000000";
    assert!(of(&lines(&journal(&disk.synced_folder())), "opened", "trace_id").contains(booked));
    // The read ended before its first line could be written, so it has one line with all fields.
    let read = loop {
        let mut lines = lines(&journal(&bed.path("own")));
        lines.retain(|line| line["method"] == "GET");
        if !lines.is_empty() {
            break lines;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(read.len(), 1, "{read:?}");
    assert_eq!((&read[0]["event"], &read[0]["outcome"]), (&json!("closed"), &json!("answered")));
    assert_eq!(read[0]["claims"]["organisation"], "A00001");
}

/// With `"every-request"` reads wait too; with `"batched"` no request waits.
#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_decides_which_requests_wait_for_the_disk() {
    for (durability, reads_wait, writes_wait) in
        [("every-request", true, true), ("batched", false, false)]
    {
        let set = format!("durability = \"{durability}\"\nwait = \"1m\"");
        let bed = Arc::new(TestBed::with(|files| files.set("audit", &set)).await);
        let Some((disk, served)) = FaultyDisk::serve(&bed) else { return };
        disk.set_fault("hold");
        for (call, waits) in [(TestRequest::slots(), reads_wait), (booking(1), writes_wait)] {
            let asked = bed.provider.received().len();
            let (asking, at) = (Arc::clone(&bed), served.address);
            let answered = tokio::spawn(async move { call.send_to(&asking, at).await });
            if waits {
                disk.wait_until_blocked().await;
                assert_eq!(bed.provider.received().len(), asked, "{durability}");
                disk.clear_fault("hold");
            }
            assert_eq!(answered.await.unwrap().status, 200);
            disk.set_fault("hold");
        }
        disk.clear_fault("hold");
    }
}

/// The gateway is killed during a load of bookings, on a disk that keeps only synced data.
#[tokio::test(flavor = "multi_thread")]
async fn every_request_sent_to_a_provider_is_on_disk_when_the_machine_stops() {
    let bed = Arc::new(TestBed::with(hurried).await);
    let Some((disk, mut served)) = FaultyDisk::serve(&bed) else { return };
    let load = Load::of_bookings(&bed, served.address, 0);
    bed.provider.wait_for_requests(40).await;
    served.child.kill().unwrap();
    served.child.wait().unwrap();
    load.ends().await;
    let lines = lines(&journal(&disk.synced_folder()));
    let recorded = of(&lines, "opened", "trace_id");
    let received = bed.provider.received();
    assert!(received.len() >= 40);
    for request in received {
        let trace_id = request.header("ssp-traceid").unwrap();
        assert!(recorded.contains(trace_id), "{trace_id} was sent, and is not on the disk");
    }
    let found = is_sound(&disk.synced_folder());
    assert!(found.proof.checkpoints > 0 && found.proof.lines > 0, "nothing else was signed");
}

/// A killed process leaves lines that were written and not synced. The next start signs them only once they
/// are on disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_signs_only_lines_that_are_on_disk() {
    let bed = TestBed::with(hurried).await;
    let Some((disk, mut served)) = FaultyDisk::serve(&bed) else { return };
    disk.set_fault("hold");
    assert_eq!(TestRequest::slots().send_to(&bed, served.address).await.status, 200);
    disk.wait_until_blocked().await;
    served.child.kill().unwrap();
    served.child.wait().unwrap();
    disk.clear_fault("hold");
    let text = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
    let mut served = testkit::process::serve_with(disk.command(), &bed, &text);
    while served.metric("audit_checkpoint_timestamp_seconds").await == 0 {
        tokio::task::yield_now().await;
    }
    served.signal("TERM");
    assert!(served.child.wait().unwrap().success());
    let found = is_sound(&disk.synced_folder());
    assert_eq!(found.verdict(), Verdict::Proven, "{:?}", found.proof);
}

/// Four consumers that send bookings, each with its own trace id, until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn of_bookings(bed: &Arc<TestBed>, at: std::net::SocketAddr, round: usize) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let task = |consumer: usize| {
            let (bed, stop) = (Arc::clone(bed), Arc::clone(&stop));
            tokio::spawn(async move {
                for number in 0.. {
                    let booking = booking((round << 20) + (consumer << 16) + number);
                    let answer = booking.try_send_to(&bed, at).await;
                    if answer.is_none() || stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        };
        Self { tasks: (0..4).map(task).collect(), stop }
    }

    async fn ends(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

/// H20: the gateway is killed fifty times at different moments, with one journal.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_crashes_under_a_load_of_bookings_lose_and_invent_nothing() {
    let bed = Arc::new(TestBed::with(hurried).await);
    let mut moment = 12_345_u64;
    let mut before = 0;
    for round in 0..50 {
        let mut served = serve(&bed);
        let load = Load::of_bookings(&bed, served.address, round);
        moment = moment.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bed.provider.wait_for_requests(before + 1 + usize::try_from(moment >> 60).unwrap()).await;
        for _ in 0..(moment >> 40) % 2000 {
            std::hint::spin_loop();
        }
        served.child.kill().unwrap();
        served.child.wait().unwrap();
        load.ends().await;
        before = bed.provider.received().len();
    }
    let folder = bed.path("own");
    let text = journal(&folder);
    let before_last = lines(&text);
    let recorded = of(&before_last, "opened", "trace_id");
    for request in bed.provider.received() {
        let trace_id = request.header("ssp-traceid").unwrap();
        assert!(recorded.contains(trace_id), "{trace_id} was sent and is not recorded");
    }
    // One more start handles the state that the last crash left.
    let mut served = serve(&bed);
    served.signal("TERM");
    assert!(served.child.wait().unwrap().success());
    let text = journal(&folder);
    let all = lines(&text);
    let (opened, closed) = (of(&all, "opened", "id"), of(&all, "closed", "id"));
    let unfinished: BTreeSet<_> = opened.difference(&closed).copied().collect();
    assert!(!unfinished.is_empty(), "no crash has left anything");
    assert_eq!(of(&all, "unfinished", "id"), unfinished);
    let found = is_sound(&folder);
    let told: BTreeSet<_> = found.unfinished.iter().map(|exchange| exchange.id.as_str()).collect();
    assert_eq!(told, unfinished);
    assert!(found.open.is_empty());
    assert_eq!(found.segments, 51);
    assert_eq!(found.verdict(), Verdict::Proven, "{:?}", found.proof);
    assert!(found.proof.checkpoints >= 51);
}

/// Counts of requests and refusals, to compare with the journal.
#[derive(Default)]
struct Tally {
    asked: usize,
    refused: usize,
}

impl Tally {
    fn counts(&mut self, answer: &Answer) {
        self.asked += 1;
        self.refused += usize::from(answer.token() == Some("audit_unavailable"));
        assert!(answer.status == 200 || answer.token() == Some("audit_unavailable"), "{answer:?}");
    }

    /// Asserts that each request has one closed line or is in a sum of refusals, that no refused request was
    /// sent, and that the journal is sound.
    async fn adds_up(&self, (bed, served): (&TestBed, &GatewayProcess), folder: &std::path::Path) {
        // The last sum is written within a second.
        let mut looks = 0;
        let counted = loop {
            let lines = lines(&journal(folder));
            let closed: Vec<_> = lines.iter().filter(|line| line["event"] == "closed").collect();
            let ids: HashSet<_> = closed.iter().map(|line| line["id"].as_str().unwrap()).collect();
            assert_eq!(ids.len(), closed.len(), "a record is there twice");
            let summed = |line: &Value| line["refusals"]["audit_unavailable"].as_u64().unwrap_or(0);
            let summed: u64 = lines.iter().map(summed).sum();
            let own = |line: &&&Value| line["refusal"] == "audit_unavailable";
            let refused = closed.iter().filter(own).count() + usize::try_from(summed).unwrap();
            if closed.len() + usize::try_from(summed).unwrap() == self.asked {
                break refused;
            }
            looks += 1;
            assert!(looks < 200, "{} asked, {} closed, {summed} summed", self.asked, closed.len());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        };
        assert_eq!(counted, self.refused);
        let series = "spine_proxy_refusals_total{token=\"audit_unavailable\"}";
        let metrics = served.metrics().await;
        assert!(metrics.contains(&format!("{series} {}\n", self.refused)), "{metrics}");
        assert_eq!(bed.provider.received().len(), self.asked - self.refused);
        is_sound(folder);
    }
}

/// A reserve of free space is kept for exchanges in progress.
#[tokio::test(flavor = "multi_thread")]
async fn below_the_disk_reserve_new_requests_are_refused_and_open_ones_are_recorded() {
    let bed = TestBed::with(|files| {
        hurried(files);
        files.set("audit", "disk-reserve = \"4 MiB\"");
    })
    .await;
    let Some((served, seen)) = serve_on_small_disk(&bed, 8 * 1024) else { return };
    let (at, filler) = (served.address, seen.join("filler"));
    let told = Arc::new(tokio::sync::Notify::new());
    let answer = testkit::provider::answer("200 OK", "", "{}");
    bed.provider.set_action(ProviderAction::WriteWhenNotified(Arc::clone(&told), answer));
    let under_way = async { booking(1).send_to(&bed, at).await };
    let refused = async {
        bed.provider.wait_for_requests(1).await;
        bed.provider.set_action(ProviderAction::ok());
        std::fs::write(&filler, vec![0; 5 << 20]).unwrap();
        while booking(2).send_to(&bed, at).await.token() != Some("audit_unavailable") {}
        assert!(is_ready(&served).await.contains("[-]audit"));
        told.notify_one();
    };
    let (answer, ()) = tokio::join!(under_way, refused);
    assert_eq!(answer.status, 200);
    std::fs::remove_file(&filler).unwrap();
    while TestRequest::slots().send_to(&bed, at).await.status != 200 {
        tokio::task::yield_now().await;
    }
}

/// H12: the disk is full three times.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_requests_and_recovers_by_itself() {
    let bed = TestBed::with(hurried).await;
    let Some((served, seen)) = serve_on_small_disk(&bed, 2048) else { return };
    let (at, filler, folder) = (served.address, seen.join("filler"), seen.join("own"));
    let mut tally = Tally::default();
    let call = |number: usize| {
        if number.is_multiple_of(2) { TestRequest::slots() } else { booking(number) }
    };
    let healthy = "spine_proxy_audit_healthy";
    for _ in 0..3 {
        // The remaining space is enough for some of the following requests.
        std::fs::write(&filler, vec![0; 4096 * 1024]).unwrap_err();
        let length = std::fs::metadata(&filler).unwrap().len();
        let file = std::fs::OpenOptions::new().write(true).open(&filler).unwrap();
        file.set_len(length - 16 * 1024).unwrap();
        drop(file);
        let before = tally.refused;
        while tally.refused < before + 4 {
            tally.counts(&call(tally.asked).send_to(&bed, at).await);
        }
        assert!(served.metrics().await.contains(&format!("{healthy} 0\n")));
        assert!(is_ready(&served).await.contains("[-]audit"));
        std::fs::remove_file(&filler).unwrap();
        let mut answered = 0;
        while answered < 10 {
            let answer = call(tally.asked).send_to(&bed, at).await;
            answered += usize::from(answer.status == 200);
            tally.counts(&answer);
        }
        while !served.metrics().await.contains(&format!("{healthy} 1\n")) {
            tokio::task::yield_now().await;
        }
    }
    tally.adds_up((&bed, &served), &folder).await;
}

async fn is_ready(served: &GatewayProcess) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut admin = tokio::net::TcpStream::connect(served.admin).await.unwrap();
    admin
        .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    admin.read_to_string(&mut text).await.unwrap();
    text
}

/// After a failed `fdatasync` the state of the pages is unknown, so all lines are written again. A file
/// system that has become read-only fails in another way.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_refuses_requests_and_recovers_by_itself() {
    for order in ["eio", "erofs"] {
        fails_and_recovers(order).await;
    }
}

async fn fails_and_recovers(order: &str) {
    let bed = TestBed::with(hurried).await;
    let Some((disk, served)) = FaultyDisk::serve(&bed) else { return };
    let mut tally = Tally::default();
    tally.counts(&booking(0).send_to(&bed, served.address).await);
    for round in 0..3 {
        disk.set_fault(order);
        for number in 1..4 {
            tally.counts(&booking(round * 10 + number).send_to(&bed, served.address).await);
        }
        disk.clear_fault(order);
        loop {
            let answer = TestRequest::slots().send_to(&bed, served.address).await;
            tally.counts(&answer);
            if answer.status == 200 {
                break;
            }
        }
    }
    assert!(tally.refused >= 9);
    assert!(served.metric("audit_write_failures_total").await >= 3);
    tally.adds_up((&bed, &served), &bed.path("own")).await;
}

/// A disk that blocks is treated as failed until it answers again.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_disk_refuses_requests_and_recovers_by_itself() {
    let change = |files: &mut Files| {
        hurried(files);
        files.set("audit", "wait = \"200ms\"");
    };
    let bed = TestBed::with(change).await;
    let Some((disk, served)) = FaultyDisk::serve(&bed) else { return };
    let mut tally = Tally::default();
    disk.set_fault("hold");
    tally.counts(&booking(1).send_to(&bed, served.address).await);
    assert_eq!(tally.refused, 1, "it was not waited for without end");
    while tally.refused < 3 {
        tally.counts(&TestRequest::slots().send_to(&bed, served.address).await);
    }
    while served.metric("audit_healthy").await == 1 {
        tokio::task::yield_now().await;
    }
    disk.clear_fault("hold");
    let mut answered = 0;
    while answered < 3 {
        let answer = booking(2).send_to(&bed, served.address).await;
        answered += usize::from(answer.status == 200);
        tally.counts(&answer);
    }
    tally.adds_up((&bed, &served), &bed.path("own")).await;
}

/// If so configured, reads continue while there is memory for their lines; writes do not.
#[tokio::test(flavor = "multi_thread")]
async fn reads_may_go_on_while_the_journal_fails() {
    let change = |files: &mut Files| {
        hurried(files);
        files.set("audit", "when-failing = \"serve-reads\"");
        files.set("listener.limits", "in-hand-max = 4");
    };
    let bed = TestBed::with(|files| {
        files.add("[listener.limits]\n");
        change(files);
    })
    .await;
    let Some((disk, served)) = FaultyDisk::serve(&bed) else { return };
    let mut tally = Tally::default();
    disk.set_fault("eio");
    tally.counts(&booking(1).send_to(&bed, served.address).await);
    assert_eq!(tally.refused, 1);
    // There is room for four lines per entry that may be open; the booking has two, and a read has one.
    for _ in 0..14 {
        tally.counts(&TestRequest::slots().send_to(&bed, served.address).await);
    }
    assert_eq!(tally.refused, 1, "reads go on");
    tally.counts(&booking(2).send_to(&bed, served.address).await);
    tally.counts(&TestRequest::slots().send_to(&bed, served.address).await);
    assert_eq!(tally.refused, 3, "there is an end to the room");
    disk.clear_fault("eio");
    while tally.asked < 30 {
        tally.counts(&TestRequest::slots().send_to(&bed, served.address).await);
    }
    tally.adds_up((&bed, &served), &bed.path("own")).await;
}

/// Tools that rotate logs may move a segment away.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_moved_away_is_replaced_by_a_new_one() {
    let bed = TestBed::new().await;
    let folder = bed.path("audit");
    bed.send(booking(1)).await;
    let moved = segments(&folder).pop().unwrap();
    std::fs::rename(&moved, bed.path("aside.jsonl")).unwrap();
    // The next line is still written to the moved file, and the gateway notices.
    bed.send(booking(2)).await;
    bed.send(booking(3)).await;
    bed.server.trail.flush().await.unwrap();
    assert_eq!(segments(&folder).len(), 1);
    assert_ne!(segments(&folder)[0], moved);
    std::fs::rename(bed.path("aside.jsonl"), &moved).unwrap();
    is_sound(&folder);
    assert_eq!(of(&lines(&journal(&folder)), "closed", "id").len(), 3);
}

/// If a segment is deleted or cut anywhere, the loss is reported and later lines are not lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_deleted_or_cut_is_noticed_and_replaced() {
    // `None` deletes the segment, 0 empties it, other values are the bytes to cut at its end.
    for left in [None, Some(0), Some(1), Some(400), Some(5000)] {
        let bed = TestBed::with(hurried).await;
        let folder = bed.path("audit");
        for number in 10..20 {
            bed.send(booking(number)).await;
        }
        bed.server.trail.flush().await.unwrap();
        let harmed = segments(&folder).pop().unwrap();
        let length = std::fs::metadata(&harmed).unwrap().len();
        match left {
            None => std::fs::remove_file(&harmed).unwrap(),
            Some(cut) => {
                let file = std::fs::OpenOptions::new().write(true).open(&harmed).unwrap();
                file.set_len(if cut == 0 { 0 } else { length - cut }).unwrap();
            }
        }
        let refused = bed.send(booking(2)).await;
        assert_eq!(refused.token(), Some("audit_unavailable"), "its disk has failed it once");
        while bed.send(booking(3)).await.status != 200 {}
        bed.server.trail.flush().await.unwrap();
        let text = journal(&folder);
        let after = lines(&text);
        let opened = of(&after, "opened", "trace_id");
        for number in [2, 3] {
            assert!(opened.contains(&*format!("{number:08x}-0000-4000-8000-000000000000")));
        }
        assert!(of(&after, "closed", "refusal").contains("audit_unavailable"));
        assert_eq!(bed.metric("audit_damaged_total"), 1, "{left:?}");
        assert_eq!(bed.provider.received().len(), 11);
        let found = verified(&folder);
        // The new segment is in order, regardless of the rest of the old one.
        let new = segments(&folder).pop().unwrap();
        let new = new.file_name().unwrap().to_str().unwrap();
        for fault in found.faults.iter().map(ToString::to_string) {
            assert!(!fault.contains("is not as it was written"), "{left:?}: {fault}");
            assert!(!fault.starts_with(new) || fault.contains("line 1: "), "{left:?}: {fault}");
        }
        assert_ne!(harmed, segments(&folder).pop().unwrap());
    }
}

/// A line cut by a crash stays in the file, is recorded at the next start, and is no fault.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_continues_after_a_line_torn_by_a_crash() {
    use std::io::Write as _;
    let bed = TestBed::new().await;
    bed.send(booking(1)).await;
    let bed = bed.restart().await;
    let folder = bed.path("audit");
    let last = segments(&folder).pop().unwrap();
    let torn = b"{\"seq\":99,\"ti\0me";
    std::fs::OpenOptions::new().append(true).open(&last).unwrap().write_all(torn).unwrap();
    // The first gateway is still running, so the second continues a copy of the journal.
    let copy = bed.path("copy");
    std::fs::create_dir(&copy).unwrap();
    for path in segments(&folder) {
        std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let found = verified(&copy);
    assert!(found.is_sound() && found.ends_torn);
    let text = bed.text("spine-proxy.toml").replace("\"audit\"", "\"copy\"");
    for torn_before in [1, 2] {
        let program = std::process::Command::new(env!("CARGO_BIN_EXE_spine-proxy"));
        let mut served = testkit::process::serve_with(program, &bed, &text);
        assert_eq!(booking(2).send_to(&bed, served.address).await.status, 200);
        served.signal("TERM");
        assert!(served.child.wait().unwrap().success());
        let found = is_sound(&copy);
        assert_eq!((found.torn.len(), found.ends_torn), (torn_before, false));
        // The second time the cut line is the first line of a segment.
        let next = copy.join(format!("{:020}.jsonl", found.last.unwrap().seq + 1));
        std::fs::write(next, "{\"seq\":").unwrap();
    }
    let text = journal(&copy);
    let lines = lines(&text);
    let started: Vec<_> = lines.iter().filter(|line| line["event"] == "started").collect();
    assert_eq!(started[2]["torn"]["text"], "{\"seq\":99,\"ti\0me");
    assert_eq!(started[2]["torn"]["bytes"], torn.len());
    assert_eq!(started[3]["torn"]["text"], "{\"seq\":");
}
