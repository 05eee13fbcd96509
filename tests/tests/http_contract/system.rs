//! One `memori up` in a folder of its own, with or without keys, and the few things that every test says to it.

use std::time::Duration;

use memori_tests::client::escape;
use memori_tests::process::{Process, Program};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::http::{Answer, Http};

pub(crate) struct System {
    pub(crate) process: Process,
    pub(crate) http: Http,
    pub(crate) dir: TempDir,
}

/// A line of a keys file.
pub(crate) fn key_entry(tenant: &str, rights: &[&str], key: &str) -> String {
    let hash = hex::encode(Sha256::digest(key.as_bytes()));
    format!("[[keys]]\ntenant = \"{tenant}\"\nrights = {rights:?}\nsha256 = \"{hash}\"\n\n")
}

impl System {
    /// Without keys: everything belongs to the tenant `default`.
    pub(crate) async fn open() -> Self {
        Self::start(None, &[]).await
    }

    pub(crate) async fn start(keys: Option<&str>, env: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("memori-contract-").tempdir().expect("a folder");
        let mut environment = vec![("MEMORI__EMBEDDED__DATA_DIR".to_owned(), dir.path().join("data").display().to_string())];
        if let Some(keys) = keys {
            let file = dir.path().join("keys.toml");
            std::fs::write(&file, keys).expect("a keys file");
            environment.push(("MEMORI__AUTH__KEYS_FILE".to_owned(), file.display().to_string()));
        }
        environment.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let program = Program {
            binary: "memori",
            args: vec!["up".to_owned()],
            env: environment,
            listen_key: Some("MEMORI__INGEST__LISTEN"),
            has_admin: false,
        };
        let process = tokio::task::block_in_place(|| Process::start("memori", program, dir.path())).expect("memori up");
        let address = process.api().trim_start_matches("http://").parse().expect("an address");
        Self { http: Http::new(address).await, process, dir }
    }
}

/// One user's message.
pub(crate) fn event(event_id: &str, entity_id: &str, text: &str) -> Value {
    json!({"event_id": event_id, "entity_id": entity_id, "messages": [{"role": "user", "content": text}]})
}

impl Http {
    /// Posts an event, and waits until it is applied.
    #[track_caller]
    pub(crate) fn learn(&self, event: Value) -> impl Future<Output = Answer> {
        let http = self.clone();
        async move {
            let answer = http.post("/v1/events", &event).await.ok(202);
            let event_id = answer.json["event_id"].as_str().expect("an id").to_owned();
            http.applied(&[&event_id]).await;
            answer
        }
    }

    pub(crate) async fn applied(&self, event_ids: &[&str]) {
        let answer = self.post("/v1/events/wait", &json!({"event_ids": event_ids, "timeout_ms": 50_000})).await.ok(200);
        assert_eq!(answer.json["complete"], true, "{}", answer.json);
        let events = answer.json["events"].as_array().expect("events");
        assert!(events.iter().all(|event| event["status"] == "applied"), "{}", answer.json);
    }

    /// A recall of an entity with further options.
    pub(crate) async fn recall(&self, entity_id: &str, query: &str, options: Value) -> Value {
        let mut body = json!({"entity_id": entity_id, "query": query});
        for (name, value) in options.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        self.post("/v1/recall", &body).await.ok(200).json
    }

    /// Every fact of an entity, page by page.
    pub(crate) async fn all_facts(&self, entity_id: &str, limit: usize) -> Vec<Value> {
        let path = format!("/v1/entities/{}/facts?limit={limit}", escape(entity_id));
        let mut facts = Vec::new();
        let mut page = self.get(&path).await.ok(200).json;
        loop {
            let items = page["facts"].as_array().expect("facts");
            assert!(items.len() <= limit, "a page over its limit");
            facts.extend(items.iter().cloned());
            match page["next_cursor"].as_str() {
                Some(cursor) => page = self.get(&format!("{path}&cursor={}", escape(cursor))).await.ok(200).json,
                None => return facts,
            }
        }
    }

    /// Erases an entity, and waits for the receipt.
    pub(crate) async fn erase(&self, entity_id: &str) -> Value {
        let answer = self.delete(&format!("/v1/entities/{}", escape(entity_id))).await.ok(202);
        let erasure_id = answer.json["erasure_id"].as_str().expect("an erasure_id");
        let path = format!("/v1/erasures/{erasure_id}");
        for _ in 0..2_000 {
            let receipt = self.get(&path).await.ok(200).json;
            if receipt["status"] == "applied" {
                return receipt;
            }
            assert_eq!(receipt["status"], "pending", "{receipt}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{entity_id:?} is not erased");
    }
}

/// What facts of an answer say, in order.
pub(crate) fn contents(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|item| item["content"].as_str()).collect()
}
