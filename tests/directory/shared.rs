//! Directory answers and the rate of queries, shared by several gateways through a real Redis.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gpconnect_simulator::sds::{Records, SdsFault};
use spine_proxy::directory::Directory;
use spine_proxy::metrics::Metrics;
use spine_proxy::refusal::Refusal;
use spine_proxy::sharing::{RedisServer, RedisSettings, Sharing};
use spine_proxy::tls::Loader;
use testkit::redis::{PASSWORD, Redis};
use testkit::sds::{BOOK, Registry, SLOTS};
use tokio::task::JoinSet;

use super::{MINUTE, NEW_ROOT, ROOT, moved, practice};

const KEY: &str = "an invented key of thirty-two bytes or more";
/// Deadlines by which no look-up is given up.
const PATIENT: &str = r#"deadlines = { attempt = "1h", waiting = "1h", background = "1h" }"#;

/// An API and a Redis server, for several gateways.
struct Fleet {
    registry: Arc<Registry>,
    redis: Redis,
}

impl Fleet {
    /// Starts an API with these records; `None` if Redis is not installed.
    async fn start(records: Records, settings: &str) -> Option<Self> {
        Self::start_with_rate(records, settings, 1000).await
    }

    /// Starts an API as [`Fleet::start`] does, to which the gateways together send so many queries a second.
    async fn start_with_rate(records: Records, settings: &str, rate: u32) -> Option<Self> {
        let mut registry = Registry::new(records, settings).await;
        registry.queries_per_second = rate;
        let redis = Redis::start(registry.folder.path()).await?;
        let fleet = Self { registry: Arc::new(registry), redis };
        fleet.write("redis.password", PASSWORD);
        fleet.write("redis.key", KEY);
        fleet.write("other.key", "another invented key of thirty-two bytes");
        Some(fleet)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.registry.folder.path().join(name), text).unwrap();
    }

    /// Returns the state shared by a gateway with this key.
    fn sharing(&self, key: &str, gateways: u32) -> Sharing {
        let folder = self.registry.folder.path().display();
        let settings: RedisSettings = toml::from_str(&format!(
            "url = \"redis://gateway@{}/0\"\npassword-file = \"{folder}/redis.password\"\nwait = \"10s\"\n\
             gateways = {gateways}\nkey-file = \"{folder}/{key}\"",
            self.redis.address
        ))
        .unwrap();
        settings.check().unwrap();
        let sharing = Sharing::new(Arc::new(Metrics::new()));
        sharing.replace(Some(RedisServer::load(&settings, &mut Loader::new(0)).unwrap()));
        sharing
    }

    /// Returns the directory of another gateway.
    fn gateway(&self) -> Directory {
        self.registry.directory_that_shares(&self.sharing("redis.key", 3))
    }

    /// Returns the service root at which a gateway finds a practice.
    async fn root(&self, gateway: &Directory, code: &str, id: &str) -> String {
        let found = self.registry.look_up(gateway, code, id).await;
        self.registry.wait_until_idle(gateway).await;
        found.unwrap().root.to_string()
    }

    fn queries(&self) -> usize {
        self.registry.query_count()
    }

    fn results(&self, result: &str) -> u64 {
        self.registry.metric(&format!("directory_shared_answers_total{{result=\"{result}\"}}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_gateway_has_looked_up_is_no_query_of_another() {
    let Some(fleet) = Fleet::start(practice(), PATIENT).await else { return };
    let [first, second] = [fleet.gateway(), fleet.gateway()];
    assert_eq!(fleet.root(&first, "A20047", SLOTS).await, ROOT);
    assert_eq!(fleet.queries(), 3);
    for id in [SLOTS, BOOK] {
        assert_eq!(fleet.root(&second, "A20047", id).await, ROOT);
    }
    assert_eq!(fleet.queries(), 3, "also for what was found on the way");
    assert_eq!((fleet.results("asked"), fleet.results("used")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_that_need_a_practice_at_once_ask_for_it_once() {
    let Some(fleet) = Fleet::start(practice(), PATIENT).await else { return };
    let fleet = Arc::new(fleet);
    let mut requests = JoinSet::new();
    for _ in 0..4 {
        let gateway = fleet.gateway();
        for id in [SLOTS, BOOK] {
            let (fleet, gateway) = (Arc::clone(&fleet), gateway.clone());
            requests.spawn(async move { fleet.root(&gateway, "A20047", id).await });
        }
    }
    while let Some(root) = requests.join_next().await {
        assert_eq!(root.unwrap(), ROOT);
    }
    assert!(fleet.queries() <= 6, "{} queries, of 24 without sharing", fleet.queries());
    assert_eq!(fleet.results("asked") * 3, fleet.queries() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_answer_ages_like_one_of_our_own() {
    let Some(fleet) = Fleet::start(practice(), PATIENT).await else { return };
    let (first, second) = (fleet.gateway(), fleet.gateway());
    fleet.root(&first, "A20047", SLOTS).await;
    // Stale: a read is served by it and it is refreshed, which the first gateway need not do again.
    fleet.registry.set_clock_ahead_s(20 * MINUTE);
    assert_eq!(fleet.root(&second, "A20047", SLOTS).await, ROOT);
    fleet.registry.wait_for_queries(6).await;
    fleet.registry.wait_until_idle(&second).await;
    fleet.root(&first, "A20047", SLOTS).await;
    assert_eq!(fleet.queries(), 6);
    // A write that goes where the directory says is not sent by a stale answer.
    fleet.registry.sds.replace(moved());
    fleet.registry.set_clock_ahead_s(40 * MINUTE);
    let third = fleet.gateway();
    assert_eq!(fleet.root(&third, "A20047", BOOK).await, NEW_ROOT);
    // Dead: nobody uses it.
    fleet.registry.set_clock_ahead_s(40 * MINUTE + 12 * 60 * MINUTE);
    let queries = fleet.queries();
    assert_eq!(fleet.root(&fleet.gateway(), "A20047", SLOTS).await, NEW_ROOT);
    assert_eq!(fleet.queries(), queries + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_flush_only_a_newer_answer_is_taken() {
    let Some(fleet) = Fleet::start(practice(), PATIENT).await else { return };
    let (first, second) = (fleet.gateway(), fleet.gateway());
    fleet.root(&first, "A20047", SLOTS).await;
    fleet.root(&second, "A20047", SLOTS).await;
    fleet.registry.sds.replace(moved());
    fleet.registry.set_clock_ahead_s(MINUTE);
    assert_eq!(first.flush(None), 1);
    assert_eq!(second.flush(None), 1);
    fleet.registry.set_clock_ahead_s(2 * MINUTE);
    assert_eq!(fleet.root(&first, "A20047", SLOTS).await, NEW_ROOT);
    assert_eq!(fleet.queries(), 6);
    assert_eq!(fleet.root(&second, "A20047", SLOTS).await, NEW_ROOT);
    assert_eq!(fleet.queries(), 6, "the first gateway has asked since the flush");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_the_directory_has_withdrawn_is_taken_by_no_other_gateway() {
    let Some(fleet) = Fleet::start(practice(), PATIENT).await else { return };
    let first = fleet.gateway();
    fleet.root(&first, "A20047", SLOTS).await;
    fleet.registry.sds.replace(Records::default());
    assert_eq!(first.flush(None), 1);
    fleet.root(&first, "A20047", SLOTS).await;
    // The first gateway does not believe one empty answer; one that never had another does.
    let second = fleet.gateway();
    assert!(fleet.registry.look_up(&second, "A20047", SLOTS).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_no_gateway_with_our_key_wrote_for_this_practice_is_ignored() {
    let (other, root) = ("B82617", "https://gp.example.nhs.uk/B82617/STU3/1/gpconnect");
    let records = practice().and(Records::practice(other, "918999198994", "B-1", root, &[SLOTS]));
    let Some(fleet) = Fleet::start(records, PATIENT).await else { return };
    let foreign = fleet.registry.directory_that_shares(&fleet.sharing("other.key", 3));
    fleet.root(&foreign, "A20047", SLOTS).await;
    assert_eq!(fleet.root(&fleet.gateway(), "A20047", SLOTS).await, ROOT);
    assert_eq!((fleet.queries(), fleet.results("rejected")), (6, 1));
    // An answer of our own, but for another practice.
    let copied = "COPY spine-proxy:answers:A20047 spine-proxy:answers:B82617 REPLACE";
    assert_eq!(fleet.redis.commands(copied).await, ":1\r\n");
    assert_eq!(fleet.root(&fleet.gateway(), other, SLOTS).await, root);
    assert_eq!((fleet.queries(), fleet.results("rejected")), (9, 2));
    for nonsense in ["", "nonsense", "{}", &"n".repeat(100_000)] {
        let set = format!(
            "DEL spine-proxy:answers:A20047\r\nHSET spine-proxy:answers:A20047 x \"{nonsense}\""
        );
        fleet.redis.commands(&set).await;
        assert_eq!(fleet.root(&fleet.gateway(), "A20047", SLOTS).await, ROOT);
    }
    assert_eq!(fleet.queries(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_while_it_asks_holds_up_no_other() {
    let Some(fleet) = Fleet::start(practice(), PATIENT).await else { return };
    // As a gateway leaves it that is killed: nobody renews it.
    let claimed = "SET spine-proxy:asking:A20047 r:gone PX 1500";
    assert_eq!(fleet.redis.commands(claimed).await, "+OK\r\n");
    assert_eq!(fleet.root(&fleet.gateway(), "A20047", SLOTS).await, ROOT);
    assert_eq!(fleet.redis.commands("EXISTS spine-proxy:asking:A20047").await, ":0\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_does_not_wait_for_a_refresh_of_another_gateway_but_a_refresh_leaves_it_to_a_request()
 {
    let Some(fleet) = Fleet::start(practice(), PATIENT).await else { return };
    let gateway = fleet.gateway();
    fleet.redis.commands("SET spine-proxy:asking:A20047 b:another").await;
    assert_eq!(fleet.root(&gateway, "A20047", SLOTS).await, ROOT);
    assert_eq!(fleet.queries(), 3);
    let claims = fleet.redis.commands("EXISTS spine-proxy:asking:A20047").await;
    assert_eq!(claims, ":0\r\n", "the request's claim took the place of the other");
    fleet.redis.commands("SET spine-proxy:asking:A20047 r:another").await;
    fleet.registry.set_clock_ahead_s(20 * MINUTE);
    assert_eq!(fleet.root(&gateway, "A20047", SLOTS).await, ROOT);
    assert_eq!(fleet.queries(), 3);
    let kept = fleet.redis.commands("GET spine-proxy:asking:A20047").await;
    assert_eq!(kept, "$9\r\nr:another\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contradiction_is_settled_by_the_directory_itself() {
    let Some(fleet) = Fleet::start(practice(), PATIENT).await else { return };
    let (first, second) = (fleet.gateway(), fleet.gateway());
    fleet.root(&first, "A20047", SLOTS).await;
    let found = fleet.registry.look_up(&second, "A20047", SLOTS).await.unwrap();
    // Not even while another gateway asks, which may have begun before the contradiction.
    fleet.redis.commands("SET spine-proxy:asking:A20047 r:another").await;
    second.unreached(&found, testkit::sds::interaction(SLOTS));
    fleet.registry.wait_for_queries(6).await;
    fleet.registry.wait_until_idle(&second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_every_gateway_looks_up_for_itself_and_shares_again_afterwards() {
    let Some(mut fleet) = Fleet::start(practice(), PATIENT).await else { return };
    let sharing = fleet.sharing("redis.key", 3);
    let first = fleet.registry.directory_that_shares(&sharing);
    fleet.root(&first, "A20047", SLOTS).await;
    let (address, folder) = (fleet.redis.address, fleet.registry.folder.path().to_owned());
    fleet.redis.stop();
    let second = fleet.registry.directory_that_shares(&sharing);
    assert_eq!(fleet.root(&second, "A20047", SLOTS).await, ROOT);
    assert_eq!(fleet.queries(), 6);
    assert!(sharing.is_away());
    fleet.redis = Redis::start_at(&folder, address).await.unwrap();
    while sharing.is_away() {
        assert_eq!(fleet.root(&fleet.gateway(), "A20047", SLOTS).await, ROOT);
        fleet.root(&fleet.registry.directory_that_shares(&sharing), "A20047", SLOTS).await;
    }
    let queries = fleet.queries();
    let third = fleet.registry.directory_that_shares(&sharing);
    assert_eq!(fleet.root(&third, "A20047", SLOTS).await, ROOT);
    assert_eq!(fleet.queries(), queries);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_of_redis_that_is_set_back_stops_no_query() {
    let Some(fleet) = Fleet::start(practices('B', 2), PATIENT).await else { return };
    fleet.root(&fleet.gateway(), "B80000", SLOTS).await;
    for time in ["redis.call('TIME')[1] * 1000000 + 3600000000", "'nan'", "'nonsense'"] {
        let set = format!(
            "EVAL \"for _, rate in ipairs(redis.call('KEYS', 'spine-proxy:rate:*')) do \
             redis.call('SET', rate, {time}) end return 1\" 0"
        );
        assert_eq!(fleet.redis.commands(&set).await, ":1\r\n");
        let gateway = fleet.gateway();
        fleet.redis.commands("DEL spine-proxy:answers:B80001").await;
        fleet.root(&gateway, "B80001", SLOTS).await;
    }
    assert_eq!(fleet.queries(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_flush_a_gateway_that_had_no_answer_takes_none_from_before() {
    for flushed in [None, Some(testkit::sds::ods("A20047"))] {
        let Some(fleet) = Fleet::start(practice(), PATIENT).await else { return };
        let (first, second) = (fleet.gateway(), fleet.gateway());
        fleet.root(&first, "A20047", BOOK).await;
        fleet.registry.sds.replace(moved());
        fleet.registry.set_clock_ahead_s(MINUTE);
        assert_eq!(second.flush(flushed.as_ref()), 0);
        assert_eq!(fleet.root(&second, "A20047", BOOK).await, NEW_ROOT);
        // The other gateway has not been flushed, and takes what is newer.
        assert_eq!(fleet.root(&first, "A20047", BOOK).await, ROOT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_flush_an_answer_of_a_gateway_whose_clock_is_ahead_counts_as_from_before() {
    let Some(fleet) = Fleet::start(practice(), PATIENT).await else { return };
    let (first, second) = (fleet.gateway(), fleet.gateway());
    fleet.root(&second, "A20047", SLOTS).await;
    fleet.registry.set_clock_ahead_s(MINUTE);
    assert_eq!(second.flush(None), 1);
    // The first gateway has asked before the flush by a clock that is four seconds ahead.
    fleet.registry.set_clock_ahead_s(MINUTE + 4);
    assert_eq!(first.flush(None), 0);
    fleet.root(&first, "A20047", SLOTS).await;
    assert_eq!(fleet.queries(), 6);
    fleet.registry.sds.replace(moved());
    assert_eq!(fleet.root(&second, "A20047", SLOTS).await, NEW_ROOT);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_counts_from_the_time_at_which_it_was_asked_for() {
    let Some(fleet) = Fleet::start(practice(), PATIENT).await else { return };
    fleet.registry.sds.set(None, SdsFault::HeldBack);
    let fleet = Arc::new(fleet);
    let asked_s = jiff::Timestamp::now().as_second();
    let asks = tokio::spawn({
        let (fleet, gateway) = (Arc::clone(&fleet), fleet.gateway());
        async move { fleet.root(&gateway, "A20047", SLOTS).await }
    });
    fleet.registry.wait_for_queries(1).await;
    fleet.registry.set_clock_ahead_s(10 * MINUTE);
    fleet.registry.sds.clear();
    assert_eq!(asks.await.unwrap(), ROOT);
    let stored = fleet.redis.commands("HVALS spine-proxy:answers:A20047").await;
    let times: Vec<i64> = stored
        .split("\"answered_s\":")
        .skip(1)
        .map(|rest| rest.split(',').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(times.len(), 3);
    assert!(times.iter().all(|time_s| time_s - asked_s < MINUTE), "{times:?} after {asked_s}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interaction_that_the_directory_no_longer_returns_is_taken_by_no_other_gateway() {
    let Some(fleet) = Fleet::start(practice(), PATIENT).await else { return };
    let first = fleet.gateway();
    fleet.root(&first, "A20047", SLOTS).await;
    // The system may no longer book.
    let (asid, party) = ("918999198993", "A20047-1000001");
    fleet.registry.sds.replace(Records::practice("A20047", asid, party, ROOT, &[SLOTS]));
    fleet.registry.set_clock_ahead_s(MINUTE);
    assert_eq!(first.flush(None), 1);
    fleet.registry.set_clock_ahead_s(2 * MINUTE);
    fleet.root(&first, "A20047", SLOTS).await;
    let second = fleet.gateway();
    fleet.root(&second, "A20047", SLOTS).await;
    assert!(fleet.registry.look_up(&second, "A20047", BOOK).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_has_become_ambiguous_is_taken_by_no_other_gateway() {
    let Some(fleet) = Fleet::start(practice(), PATIENT).await else { return };
    let first = fleet.gateway();
    fleet.root(&first, "A20047", SLOTS).await;
    fleet.registry.sds.replace(practice().and(moved()));
    fleet.registry.set_clock_ahead_s(MINUTE);
    assert_eq!(first.flush(None), 1);
    fleet.registry.set_clock_ahead_s(2 * MINUTE);
    // One ambiguous answer does not replace the one that the first gateway has.
    assert_eq!(fleet.root(&first, "A20047", SLOTS).await, ROOT);
    let second = fleet.gateway();
    let refused = fleet.registry.look_up(&second, "A20047", SLOTS).await.unwrap_err();
    assert_eq!(refused, Refusal::ReceiverAmbiguous);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_found_on_the_way_ends_no_ambiguity() {
    let other = Records::practice("A20047", "918999198777", "A20047-2000002", NEW_ROOT, &[BOOK]);
    let Some(fleet) = Fleet::start(practice().and(other), PATIENT).await else { return };
    let (first, second) = (fleet.gateway(), fleet.gateway());
    let ambiguous = Some(Refusal::ReceiverAmbiguous);
    assert_eq!(fleet.registry.look_up(&second, "A20047", BOOK).await.err(), ambiguous);
    fleet.registry.wait_until_idle(&second).await;
    // The first gateway is to ask for itself, and finds only one of the systems that book.
    fleet.registry.set_clock_ahead_s(20);
    assert_eq!(first.flush(None), 0);
    fleet.registry.set_clock_ahead_s(30);
    let queries = fleet.queries();
    fleet.root(&first, "A20047", SLOTS).await;
    assert_eq!(fleet.queries(), queries + 3);
    fleet.registry.set_clock_ahead_s(45);
    assert_eq!(fleet.registry.look_up(&second, "A20047", BOOK).await.err(), ambiguous);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_never_ends_holds_up_no_gateway() {
    let Some(fleet) = Fleet::start(practice(), PATIENT).await else { return };
    fleet.redis.commands("SET spine-proxy:asking:A20047 r:another").await;
    assert_eq!(fleet.root(&fleet.gateway(), "A20047", SLOTS).await, ROOT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_joins_a_refresh_waits_for_another_gateway_like_any_request() {
    let Some(fleet) = Fleet::start(practice(), PATIENT).await else { return };
    let gateway = fleet.gateway();
    fleet.root(&gateway, "A20047", SLOTS).await;
    fleet.registry.set_clock_ahead_s(20 * MINUTE);
    fleet.redis.commands("SET spine-proxy:asking:A20047 r:another").await;
    // The read begins a refresh, which finds that another gateway asks; the write joins it.
    fleet.registry.look_up(&gateway, "A20047", SLOTS).await.unwrap();
    let found = fleet.registry.look_up(&gateway, "A20047", BOOK).await;
    assert_eq!(found.unwrap().root.as_str(), ROOT);
    let began = |trigger: &str| {
        let labels = format!("result=\"ok\",trigger=\"{trigger}\"");
        fleet.registry.metric(&format!("directory_refreshes_total{{{labels}}}"))
    };
    fleet.registry.wait_until_idle(&gateway).await;
    assert_eq!((began("stale"), began("request")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_for_a_request_while_one_waits() {
    let Some(fleet) = Fleet::start_with_rate(practice(), PATIENT, 1).await else { return };
    let gateway = fleet.gateway();
    let fleet = Arc::new(fleet);
    fleet.registry.look_up(&gateway, "A20047", SLOTS).await.unwrap();
    // The next query is sent a second after the last, and no request waits for it.
    fleet.registry.sds.set(None, SdsFault::HeldBack);
    let claim = "GET spine-proxy:asking:A20047";
    while !fleet.redis.commands(claim).await.contains("\r\nb:") {}
    let joins = tokio::spawn({
        let (fleet, gateway) = (Arc::clone(&fleet), gateway.clone());
        async move { fleet.root(&gateway, "A20047", BOOK).await }
    });
    while !fleet.redis.commands(claim).await.contains("\r\nr:") {}
    fleet.registry.sds.clear();
    assert_eq!(joins.await.unwrap(), ROOT);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_asked_for_before_a_flush_is_not_stored_for_other_gateways() {
    let Some(fleet) = Fleet::start(practice(), PATIENT).await else { return };
    let gateway = fleet.gateway();
    let fleet = Arc::new(fleet);
    fleet.registry.sds.set(None, SdsFault::HeldBack);
    let asks = tokio::spawn({
        let (fleet, gateway) = (Arc::clone(&fleet), gateway.clone());
        async move { fleet.root(&gateway, "A20047", SLOTS).await }
    });
    fleet.registry.wait_for_queries(1).await;
    assert_eq!(gateway.flush(None), 0);
    fleet.registry.sds.clear();
    assert_eq!(asks.await.unwrap(), ROOT);
    assert_eq!(fleet.redis.commands("EXISTS spine-proxy:answers:A20047").await, ":0\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_another_directory_or_from_the_future_is_ignored() {
    let Some(mut fleet) = Fleet::start(practice(), PATIENT).await else { return };
    // The clock of the first gateway is ahead, first by more than clocks may differ.
    for (ahead_s, queries) in [(10, 3), (4, 0)] {
        fleet.registry.set_clock_ahead_s(ahead_s);
        fleet.redis.commands("DEL spine-proxy:answers:A20047").await;
        fleet.root(&fleet.gateway(), "A20047", SLOTS).await;
        let before = fleet.queries();
        fleet.registry.set_clock_ahead_s(0);
        assert_eq!(fleet.root(&fleet.gateway(), "A20047", SLOTS).await, ROOT);
        assert_eq!(fleet.queries() - before, queries, "{ahead_s} s ahead");
    }
    // To a gateway it is another directory, since it has another URL.
    let _link = Arc::get_mut(&mut fleet.registry).unwrap().add_link();
    let before = fleet.queries();
    assert_eq!(fleet.root(&fleet.gateway(), "A20047", SLOTS).await, ROOT);
    assert_eq!((fleet.queries() - before, fleet.results("rejected")), (3, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_shared_answer_serves_a_read_while_the_directory_does_not_answer() {
    let Some(fleet) = Fleet::start(practice(), PATIENT).await else { return };
    fleet.root(&fleet.gateway(), "A20047", SLOTS).await;
    fleet.registry.sds.set(None, SdsFault::NoResponse);
    fleet.registry.set_clock_ahead_s(20 * MINUTE);
    let found = fleet.registry.look_up(&fleet.gateway(), "A20047", SLOTS).await;
    assert_eq!(found.unwrap().root.as_str(), ROOT);
}

/// Returns the records of so many practices, whose codes begin with a letter.
fn practices(letter: char, count: usize) -> Records {
    (0..count).fold(Records::default(), |records, number| {
        let (code, party) = (format!("{letter}8{number:04}"), format!("{letter}-{number}"));
        let asid = format!("9{:03}{number:08}", u32::from(letter));
        records.and(Records::practice(&code, &asid, &party, ROOT, &[SLOTS]))
    })
}

/// Looks up practices that nobody knows yet, by gateways that share nothing but the rate; returns the number of
/// queries and the time that they took.
async fn cold(
    fleet: &Arc<Fleet>,
    gateways: &[Directory],
    letter: char,
    each: usize,
) -> (usize, Duration) {
    let (before, began) = (fleet.queries(), Instant::now());
    let mut requests = JoinSet::new();
    for number in 0..each * gateways.len() {
        let (fleet, gateway) = (Arc::clone(fleet), gateways[number % gateways.len()].clone());
        let code = format!("{letter}8{number:04}");
        requests.spawn(async move { fleet.root(&gateway, &code, SLOTS).await });
    }
    while let Some(root) = requests.join_next().await {
        root.unwrap();
    }
    (fleet.queries() - before, began.elapsed())
}

/// The rate is 20 a second for all, and a third of that for each without Redis.
#[tokio::test(flavor = "multi_thread")]
async fn gateways_together_keep_to_the_rate_of_queries_with_redis_and_without() {
    let records = practices('B', 9).and(practices('C', 3));
    let Some(fleet) = Fleet::start_with_rate(records, PATIENT, 20).await else { return };
    let mut fleet = Arc::new(fleet);
    let gateways: Vec<_> = (0..3).map(|_| fleet.gateway()).collect();
    // What was granted before is not known at the start, so that there is no burst.
    let (queries, took) = cold(&fleet, &gateways, 'B', 3).await;
    let fewest = Duration::from_millis(50) * u32::try_from(queries - 1).unwrap();
    assert!(queries == 27 && took >= fewest, "{queries} in {took:?}");
    Arc::get_mut(&mut fleet).unwrap().redis.stop();
    // Each has one practice, of three queries.
    let (queries, took) = cold(&fleet, &gateways, 'C', 1).await;
    assert!(queries == 9 && took >= Duration::from_millis(300), "{queries} in {took:?}");
}
