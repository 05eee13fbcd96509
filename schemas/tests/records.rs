//! The Rust types and the schemas say the same, and released bytes never change.

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use memori_schemas::framing::{self, FramingError, RELEASED};
use memori_schemas::{
    ContentFormat, ContentHash, ConversationEvent, Cover, DeadLetter, DeadLetterClass, EraseEntity, Evidence, ExtractorInfo,
    Fact, FactKind, FactsExtracted, Flush, ForgetFact, Lane, LogRecordBody, Message, MessageKey, MessageVector, MetadataEntry,
    Micros, Origin, Role, Supplied, TextHash, TripleHash, Vector, WithdrawFacts,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

#[test]
fn every_record_comes_back_as_it_went() {
    for (name, record) in common::all() {
        let payload = framing::encode(&record).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(framing::decode(&payload), Ok(record.clone()), "{name}");
        assert_eq!(hex::encode(&payload[2..10]), framing::fingerprint_hex(&record), "{name}");
    }
}

fn golden_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// The version that is written now, by record, as golden files name it.
fn written_versions() -> BTreeMap<String, u16> {
    let snake = |name: &str| {
        name.chars().enumerate().fold(String::new(), |out, (i, c)| match c {
            'A'..='Z' if i > 0 => format!("{out}_{}", c.to_ascii_lowercase()),
            _ => format!("{out}{}", c.to_ascii_lowercase()),
        })
    };
    RELEASED.iter().map(|released| (snake(released.record), released.version)).collect()
}

/// With `MEMORI_NEW_GOLDEN=1`, files that are missing are written (for a new version); one that is there is never touched.
#[test]
fn what_is_written_is_byte_for_byte_what_was_released() {
    let versions = written_versions();
    for (name, record) in common::all() {
        let (stem, form) = name.split_once('.').expect("a name is stem.form");
        let path = golden_path(&format!("{stem}.v{}.{form}.hex", versions[stem]));
        let payload = hex::encode(framing::encode(&record).expect("it encodes"));
        if !path.exists() && std::env::var_os("MEMORI_NEW_GOLDEN").is_some() {
            std::fs::write(&path, format!("{payload}\n")).expect("it is written");
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(payload, golden.trim(), "{name} is not written as it was released: that needs a new version");
    }
}

/// Of every version, also those that are not written any more.
#[test]
fn released_bytes_decode_for_ever() {
    let records: BTreeMap<&str, LogRecordBody> = common::all().into_iter().collect();
    let mut seen = 0;
    for released in RELEASED {
        let stem =
            written_versions().into_keys().find(|stem| stem.replace('_', "") == released.record.to_lowercase()).expect("a stem");
        for form in ["full", "bare"] {
            let name = format!("{stem}.v{}.{form}.hex", released.version);
            let golden = std::fs::read_to_string(golden_path(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            let payload = hex::decode(golden.trim()).expect("a golden file is hex");
            let said = common::as_released(records[format!("{stem}.{form}").as_str()].clone(), released.version);
            assert_eq!(framing::decode(&payload), Ok(said), "{name}");
            seen += 1;
        }
    }
    let files = std::fs::read_dir(golden_path(""))
        .expect("the folder is there")
        .filter(|entry| entry.as_ref().expect("an entry").path().extension().is_some_and(|extension| extension == "hex"));
    assert_eq!(seen, files.count(), "every golden file belongs to a released version");
}

/// The names of the enums in Rust are the symbols of the schemas, in their order: stores keep the index.
#[test]
fn enums_are_those_of_the_schemas() {
    fn collect(schema: &serde_json::Value, out: &mut BTreeMap<String, Vec<String>>) {
        if schema["type"] == "enum" {
            let symbols =
                schema["symbols"].as_array().expect("symbols").iter().map(|s| s.as_str().expect("text").to_owned()).collect();
            let earlier = out.insert(schema["name"].as_str().expect("a name").to_owned(), symbols);
            assert!(earlier.is_none_or(|earlier| earlier == out[schema["name"].as_str().expect("a name")]));
        }
        match schema {
            serde_json::Value::Array(items) => items.iter().for_each(|item| collect(item, out)),
            serde_json::Value::Object(members) => members.values().for_each(|member| collect(member, out)),
            _ => {}
        }
    }
    let mut enums = BTreeMap::new();
    for released in RELEASED {
        collect(&serde_json::from_str(released.avsc).expect("JSON"), &mut enums);
    }
    let names = |names: Vec<&'static str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let ours = BTreeMap::from([
        ("Lane".to_owned(), names(Lane::ALL.iter().map(|v| v.as_str()).collect())),
        ("Role".to_owned(), names(Role::ALL.iter().map(|v| v.as_str()).collect())),
        ("ContentFormat".to_owned(), names(ContentFormat::ALL.iter().map(|v| v.as_str()).collect())),
        ("FactKind".to_owned(), names(FactKind::ALL.iter().map(|v| v.as_str()).collect())),
        ("DeadLetterClass".to_owned(), names(DeadLetterClass::ALL.iter().map(|v| v.as_str()).collect())),
    ]);
    assert_eq!(enums, ours);
}

#[test]
fn the_registrys_framing_and_foreign_bytes_are_told_apart() {
    assert_eq!(framing::decode(&[0, 0, 0, 0, 1, 2]), Err(FramingError::RegistryFraming));
    assert_eq!(framing::decode(&[]), Err(FramingError::NotFramed));
    assert_eq!(framing::decode(b"{\"tenant\":\"acme\"}"), Err(FramingError::NotFramed));
    assert_eq!(framing::decode(&[0xc3, 0x01, 1, 2, 3]), Err(FramingError::NotFramed));
    let foreign = framing::decode(&[0xc3, 0x01, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(foreign, Err(FramingError::UnknownFingerprint("0102030405060708".into())));
    let large = vec![0xc3; framing::MAX_PAYLOAD_BYTES + 1];
    assert_eq!(framing::decode(&large), Err(FramingError::TooLarge { bytes: large.len() }));
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![".{0,12}", "[a-z0-9/#-]{0,8}", Just(String::new())]
}

fn micros() -> impl Strategy<Value = Micros> {
    any::<i64>().prop_map(Micros)
}

fn one_of<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    proptest::sample::select(all)
}

fn origins() -> impl Strategy<Value = Option<Origin>> {
    of((one_of(Lane::ALL), any::<i64>()).prop_map(|(lane, offset)| Origin { lane, offset }))
}

prop_compose! {
    fn message()(message_id in of(text()), role in one_of(Role::ALL), name in of(text()), content in text(),
                 content_format in one_of(ContentFormat::ALL), created_at in of(micros())) -> Message {
        Message { message_id, role, name, content, content_format, created_at }
    }
}

prop_compose! {
    fn conversation()(names in (text(), text(), of(text()), of(text()), text()), hash in any::<[u8; 32]>(), times in (micros(), micros()),
                      messages in vec(message(), 0..5), metadata in vec((text(), text()), 0..4), flags in any::<(bool, bool, bool, i32)>(),
                      origin in origins(), key_id in of(text())) -> LogRecordBody {
        LogRecordBody::Conversation(ConversationEvent {
            tenant: names.0, entity_id: names.1, process_id: names.2, session_id: names.3, event_id: names.4,
            content_hash: ContentHash(hash), occurred_at: times.0, accepted_at: times.1, messages,
            metadata: metadata.into_iter().map(|(key, value)| MetadataEntry { key, value }).collect(),
            supplied: Supplied { event_id: flags.0, occurred_at: flags.1 }, spooled: flags.2, attempt: flags.3, origin, key_id,
        })
    }
}

prop_compose! {
    fn cover()(event_id in text(), hash in any::<[u8; 32]>(), lane in one_of(Lane::ALL), offset in any::<i64>(), origin in origins(),
               flags in any::<(bool, i32)>(), times in (micros(), micros())) -> Cover {
        Cover { event_id, content_hash: ContentHash(hash), lane, offset, origin, spooled: flags.0, accepted_at: times.0,
                occurred_at: times.1, attempt: flags.1 }
    }
}

prop_compose! {
    fn evidence()(event_id in text(), hash in any::<[u8; 32]>(), key in any::<[u8; 16]>(), message_index in any::<i32>(), message_id in text(),
                  occurred_at in micros()) -> Evidence {
        Evidence { event_id, content_hash: ContentHash(hash), message_key: MessageKey(key), message_index, message_id, occurred_at }
    }
}

prop_compose! {
    fn fact()(kind in one_of(FactKind::ALL), words in text(), parts in (of(text()), of(text()), of(text()), of(text())),
              valid in (of(micros()), of(micros())), confidence in -1e30_f32..1e30, evidence in vec(evidence(), 0..3),
              vector in of((text(), -1_f32..1.0, vec(any::<u8>(), 0..40)))) -> Fact {
        Fact { kind, text: words, subject: parts.0, predicate: parts.1, object: parts.2, slot: parts.3, valid_from: valid.0, valid_to: valid.1,
               confidence, evidence, vector: vector.map(|(model, scale, values)| Vector { model, scale, values }) }
    }
}

prop_compose! {
    fn message_vector()(event_id in text(), hash in any::<[u8; 32]>(), key in any::<[u8; 16]>(), message_index in any::<i32>(),
                        model in text(), scale in -1_f32..1.0, values in vec(any::<u8>(), 0..40)) -> MessageVector {
        MessageVector { event_id, content_hash: ContentHash(hash), message_key: MessageKey(key), message_index,
                        vector: Vector { model, scale, values } }
    }
}

prop_compose! {
    fn facts()(names in (text(), text(), of(text()), of(text())), generation in any::<i32>(), covers in vec(cover(), 0..3),
               facts in vec(fact(), 0..3), message_vectors in vec(message_vector(), 0..3), extractor in (text(), text(), of(text()), of(text()), any::<(i64, i64, i64)>()),
               extracted_at in micros(), key_id in of(text())) -> LogRecordBody {
        let (name, version, model, prompt_hash, (tokens_in, tokens_out, cost_micros)) = extractor;
        LogRecordBody::Facts(FactsExtracted {
            tenant: names.0, entity_id: names.1, process_id: names.2, session_id: names.3, generation, covers, facts, message_vectors,
            extractor: ExtractorInfo { name, version, model, prompt_hash, tokens_in, tokens_out, cost_micros }, extracted_at, key_id,
        })
    }
}

prop_compose! {
    fn dead_letter()(names in (of(text()), of(text()), text(), text(), text()), place in any::<(i32, i64, i32, i32)>(), lane in one_of(Lane::ALL),
                     class in one_of(DeadLetterClass::ALL), covers in vec(cover(), 0..3), bytes in (vec(any::<u8>(), 0..40), vec(any::<u8>(), 0..90)),
                     failed_at in micros(), key_id in of(text())) -> LogRecordBody {
        LogRecordBody::DeadLetter(DeadLetter {
            tenant: names.0, entity_id: names.1, source_topic: names.2, source_topic_id: names.3, source_partition: place.0,
            source_offset: place.1, lane, generation: place.2, class, reason: names.4, attempts: place.3, covers,
            original_key: bytes.0, original_payload: bytes.1, failed_at, key_id,
        })
    }
}

fn controls() -> impl Strategy<Value = LogRecordBody> {
    let flush = (text(), text(), micros(), of(text())).prop_map(|(tenant, entity_id, requested_at, key_id)| {
        LogRecordBody::Flush(Flush { tenant, entity_id, requested_at, key_id })
    });
    let erase = (text(), text(), text(), micros(), any::<(i64, i64)>(), of(text())).prop_map(
        |(tenant, entity_id, erasure_id, requested_at, (live_end_offset, backfill_end_offset), key_id)| {
            LogRecordBody::EraseEntity(EraseEntity {
                tenant,
                entity_id,
                erasure_id,
                requested_at,
                live_end_offset,
                backfill_end_offset,
                key_id,
            })
        },
    );
    let hashes = (any::<[u8; 16]>(), of(any::<[u8; 16]>()), vec(any::<[u8; 16]>(), 0..5));
    let forget =
        ((text(), text(), text(), text()), micros(), hashes, of(text())).prop_map(|(names, requested_at, hashes, key_id)| {
            LogRecordBody::ForgetFact(ForgetFact {
                tenant: names.0,
                entity_id: names.1,
                forget_id: names.2,
                fact_id: names.3,
                requested_at,
                text_hash: TextHash(hashes.0),
                triple_hash: hashes.1.map(TripleHash),
                message_keys: hashes.2.into_iter().map(MessageKey).collect(),
                key_id,
            })
        });
    let selectors = (of(text()), of(text()), of(text()), of(text()), of(any::<i32>()));
    let withdraw = ((text(), text(), text()), micros(), selectors, any::<(i64, i64)>(), of(text())).prop_map(
        |(names, requested_at, (extractor, version, model, prompt_hash, generation), ends, key_id)| {
            LogRecordBody::WithdrawFacts(WithdrawFacts {
                tenant: names.0,
                entity_id: names.1,
                withdrawal_id: names.2,
                requested_at,
                extractor,
                version,
                model,
                prompt_hash,
                generation,
                live_end_offset: ends.0,
                backfill_end_offset: ends.1,
                key_id,
            })
        },
    );
    prop_oneof![flush, erase, forget, withdraw]
}

proptest! {
    #[test]
    fn whatever_a_record_holds_it_comes_back(record in prop_oneof![conversation(), facts(), dead_letter(), controls()]) {
        let payload = framing::encode(&record).expect("it encodes");
        prop_assert_eq!(framing::decode(&payload), Ok(record));
    }
}
