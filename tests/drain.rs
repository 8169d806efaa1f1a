//! Graceful stop: exchanges in progress finish, no new ones begin, and a deadline ends the wait.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use testkit::provider::answer;
use testkit::raw_connection::RawConnection;
use testkit::request::read_answer;
use testkit::test_bed::{metric, wait_until_idle};
use testkit::{ProviderAction, TestBed, TestRequest};

async fn ready(admin: SocketAddr) -> String {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    let request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

fn last_line(folder: &testkit::leak_check::LeakCheckedFolder) -> Value {
    let text = testkit::test_bed::journal(&folder.path().join("audit"));
    let last = text.lines().rfind(|line| line.contains("\"event\":\"closed\""));
    serde_json::from_str(last.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn open_exchanges_finish_and_no_new_ones_begin() {
    for call in [TestRequest::slots(), TestRequest::book()] {
        let bed = TestBed::new().await;
        let told = Arc::new(Notify::new());
        bed.provider.set_action(ProviderAction::WriteWhenNotified(
            Arc::clone(&told),
            answer("200 OK", "", "{}"),
        ));
        let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
        wire.stream.write_all(&call.bytes()).await.unwrap();
        let mut idle = call.connect(&bed).await.unwrap();
        bed.provider.wait_for_requests(1).await;
        let (address, admin) = (bed.address(), bed.server.admin);
        let TestBed { server, folder, provider, .. } = bed;
        let metrics = Arc::clone(&server.metrics);
        assert!(ready(admin).await.starts_with("HTTP/1.1 200 "));
        let stopping = tokio::spawn(server.stop());
        // A connection without an exchange is not waited for.
        assert!(matches!(idle.read(&mut [0]).await, Ok(0) | Err(_)));
        let text = ready(admin).await;
        assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("[-]accepting"), "{text}");
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!stopping.is_finished());
        told.notify_one();
        let answer = read_answer(&mut wire).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));
        assert_eq!(answer.header("connection"), Some("close"));
        stopping.await.unwrap();
        let record = last_line(&folder);
        assert_eq!((&record["status"], &record["outcome"]), (&200.into(), &"answered".into()));
        wait_until_idle(&metrics).await;
        assert_eq!(provider.received().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_turns_first_and_the_port_closes_after_the_delay() {
    let limits = "[listener.limits]\ndrain-delay = \"2s\"";
    let bed = TestBed::with(|files| files.add(limits)).await;
    let (address, admin) = (bed.address(), bed.server.admin);
    let call = TestRequest::slots();
    let config = bed.consumer_tls("hub", b"http/1.1");
    let TestBed { server, folder: _folder, provider, .. } = bed;
    let stopping = tokio::spawn(server.stop());
    while !ready(admin).await.contains("[-]accepting") {}
    let stream = TcpStream::connect(address).await.expect("the port is open");
    let name = rustls::pki_types::ServerName::try_from("ssp.example.nhs.uk").unwrap();
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.unwrap();
    let mut wire = RawConnection::new(stream);
    wire.stream.write_all(&call.bytes()).await.unwrap();
    assert_eq!(read_answer(&mut wire).await.unwrap().status, 200);
    assert_eq!(provider.received().len(), 1);
    drop(wire);
    stopping.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_never_answers_does_not_keep_the_gateway_alive() {
    for call in [TestRequest::slots(), TestRequest::book()] {
        let limits = "[listener.limits]\ndrain = \"300ms\"";
        let bed = TestBed::with(|files| files.add(limits)).await;
        bed.provider.set_action(ProviderAction::Silence);
        let mut wire = RawConnection::new(call.connect(&bed).await.unwrap());
        wire.stream.write_all(&call.bytes()).await.unwrap();
        bed.provider.wait_for_requests(1).await;
        let TestBed { server, folder, provider, .. } = bed;
        let metrics = Arc::clone(&server.metrics);
        server.stop().await;
        assert!(read_answer(&mut wire).await.is_none());
        let record = last_line(&folder);
        assert_eq!((&record["event"], &record["outcome"]), (&"closed".into(), &"aborted".into()));
        assert_eq!(record["sent_whole"], true);
        wait_until_idle(&metrics).await;
        assert_eq!(metric(&metrics, "connections"), 0);
        provider.wait_for_closed_connections(1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_exchange_under_way_is_finished_too() {
    let bed = TestBed::new().await;
    let told = Arc::new(Notify::new());
    bed.provider.set_action(ProviderAction::WriteWhenNotified(
        Arc::clone(&told),
        answer("200 OK", "", "{}"),
    ));
    let call = TestRequest::slots().http2();
    let stream = hyper_util::rt::TokioIo::new(call.connect(&bed).await.unwrap());
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let exchange = tokio::spawn(async move { sender.send_request(call.request()).await });
    bed.provider.wait_for_requests(1).await;
    let TestBed { server, folder, provider: _provider, .. } = bed;
    let admin = server.admin;
    let stopping = tokio::spawn(server.stop());
    while !ready(admin).await.starts_with("HTTP/1.1 503 ") {}
    told.notify_one();
    let answer = exchange.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    drop(answer);
    connection.await.unwrap().unwrap();
    stopping.await.unwrap();
    assert_eq!(last_line(&folder)["status"], 200);
}
