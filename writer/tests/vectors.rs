//! Recall by meaning through the API: what words do not find, what happens without vectors, and that unlike models never meet.
#![allow(missing_docs, reason = "a test binary")]

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use memori_embedding::{EmbedError, Embedder, Embedding};
use memori_event_log::sqlite::SqliteDatabase;
use memori_schemas::{Fact, FactKind, MessageVector, Role, Vector};
use memori_writer::api::ApiConfig;
use memori_writer::reads::SqliteReads;
use memori_writer::recall::RecallConfig;
use memori_writer::store::sqlite::SqliteStore;
use serde_json::{Value, json};

use world::{World, contents, event, fact};

/// A model that knows three topics, by any of their words.
struct Topics {
    model: &'static str,
    calls: AtomicUsize,
    behaves: Behaves,
}

enum Behaves {
    Well,
    Fails,
    Hangs,
}

const TOPICS: [&[&str]; 3] =
    [&["cat", "kitten", "pet", "animal"], &["tram", "commute", "travel", "train"], &["soup", "dinner", "cooks", "meal"]];

fn direction(text: &str) -> Embedding {
    let text = text.to_lowercase();
    let counts = TOPICS.map(|words| if words.iter().any(|word| text.contains(word)) { 1.0 } else { 0.05 });
    Embedding::quantise(&counts)
}

#[async_trait]
impl Embedder for Topics {
    fn model(&self) -> &str {
        self.model
    }

    fn dimensions(&self) -> usize {
        3
    }

    async fn embed(&self, texts: &[String]) -> Result<Vec<Embedding>, EmbedError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match self.behaves {
            Behaves::Well => Ok(texts.iter().map(|text| direction(text)).collect()),
            Behaves::Fails => Err(EmbedError::Unavailable("gone".into())),
            Behaves::Hangs => std::future::pending().await,
        }
    }
}

fn vector(model: &str, text: &str) -> Vector {
    let embedding = direction(text);
    let values = embedding.values.iter().map(|value| value.cast_unsigned()).collect();
    Vector { model: model.into(), scale: embedding.scale, values }
}

const MODEL: &str = "topics@1";
const SAID: [&str; 3] = ["Our kitten sleeps all day", "The tram was late again", "He made soup with lentils"];

struct Told {
    world: World,
    embedder: Arc<Topics>,
    _folder: tempfile::TempDir,
}

/// Three facts and messages with vectors of a model, asked through another or the same.
async fn told(stored: &str, behaves: Behaves) -> Told {
    let folder = tempfile::tempdir().unwrap();
    let database = SqliteDatabase::open(&folder.path().join("memori.db")).await.unwrap();
    let store = Arc::new(SqliteStore::new(database.clone()));
    let reads = Arc::new(SqliteReads::new(database.reads().clone()));
    let embedder = Arc::new(Topics { model: MODEL, calls: AtomicUsize::new(0), behaves });
    let recall = RecallConfig { query_embedding_timeout: Duration::from_secs(30), ..RecallConfig::default() };
    let timely = RecallConfig { query_embedding_timeout: Duration::from_millis(20), ..recall };
    let recall = if matches!(embedder.behaves, Behaves::Hangs) { timely } else { recall };
    let config = ApiConfig { recall, ..ApiConfig::default() };
    let mut world = World::with_embedder(store, reads, config, Some(embedder.clone())).await;
    for (n, text) in SAID.iter().enumerate() {
        tell(&mut world, stored, n, text);
    }
    world.flush().await;
    Told { world, embedder, _folder: folder }
}

fn tell(world: &mut World, model: &str, n: usize, text: &str) {
    // Far apart, so that each is a session of its own.
    let said = event("vera", &format!("e{n}"), i64::try_from(n).unwrap() * 600, &[(Role::User, text)]);
    world.said(&said);
    let learned = Fact { vector: Some(vector(model, text)), ..fact(&said, 0, FactKind::Fact, text) };
    let of_message = MessageVector {
        event_id: said.event_id.clone(),
        content_hash: said.content_hash,
        message_key: said.message_key(0),
        message_index: 0,
        vector: vector(model, text),
    };
    world.learned_with_vectors(&said, 1, vec![learned], vec![of_message]);
}

fn ask(query: &str) -> Value {
    json!({"entity_id": "vera", "query": query, "include_messages": true, "explain": true})
}

#[tokio::test]
async fn meaning_finds_what_words_do_not() {
    let Told { mut world, embedder, _folder } = told(MODEL, Behaves::Well).await;
    for (query, best) in [("Any animal at home?", SAID[0]), ("How does he commute?", SAID[1]), ("What was the meal?", SAID[2])] {
        let answer = world.recall(ask(query)).await;
        assert_eq!(answer["ranking"], json!({"recipe": "vectors", "model": MODEL, "reason": null}));
        assert_eq!(contents(&answer["facts"])[0], best, "{answer}");
        assert_eq!(contents(&answer["messages"])[0], best, "{answer}");
        assert!(answer["facts"][0]["score_parts"]["vector"].as_f64().unwrap() > 0.2, "{answer}");
        let mut by_words = ask(query);
        by_words["vectors"] = json!(false);
        let answer = world.recall(by_words).await;
        assert_eq!(answer["ranking"], json!({"recipe": "lexical", "model": null, "reason": "not_wanted"}));
        assert!(answer["facts"][0]["score_parts"].get("vector").is_none(), "{answer}");
    }
    assert_eq!(embedder.calls.load(Ordering::SeqCst), 3, "each query once");

    // What comes later is compared at once, by the image that is at hand.
    tell(&mut world, MODEL, 3, "They adopted another cat");
    world.flush().await;
    let answer = world.recall(ask("Any animal at home?")).await;
    assert_eq!(contents(&answer["facts"]).len(), 4);
    assert!(contents(&answer["facts"])[..2].contains(&"They adopted another cat"), "{answer}");

    let queries: Vec<Value> = ["who travels", "what animal", "who cooks", "who travels"].map(ask).into();
    let answer = world.post("/v1/recall/batch", json!({"queries": queries})).await.json();
    assert!(answer["results"].as_array().unwrap().iter().all(|one| one["ranking"]["recipe"] == "vectors"), "{answer}");
    assert_eq!(embedder.calls.load(Ordering::SeqCst), 4, "a batch is one call");
}

#[tokio::test]
async fn without_a_vector_words_answer_and_say_why() {
    for (stored, behaves, query, reason) in [
        (MODEL, Behaves::Fails, "the tram", "unavailable"),
        (MODEL, Behaves::Hangs, "the tram", "timeout"),
        ("other@1", Behaves::Well, "the tram", "no_vectors"),
        (MODEL, Behaves::Well, "  ", "empty_query"),
    ] {
        let Told { world, _folder, .. } = told(stored, behaves).await;
        let answer = world.recall(ask(query)).await;
        assert_eq!(answer["ranking"], json!({"recipe": "lexical", "model": null, "reason": reason}), "{answer}");
        assert_eq!(answer["facts"].as_array().unwrap().len(), 3);
        if reason != "empty_query" {
            assert_eq!(contents(&answer["facts"])[0], SAID[1], "{answer}");
        }
    }
}

#[tokio::test]
async fn vectors_of_unlike_models_never_meet() {
    let Told { mut world, _folder, .. } = told("other@1", Behaves::Well).await;
    tell(&mut world, MODEL, 3, "They adopted another cat");
    world.flush().await;
    let answer = world.recall(ask("Any animal at home?")).await;
    assert_eq!(answer["ranking"]["recipe"], "vectors");
    for fact in answer["facts"].as_array().unwrap() {
        let vector = fact["score_parts"].get("vector");
        assert!(vector.is_none() || fact["content"] == "They adopted another cat", "{fact}");
    }
}
