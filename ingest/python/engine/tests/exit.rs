//! The end of the process, which is a process of its own.
#![allow(missing_docs, reason = "tests")]

use std::time::Duration;

use memori_sdk::Engine;
use serde_json::{Value, json};

#[test]
fn what_a_closed_engine_could_not_make_durable_is_tried_once_more() {
    let folder = tempfile::tempdir().unwrap();
    // A file stands where the folder should be: the system does not start.
    let data = folder.path().join("data");
    std::fs::write(&data, b"").unwrap();
    let config = json!({
        "mode": "sqlite", "path": folder.path().join("app.memori.db"), "data_dir": data, "exit_deadline_ms": 60_000,
        "embedding": {"kind": "none"},
    });
    let engine = Engine::open(&config.to_string()).unwrap();
    let event = br#"{"entity_id":"alice","messages":[{"role":"user","content":"I have a cat."}]}"#;
    let member = engine.member();
    member.capture(event).unwrap();
    assert!(!engine.close(Duration::from_millis(200)));
    std::fs::remove_file(&data).unwrap();
    memori_sdk::process::exit_begins();
    Engine::close_all();
    let stats = || serde_json::from_str::<Value>(&engine.stats_json()).unwrap();
    assert_eq!((&stats()["durable"], &stats()["queue"]["events"], &stats()["phase"]), (&json!(1), &json!(0), &json!("closed")));
    assert_eq!(member.capture(event).unwrap().1, None, "nobody will take it");
    assert_eq!(stats()["dropped"]["exiting"], 1, "{}", stats());
}
