//! The way to a writer that is a process of its own.
#![allow(missing_docs, reason = "a test binary")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use common::{Door, FakeLog, FakeWriter, event};
use http::StatusCode;
use memori_ingest::{IngestConfig, IngestParts, IngestState, WriterBackend, app};
use memori_service::Secret;
use memori_service::auth::{KeyRing, bearer, same_secret};
use serde_json::json;

const TOKEN: &str = "between us";

async fn check(request: Request, next: Next) -> Response {
    if bearer(request.headers()).is_some_and(|token| same_secret(token, TOKEN.as_bytes())) {
        next.run(request).await
    } else {
        StatusCode::UNAUTHORIZED.into_response()
    }
}

async fn serve(writer: &FakeWriter) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = writer.router().layer(middleware::from_fn(check));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

async fn door(writer: FakeWriter, url: &str, token: &str) -> Door {
    let log = FakeLog::new();
    let backend = WriterBackend::http(url, Some(&Secret::new(token))).unwrap();
    let config = IngestConfig::default();
    let parts = IngestParts { log: Arc::new(log.clone()), backend, keys: KeyRing::open(), extracting: None, config };
    let app = app(IngestState::start(parts).await.unwrap());
    Door { log, writer, app }
}

#[tokio::test]
async fn reads_go_over_http_with_our_token_and_unchanged_paths() {
    let writer = FakeWriter::default();
    let address = serve(&writer).await;
    let door = door(writer, &format!("http://{address}/"), TOKEN).await;
    for target in ["/v1/entities/%2E%2E/facts?kind=fact&cursor=%2F", "/v1/entities/a%2F..%2Fb/export", "/v1/entities/%2e/facts"] {
        assert_eq!(door.get(target).await.ok(200).body["echo"], target, "not even dots are tidied up");
    }
    door.post("/v1/events", &event("e", "a", "tea")).await.ok(202);
    assert_eq!(door.writer.inner().known_asked, 1);
    door.writer.knows(&door.log.events()[0], "applied");
    assert_eq!(door.get("/v1/events/e").await.ok(200).body["status"], "applied");
    let wait = door.post("/v1/events/wait", &json!({"event_ids": ["e"]})).await;
    assert_eq!(wait.ok(200).body["complete"], true);
}

#[tokio::test]
async fn a_writer_that_refuses_us_is_our_problem() {
    let writer = FakeWriter::default();
    let address = serve(&writer).await;
    let door = door(writer, &format!("http://{address}"), "another token").await;
    door.get("/v1/entities").await.problem(503);
    door.get("/v1/events/e").await.problem(503);
    door.post("/v1/events", &event("e", "a", "tea")).await.ok(202);
}

#[tokio::test]
async fn a_slow_or_absent_writer_holds_no_event_up() {
    let writer = FakeWriter::default();
    writer.inner().delay = Duration::from_secs(3);
    let address = serve(&writer).await;
    let slow = door(writer, &format!("http://{address}"), TOKEN).await;
    let started = Instant::now();
    slow.post("/v1/events", &event("e", "a", "tea")).await.ok(202);
    assert!(started.elapsed() < Duration::from_secs(2), "50 ms were allowed");

    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let absent = door(FakeWriter::default(), &format!("http://{closed}"), TOKEN).await;
    absent.post("/v1/events", &event("e", "a", "tea")).await.ok(202);
    absent.post("/v1/recall", &json!({})).await.problem(503);
    absent.post("/v1/events/wait", &json!({"event_ids": ["e"], "timeout_ms": 300})).await.problem(503);
    assert_eq!(absent.get("/v1/events/e").await.ok(200).body["status"], "accepted");
}

#[tokio::test]
async fn a_writer_that_comes_back_while_somebody_waits_answers_them() {
    let reserved = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let writer = FakeWriter::default();
    let door = door(writer.clone(), &format!("http://{address}"), TOKEN).await;
    door.post("/v1/events", &event("e", "a", "tea")).await.ok(202);
    writer.knows(&door.log.events()[0], "applied");
    // First nobody listens, then the store behind the writer is away, then all is well.
    writer.inner().broken = Some(StatusCode::SERVICE_UNAVAILABLE);
    let question = json!({"event_ids": ["e"], "timeout_ms": 20_000});
    let waiting = door.post("/v1/events/wait", &question);
    let returning = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let router = writer.router().layer(middleware::from_fn(check));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        tokio::time::sleep(Duration::from_millis(300)).await;
        writer.inner().broken = None;
    };
    let (answer, ()) = tokio::join!(waiting, returning);
    assert_eq!(answer.ok(200).body["complete"], true);
}

#[test]
fn an_address_that_cannot_be_one_is_refused_with_its_key() {
    for url in ["", "writer:7702", "ftp://writer", "/v1", "http://"] {
        let error = WriterBackend::http(url, None).unwrap_err().to_string();
        assert!(error.contains("ingest.writer_url"), "{error}");
    }
}
