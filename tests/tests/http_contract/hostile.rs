//! Hostile connections and bodies against the running system: it stays up, keeps to its memory, and knows nothing new.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::http::Http;
use crate::system::{System, event};

/// What all of this may add to the process's memory, whatever the allocator keeps.
const MAY_GROW_KIB: u64 = 160 * 1_024;

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Everything that the system knows, as its exports say.
async fn knowledge(http: &Http) -> String {
    let page = http.get("/v1/entities?limit=1000").await.ok(200).json;
    let mut all = String::new();
    for entity in page["entities"].as_array().expect("entities") {
        let id = memori_tests::client::escape(entity["entity_id"].as_str().expect("an id"));
        all.push_str(&http.get(&format!("/v1/entities/{id}/export")).await.ok(200).text());
    }
    all
}

/// Requests that are none, as bytes: what breaks the protocol rather than the body.
fn broken_requests() -> Vec<Vec<u8>> {
    let head = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n";
    let body = event("smuggled", "smuggled", "I like tea.").to_string();
    let length = body.len();
    let mut all: Vec<Vec<u8>> = [
        "\r\n\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned().replace("GET", &"G".repeat(100_000)),
        format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "a".repeat(200_000)),
        format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "a".repeat(1_000_000)),
        format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(20_000)),
        "GET / HTTP/1.1\r\nhost: localhost\r\nx y: z\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: localhost\r\n folded: z\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: localhost\r\nx: a\0b\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "CONNECT evil:443 HTTP/1.1\r\nhost: evil:443\r\nconnection: close\r\n\r\n".to_owned(),
        "GET http://evil/v1/nope HTTP/1.1\r\nhost: evil\r\nconnection: close\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_owned(),
        format!("{head}content-length: {length}\r\ncontent-length: {}\r\n\r\n{body}", length + 1),
        format!("{head}content-length: -{length}\r\n\r\n{body}"),
        format!("{head}content-length: +{length}\r\n\r\n{body}"),
        format!("{head}content-length: 0x{length:x}\r\n\r\n{body}"),
        format!("{head}content-length: 99999999999999999999999999\r\n\r\n{body}"),
        format!("{head}content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n{{}}{body}"),
        format!("{head}transfer-encoding: gzip, chunked\r\n\r\nzz{body}"),
        format!("{head}transfer-encoding: identity\r\n\r\n{body}"),
        format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\n{body}\r\n0\r\n\r\n"),
        format!("{head}transfer-encoding: chunked\r\n\r\n-1\r\n{body}\r\n0\r\n\r\n"),
        format!("{head}transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{body}\r\n0\r\n\r\n"),
        format!("{head}transfer-encoding: chunked\r\n\r\n{:x};{}\r\n{body}\r\n0\r\n\r\n", length + 5, "e".repeat(100_000)),
        format!("{head}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}XX0\r\n\r\n"),
        // Two requests where a careless reader sees one.
        format!("GET /v1/nope HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"),
    ]
    .map(String::into_bytes)
    .into();
    all.push(vec![0; 10_000]);
    all.push(vec![0xff; 10_000]);
    // The begin of TLS, and of Kafka's and Postgres' protocols.
    all.push(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(50));
    all.push(b"\0\0\0\x2e\0\x12\0\x03\0\0\0\x01\0\x08consumer".to_vec());
    all.push(b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec());
    all
}

/// Bodies that are JSON and no event, or neither; in several sizes.
fn broken_bodies() -> Vec<(&'static str, Vec<u8>)> {
    let mut all: Vec<(&'static str, Vec<u8>)> = Vec::new();
    let honest = event("never", "never", "I like tea.").to_string();
    for end in (0..honest.len()).step_by(2) {
        all.push(("application/json", honest.as_bytes()[..end].to_vec()));
    }
    for (n, byte) in honest.bytes().enumerate().step_by(3) {
        // A flipped high bit is never UTF-8 here.
        let mut flipped = honest.clone().into_bytes();
        flipped[n] = byte | 0x80;
        all.push(("application/json", flipped));
    }
    for open in ["[", "{\"a\":", "[[\"x\",", "{\"messages\":["] {
        for times in [200, 5_000, 100_000] {
            all.push(("application/json", open.repeat(times).into_bytes()));
        }
    }
    for value in ["7", "[]", "null", "true", "\"x\"", "{}", "[[]]", "[{}]", "[null]", "1e999", "-0", "[7]"] {
        for field in ["event_id", "entity_id", "process_id", "session_id", "occurred_at", "messages", "metadata", "extra"] {
            let harmless = match value {
                "null" => !["entity_id", "messages"].contains(&field),
                "\"x\"" => field.ends_with("_id"),
                "{}" => field == "metadata",
                _ => false,
            };
            if harmless {
                continue;
            }
            let mut whole: Value = serde_json::from_str(&honest).expect("an event");
            whole[field] = json!("HERE");
            all.push(("application/json", whole.to_string().replace("\"HERE\"", value).into_bytes()));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_hostile_costs_the_service_its_life_its_memory_or_its_knowledge() {
    let system = System::open().await;
    let http = &system.http;
    http.learn(event("honest", "honest", "I like tea. I play chess.")).await;
    // What the first large bodies take and the allocator keeps is not growth.
    for _ in 0..3 {
        http.post_bytes("/v1/events/batch", "application/json", &vec![b'x'; 17 << 20]).await.ok(413);
    }
    let pid = system.process.pid().expect("a process");
    let (known, before) = (knowledge(http).await, resident_kib(pid));

    let mut count = 0;
    // At once, since some never end and are cut off when their time is up.
    let exchanges = broken_requests().into_iter().map(|bytes| async move {
        let answer = String::from_utf8_lossy(&http.raw(&bytes).await).into_owned();
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4");
        assert!(refused && answer.matches("HTTP/1.").count() <= 1, "{shown:?}: {answer:.500}");
    });
    count += futures::future::join_all(exchanges).await.len();
    for (content_type, body) in broken_bodies() {
        let answer = http.post_bytes("/v1/events", content_type, &body).await;
        assert!((400..500).contains(&answer.status), "{:.200}: {}", String::from_utf8_lossy(&body), answer.status);
        count += 1;
    }
    assert!(count >= 200, "{count} hostile requests");
    http.learn(event("honest too", "second", "I like jam.")).await;

    // Many at once, each holding what it can: half a head, half a body, an answer that is not read.
    let mut held = Vec::new();
    for n in 0..300 {
        let mut stream = http.connect().await;
        let bytes: &[u8] = match n % 4 {
            0 => b"",
            1 => b"GET /v1/entities HTTP/1.1\r\nhost: localhost\r\nx-slow: ",
            2 => b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n{\"entity_id\":",
            _ => b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n",
        };
        stream.write_all(bytes).await.expect("sent");
        held.push(stream);
    }
    http.learn(event("honest again", "second", "I like honey.")).await;
    drop(held);

    // A hundred requests on one connection, sent at once, are answered in order.
    let mut stream = http.connect().await;
    let pipelined = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\nGET /v1/nope HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(50);
    stream.write_all(pipelined.as_bytes()).await.expect("sent");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.expect("sent");
    let mut answers = String::new();
    tokio::time::timeout(Duration::from_secs(60), stream.read_to_string(&mut answers)).await.expect("in time").expect("read");
    let statuses: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert!(
        statuses.len() == 101 && statuses.chunks(2).all(|two| two[0] == "200" && two.get(1).is_none_or(|two| *two == "404")),
        "{statuses:?}"
    );
    // An old client is served, too.
    let old = String::from_utf8_lossy(&http.raw(b"GET /v1/entities HTTP/1.0\r\n\r\n").await).into_owned();
    assert!(old.starts_with("HTTP/1.0 200"), "{old}");
    let asked = http.raw(b"POST /v1/recall HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-type: application/json\r\ncontent-length: 33\r\n\r\n{\"entity_id\":\"honest\",\"query\":\"\"}").await;
    let asked = String::from_utf8_lossy(&asked).into_owned();
    assert!(asked.starts_with("HTTP/1.1 100") && asked.contains("HTTP/1.1 200"), "{asked}");

    for id in ["honest too", "honest again"] {
        http.get(&format!("/v1/events/{}", memori_tests::client::escape(id))).await.ok(200);
    }
    http.erase("second").await;
    assert_eq!(knowledge(http).await, known, "the store is as it was");
    let after = resident_kib(pid);
    assert!(after < before + MAY_GROW_KIB, "{before} KiB before, {after} KiB after");
    assert_eq!(system.process.starts(), 1);
    assert!(!system.process.log_text().contains("panicked"), "{}", system.process.log_text());
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_its_bounds_it_says_503_at_once_and_recovers() {
    let system = System::start(None, &[("MEMORI__INGEST__MAX_REQUESTS", "4")]).await;
    let http = &system.http;
    let post = async || http.post("/v1/events", &event("e", "a", "I like tea.")).await;
    let mut held = Vec::new();
    loop {
        let mut stream = http.connect().await;
        let head =
            "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
        stream.write_all(head.as_bytes()).await.expect("sent");
        held.push(stream);
        if post().await.status == 503 {
            break;
        }
        assert!(held.len() < 50, "four places, and {} requests hold one", held.len());
    }
    assert!(post().await.ok(503).header("retry-after").is_some());
    http.get("/healthz").await.ok(200);
    drop(held);
    while post().await.status == 503 {
        tokio::task::yield_now().await;
    }
    http.applied(&["e"]).await;
}
