//! The journal and its disk: nothing is sent before it is recorded, nothing is lost to a crash, and a
//! disk that fails is said to.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use testkit::disk::{Disk, serve_on_small_disk};
use testkit::files::Files;
use testkit::process::{Served, serve};
use testkit::stage::{journal, segments};
use testkit::{Act, Answer, Call, Stage};

fn hurried(files: &mut Files) {
    files.add("[throttle]\ncertificate-per-second = 100000\nconsumer-per-second = 100000");
}

fn lines(text: &str) -> Vec<Value> {
    // A line that is being written, or was torn, is none.
    text.split_inclusive('\n').filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn of<'a>(lines: &'a [Value], event: &'a str, member: &'a str) -> BTreeSet<&'a str> {
    lines
        .iter()
        .filter(|line| line["event"] == event)
        .filter_map(|line| line[member].as_str())
        .collect()
}

fn is_sound(folder: &std::path::Path) -> spine_proxy::audit::Verified {
    let found = spine_proxy::audit::verify(folder, &[]).unwrap();
    assert!(found.is_sound(), "{:?}", found.faults);
    found
}

fn booking(number: usize) -> Call {
    Call::book().set("Ssp-TraceID", &format!("{number:08x}-0000-4000-8000-000000000000"))
}

/// A write waits while the disk does; a read does not.
#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_a_write_is_sent_before_its_line_is_on_disk() {
    let stage = Arc::new(Stage::with(|files| files.set("audit", "wait = \"1m\"")).await);
    let Some((disk, served)) = Disk::serve(&stage) else { return };
    let at = served.1;
    disk.orders("hold");
    let (booking, held) = (Arc::clone(&stage), booking(1));
    let booked = tokio::spawn(async move { held.send_to(&booking, at).await });
    disk.is_waited_for().await;
    // Its line was handed over, and is not on the disk yet.
    assert_eq!(of(&lines(&journal(&stage.path("own"))), "opened", "id").len(), 1);
    assert_eq!(of(&lines(&journal(&disk.synced())), "opened", "id").len(), 0);
    assert_eq!(Call::slots().send_to(&stage, at).await.status, 200);
    assert_eq!(stage.provider.received().len(), 1, "the read alone was sent");
    assert_eq!(stage.provider.dialled(), 1);
    assert!(!booked.is_finished());
    disk.takes_back("hold");
    assert_eq!(booked.await.unwrap().status, 200);
    assert_eq!(stage.provider.received().len(), 2);
    let booked = "00000001-0000-4000-8000-000000000000";
    assert!(of(&lines(&journal(&disk.synced())), "opened", "trace_id").contains(booked));
    // The read ended before its first line could be written, and has one that says all.
    let read = loop {
        let mut lines = lines(&journal(&stage.path("own")));
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

/// With `"every-request"` a read waits too; with `"batched"` nothing does.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_the_disk_is_configured() {
    for (durability, reads_wait, writes_wait) in
        [("every-request", true, true), ("batched", false, false)]
    {
        let set = format!("durability = \"{durability}\"\nwait = \"1m\"");
        let stage = Arc::new(Stage::with(|files| files.set("audit", &set)).await);
        let Some((disk, served)) = Disk::serve(&stage) else { return };
        disk.orders("hold");
        for (call, waits) in [(Call::slots(), reads_wait), (booking(1), writes_wait)] {
            let asked = stage.provider.received().len();
            let (asking, at) = (Arc::clone(&stage), served.1);
            let answered = tokio::spawn(async move { call.send_to(&asking, at).await });
            if waits {
                disk.is_waited_for().await;
                assert_eq!(stage.provider.received().len(), asked, "{durability}");
                disk.takes_back("hold");
            }
            assert_eq!(answered.await.unwrap().status, 200);
            disk.orders("hold");
        }
        disk.takes_back("hold");
    }
}

/// Killed in the midst of a load of bookings, on a disk that keeps only what it was told to keep.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_was_sent_is_on_disk_whenever_the_machine_stops() {
    let stage = Arc::new(Stage::with(hurried).await);
    let Some((disk, mut served)) = Disk::serve(&stage) else { return };
    let load = Load::of_bookings(&stage, served.1, 0);
    stage.provider.has_received(40).await;
    served.0.kill().unwrap();
    served.0.wait().unwrap();
    load.ends().await;
    let lines = lines(&journal(&disk.synced()));
    let recorded = of(&lines, "opened", "trace_id");
    let received = stage.provider.received();
    assert!(received.len() >= 40);
    for request in received {
        let trace_id = request.header("ssp-traceid").unwrap();
        assert!(recorded.contains(trace_id), "{trace_id} was sent, and is not on the disk");
    }
}

/// Bookings from four consumers, each with a trace id of its own, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn of_bookings(stage: &Arc<Stage>, at: std::net::SocketAddr, round: usize) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let task = |consumer: usize| {
            let (stage, stop) = (Arc::clone(stage), Arc::clone(&stop));
            tokio::spawn(async move {
                for number in 0.. {
                    let booking = booking((round << 20) + (consumer << 16) + number);
                    let answer = booking.try_send_to(&stage, at).await;
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

/// H20: fifty times killed at a moment that differs each time, over one journal.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_crashes_under_a_load_of_bookings_lose_and_invent_nothing() {
    let stage = Arc::new(Stage::with(hurried).await);
    let mut moment = 12_345_u64;
    let mut before = 0;
    for round in 0..50 {
        let mut served = serve(&stage);
        let load = Load::of_bookings(&stage, served.1, round);
        moment = moment.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        stage.provider.has_received(before + 1 + usize::try_from(moment >> 60).unwrap()).await;
        for _ in 0..(moment >> 40) % 2000 {
            std::hint::spin_loop();
        }
        served.0.kill().unwrap();
        served.0.wait().unwrap();
        load.ends().await;
        before = stage.provider.received().len();
    }
    let folder = stage.path("own");
    let text = journal(&folder);
    let before_last = lines(&text);
    let recorded = of(&before_last, "opened", "trace_id");
    for request in stage.provider.received() {
        let trace_id = request.header("ssp-traceid").unwrap();
        assert!(recorded.contains(trace_id), "{trace_id} was sent and is not recorded");
    }
    // One more start finds what the last crash has left.
    let mut served = serve(&stage);
    served.signal("TERM");
    assert!(served.0.wait().unwrap().success());
    let text = journal(&folder);
    let all = lines(&text);
    let (opened, closed) = (of(&all, "opened", "id"), of(&all, "closed", "id"));
    let unfinished: BTreeSet<_> = opened.difference(&closed).copied().collect();
    assert!(!unfinished.is_empty(), "no crash has left anything");
    assert_eq!(of(&all, "unfinished", "id"), unfinished);
    let found = is_sound(&folder);
    let told: BTreeSet<_> =
        found.unfinished.iter().map(spine_proxy::audit::UnfinishedExchange::id).collect();
    assert_eq!(told, unfinished);
    assert!(found.open.is_empty());
    assert_eq!(found.segments, 51);
}

/// What was asked and heard, against what is recorded.
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

    /// Every request has its one closed line, or was refused and is counted; what was refused was not
    /// sent; and the journal is sound.
    async fn adds_up(&self, (stage, served): (&Stage, &Served), folder: &std::path::Path) {
        // The last sum is a second away.
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
        assert_eq!(stage.provider.received().len(), self.asked - self.refused);
        is_sound(folder);
    }
}

/// A reserve of free space is kept for the exchanges under way.
#[tokio::test(flavor = "multi_thread")]
async fn below_the_disk_reserve_new_requests_are_refused_and_those_under_way_are_recorded() {
    let stage = Stage::with(|files| {
        hurried(files);
        files.set("audit", "disk-reserve = \"4 MiB\"");
    })
    .await;
    let Some((served, seen)) = serve_on_small_disk(&stage, 8 * 1024) else { return };
    let (at, filler) = (served.1, seen.join("filler"));
    let told = Arc::new(tokio::sync::Notify::new());
    let answer = testkit::provider::answer("200 OK", "", "{}");
    stage.provider.does(Act::WriteWhenTold(Arc::clone(&told), answer));
    let under_way = async { booking(1).send_to(&stage, at).await };
    let refused = async {
        stage.provider.has_received(1).await;
        stage.provider.does(Act::ok());
        std::fs::write(&filler, vec![0; 5 << 20]).unwrap();
        while booking(2).send_to(&stage, at).await.token() != Some("audit_unavailable") {}
        assert!(is_ready(&served).await.contains("[-]audit"));
        told.notify_one();
    };
    let (answer, ()) = tokio::join!(under_way, refused);
    assert_eq!(answer.status, 200);
    std::fs::remove_file(&filler).unwrap();
    while Call::slots().send_to(&stage, at).await.status != 200 {
        tokio::task::yield_now().await;
    }
}

/// H12: a full disk, three times over.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_requests_and_recovers_by_itself() {
    let stage = Stage::with(hurried).await;
    let Some((served, seen)) = serve_on_small_disk(&stage, 2048) else { return };
    let (at, filler, folder) = (served.1, seen.join("filler"), seen.join("own"));
    let mut tally = Tally::default();
    let call =
        |number: usize| if number.is_multiple_of(2) { Call::slots() } else { booking(number) };
    let healthy = "spine_proxy_audit_healthy";
    for _ in 0..3 {
        // What is left is room for some of the requests that follow.
        std::fs::write(&filler, vec![0; 4096 * 1024]).unwrap_err();
        let length = std::fs::metadata(&filler).unwrap().len();
        let file = std::fs::OpenOptions::new().write(true).open(&filler).unwrap();
        file.set_len(length - 16 * 1024).unwrap();
        drop(file);
        let before = tally.refused;
        while tally.refused < before + 4 {
            tally.counts(&call(tally.asked).send_to(&stage, at).await);
        }
        assert!(served.metrics().await.contains(&format!("{healthy} 0\n")));
        assert!(is_ready(&served).await.contains("[-]audit"));
        std::fs::remove_file(&filler).unwrap();
        let mut answered = 0;
        while answered < 10 {
            let answer = call(tally.asked).send_to(&stage, at).await;
            answered += usize::from(answer.status == 200);
            tally.counts(&answer);
        }
        assert!(served.metrics().await.contains(&format!("{healthy} 1\n")));
    }
    tally.adds_up((&stage, &served), &folder).await;
}

async fn is_ready(served: &Served) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut admin = tokio::net::TcpStream::connect(served.2).await.unwrap();
    admin
        .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    admin.read_to_string(&mut text).await.unwrap();
    text
}

/// A failed fdatasync is not trusted to have left the pages as they were: all is written once more. A
/// file system that has become read-only is another way to fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_refuses_requests_and_recovers_by_itself() {
    for order in ["eio", "erofs"] {
        fails_and_recovers(order).await;
    }
}

async fn fails_and_recovers(order: &str) {
    let stage = Stage::with(hurried).await;
    let Some((disk, served)) = Disk::serve(&stage) else { return };
    let mut tally = Tally::default();
    tally.counts(&booking(0).send_to(&stage, served.1).await);
    for round in 0..3 {
        disk.orders(order);
        for number in 1..4 {
            tally.counts(&booking(round * 10 + number).send_to(&stage, served.1).await);
        }
        disk.takes_back(order);
        loop {
            let answer = Call::slots().send_to(&stage, served.1).await;
            tally.counts(&answer);
            if answer.status == 200 {
                break;
            }
        }
    }
    assert!(tally.refused >= 9);
    assert!(served.counted("audit_write_failures_total").await >= 3);
    tally.adds_up((&stage, &served), &stage.path("own")).await;
}

/// A disk that says nothing is as good as one that fails, until it speaks again.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_disk_refuses_requests_and_recovers_by_itself() {
    let change = |files: &mut Files| {
        hurried(files);
        files.set("audit", "wait = \"200ms\"");
    };
    let stage = Stage::with(change).await;
    let Some((disk, served)) = Disk::serve(&stage) else { return };
    let mut tally = Tally::default();
    disk.orders("hold");
    tally.counts(&booking(1).send_to(&stage, served.1).await);
    assert_eq!(tally.refused, 1, "it was not waited for without end");
    while tally.refused < 3 {
        tally.counts(&Call::slots().send_to(&stage, served.1).await);
    }
    while served.counted("audit_healthy").await == 1 {
        tokio::task::yield_now().await;
    }
    disk.takes_back("hold");
    let mut answered = 0;
    while answered < 3 {
        let answer = booking(2).send_to(&stage, served.1).await;
        answered += usize::from(answer.status == 200);
        tally.counts(&answer);
    }
    tally.adds_up((&stage, &served), &stage.path("own")).await;
}

/// Reads go on where that is configured, while there is room to keep their lines; writes do not.
#[tokio::test(flavor = "multi_thread")]
async fn reads_may_go_on_while_the_journal_fails() {
    let change = |files: &mut Files| {
        hurried(files);
        files.set("audit", "when-failing = \"serve-reads\"");
        files.set("listener.limits", "in-hand-max = 4");
    };
    let stage = Stage::with(|files| {
        files.add("[listener.limits]\n");
        change(files);
    })
    .await;
    let Some((disk, served)) = Disk::serve(&stage) else { return };
    let mut tally = Tally::default();
    disk.orders("eio");
    tally.counts(&booking(1).send_to(&stage, served.1).await);
    assert_eq!(tally.refused, 1);
    // Room for four lines of each entry that may be open, of which the booking has two. A read has one:
    // it ends before its first line can be written; but none begins without room for two.
    for _ in 0..13 {
        tally.counts(&Call::slots().send_to(&stage, served.1).await);
    }
    assert_eq!(tally.refused, 1, "reads go on");
    tally.counts(&booking(2).send_to(&stage, served.1).await);
    tally.counts(&Call::slots().send_to(&stage, served.1).await);
    assert_eq!(tally.refused, 3, "there is an end to the room");
    disk.takes_back("eio");
    while tally.asked < 30 {
        tally.counts(&Call::slots().send_to(&stage, served.1).await);
    }
    tally.adds_up((&stage, &served), &stage.path("own")).await;
}

/// Somebody moves the segment away, as tools that rotate logs do.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_moved_away_is_followed_by_another() {
    let stage = Stage::new().await;
    let folder = stage.path("audit");
    stage.hears(booking(1)).await;
    let moved = segments(&folder).pop().unwrap();
    std::fs::rename(&moved, stage.path("aside.jsonl")).unwrap();
    // The next is written where it was, and is found to be.
    stage.hears(booking(2)).await;
    stage.hears(booking(3)).await;
    stage.server.trail.flush().await;
    assert_eq!(segments(&folder).len(), 1);
    assert_ne!(segments(&folder)[0], moved);
    std::fs::rename(stage.path("aside.jsonl"), &moved).unwrap();
    is_sound(&folder);
    assert_eq!(of(&lines(&journal(&folder)), "closed", "id").len(), 3);
}

/// Somebody deletes it, or cuts it anywhere: what is gone is gone and is said to be, what follows is not
/// lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_deleted_or_cut_is_noticed_and_gone_on_from() {
    // Bytes that are left of it, of those at its end: none, all but one, half a line, several lines.
    for left in [None, Some(0), Some(1), Some(400), Some(5000)] {
        let stage = Stage::with(hurried).await;
        let folder = stage.path("audit");
        for number in 10..20 {
            stage.hears(booking(number)).await;
        }
        stage.server.trail.flush().await;
        let harmed = segments(&folder).pop().unwrap();
        let length = std::fs::metadata(&harmed).unwrap().len();
        match left {
            None => std::fs::remove_file(&harmed).unwrap(),
            Some(cut) => {
                let file = std::fs::OpenOptions::new().write(true).open(&harmed).unwrap();
                file.set_len(if cut == 0 { 0 } else { length - cut }).unwrap();
            }
        }
        let refused = stage.hears(booking(2)).await;
        assert_eq!(refused.token(), Some("audit_unavailable"), "its disk has failed it once");
        while stage.hears(booking(3)).await.status != 200 {}
        stage.server.trail.flush().await;
        let text = journal(&folder);
        let after = lines(&text);
        let opened = of(&after, "opened", "trace_id");
        for number in [2, 3] {
            assert!(opened.contains(&*format!("{number:08x}-0000-4000-8000-000000000000")));
        }
        assert!(of(&after, "closed", "refusal").contains("audit_unavailable"));
        assert_eq!(stage.counted("audit_damaged_total"), 1, "{left:?}");
        assert_eq!(stage.provider.received().len(), 11);
        let found = spine_proxy::audit::verify(&folder, &[]).unwrap();
        // Whatever was left of the old segment, the new one is in order.
        let new = segments(&folder).pop().unwrap();
        let new = new.file_name().unwrap().to_str().unwrap();
        for fault in found.faults.iter().map(ToString::to_string) {
            assert!(!fault.contains("is not as it was written"), "{left:?}: {fault}");
            assert!(!fault.starts_with(new) || fault.contains("line 1: "), "{left:?}: {fault}");
        }
        assert_ne!(harmed, segments(&folder).pop().unwrap());
    }
}

/// What a crash has torn stays as it is, is written down by the next start, and is no fault.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_goes_on_where_a_crash_has_torn_it() {
    use std::io::Write as _;
    let stage = Stage::new().await;
    stage.hears(booking(1)).await;
    let stage = stage.restarts().await;
    let folder = stage.path("audit");
    let last = segments(&folder).pop().unwrap();
    let torn = b"{\"seq\":99,\"ti\0me";
    std::fs::OpenOptions::new().append(true).open(&last).unwrap().write_all(torn).unwrap();
    // The gateway that is still there must not notice: a copy is gone on from.
    let copy = stage.path("copy");
    std::fs::create_dir(&copy).unwrap();
    for path in segments(&folder) {
        std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let found = spine_proxy::audit::verify(&copy, &[]).unwrap();
    assert!(found.is_sound() && found.ends_torn);
    let text = stage.text("spine-proxy.toml").replace("\"audit\"", "\"copy\"");
    for torn_before in [1, 2] {
        let program = std::process::Command::new(env!("CARGO_BIN_EXE_spine-proxy"));
        let mut served = testkit::process::serve_by(program, &stage, &text);
        assert_eq!(booking(2).send_to(&stage, served.1).await.status, 200);
        served.signal("TERM");
        assert!(served.0.wait().unwrap().success());
        let found = is_sound(&copy);
        assert_eq!((found.torn.len(), found.ends_torn), (torn_before, false));
        // Next time it is the first line of a segment that was torn.
        let next = copy.join(format!("{:020}.jsonl", found.last.unwrap().0 + 1));
        std::fs::write(next, "{\"seq\":").unwrap();
    }
    let text = journal(&copy);
    let lines = lines(&text);
    let started: Vec<_> = lines.iter().filter(|line| line["event"] == "started").collect();
    assert_eq!(started[2]["torn"]["text"], "{\"seq\":99,\"ti\0me");
    assert_eq!(started[2]["torn"]["bytes"], torn.len());
    assert_eq!(started[3]["torn"]["text"], "{\"seq\":");
}
