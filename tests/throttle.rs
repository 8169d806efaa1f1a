//! What a consumer may send, what it is told of it, and who is sent away first.

use std::sync::Arc;

use tokio::sync::Notify;

use testkit::files::Files;
use testkit::process::{Served, serve_by};
use testkit::provider::answer;
use testkit::redis::{Balancer, PASSWORD, Redis};
use testkit::stage::{self, CLINIC, CLINIC_ODS, ROOT};
use testkit::{Act, Answer, Call, Stage};

/// Lets the clinic search for slots, beside the hub.
fn two_consumers(files: &mut Files) {
    files.edit("directory.toml", |text| {
        text.replace("from = [\"200000000359\"]", "from = [\"200000000359\", \"200000000360\"]")
    });
}

fn of_the_clinic() -> Call {
    let mut call = Call::slots().certificate("clinic").set("Ssp-From", CLINIC);
    let organisation = CLINIC_ODS.parse().unwrap();
    let scope = "organization/*.read";
    call.claims = spine_proxy::claims::example_claims(ROOT, &organisation, scope, stage::now_s());
    call
}

fn left(answer: &Answer) -> [u32; 3] {
    ["limit", "remaining", "reset"]
        .map(|name| answer.header(&format!("x-rate-limit-{name}")).unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_told_what_is_left_of_its_quota_and_another_has_its_own() {
    let stage = Stage::with(|files| {
        two_consumers(files);
        files.add("[throttle.consumers.\"200000000359\"]\nper-second = 1\nburst = 4");
    })
    .await;
    // Ours stands in for what a provider says of its own.
    stage.provider.does(Act::answer("200 OK", "X-Rate-Limit-Limit: 7\r\n", "{}"));
    let mut before = 4;
    let refused = loop {
        let answer = stage.hears(Call::slots()).await;
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
    refused.is_a_proper_refusal();
    assert!(stage.provider.received().len() >= 4, "the burst was let in");
    let other = stage.hears(of_the_clinic()).await;
    assert_eq!(other.status, 200, "{}", other.text());
    assert_eq!(left(&other), [1000, 999, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_has_so_many_exchanges_at_once_and_another_its_own() {
    let stage = Stage::with(|files| {
        two_consumers(files);
        files.add("[throttle]\nconsumer-exchanges-max = 1");
    })
    .await;
    let told = Arc::new(Notify::new());
    stage.provider.does(Act::WriteWhenTold(Arc::clone(&told), answer("200 OK", "", "{}")));
    let rest = async {
        stage.provider.has_received(1).await;
        let refused = stage.hears(Call::book()).await;
        assert_eq!((refused.status, refused.token()), (429, Some("consumer_busy")));
        assert_eq!(refused.header("retry-after"), Some("1"));
        refused.is_a_proper_refusal();
        stage.provider.does(Act::ok());
        assert_eq!(stage.hears(of_the_clinic()).await.status, 200);
        told.notify_one();
    };
    let (first, ()) = tokio::join!(stage.hears(Call::slots()), rest);
    assert_eq!(first.status, 200);
    assert_eq!(stage.hears(Call::slots()).await.status, 200, "its exchange has ended");
}

/// One consumer fills a practice and its queue; another's next request has the next place.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_floods_a_practice_waits_behind_itself() {
    let stage = Stage::with(|files| {
        two_consumers(files);
        files.add(
            "[throttle]\npractice-exchanges-max = 2\npractice-waiting-max = 6\nwait = \"60s\"",
        );
    })
    .await;
    let stage = Arc::new(stage);
    let told = Arc::new(Notify::new());
    stage.provider.does(Act::WriteWhenTold(Arc::clone(&told), answer("200 OK", "", "{}")));
    let ask = |call: Call| {
        let stage = Arc::clone(&stage);
        tokio::spawn(async move { stage.hears(call).await })
    };
    let flood: Vec<_> = (0..8).map(|_| ask(Call::slots())).collect();
    stage.provider.has_received(2).await;
    while stage.counted("provider_waiting_requests") < 6 {
        tokio::task::yield_now().await;
    }
    let other = ask(of_the_clinic());
    // The queue was full: one of the flood has made way.
    while stage.counted("refusals_total{token=\"provider_busy\"}") < 1 {
        tokio::task::yield_now().await;
    }
    told.notify_one();
    stage.provider.has_received(3).await;
    let third = stage.provider.received().pop().unwrap();
    assert_eq!(third.header("ssp-from"), Some(CLINIC), "its turn came first");
    stage.provider.does(Act::ok());
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

/// Memory in use against what may be, by a process of its own whose limit is moved about it.
#[tokio::test(flavor = "multi_thread")]
async fn load_is_shed_in_the_order_that_is_written_down() {
    let stage = Stage::with(two_consumers).await;
    let text = stage.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
    let served = serve_by(
        std::process::Command::new(env!("CARGO_BIN_EXE_spine-proxy")),
        &stage,
        &text.replace("[throttle]\n", "[throttle]\nmemory-max = \"100 GiB\"\n"),
    );
    let at = served.1;
    let level = |percent: u64, level: u64| {
        let (stage, served, text) = (&stage, &served, &text);
        async move {
            // Its memory may grow a little while the limit is moved.
            for look in 0.. {
                if look % 200 == 0 {
                    let bytes = resident_kib(served) * 1024 * 100 / percent;
                    let throttle = format!("[throttle]\nmemory-max = \"{bytes} B\"\n");
                    let text = text.replace("[throttle]\n", &throttle);
                    let text = format!("{text}\n[log]\nlevel = \"trace\"\n");
                    stage.replace("own.toml", &text);
                    served.signal("HUP");
                }
                if served.counted("shedding_level").await == level {
                    return;
                }
            }
        }
    };
    let token = |answer: Answer| answer.token().map(str::to_owned);
    let call = Call::slots();
    let hub = || call.send_to(&stage, at);
    // What runs for the first time takes memory, which is measured for each request: a reload, a read and a
    // write before it counts.
    level(10, 0).await;
    assert_eq!(token(hub().await), None);
    assert_eq!(token(Call::book().send_to(&stage, at).await), None);
    // Whoever has nothing else under way is below its share.
    level(83, 1).await;
    assert_eq!(token(hub().await), None);
    assert_eq!(token(Call::book().send_to(&stage, at).await), None);
    level(93, 2).await;
    let refused = hub().await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    refused.is_a_proper_refusal();
    assert_eq!(token(refused).as_deref(), Some("overloaded"));
    assert_eq!(token(Call::book().send_to(&stage, at).await), None, "writes go last");
    level(150, 3).await;
    assert_eq!(token(hub().await).as_deref(), Some("overloaded"));
    assert_eq!(token(Call::book().send_to(&stage, at).await).as_deref(), Some("overloaded"));
    level(10, 0).await;
    assert_eq!(token(hub().await), None);
}

fn resident_kib(served: &Served) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", served.0.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Two gateways, one quota; then Redis goes away, and comes back.
#[tokio::test(flavor = "multi_thread")]
async fn gateways_share_a_quota_through_redis_and_keep_to_it_alone_without() {
    let stage = Stage::new().await;
    let Some(redis) = Redis::start(&stage).await else { return };
    let address = redis.address;
    std::fs::write(stage.path("redis.password"), format!("{PASSWORD}\n")).unwrap();
    let shared = format!(
        "[throttle.shared]\nurl = \"redis://{address}/0\"\npassword-file = \"redis.password\"\nwait = \"1s\""
    );
    let config = stage.text("spine-proxy.toml");
    let serve = |journal: &str| {
        let text = config.replace("\"audit\"", &format!("\"{journal}\""));
        let program = std::process::Command::new(env!("CARGO_BIN_EXE_spine-proxy"));
        let quota = "[throttle]\nconsumer-per-second = 1\nconsumer-burst = 40";
        let text = text.replace("[throttle]", quota);
        serve_by(program, &stage, &format!("{text}\n{shared}"))
    };
    let gateways = [serve("one"), serve("two")];
    let started = std::time::Instant::now();
    let mut let_in = [0_u64; 2];
    let mut refused = 0;
    while refused < 4 {
        for (served, let_in) in gateways.iter().zip(&mut let_in) {
            let answer = Call::slots().send_to(&stage, served.1).await;
            match answer.status {
                200 => *let_in += 1,
                _ => {
                    assert_eq!(answer.token(), Some("quota_exceeded"));
                    refused += 1;
                }
            }
        }
    }
    // What a second brings is let in too; what one has drawn and not spent is lost to the other.
    let most = 41 + started.elapsed().as_secs();
    let total = let_in[0] + let_in[1];
    assert!((38..=most).contains(&total), "{let_in:?} of 40 and {most}");
    assert!(let_in.iter().all(|one| *one >= 15), "{let_in:?}");
    for served in &gateways {
        assert_eq!(served.counted("quotas_shared").await, 1);
    }
    drop(redis);
    // Each has a quota of its own now, and has not drawn on it.
    for served in &gateways {
        while served.counted("quotas_shared").await == 1 {
            Call::slots().send_to(&stage, served.1).await;
        }
        assert_eq!(Call::slots().send_to(&stage, served.1).await.status, 200);
    }
    let Some(_redis) = Redis::start_at(&stage, address).await else { return };
    for served in &gateways {
        while served.counted("quotas_shared").await == 0 {
            Call::slots().send_to(&stage, served.1).await;
        }
    }
}

/// Connections that were made before a failover lead to a server that may no longer be written to.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_may_not_be_written_to_is_left_for_the_one_that_may() {
    let stage = Stage::new().await;
    let (Some(first), Some(second)) = (Redis::start(&stage).await, Redis::start(&stage).await)
    else {
        return;
    };
    let balancer = Balancer::start(first.address).await;
    std::fs::write(stage.path("redis.password"), PASSWORD).unwrap();
    let shared = format!(
        "[throttle.shared]\nurl = \"redis://{}/0\"\npassword-file = \"redis.password\"\nwait = \"5s\"",
        balancer.address
    );
    let config = stage.text("spine-proxy.toml");
    stage.replace("spine-proxy.toml", &format!("{config}\n{shared}"));
    let stage = stage.restarts().await;
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    assert_eq!(stage.counted("quotas_shared"), 1);
    first.becomes_a_replica().await;
    balancer.leads_to(second.address);
    while stage.counted("quotas_shared") == 1 {
        assert_eq!(stage.hears(Call::slots()).await.status, 200);
    }
    let began = std::time::Instant::now();
    while stage.counted("quotas_shared") == 0 {
        assert_eq!(stage.hears(Call::slots()).await.status, 200);
        assert!(began.elapsed().as_secs() < 60, "the first server is still asked");
    }
}
