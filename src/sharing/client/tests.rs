//! Tests with Redis servers that answer wrongly.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::super::{
    MissingRate, RateDraw, RateGrant, RedisFault, RedisServer, RedisSettings, Sharing,
};
use crate::metrics::Metrics;
use crate::tls::Loader;

/// Bytes that a server sends before it gives up.
const ENDLESS: usize = 256 * 1024 * 1024;

/// Starts a server that answers the script with these bytes, and with so many of a filler.
///
/// The receiver gets, for each connection, how many filler bytes were taken.
async fn server(answer: &'static str, filler: usize) -> (Sharing, mpsc::Receiver<usize>) {
    server_that_is_waited_for(answer, filler, Duration::from_secs(5)).await
}

/// Starts a server as [`server`] does, whose answers are waited for by this time.
async fn server_that_is_waited_for(
    answer: &'static str,
    filler: usize,
    wait: Duration,
) -> (Sharing, mpsc::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut asked = [0; 4096];
                while let Ok(1..) = stream.read(&mut asked).await {
                    let text = String::from_utf8_lossy(&asked).into_owned();
                    asked.fill(0);
                    if !text.contains("EVALSHA") {
                        let commands = text.lines().filter(|line| line.starts_with('*')).count();
                        stream.write_all("+OK\r\n".repeat(commands).as_bytes()).await.unwrap();
                        continue;
                    }
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    let mut taken = 0;
                    while taken < filler && stream.write_all(&[b'.'; 4096]).await.is_ok() {
                        taken += 4096;
                    }
                    if filler > 0 {
                        tell.send(taken).await.unwrap();
                        return;
                    }
                }
                tell.send(0).await.unwrap();
            });
        }
    });
    let sharing = Sharing::new(Arc::new(Metrics::new()));
    let settings = RedisSettings {
        url,
        password_file: None,
        tls: None,
        wait,
        gateways: NonZeroU32::MIN,
        key_file: None,
    };
    sharing.replace(Some(RedisServer::load(&settings, &mut Loader::new(0)).unwrap()));
    (sharing, told)
}

/// Draws one of a rate of 40 a second, and 100 at once.
async fn draws(sharing: &Sharing, ahead: Duration) -> Option<RateGrant> {
    let draw = RateDraw {
        key: "invented",
        interval: Duration::from_millis(25),
        burst: NonZeroU32::new(100).unwrap(),
        wanted: 1,
        ahead,
        missing: MissingRate::Unused,
    };
    sharing.draw(&draw).await
}

#[tokio::test]
async fn an_answer_without_an_end_is_not_taken() {
    for start in ["$2000000000\r\n", "+", "*2000000000\r\n$2000000000\r\n", "-"] {
        let (shared, mut taken) = server(start, ENDLESS).await;
        assert_eq!(draws(&shared, Duration::ZERO).await, None, "{start}");
        // The sockets' buffers are all that it could fill.
        assert!(taken.recv().await.unwrap() < ENDLESS / 4, "{start}");
    }
}

#[tokio::test]
async fn a_connection_is_not_used_after_an_answer_that_is_none() {
    for answer in [
        "-READONLY You can't write against a read only replica.\r\n",
        "-MASTERDOWN Link with MASTER is down\r\n",
        "*4\r\n$1\r\n7\r\n:1\r\n:1\r\n:0\r\n",
        "*4\r\n$1\r\n0\r\n:-1\r\n:1\r\n:0\r\n",
        "*1\r\n:1\r\n",
        ":1\r\n",
        "$-1\r\n",
        "nonsense\r\n",
    ] {
        let (shared, mut ended) = server(answer, 0).await;
        assert_eq!(draws(&shared, Duration::ZERO).await, None, "{answer}");
        assert_eq!(ended.recv().await, Some(0), "{answer}");
    }
}

#[tokio::test]
async fn numbers_beyond_what_was_asked_for_are_cut_to_it() {
    let answer = "*4\r\n$1\r\n0\r\n:4000000000\r\n:4000000000\r\n:9000000000000000000\r\n";
    let (shared, _ended) = server(answer, 0).await;
    let granted = draws(&shared, Duration::ZERO).await.unwrap();
    assert_eq!((granted.granted, granted.left), (1, 99));
    let answer = "*4\r\n$1\r\n0\r\n:0\r\n:0\r\n:9000000000000000000\r\n";
    let (shared, _ended) = server(answer, 0).await;
    let none = draws(&shared, Duration::from_secs(10)).await.unwrap();
    assert_eq!((none.granted, none.wait), (0, Duration::from_millis(12_500)));
}

#[tokio::test]
async fn queries_that_end_with_the_connection_of_another_are_no_outage_of_their_own() {
    let (sharing, _ended) = server_that_is_waited_for("", 0, Duration::from_millis(300)).await;
    let second = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        draws(&sharing, Duration::ZERO).await
    };
    let (first, second) = tokio::join!(draws(&sharing, Duration::ZERO), second);
    assert_eq!((first, second), (None, None));
    let Sharing(state) = &sharing;
    let server = state.server.load_full().unwrap();
    assert_eq!(server.outage().as_ref().unwrap().why, RedisFault::TIMED_OUT);
}

#[tokio::test]
async fn an_outage_goes_on_when_the_settings_are_loaded_again() {
    let (sharing, _ended) = server("-READONLY\r\n", 0).await;
    assert!(!sharing.is_away());
    assert_eq!(draws(&sharing, Duration::ZERO).await, None);
    let (other, _other_ended) = server("", 0).await;
    let again = other.0.server.swap(None).and_then(Arc::into_inner).unwrap();
    sharing.replace(Some(again));
    assert!(sharing.is_away() && !sharing.is_asked());
    assert_eq!(sharing.0.metrics.redis_up.get(), 0);
    sharing.replace(None);
    assert!(!sharing.is_away());
}

/// Each answer is in time, but those that open a connection are not, all together.
#[tokio::test]
async fn a_connection_that_takes_longer_to_open_than_an_answer_may_is_opened_all_the_same() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings: RedisSettings = toml::from_str(&format!(
        "url = \"redis://{}\"\nwait = \"500ms\"\ngateways = 1",
        listener.local_addr().unwrap()
    ))
    .unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut asked).await {
            let text = String::from_utf8_lossy(&asked[..read]).into_owned();
            if text.contains("EVALSHA") {
                let number = text.split("\r\n").nth(10).unwrap();
                let answer = format!("*4\r\n${}\r\n{number}\r\n:1\r\n:1\r\n:0\r\n", number.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
                continue;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            let commands = text.lines().filter(|line| line.starts_with('*')).count();
            stream.write_all("+OK\r\n".repeat(commands).as_bytes()).await.unwrap();
        }
    });
    let sharing = Sharing::new(Arc::new(Metrics::new()));
    sharing.replace(Some(RedisServer::load(&settings, &mut Loader::new(0)).unwrap()));
    assert_eq!(draws(&sharing, Duration::ZERO).await, None);
    while draws(&sharing, Duration::ZERO).await.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
