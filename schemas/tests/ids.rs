//! Ids never change: every rule of decision 1 against vectors that were made by another implementation, in another language.

use memori_schemas::ids::{self, EntityKey, FactId};
use memori_schemas::normalise::normalise;
use memori_schemas::{ContentFormat, ContentHash, FactKind, Message, MetadataEntry, Role};
use proptest::prelude::*;
use serde_json::Value;

fn golden(section: &str) -> Vec<Value> {
    let golden: Value = serde_json::from_str(include_str!("../golden/ids.json")).expect("the vectors are JSON");
    let vectors = golden[section].as_array().expect("a section is a list").clone();
    assert!(!vectors.is_empty(), "{section}");
    vectors
}

fn text<'a>(vector: &'a Value, field: &str) -> &'a str {
    vector[field].as_str().unwrap_or_else(|| panic!("{field} of {vector}"))
}

fn messages(vector: &Value) -> Vec<Message> {
    let message = |m: &Value| Message {
        message_id: m["message_id"].as_str().map(str::to_owned),
        role: Role::parse(text(m, "role")).expect("a role"),
        name: m["name"].as_str().map(str::to_owned),
        content: text(m, "content").to_owned(),
        content_format: ContentFormat::parse(text(m, "content_format")).expect("a format"),
        created_at: None,
    };
    vector["messages"].as_array().expect("messages").iter().map(message).collect()
}

#[test]
fn murmur2_is_kafkas() {
    for vector in golden("murmur2") {
        assert_eq!(i64::from(ids::murmur2(text(&vector, "text").as_bytes()).cast_signed()), vector["hash"], "{vector}");
    }
}

#[test]
fn keys_and_partitions() {
    for vector in golden("entities") {
        let (tenant, entity) = (text(&vector, "tenant"), text(&vector, "entity_id"));
        let key = ids::log_key(tenant, entity);
        assert_eq!(hex::encode(&key), text(&vector, "log_key"));
        assert_eq!(ids::parse_log_key(&key), Some((tenant, entity)));
        assert_eq!(ids::entity_key(tenant, entity).to_string(), text(&vector, "entity_key"));
        assert_eq!(ids::partition_of(&key, 12), vector["partition_of_12"]);
        assert_eq!(ids::partition_of(&key, 1), 0);
    }
}

#[test]
fn content_hashes_and_message_keys() {
    for vector in golden("events") {
        let messages = messages(&vector);
        let metadata: Vec<MetadataEntry> = vector["metadata"]
            .as_object()
            .expect("metadata")
            .iter()
            .map(|(key, value)| MetadataEntry { key: key.clone(), value: value.as_str().expect("text").to_owned() })
            .collect();
        let hash = ids::content_hash(text(&vector, "entity_id"), vector["process_id"].as_str(), &messages, &metadata);
        assert_eq!(hash.to_string(), text(&vector, "content_hash"));
        let keys: Vec<String> = (0..messages.len())
            .map(|index| ids::message_key(text(&vector, "event_id"), &hash, index, &messages[index]).to_string())
            .collect();
        assert_eq!(Value::from(keys), vector["message_keys"]);
    }
}

#[test]
fn a_message_that_is_sent_again_under_its_id_has_the_same_key_in_another_event() {
    let events = golden("events");
    assert_eq!(events[3]["message_keys"][0], events[4]["message_keys"][0]);
    assert_ne!(events[0]["message_keys"][0], events[3]["message_keys"][0], "the same words without an id are another message");
}

#[test]
fn fact_ids_and_text_hashes() {
    for vector in golden("facts") {
        let entity_key = ids::entity_key(text(&vector, "tenant"), text(&vector, "entity_id"));
        let generation = i32::try_from(vector["generation"].as_i64().expect("a generation")).expect("an int");
        let kind = FactKind::parse(text(&vector, "kind")).expect("a kind");
        let words = text(&vector, "text");
        assert_eq!(normalise(words), text(&vector, "normalised"));
        let id = ids::fact_id(&entity_key, generation, kind, vector["subject"].as_str(), words);
        assert_eq!(id.to_string(), text(&vector, "fact_id"));
        assert_eq!((id.0.get_version_num(), id.0.get_variant()), (8, uuid::Variant::RFC4122));
        assert_eq!(ids::text_hash(words).to_string(), text(&vector, "text_hash"));
    }
}

#[test]
fn what_punctuation_or_script_tells_apart_stays_apart() {
    let facts = golden("facts");
    let id =
        |words: &str| facts.iter().find(|v| v["text"] == words && v["subject"].is_null()).map(|v| text(v, "fact_id").to_owned());
    let apart =
        ["Alice codes in C", "Alice codes in C++", "Alice codes in C#", "他住在巴黎。", "他住在柏林。", "item 10", "item 1-0"];
    let ids: std::collections::BTreeSet<_> = apart.iter().map(|words| id(words).expect(words)).collect();
    assert_eq!(ids.len(), apart.len());
    assert_eq!(id("Straße!"), id("STRASSE"));
    assert_eq!(id("Ünïcödé"), id("U\u{308}ni\u{308}co\u{308}de\u{301}"));
    let entities = golden("entities");
    let keys: std::collections::BTreeSet<_> = entities.iter().map(|v| text(v, "entity_key")).collect();
    assert_eq!(keys.len(), entities.len(), "\"1\", \"001\" and \"１\" are three entities");
}

#[test]
fn triple_hashes() {
    let triples = golden("triples");
    for v in &triples {
        let hash = ids::triple_hash(v["subject"].as_str(), v["predicate"].as_str(), v["object"].as_str());
        assert_eq!(hash.expect("all three are known").to_string(), text(v, "triple_hash"));
    }
    assert_eq!(triples[0]["triple_hash"], triples[1]["triple_hash"]);
    assert_ne!(triples[2]["triple_hash"], triples[3]["triple_hash"]);
    assert_eq!(ids::triple_hash(Some("a"), None, Some("b")), None);
}

#[test]
fn island_session_ids() {
    for v in golden("islands") {
        let entity_key = ids::entity_key(text(&v, "tenant"), text(&v, "entity_id"));
        let id = ids::island_session_id(&entity_key, v["process_id"].as_str(), text(&v, "first_event_id"));
        assert_eq!(id.to_string(), text(&v, "session_id"));
    }
}

#[test]
fn canonical_json_is_rfc_8785() {
    for vector in golden("canonical_json") {
        let value: Value = serde_json::from_str(text(&vector, "json")).expect("JSON");
        assert_eq!(ids::canonical_json(&value), text(&vector, "canonical"));
    }
}

#[test]
fn a_key_that_is_not_one_is_refused() {
    let key = ids::log_key("acme", "alice");
    for cut in 0..key.len() {
        assert_eq!(ids::parse_log_key(&key[..cut]), None, "cut at {cut}");
    }
    assert_eq!(ids::parse_log_key(&[key.clone(), vec![0]].concat()), None);
    assert_eq!(ids::parse_log_key(&[0xff; 12]), None);
    assert_eq!(ids::parse_log_key(&[0, 0, 0, 1, 0xff, 0, 0, 0, 0]), None, "not UTF-8");
}

proptest! {
    #[test]
    fn a_facts_id_leads_to_its_entity(tenant in ".{0,20}", entity in ".{1,40}", subject in proptest::option::of(".{0,20}"), words in ".{0,80}", generation in 0..i32::MAX) {
        let key = ids::entity_key(&tenant, &entity);
        let id = ids::fact_id(&key, generation, FactKind::Fact, subject.as_deref(), &words);
        let (low, high) = ids::entity_key_range(id);
        prop_assert!(low <= key && key <= high);
        prop_assert_eq!((&low.0[..7], low.0[7] >> 4), (&high.0[..7], high.0[7] >> 4));
    }

    #[test]
    fn the_range_is_exactly_the_keys_that_share_sixty_bits(uuid in any::<[u8; 16]>(), other in any::<[u8; 16]>(), near in any::<bool>()) {
        let id = FactId(uuid::Builder::from_custom_bytes(uuid).into_uuid());
        let (low, high) = ids::entity_key_range(id);
        let mut key = other;
        if near {
            key[..7].copy_from_slice(&low.0[..7]);
        }
        let shares = key[..7] == low.0[..7] && key[7] >> 4 == low.0[7] >> 4;
        prop_assert_eq!(low <= EntityKey(key) && EntityKey(key) <= high, shares);
    }

    #[test]
    fn log_keys_come_back(tenant in ".{0,40}", entity in ".{0,40}") {
        let key = ids::log_key(&tenant, &entity);
        prop_assert_eq!(ids::parse_log_key(&key), Some((tenant.as_str(), entity.as_str())));
    }

    #[test]
    fn partitions_lie_in_their_range(key in proptest::collection::vec(any::<u8>(), 0..64), partitions in 1..1_000_i32) {
        prop_assert!((0..partitions).contains(&ids::partition_of(&key, partitions)));
    }

    #[test]
    fn normal_text_has_no_runs_of_white_space_and_ignores_case_and_form(words in "\\PC{0,40}") {
        use icu_normalizer::DecomposingNormalizerBorrowed as Nfd;
        let normal = normalise(&words);
        prop_assert_eq!(normal.trim(), &normal);
        prop_assert!(!normal.contains("  "));
        prop_assert_eq!(&normalise(&Nfd::new_nfd().normalize(&words)), &normal);
        prop_assert_eq!(&normalise(&format!(" \t{words}\n")), &normal);
    }

    #[test]
    fn hashes_come_back_from_their_hex(bytes in any::<[u8; 32]>()) {
        let hash = ContentHash(bytes);
        let json = serde_json::to_string(&hash).expect("it has a JSON form");
        prop_assert_eq!(&json, &format!("\"{hash}\""));
        prop_assert_eq!(serde_json::from_str::<ContentHash>(&json).expect("its own form"), hash);
    }
}
