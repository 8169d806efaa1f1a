use std::collections::HashSet;

use testkit::{TestBed, TestRequest};

#[tokio::test(flavor = "multi_thread")]
async fn a_valid_request_reaches_the_provider_and_its_answer_comes_back() {
    let bed = TestBed::new().await;
    for call in [
        TestRequest::slots(),
        TestRequest::slots().http2(),
        TestRequest::book(),
        TestRequest::book().http2(),
    ] {
        let answer = bed.send(call).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.text(), r#"{"ok":true}"#);
        assert_eq!(answer.header_names(), ["content-length", "content-type", "date"]);
    }
    assert_eq!(bed.provider.received().len(), 4);
    let lines = bed.exchange_lines().await;
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    let opened = events.iter().filter(|event| **event == "opened").count();
    assert_eq!(opened, 2, "bookings have two lines, searches one: {events:?}");
    assert_eq!(events.iter().filter(|event| **event == "closed").count(), 4);
    let closed = bed.wait_for_closed_line(3).await;
    assert_eq!(closed["outcome"], "answered");
    assert_eq!(closed["status"], 200);
    assert_eq!(closed["ended_by"], "gateway");
    assert_eq!(closed["from"], "200000000359");
    assert_eq!(closed["to"], "918999198993");
    assert_eq!(closed["ods"], "A20047");
    assert!(closed["claims"].is_null(), "the opened line holds them");
    let callers = lines.iter().filter(|line| line["certificate"] == "hub.example.nhs.uk");
    assert_eq!(callers.count(), 4, "of each exchange one line says who called");
    let claims = lines.iter().filter(|line| line["claims"]["organisation"] == "A00001");
    let ids: HashSet<_> = claims.clone().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!((claims.count(), ids.len()), (4, 4), "of each exchange one line holds them");
    assert_eq!(closed["bytes_in"], 30);
    assert_eq!(closed["bytes_out"], 11);
    assert_eq!(closed["sent_whole"], true);
}
