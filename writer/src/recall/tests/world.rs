//! Small random memories as rows.

use memori_schemas::{ContentFormat, ContentHash, EntityKey, FactId, FactKind, MessageKey, Role};
use proptest::prelude::*;
use uuid::Uuid;

use crate::reads::rows::{FactRow, FactRows, IntervalRow, MentionRow, MessageRow, MessageRows, UnnamedRow, VectorRow};
use crate::recall::Model;
use crate::recall::islands::Unnamed;

pub(super) const KEY: EntityKey = EntityKey([9; 16]);

pub(super) fn model() -> Model {
    Model { id: "tiny@1".into(), dimensions: 3 }
}

const WORDS: &[&str] = &["tea", "Berlin", "May", "2024", "likes", "Anna", "the", "dog", "runs", "yesterday", "Tee", "茶", "you"];

/// A few words.
pub(super) fn words() -> impl Strategy<Value = String> {
    (prop::collection::vec(prop::sample::select(WORDS), 0..7), any::<bool>())
        .prop_map(|(words, asks)| format!("{}{}", words.join(" "), if asks { "?" } else { "" }))
}

pub(super) fn vector() -> impl Strategy<Value = Option<VectorRow>> {
    let values = prop::collection::vec(-20..20_i8, 3);
    prop::option::weighted(0.7, (0.01..0.05_f32, values)).prop_map(|vector| {
        vector.map(|(scale, values)| VectorRow { scale, values: values.into_iter().map(i8::cast_unsigned).collect() })
    })
}

/// One fact of number `n` with its mentions.
#[derive(Clone, Debug)]
pub(super) struct FactSeed {
    pub(super) n: u8,
    content: String,
    kind: usize,
    subject: Option<usize>,
    /// (event, session, minute) of each mention.
    mentions: Vec<(u8, Option<u8>, u8)>,
    ended: bool,
    vector: Option<VectorRow>,
}

pub(super) fn fact_seed() -> impl Strategy<Value = FactSeed> {
    let mention = (0..12_u8, prop::option::of(0..3_u8), 0..90_u8);
    let mentions = prop::collection::vec(mention, 1..3);
    (0..14_u8, words(), 0..6_usize, prop::option::of(0..3_usize), mentions, any::<bool>(), vector()).prop_map(
        |(n, content, kind, subject, mentions, ended, vector)| FactSeed { n, content, kind, subject, mentions, ended, vector },
    )
}

fn fact_id(n: u8) -> FactId {
    FactId(Uuid::from_u128(u128::from(n) << 64 | 7))
}

fn minute(minute: u8) -> i64 {
    // Many a gap is longer than an island's.
    i64::from(minute) * 11 * 60_000_000
}

/// Rows of facts, each of its own number; a later seed of one number replaces an earlier one.
pub(super) fn fact_rows(version: i64, seeds: &[FactSeed]) -> FactRows {
    let mut rows = FactRows { version: Some(version), epoch: 0, generation: 1, ..FactRows::default() };
    let latest = |i: &usize| seeds[i + 1..].iter().all(|later| later.n != seeds[*i].n);
    for seed in (0..seeds.len()).filter(latest).map(|i| &seeds[i]) {
        let mut mentions: Vec<MentionRow> = Vec::new();
        for (event, session, at) in &seed.mentions {
            let message_key = MessageKey([*event; 16]);
            if mentions.iter().any(|one| one.message_key == message_key) {
                continue;
            }
            mentions.push(MentionRow {
                fact_id: fact_id(seed.n),
                message_key,
                event_id: format!("e{event}"),
                content_hash: ContentHash([*event; 32]),
                message_index: i64::from(seed.n % 3),
                message_id: format!("e{event}#0"),
                session_id: session.map(|session| format!("s{session}")),
                process_id: (event % 2 == 0).then(|| "p".to_owned()),
                occurred_at_us: minute(*at),
            });
        }
        mentions.sort_by(|a, b| (a.occurred_at_us, &a.event_id).cmp(&(b.occurred_at_us, &b.event_id)));
        for mention in mentions.iter().filter(|mention| mention.session_id.is_none()) {
            if rows.unnamed.iter().all(|row| row.event.event_id != mention.event_id) {
                let event = Unnamed {
                    process_id: mention.process_id.clone(),
                    occurred_at_us: mention.occurred_at_us,
                    event_id: mention.event_id.clone(),
                };
                rows.unnamed.push(UnnamedRow { event, content_hash: mention.content_hash });
            }
        }
        let (first, last) = (&mentions[0], &mentions[mentions.len() - 1]);
        rows.facts.push(FactRow {
            fact_id: fact_id(seed.n),
            kind: FactKind::ALL[seed.kind.min(1) * (seed.kind % FactKind::ALL.len())],
            body: seed.content.clone(),
            subject: seed.subject.map(|subject| ["Anna", "user", "the dog"][subject].to_owned()),
            predicate: None,
            object: None,
            confidence: 0.5,
            process_id: first.process_id.clone(),
            extractor: "test/1".to_owned(),
            rep_occurred_at_us: first.occurred_at_us,
            rep_event_id: first.event_id.clone(),
            rep_message_index: first.message_index,
            mentions: i64::try_from(mentions.len()).unwrap(),
            first_mentioned_at_us: first.occurred_at_us,
            last_mentioned_at_us: last.occurred_at_us,
            vector: seed.vector.clone(),
        });
        let ends = seed.ended.then_some(last.occurred_at_us + 60_000_000);
        rows.validity.push(IntervalRow { fact_id: fact_id(seed.n), valid_from_us: first.occurred_at_us, valid_to_us: ends });
        rows.mentions.extend(mentions);
    }
    rows
}

#[derive(Clone, Debug)]
pub(super) struct MessageSeed {
    pub(super) n: u8,
    content: String,
    role: usize,
    name: Option<usize>,
    session: Option<u8>,
    minute: u8,
    vector: Option<VectorRow>,
}

pub(super) fn message_seed() -> impl Strategy<Value = MessageSeed> {
    let who = (prop::sample::select(vec![0_usize, 0, 0, 1, 3]), prop::option::of(0..2_usize));
    (0..30_u8, words(), who, prop::option::of(0..3_u8), 0..90_u8, vector()).prop_map(
        |(n, content, (role, name), session, minute, vector)| MessageSeed { n, content, role, name, session, minute, vector },
    )
}

pub(super) fn message_rows(version: i64, seeds: &[MessageSeed]) -> MessageRows {
    let mut rows = MessageRows { version: Some(version), epoch: 0, generation: 1, ..MessageRows::default() };
    let latest = |i: &usize| seeds[i + 1..].iter().all(|later| later.n != seeds[*i].n);
    for seed in (0..seeds.len()).filter(latest).map(|i| &seeds[i]) {
        let event_id = format!("e{:02}", seed.n);
        let content_hash = ContentHash([seed.n; 32]);
        let process_id = (seed.n % 4 == 0).then(|| "p".to_owned());
        if seed.session.is_none() {
            let event =
                Unnamed { process_id: process_id.clone(), occurred_at_us: minute(seed.minute), event_id: event_id.clone() };
            rows.unnamed.push(UnnamedRow { event, content_hash });
        }
        rows.messages.push(MessageRow {
            message_key: MessageKey([seed.n; 16]),
            message_id: format!("{event_id}#0"),
            event_id,
            content_hash,
            message_index: 0,
            role: Role::ALL[seed.role],
            name: seed.name.map(|name| ["Anna", "Ben"][name].to_owned()),
            content: seed.content.clone(),
            content_format: ContentFormat::Text,
            created_at_us: None,
            process_id,
            session_id: seed.session.map(|session| format!("s{session}")),
            occurred_at_us: minute(seed.minute),
            vector: seed.vector.clone(),
        });
    }
    rows
}
