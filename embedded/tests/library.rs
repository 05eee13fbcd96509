//! The system as a library: what is captured survives a database that is away, a stop, a drop and a fork's pause; nobody opens what a
//! server has to itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode, header};
use memori_embedded::folder::DATABASE;
use memori_embedded::{Database, Embedded, Knobs, LibraryConfig, Start, State, System};
use memori_service::{Secret, Settings, Shutdown};
use serde_json::{Value, json};
use tower::ServiceExt as _;

const PATIENCE: Duration = Duration::from_secs(30);

fn file(dir: &Path) -> Database {
    Database::Sqlite(dir.join("app.memori.db"))
}

/// Nobody listens there.
fn away() -> Database {
    Database::Postgres(Secret::new("postgres://nobody@127.0.0.1:1/none".to_owned()))
}

async fn start(database: Database, dir: &Path) -> Start {
    let mut config = LibraryConfig::new(database, dir.join("data"));
    config.settings.embedding.kind = "none".to_owned();
    System::start(config).await.expect("starts")
}

async fn system(database: Database, dir: &Path) -> System {
    match start(database, dir).await {
        Start::System(system) => system,
        Start::Elsewhere { address } => panic!("it is at {address}"),
    }
}

async fn post(router: &Router, path: &str, body: &Value) -> (StatusCode, Value) {
    let request = Request::post(path).header(header::HOST, "localhost").header(header::CONTENT_TYPE, "application/json");
    let answer = router.clone().oneshot(request.body(Body::from(body.to_string())).expect("a request")).await.expect("an answer");
    let status = answer.status();
    let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await.expect("a body");
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

/// Posts an event; where it is durable.
async fn capture(router: &Router, id: &str) -> String {
    let event = json!({"event_id": id, "entity_id": "ada", "messages": [{"role": "user", "content": "I live in Lisbon."}]});
    let (status, body) = post(router, "/v1/events", &event).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    body["durable_in"].as_str().expect("durable").to_owned()
}

/// Waits until they are applied.
async fn applied(router: &Router, ids: &[&str]) {
    let patience = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (status, body) = post(router, "/v1/events/wait", &json!({"event_ids": ids, "timeout_ms": 1_000})).await;
        if status == StatusCode::OK && body["complete"] == json!(true) {
            let states: Vec<_> = body["events"].as_array().into_iter().flatten().map(|event| event["status"].clone()).collect();
            assert!(states.iter().all(|state| *state == "applied"), "{states:?}");
            return;
        }
        assert!(tokio::time::Instant::now() < patience, "{status} {body}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_goes_all_the_way_and_knobs_move_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let system = system(file(dir.path()), dir.path()).await;
    system.up(PATIENCE).await.unwrap();
    assert_eq!(system.knobs(), Knobs { max_concurrency: 50, batch_rows: 5_000 });
    system.set_max_concurrency(2);
    system.set_batch_rows(1);
    assert_eq!(system.knobs(), Knobs { max_concurrency: 2, batch_rows: 1 });
    let router = system.router();
    for id in ["one", "two", "three"] {
        assert_eq!(capture(&router, id).await, "log");
    }
    applied(&router, &["one", "two", "three"]).await;
    let (status, body) = post(&router, "/v1/recall", &json!({"entity_id": "ada", "query": "where does she live?"})).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body["facts"].to_string().contains("Lisbon"), "{body}");
    assert_eq!(system.levels().spooled, 0);
    assert!(system.health().readiness().is_ok() && system.health().degradations().is_empty());
    assert!(system.stop(PATIENCE).await);
    let (status, _) = post(&router, "/v1/recall", &json!({"entity_id": "ada", "query": "where?"})).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "it is over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_captured_while_the_database_is_away_is_there_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let began = tokio::time::Instant::now();
    let lonely = system(away(), dir.path()).await;
    assert!(began.elapsed() < Duration::from_secs(5), "the start waited: {:?}", began.elapsed());
    let why = lonely.up(Duration::from_millis(500)).await.unwrap_err();
    assert!(why.contains("database"), "{why}");
    assert!(matches!(&*lonely.state().borrow(), State::Opening(Some(_))));
    let router = lonely.router();
    assert_eq!(capture(&router, "early").await, "spool");
    let asked = tokio::time::Instant::now();
    assert_eq!(capture(&router, "later").await, "spool");
    assert!(asked.elapsed() < Duration::from_millis(900), "the log is known to be away: {:?}", asked.elapsed());
    assert_eq!(lonely.levels().spooled, 2);
    assert!(!lonely.health().degradations().is_empty() && lonely.health().readiness().is_err());
    assert!(lonely.stop(PATIENCE).await);
    // As if a process with a higher number had left them.
    let spools = dir.path().join("data/spool");
    drop(router);
    std::fs::rename(spools.join("0"), spools.join("5")).unwrap();

    let heir = system(file(dir.path()), dir.path()).await;
    heir.up(PATIENCE).await.unwrap();
    applied(&heir.router(), &["early", "later"]).await;
    let patience = tokio::time::Instant::now() + PATIENCE;
    while spools.join("5").exists() {
        assert!(tokio::time::Instant::now() < patience, "the orphan was not removed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(heir.stop(PATIENCE).await);
}

/// This process's open files below a folder, by what they are called.
fn open_files(dir: &Path) -> Vec<PathBuf> {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|path| path.starts_with(dir) && path.to_string_lossy().contains("app.memori.db")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suspended_it_has_no_file_open_and_takes_events_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let system = system(file(dir.path()), dir.path()).await;
    system.up(PATIENCE).await.unwrap();
    let router = system.router();
    capture(&router, "before").await;
    assert!(!open_files(dir.path()).is_empty());
    assert!(system.suspend(PATIENCE).await);
    assert_eq!(open_files(dir.path()), Vec::<PathBuf>::new());
    assert_eq!(capture(&router, "during").await, "spool");
    system.resume();
    system.up(PATIENCE).await.unwrap();
    applied(&router, &["before", "during"]).await;
    for wait_ms in [0, 0, 0, 1, 2, 5, 10, 20, 50] {
        // As a server's first process does, which forks one worker after the other.
        system.resume();
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        assert!(system.suspend(PATIENCE).await);
        assert_eq!(open_files(dir.path()), Vec::<PathBuf>::new());
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(open_files(dir.path()), Vec::<PathBuf>::new());
    }
    system.resume();
    assert!(system.stop(PATIENCE).await);
    assert_eq!(open_files(dir.path()), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_share_a_file_and_one_that_is_dropped_stops_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let one = system(file(dir.path()), dir.path()).await;
    let other = system(file(dir.path()), dir.path()).await;
    one.up(PATIENCE).await.unwrap();
    other.up(PATIENCE).await.unwrap();
    capture(&one.router(), "by one").await;
    capture(&other.router(), "by the other").await;
    for router in [one.router(), other.router()] {
        applied(&router, &["by one", "by the other"]).await;
    }
    let mut state = one.state();
    drop(one);
    tokio::time::timeout(PATIENCE, state.wait_for(|state| *state == State::Stopped)).await.unwrap().unwrap();
    capture(&other.router(), "after").await;
    applied(&other.router(), &["after"]).await;
    assert!(other.stop(PATIENCE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_has_to_itself_is_at_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("served");
    let serve = || {
        let mut settings = Settings::default();
        settings.embedding.kind = "none".to_owned();
        settings.embedded.data_dir = Some(folder.clone());
        settings.ingest.listen.set_port(0);
        Embedded::start(settings, Shutdown::new(PATIENCE))
    };
    let database = || Database::Sqlite(folder.join(DATABASE));
    let server = serve().await.unwrap().expect("it was not asked to stop");
    match start(database(), dir.path()).await {
        Start::Elsewhere { address } => assert_eq!(address, format!("http://{}", server.address())),
        Start::System(_) => panic!("a server has it to itself"),
    }
    server.stop().await.unwrap();
    let library = system(database(), dir.path()).await;
    library.up(PATIENCE).await.unwrap();
    let refused = serve().await.err().expect("libraries are in it").to_string();
    assert!(refused.contains("as a library"), "{refused}");
    assert!(library.stop(PATIENCE).await);
    serve().await.unwrap().expect("it was not asked to stop").stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_work_are_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = LibraryConfig::new(file(dir.path()), dir.path().join("data"));
    config.settings.extractor.kind = "llm".to_owned();
    let why = System::start(config).await.unwrap_err().to_string();
    assert!(why.contains("extractor."), "{why}");
    let blocked = dir.path().join("a file");
    std::fs::write(&blocked, b"").unwrap();
    let config = LibraryConfig::new(file(dir.path()), blocked);
    let why = System::start(config).await.unwrap_err().to_string();
    assert!(why.contains("a file"), "{why}");
}
