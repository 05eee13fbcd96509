//! One record of every type with all that it can hold, and one with only what it must hold.

#![allow(dead_code, reason = "each test binary uses its part of it")]

use memori_schemas::{
    ContentFormat, ContentHash, ConversationEvent, Cover, DeadLetter, DeadLetterClass, EraseEntity, Evidence, ExtractorInfo,
    Fact, FactKind, FactsExtracted, Flush, ForgetFact, Lane, LogRecordBody, Message, MessageKey, MessageVector, MetadataEntry,
    Micros, Origin, Role, Supplied, TextHash, TripleHash, Vector, WithdrawFacts,
};

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn origin() -> Origin {
    Origin { lane: Lane::Backfill, offset: 9_000_000_000 }
}

fn full_cover() -> Cover {
    Cover {
        event_id: "event-1".into(),
        content_hash: ContentHash([0xc1; 32]),
        lane: Lane::Live,
        offset: i64::MAX,
        origin: Some(origin()),
        spooled: true,
        accepted_at: Micros(1_700_000_000_000_001),
        occurred_at: Micros(-1),
        attempt: 3,
    }
}

fn bare_cover() -> Cover {
    Cover { origin: None, spooled: false, attempt: 0, lane: Lane::Backfill, ..full_cover() }
}

fn evidence() -> Evidence {
    Evidence {
        event_id: "event-1".into(),
        content_hash: ContentHash([0xc1; 32]),
        message_key: MessageKey([0x3e; 16]),
        message_index: 999,
        message_id: "event-1#999".into(),
        occurred_at: Micros(1_700_000_000_000_000),
    }
}

fn full_fact() -> Fact {
    Fact {
        kind: FactKind::Timeline,
        text: "Alice moved to Berlin 🏙".into(),
        subject: some("Alice"),
        predicate: some("moved to"),
        object: some("Berlin"),
        slot: some("user/lives_in"),
        valid_from: Some(Micros(0)),
        valid_to: Some(Micros(i64::MIN)),
        confidence: 0.75,
        evidence: vec![evidence(), evidence()],
        vector: Some(Vector { model: "m/1".into(), scale: 0.007_812_5, values: vec![0, 1, 0x7f, 0x80, 0xff] }),
    }
}

fn bare_fact() -> Fact {
    Fact {
        kind: FactKind::Fact,
        text: "他住在巴黎".into(),
        subject: None,
        predicate: None,
        object: None,
        slot: None,
        valid_from: None,
        valid_to: None,
        confidence: 1.0,
        evidence: vec![evidence()],
        vector: None,
    }
}

fn message_vector() -> MessageVector {
    MessageVector {
        event_id: "event-1".into(),
        content_hash: ContentHash([0xc1; 32]),
        message_key: MessageKey([0x3e; 16]),
        message_index: 999,
        vector: Vector { model: "m/1".into(), scale: 0.5, values: vec![0xff, 0x00, 0x80] },
    }
}

fn full_message(role: Role) -> Message {
    Message {
        message_id: some("m-1"),
        role,
        name: some("Alice"),
        content: r#"[{"text":"hello","type":"text"}]"#.into(),
        content_format: ContentFormat::Parts,
        created_at: Some(Micros(1_700_000_000_000_000)),
    }
}

/// Every record with every optional field set. The name is that of its golden file.
pub(crate) fn full() -> Vec<(&'static str, LogRecordBody)> {
    vec![
        (
            "conversation_event.full",
            LogRecordBody::Conversation(ConversationEvent {
                tenant: "acme".into(),
                entity_id: "１".into(),
                process_id: some("support-bot"),
                session_id: some("s-1"),
                event_id: "event-1".into(),
                content_hash: ContentHash([0xc1; 32]),
                occurred_at: Micros(1_700_000_000_000_000),
                accepted_at: Micros(1_700_000_000_000_001),
                messages: Role::ALL.iter().copied().map(full_message).collect(),
                metadata: vec![
                    MetadataEntry { key: "a".into(), value: "1".into() },
                    MetadataEntry { key: "b".into(), value: "ü".into() },
                ],
                supplied: Supplied { event_id: true, occurred_at: true },
                spooled: true,
                attempt: 2,
                origin: Some(origin()),
                key_id: some("k-1"),
            }),
        ),
        (
            "flush.full",
            LogRecordBody::Flush(Flush {
                tenant: "acme".into(),
                entity_id: "alice".into(),
                requested_at: Micros(1_700_000_000_000_000),
                key_id: some("k-1"),
            }),
        ),
        (
            "facts_extracted.full",
            LogRecordBody::Facts(FactsExtracted {
                tenant: "acme".into(),
                entity_id: "alice".into(),
                process_id: some("support-bot"),
                session_id: some("s-1"),
                generation: 7,
                covers: vec![full_cover(), bare_cover()],
                facts: FactKind::ALL.iter().map(|kind| Fact { kind: *kind, ..full_fact() }).chain([bare_fact()]).collect(),
                message_vectors: vec![message_vector(), message_vector()],
                extractor: ExtractorInfo {
                    name: "llm".into(),
                    version: "1".into(),
                    model: some("model-1"),
                    prompt_hash: some("00ff"),
                    tokens_in: 1_234,
                    tokens_out: 56,
                    cost_micros: 78,
                },
                extracted_at: Micros(1_700_000_000_000_002),
                key_id: some("k-1"),
            }),
        ),
        (
            "erase_entity.full",
            LogRecordBody::EraseEntity(EraseEntity {
                tenant: "acme".into(),
                entity_id: "alice".into(),
                erasure_id: "erasure-1".into(),
                requested_at: Micros(1_700_000_000_000_000),
                live_end_offset: 12,
                backfill_end_offset: 0,
                key_id: some("k-1"),
            }),
        ),
        (
            "forget_fact.full",
            LogRecordBody::ForgetFact(ForgetFact {
                tenant: "acme".into(),
                entity_id: "alice".into(),
                forget_id: "forget-1".into(),
                fact_id: "0ed3c2f1-a54b-8c11-a0b1-c2d3e4f50617".into(),
                requested_at: Micros(1_700_000_000_000_000),
                text_hash: TextHash([0x7e; 16]),
                triple_hash: Some(TripleHash([0x31; 16])),
                message_keys: vec![MessageKey([1; 16]), MessageKey([2; 16])],
                key_id: some("k-1"),
            }),
        ),
        (
            "withdraw_facts.full",
            LogRecordBody::WithdrawFacts(WithdrawFacts {
                tenant: "acme".into(),
                entity_id: "alice".into(),
                withdrawal_id: "withdrawal-1".into(),
                requested_at: Micros(1_700_000_000_000_000),
                extractor: some("llm"),
                version: some("1"),
                model: some("model-1"),
                prompt_hash: some("00ff"),
                generation: Some(7),
                live_end_offset: 12,
                backfill_end_offset: 9_000_000_000,
                key_id: some("k-1"),
            }),
        ),
        (
            "dead_letter.full",
            LogRecordBody::DeadLetter(DeadLetter {
                tenant: some("acme"),
                entity_id: some("alice"),
                source_topic: "conversations.live".into(),
                source_topic_id: "topic-id".into(),
                source_partition: 11,
                source_offset: 4_321,
                lane: Lane::Live,
                generation: 1,
                class: DeadLetterClass::Expired,
                reason: "the provider refused it".into(),
                attempts: 9,
                covers: vec![full_cover()],
                original_key: vec![0, 0, 0, 4],
                original_payload: vec![0xc3, 0x01, 0x00, 0xff],
                failed_at: Micros(1_700_000_000_000_000),
                key_id: some("k-1"),
            }),
        ),
    ]
}

/// Every record with every optional field absent and every list empty.
pub(crate) fn bare() -> Vec<(&'static str, LogRecordBody)> {
    full()
        .into_iter()
        .map(|(_, record)| match record {
            LogRecordBody::Conversation(r) => (
                "conversation_event.bare",
                LogRecordBody::Conversation(ConversationEvent {
                    process_id: None,
                    session_id: None,
                    messages: vec![Message {
                        message_id: None,
                        role: Role::User,
                        name: None,
                        content: "hi".into(),
                        content_format: ContentFormat::Text,
                        created_at: None,
                    }],
                    metadata: vec![],
                    supplied: Supplied::default(),
                    spooled: false,
                    attempt: 0,
                    origin: None,
                    key_id: None,
                    ..r
                }),
            ),
            LogRecordBody::Flush(r) => ("flush.bare", LogRecordBody::Flush(Flush { key_id: None, ..r })),
            LogRecordBody::Facts(r) => (
                "facts_extracted.bare",
                LogRecordBody::Facts(FactsExtracted {
                    process_id: None,
                    session_id: None,
                    covers: vec![bare_cover()],
                    facts: vec![],
                    message_vectors: vec![],
                    extractor: ExtractorInfo { model: None, prompt_hash: None, ..r.extractor },
                    key_id: None,
                    ..r
                }),
            ),
            LogRecordBody::EraseEntity(r) => ("erase_entity.bare", LogRecordBody::EraseEntity(EraseEntity { key_id: None, ..r })),
            LogRecordBody::ForgetFact(r) => (
                "forget_fact.bare",
                LogRecordBody::ForgetFact(ForgetFact { triple_hash: None, message_keys: vec![], key_id: None, ..r }),
            ),
            LogRecordBody::WithdrawFacts(r) => (
                "withdraw_facts.bare",
                LogRecordBody::WithdrawFacts(WithdrawFacts {
                    extractor: None,
                    version: None,
                    model: None,
                    prompt_hash: None,
                    generation: None,
                    key_id: None,
                    ..r
                }),
            ),
            LogRecordBody::DeadLetter(r) => (
                "dead_letter.bare",
                LogRecordBody::DeadLetter(DeadLetter {
                    tenant: None,
                    entity_id: None,
                    class: DeadLetterClass::Poison,
                    covers: vec![],
                    original_key: vec![],
                    original_payload: vec![],
                    key_id: None,
                    ..r
                }),
            ),
        })
        .collect()
}

/// What version `version` of a record's schema could say of it: fields that are newer have their defaults.
pub(crate) fn as_released(record: LogRecordBody, version: u16) -> LogRecordBody {
    match record {
        LogRecordBody::Facts(facts) if version < 2 => LogRecordBody::Facts(FactsExtracted { message_vectors: vec![], ..facts }),
        other => other,
    }
}

/// Both of every record.
pub(crate) fn all() -> Vec<(&'static str, LogRecordBody)> {
    full().into_iter().chain(bare()).collect()
}
