//! Two hundred hostile bodies (and more), on a real socket: each is refused in the contract's words, none costs the service or reaches
//! the log, and an honest event is accepted between any two of them.
#![allow(missing_docs, reason = "a test binary")]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{Door, FakeLog, FakeWriter, event};
use memori_ingest::IngestConfig;
use memori_service::auth::KeyRing;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

struct Hostile {
    name: String,
    path: &'static str,
    content_type: &'static str,
    body: Vec<u8>,
    chunked: bool,
    /// Statuses that are right; 200 for a batch whose every event is refused.
    expected: &'static [u16],
}

fn generate() -> Vec<Hostile> {
    let mut all = Vec::new();
    let mut add = |name: String, path: &'static str, content_type: &'static str, body: Vec<u8>, expected: &'static [u16]| {
        let chunked = all.len() % 3 == 0;
        all.push(Hostile { name, path, content_type, body, chunked, expected });
    };
    const JSON: &str = "application/json";
    const NDJSON: &str = "application/x-ndjson";
    let message = r#""messages":[{"role":"user","content":"x"}]"#;

    // Not JSON, or more than JSON.
    let not_json: Vec<Vec<u8>> = vec![
        b"".into(),
        b" ".into(),
        b"{".into(),
        b"}".into(),
        b"[".into(),
        b"nul".into(),
        b"{]".into(),
        b"{\"a\":}".into(),
        b"{'a':1}".into(),
        b"{\"a\":1,}".into(),
        b"{} {}".into(),
        b"{}\0".into(),
        b"\0".into(),
        b"\xff\xfe{\0}\0".into(),
        b"\xef\xbb\xbf{}".into(),
        b"// hi\n{}".into(),
        b"{\"a\":NaN}".into(),
        b"{\"a\":Infinity}".into(),
        b"{\"a\":01}".into(),
        b"{\"a\":+1}".into(),
        b"{\"a\":1e99999}".into(),
        b"{\"a\":\"\n\"}".into(),
        b"{\"a\":\"\\x\"}".into(),
        b"{\"a\":\"\\u12\"}".into(),
        b"<xml/>".into(),
        b"a=b&c=d".into(),
        b"\x1f\x8b\x08\0\0\0\0\0".into(),
        vec![b'['; 900_000],
        vec![b'{'; 900_000],
        b"{\"a\":".repeat(150_000),
        b"\"".repeat(1_000_000),
        b"\\".repeat(1_000_000),
        vec![0xff; 1_000_000],
    ];
    for (n, body) in not_json.into_iter().enumerate() {
        add(format!("not JSON {n}"), "/v1/events", JSON, body.clone(), &[400]);
        // A number out of range in a field that nobody reads is JSON, and an unknown field.
        add(format!("batch that is not JSON {n}"), "/v1/events/batch", JSON, body, &[400, 422]);
    }
    // Bytes that are no text, lone surrogates, U+0000, in every place.
    for field in ["event_id", "entity_id", "process_id", "session_id"] {
        for (name, text, expected) in [
            ("bytes", b"\xc3\x28".to_vec(), &[400][..]),
            ("overlong", b"\xc0\xaf".to_vec(), &[400]),
            ("surrogate bytes", b"\xed\xa0\x80".to_vec(), &[400]),
            ("lone high surrogate", b"\\ud83d".to_vec(), &[400]),
            ("lone low surrogate", b"\\ude00".to_vec(), &[400]),
            ("surrogates the wrong way round", b"\\ude00\\ud83d".to_vec(), &[400]),
            ("U+0000", b"a\\u0000b".to_vec(), &[422]),
            ("raw NUL", b"a\0b".to_vec(), &[400]),
        ] {
            let other = if field == "entity_id" { "" } else { "\"entity_id\":\"a\"," };
            let mut body = format!("{{{other}{message},\"{field}\":\"").into_bytes();
            body.extend_from_slice(&text);
            body.extend_from_slice(b"\"}");
            add(format!("{name} in {field}"), "/v1/events", JSON, body, expected);
        }
    }
    // Wrong types everywhere.
    for value in ["7", "-1.5e10", "true", "[]", "{}", "[[[[[[]]]]]]", "{\"a\":{\"b\":{}}}", "9007199254740993", "1e308"] {
        for field in ["event_id", "entity_id", "messages", "occurred_at", "metadata"] {
            if field == "metadata" && value == "{}" {
                continue;
            }
            let entity = if field == "entity_id" { "" } else { "\"entity_id\":\"a\"," };
            let messages = if field == "messages" { String::new() } else { format!("{message},") };
            let body = format!("{{{entity}{messages}\"{field}\":{value}}}");
            add(format!("{field} is {value}"), "/v1/events", JSON, body.into_bytes(), &[422]);
        }
        for field in ["role", "message_id", "name", "created_at", "surprise"] {
            let role = if field == "role" { "" } else { "\"role\":\"user\"," };
            let body = format!("{{\"entity_id\":\"a\",\"messages\":[{{{role}\"content\":\"x\",\"{field}\":{value}}}]}}");
            add(format!("message's {field} is {value}"), "/v1/events", JSON, body.into_bytes(), &[422]);
        }
    }
    // Too long, too many, too deep, too often.
    let long = |n: usize| "k".repeat(n);
    let cases = vec![
        ("entity of 257 bytes", format!("{{\"entity_id\":\"{}\",{message}}}", long(257)), &[422][..]),
        ("giant entity", format!("{{\"entity_id\":\"{}\",{message}}}", long(900_000)), &[422]),
        ("giant event id", format!("{{\"event_id\":\"{}\",\"entity_id\":\"a\",{message}}}", long(900_000)), &[422]),
        ("giant member name", format!("{{\"{}\":1,\"entity_id\":\"a\",{message}}}", long(900_000)), &[422]),
        ("giant metadata key", format!("{{\"metadata\":{{\"{}\":1}},\"entity_id\":\"a\",{message}}}", long(900_000)), &[422]),
        (
            "giant role",
            format!("{{\"entity_id\":\"a\",\"messages\":[{{\"role\":\"{}\",\"content\":\"x\"}}]}}", long(900_000)),
            &[422],
        ),
        ("huge integer", format!("{{\"entity_id\":{},{message}}}", "9".repeat(300)), &[422]),
        ("over-huge integer", format!("{{\"entity_id\":{},{message}}}", "9".repeat(400_000)), &[400]),
        ("100,000 messages", format!("{{\"entity_id\":\"a\",\"messages\":[{}]}}", vec!["{}"; 100_000].join(",")), &[422]),
        ("1,000 broken messages", format!("{{\"entity_id\":\"a\",\"messages\":[{}]}}", vec!["7"; 1_000].join(",")), &[422]),
        ("100,000 members", format!("{{{}}}", (0..60_000).map(|n| format!("\"k{n}\":1")).collect::<Vec<_>>().join(",")), &[422]),
        ("the same member 100,000 times", format!("{{{}}}", vec!["\"k\":1"; 100_000].join(",")), &[400, 422]),
        ("two entities", format!("{{\"entity_id\":\"a\",\"entity_id\":\"b\",{message}}}"), &[422]),
        (
            "65 metadata entries",
            format!(
                "{{\"entity_id\":\"a\",{message},\"metadata\":{{{}}}}}",
                (0..65).map(|n| format!("\"{n}\":\"\"")).collect::<Vec<_>>().join(",")
            ),
            &[422],
        ),
        (
            "parts too deep",
            format!(
                "{{\"entity_id\":\"a\",\"messages\":[{{\"role\":\"user\",\"content\":[{}{}]}}]}}",
                "[".repeat(5_000),
                "]".repeat(5_000)
            ),
            &[400],
        ),
        ("year 10000", format!("{{\"entity_id\":\"a\",{message},\"occurred_at\":\"+010000-01-01T00:00:00Z\"}}"), &[422]),
        ("a time without zone", format!("{{\"entity_id\":\"a\",{message},\"occurred_at\":\"2026-01-01 00:00:00\"}}"), &[422]),
        ("a prototype", format!("{{\"__proto__\":{{}},\"entity_id\":\"a\",{message}}}"), &[422]),
    ];
    for (name, body, expected) in cases {
        add(name.to_owned(), "/v1/events", JSON, body.into_bytes(), expected);
    }
    add("one byte over 1 MiB".into(), "/v1/events", JSON, vec![b' '; (1 << 20) + 1], &[413]);
    add("4 MiB".into(), "/v1/events", JSON, vec![b'x'; 4 << 20], &[413]);
    add("17 MiB batch".into(), "/v1/events/batch", JSON, vec![b'x'; 17 << 20], &[413]);
    add("17 MiB of lines".into(), "/v1/events/batch", NDJSON, vec![b'\n'; 17 << 20], &[413]);
    add("a million lines".into(), "/v1/events/batch", NDJSON, b"x\n".repeat(1_000_000), &[422]);
    add(
        "two million items".into(),
        "/v1/events/batch",
        JSON,
        format!("{{\"events\":[{}1]}}", "1,".repeat(2_000_000)).into_bytes(),
        &[422],
    );
    for (n, body) in [
        "[]",
        "7",
        "null",
        "\"events\"",
        "{}",
        "{\"events\":7}",
        "{\"events\":null}",
        "{\"events\":[],\"x\":1}",
        "{\"events\":[],\"events\":[]}",
    ]
    .into_iter()
    .enumerate()
    {
        add(format!("no batch {n}"), "/v1/events/batch", JSON, body.into(), &[422]);
    }
    // Batches of which no event is one.
    let broken_lines: Vec<&[u8]> = vec![
        b"{\n}\n",
        b"\xff\xff\n{}\n",
        b"{}\r\n{}\r\n",
        b"null\n[]\n\"\"\n7\n",
        b"{\"entity_id\":\"a\"\n,\"messages\":[]}\n",
        b"\\ud800\n",
        b"[[[[\n]]]]\n",
        b"{\"entity_id\":\"\\udfff\"}\n",
        b"data: {}\n\n",
        b"\0\0\0\n",
    ];
    for (n, body) in broken_lines.into_iter().enumerate() {
        add(format!("broken lines {n}"), "/v1/events/batch", NDJSON, body.into(), &[200]);
        let events = body.split(|b| *b == b'\n').map(|line| serde_json::Value::from(String::from_utf8_lossy(line).into_owned()));
        add(
            format!("broken items {n}"),
            "/v1/events/batch",
            JSON,
            json!({"events": events.collect::<Vec<_>>()}).to_string().into(),
            &[200],
        );
    }
    // The right bytes under the wrong name.
    let honest = event("never", "a", "x").to_string();
    for (n, content_type) in [
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "*/*",
        "",
    ]
    .into_iter()
    .enumerate()
    {
        add(format!("media type {n}"), "/v1/events", content_type, honest.clone().into(), &[415]);
        add(format!("media type of a batch {n}"), "/v1/events/batch", content_type, honest.clone().into(), &[415]);
    }
    add("lines as one event".into(), "/v1/events", NDJSON, honest.clone().into(), &[415]);
    // Questions that are none.
    for (n, body) in [
        "",
        "[]",
        "{}",
        "{\"event_ids\":7}",
        "{\"event_ids\":[7]}",
        "{\"event_ids\":[\"\"]}",
        "{\"event_ids\":[\"a\\u0000\"]}",
        "{\"event_ids\":[],\"timeout_ms\":-1}",
        "{\"event_ids\":[],\"timeout_ms\":1e400}",
        "{\"event_ids\":[],\"timeout_ms\":\"1\"}",
        "{\"event_ids\":[\"\\ud800\"]}",
    ]
    .into_iter()
    .enumerate()
    {
        add(format!("no wait {n}"), "/v1/events/wait", JSON, body.into(), &[400, 422]);
    }
    all
}

async fn serve(door: &Door) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = door.app.clone();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

/// Sends bytes as they are, and reads the answer to its end.
async fn exchange(address: SocketAddr, request: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    let (_, read) = tokio::join!(
        async {
            let _ = writer.write_all(request).await;
        },
        tokio::time::timeout(Duration::from_secs(30), reader.read_to_end(&mut answer))
    );
    read.expect("an answer").unwrap();
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, text)
}

fn request(hostile: &Hostile) -> Vec<u8> {
    let mut head = format!("POST {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n", hostile.path);
    if !hostile.content_type.is_empty() {
        head.push_str(&format!("content-type: {}\r\n", hostile.content_type));
    }
    let mut bytes;
    if hostile.chunked {
        bytes = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
        for chunk in hostile.body.chunks(60_000) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
    } else {
        bytes = format!("{head}content-length: {}\r\n\r\n", hostile.body.len()).into_bytes();
        bytes.extend_from_slice(&hostile.body);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_bodies_leave_the_service_up_and_the_log_unchanged() {
    let door = Door::open().await;
    let address = serve(&door).await;
    let all = generate();
    assert!(all.len() >= 200, "{} hostile bodies", all.len());
    for (n, hostile) in all.iter().enumerate() {
        let (status, text) = exchange(address, &request(hostile)).await;
        assert!(hostile.expected.contains(&status), "{}: {status}: {:.300}", hostile.name, text);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        if status == 200 {
            assert!(!body.contains("\"accepted\"") && body.contains("\"rejected\""), "{}: {body:.300}", hostile.name);
        } else {
            assert!(head.to_lowercase().contains("content-type: application/problem+json"), "{}: {head}", hostile.name);
            assert!(text.len() < 40_000, "{}: an answer of {} bytes", hostile.name, text.len());
        }
        if n % 20 == 0 {
            let id = format!("honest {n}");
            assert_eq!(
                door.post("/v1/events", &event(&id, "honest", "I am still here.")).await.ok(202).body["status"],
                "accepted"
            );
        }
    }
    assert!(door.log.events().iter().all(|event| event.entity_id == "honest"));
    assert_eq!(door.log.events().len(), all.len().div_ceil(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_connections_cost_nobody_else() {
    let config = IngestConfig { body_timeout: Duration::from_millis(200), ..IngestConfig::default() };
    let door = Door::with(FakeLog::new(), FakeWriter::default(), KeyRing::open(), config).await;
    let address = serve(&door).await;
    let head = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let (status, _) = exchange(address, format!("{head}content-length: 100\r\n\r\n{{").as_bytes()).await;
    assert_eq!(status, 408, "a body that does not come");
    for raw in [
        "content-length: -1\r\n\r\n",
        "content-length: x\r\n\r\n",
        "content-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        "transfer-encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let (status, text) = exchange(address, format!("{head}{raw}").as_bytes()).await;
        assert_eq!(status, 400, "{raw:?}: {text}");
    }
    let (status, _) = exchange(address, format!("{head}content-length: 99999999999999\r\n\r\n{{").as_bytes()).await;
    assert_eq!(status, 413, "refused by its head alone");
    for target in [
        "/v1/events/%00",
        "/v1/events/%ff%fe",
        "/v1/entities/%c3/facts",
        "/v1//events",
        "/%2e%2e/etc/passwd",
        "/v1/events/%",
        "/v1/facts/%0a",
    ] {
        let (status, text) =
            exchange(address, format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes()).await;
        assert!((200..500).contains(&status), "{target}: {text}");
    }
    assert!(door.log.events().is_empty());
    door.post("/v1/events", &event("e", "a", "x")).await.ok(202);
}
