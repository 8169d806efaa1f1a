//! Quotas of consumers, the headers about them, and load shedding.

use std::sync::Arc;

use tokio::sync::Notify;

use testkit::files::Files;
use testkit::process::{GatewayProcess, serve_with};
use testkit::provider::answer;
use testkit::redis::{Balancer, PASSWORD, Redis};
use testkit::test_bed::{self, CLINIC, CLINIC_ODS, ROOT};
use testkit::{Answer, ProviderAction, TestBed, TestRequest};

/// Adds an agreement for the clinic, the second consumer.
fn two_consumers(files: &mut Files) {
    files.edit("directory.toml", |text| {
        text.replace("from = [\"200000000359\"]", "from = [\"200000000359\", \"200000000360\"]")
    });
}

fn of_the_clinic() -> TestRequest {
    let mut call = TestRequest::slots().certificate("clinic").set("Ssp-From", CLINIC);
    let organisation = CLINIC_ODS.parse().unwrap();
    let scope = "organization/*.read";
    call.claims =
        spine_proxy::claims::example_claims(ROOT, &organisation, scope, test_bed::now_s());
    call
}

fn left(answer: &Answer) -> [u32; 3] {
    ["limit", "remaining", "reset"]
        .map(|name| answer.header(&format!("x-rate-limit-{name}")).unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_give_the_rest_of_the_consumers_own_quota() {
    let bed = TestBed::with(|files| {
        two_consumers(files);
        files.add("[throttle.consumers.\"200000000359\"]\nper-second = 1\nburst = 4");
    })
    .await;
    // The gateway's quota headers replace those of the provider.
    bed.provider.set_action(ProviderAction::answer("200 OK", "X-Rate-Limit-Limit: 7\r\n", "{}"));
    let mut before = 4;
    let refused = loop {
        let answer = bed.send(TestRequest::slots()).await;
        let [limit, remaining, reset_s] = left(&answer);
        assert_eq!(limit, 4);
        assert_eq!(reset_s, 4 - remaining);
        if answer.status != 200 {
            break answer;
        }
        assert!(remaining < 4 && remaining + 1 >= before, "{remaining} after {before}");
        before = remaining;
    };
    assert_eq!((refused.status, refused.token()), (429, Some("quota_exceeded")));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(left(&refused)[1], 0);
    refused.assert_refusal_form();
    assert!(bed.provider.received().len() >= 4, "the burst was let in");
    let other = bed.send(of_the_clinic()).await;
    assert_eq!(other.status, 200, "{}", other.text());
    assert_eq!(left(&other), [1000, 999, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_consumer_has_its_own_limit_of_concurrent_exchanges() {
    let bed = TestBed::with(|files| {
        two_consumers(files);
        files.add("[throttle]\nconsumer-exchanges-max = 1");
    })
    .await;
    let told = Arc::new(Notify::new());
    bed.provider.set_action(ProviderAction::WriteWhenNotified(
        Arc::clone(&told),
        answer("200 OK", "", "{}"),
    ));
    let rest = async {
        bed.provider.wait_for_requests(1).await;
        let refused = bed.send(TestRequest::book()).await;
        assert_eq!((refused.status, refused.token()), (429, Some("consumer_busy")));
        assert_eq!(refused.header("retry-after"), Some("1"));
        refused.assert_refusal_form();
        bed.provider.set_action(ProviderAction::ok());
        assert_eq!(bed.send(of_the_clinic()).await.status, 200);
        told.notify_one();
    };
    let (first, ()) = tokio::join!(bed.send(TestRequest::slots()), rest);
    assert_eq!(first.status, 200);
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200, "its exchange has ended");
}

/// One consumer fills a practice and its queue; the next place goes to another consumer's request.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_floods_a_practice_delays_only_itself() {
    let bed = TestBed::with(|files| {
        two_consumers(files);
        files.add(
            "[throttle]\npractice-exchanges-max = 2\npractice-waiting-max = 6\nwait = \"60s\"",
        );
    })
    .await;
    let bed = Arc::new(bed);
    let told = Arc::new(Notify::new());
    bed.provider.set_action(ProviderAction::WriteWhenNotified(
        Arc::clone(&told),
        answer("200 OK", "", "{}"),
    ));
    let ask = |call: TestRequest| {
        let bed = Arc::clone(&bed);
        tokio::spawn(async move { bed.send(call).await })
    };
    let flood: Vec<_> = (0..8).map(|_| ask(TestRequest::slots())).collect();
    bed.provider.wait_for_requests(2).await;
    while bed.metric("provider_waiting_requests") < 6 {
        tokio::task::yield_now().await;
    }
    let other = ask(of_the_clinic());
    // The queue was full: one request of the flood was refused to make room.
    while bed.metric("refusals_total{token=\"provider_busy\"}") < 1 {
        tokio::task::yield_now().await;
    }
    told.notify_one();
    bed.provider.wait_for_requests(3).await;
    let third = bed.provider.received().pop().unwrap();
    assert_eq!(third.header("ssp-from"), Some(CLINIC), "its turn came first");
    bed.provider.set_action(ProviderAction::ok());
    while !other.is_finished() || flood.iter().any(|asked| !asked.is_finished()) {
        told.notify_one();
        tokio::task::yield_now().await;
    }
    assert_eq!(other.await.unwrap().status, 200);
    let mut busy = 0;
    for asked in flood {
        let answer = asked.await.unwrap();
        busy += usize::from(answer.token() == Some("provider_busy"));
        assert!(answer.status == 200 || answer.status == 503);
    }
    assert_eq!(busy, 1);
}

/// The gateway runs as a separate process, whose limit of memory is set relative to its use.
#[tokio::test(flavor = "multi_thread")]
async fn load_is_shed_in_the_documented_order() {
    let bed = TestBed::with(two_consumers).await;
    let text = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
    let served = serve_with(
        std::process::Command::new(env!("CARGO_BIN_EXE_spine-proxy")),
        &bed,
        &text.replace("[throttle]\n", "[throttle]\nmemory-max = \"100 GiB\"\n"),
    );
    let at = served.address;
    let level = |percent: u64, level: u64| {
        let (bed, served, text) = (&bed, &served, &text);
        async move {
            // Its use of memory may grow while the limit is set.
            for look in 0.. {
                if look % 200 == 0 {
                    let bytes = resident_kib(served) * 1024 * 100 / percent;
                    let throttle = format!("[throttle]\nmemory-max = \"{bytes} B\"\n");
                    let text = text.replace("[throttle]\n", &throttle);
                    let text = format!("{text}\n[log]\nlevel = \"trace\"\n");
                    bed.replace("own.toml", &text);
                    served.signal("HUP");
                }
                if served.metric("shedding_level").await == level {
                    return;
                }
            }
        }
    };
    let token = |answer: Answer| answer.token().map(str::to_owned);
    let call = TestRequest::slots();
    let hub = || call.send_to(&bed, at);
    // Code that runs for the first time takes memory, which would distort the measurement: a reload, a read
    // and a write come first.
    level(10, 0).await;
    assert_eq!(token(hub().await), None);
    assert_eq!(token(TestRequest::book().send_to(&bed, at).await), None);
    // A consumer with no other exchange in progress is below its share.
    level(83, 1).await;
    assert_eq!(token(hub().await), None);
    assert_eq!(token(TestRequest::book().send_to(&bed, at).await), None);
    level(93, 2).await;
    let refused = hub().await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    refused.assert_refusal_form();
    assert_eq!(token(refused).as_deref(), Some("overloaded"));
    assert_eq!(token(TestRequest::book().send_to(&bed, at).await), None, "writes go last");
    level(150, 3).await;
    assert_eq!(token(hub().await).as_deref(), Some("overloaded"));
    assert_eq!(token(TestRequest::book().send_to(&bed, at).await).as_deref(), Some("overloaded"));
    level(10, 0).await;
    assert_eq!(token(hub().await), None);
}

fn resident_kib(served: &GatewayProcess) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", served.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Two gateways share a quota; then Redis stops, and starts again.
#[tokio::test(flavor = "multi_thread")]
async fn gateways_share_a_quota_through_redis_and_have_their_own_without_it() {
    let bed = TestBed::new().await;
    let Some(redis) = Redis::start(bed.folder.path()).await else { return };
    let address = redis.address;
    std::fs::write(bed.path("redis.password"), format!("{PASSWORD}\n")).unwrap();
    let shared = format!(
        "[redis]\nurl = \"redis://{address}/0\"\npassword-file = \"redis.password\"\nwait = \"1s\"\ngateways = 2"
    );
    let config = bed.text("spine-proxy.toml");
    let serve = |journal: &str| {
        let text = config.replace("\"audit\"", &format!("\"{journal}\""));
        let program = std::process::Command::new(env!("CARGO_BIN_EXE_spine-proxy"));
        let quota = "[throttle]\nconsumer-per-second = 1\nconsumer-burst = 40";
        let text = text.replace("[throttle]", quota);
        serve_with(program, &bed, &format!("{text}\n{shared}"))
    };
    let gateways = [serve("one"), serve("two")];
    let started = std::time::Instant::now();
    let mut let_in = [0_u64; 2];
    let mut refused = 0;
    while refused < 4 {
        for (served, let_in) in gateways.iter().zip(&mut let_in) {
            let answer = TestRequest::slots().send_to(&bed, served.address).await;
            match answer.status {
                200 => *let_in += 1,
                _ => {
                    assert_eq!(answer.token(), Some("quota_exceeded"));
                    refused += 1;
                }
            }
        }
    }
    // The quota grows by one a second; what one gateway has drawn and not used is lost to the other.
    let most = 41 + started.elapsed().as_secs();
    let total = let_in[0] + let_in[1];
    assert!((38..=most).contains(&total), "{let_in:?} of 40 and {most}");
    assert!(let_in.iter().all(|one| *one >= 15), "{let_in:?}");
    for served in &gateways {
        assert_eq!(served.metric("redis_up").await, 1);
    }
    drop(redis);
    // Each gateway now has its own quota, still unused.
    for served in &gateways {
        while served.metric("redis_up").await == 1 {
            TestRequest::slots().send_to(&bed, served.address).await;
        }
        assert_eq!(TestRequest::slots().send_to(&bed, served.address).await.status, 200);
    }
    let Some(_redis) = Redis::start_at(bed.folder.path(), address).await else { return };
    for served in &gateways {
        while served.metric("redis_up").await == 0 {
            TestRequest::slots().send_to(&bed, served.address).await;
        }
    }
}

/// Connections from before a failover lead to a server that has become a read-only replica.
#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_redis_replica_are_replaced_after_a_failover() {
    let bed = TestBed::new().await;
    let (Some(first), Some(second)) =
        (Redis::start(bed.folder.path()).await, Redis::start(bed.folder.path()).await)
    else {
        return;
    };
    let balancer = Balancer::start(first.address).await;
    std::fs::write(bed.path("redis.password"), PASSWORD).unwrap();
    let shared = format!(
        "[redis]\nurl = \"redis://{}/0\"\npassword-file = \"redis.password\"\nwait = \"5s\"\ngateways = 2",
        balancer.address
    );
    let config = bed.text("spine-proxy.toml");
    bed.replace("spine-proxy.toml", &format!("{config}\n{shared}"));
    let bed = bed.restart().await;
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    assert_eq!(bed.metric("redis_up"), 1);
    first.make_replica().await;
    balancer.set_target(second.address);
    while bed.metric("redis_up") == 1 {
        assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    }
    let began = std::time::Instant::now();
    while bed.metric("redis_up") == 0 {
        assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
        assert!(began.elapsed().as_secs() < 60, "the first server is still asked");
    }
}
