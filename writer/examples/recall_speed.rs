//! How long ranking takes, and what an image costs: `cargo run -p memori-writer --example recall_speed --release`.
//! Without any store. Per size, in milliseconds: taking all texts apart, unpacking packed chunks, bringing up to date after one fact,
//! and p50 of answers by words, with vectors, and with messages too; then bytes per fact and per message.
#![allow(clippy::print_stdout, reason = "it is a command")]

use std::time::Instant;

use memori_embedding::Embedding;
use memori_schemas::{ContentFormat, ContentHash, FactKind, MessageKey, Micros, Role, ids};
use memori_writer::reads::rows::{FactRow, FactRows, IntervalRow, MentionRow, MessageRow, MessageRows, VectorRow};
use memori_writer::recall::answer::answer;
use memori_writer::recall::image::pack;
use memori_writer::recall::{EntityImage, MessageImage, Model, RecallQuery};

const WORDS: &[&str] = &[
    "prefers", "coffee", "tea", "Berlin", "Paris", "running", "guitar", "meeting", "project", "Rust", "Python", "garden",
    "allergic", "peanuts", "sister", "brother", "birthday", "holiday", "mountain", "river", "cooks", "lentils", "reads",
    "novels", "cycling", "train",
];
const DIMENSIONS: usize = 512;
const RUNS: usize = 200;

fn sentence(n: usize) -> String {
    let word = |k: usize| WORDS[(n * 31 + k * k * 17 + n / 26 * k) % WORDS.len()];
    format!("Alice {} {} with {} and {} every {} ({n})", word(1), word(2), word(3), word(4), word(5))
}

/// A direction that looks like any other.
fn direction(n: usize) -> Embedding {
    let mut state = n as u64 + 1;
    let components: Vec<f32> = (0..DIMENSIONS)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f32::from(u8::try_from(state >> 56).unwrap_or(0)) - 127.5
        })
        .collect();
    Embedding::quantise(&components)
}

fn vector(n: usize) -> Option<VectorRow> {
    let embedding = direction(n);
    let values = embedding.values.iter().map(|value| value.cast_unsigned()).collect();
    Some(VectorRow { scale: embedding.scale, values })
}

fn facts(from: usize, to: usize) -> FactRows {
    let key = ids::entity_key("t", "e");
    let mut rows = FactRows { version: Some(1), epoch: 0, generation: 1, ..FactRows::default() };
    for n in from..to {
        let (body, at) = (sentence(n), i64::try_from(n).unwrap_or(0) * 1_000_000);
        let fact_id = ids::fact_id(&key, 1, FactKind::Fact, Some("Alice"), &body);
        let event_id = format!("0197f3a0-7c1e-7abc-8def-{n:012}");
        rows.mentions.push(MentionRow {
            fact_id,
            message_key: MessageKey(*fact_id.0.as_bytes()),
            message_id: format!("{event_id}#0"),
            event_id: event_id.clone(),
            content_hash: ContentHash([0; 32]),
            message_index: 0,
            session_id: Some(format!("session-{}", n / 20)),
            process_id: Some("bot".to_owned()),
            occurred_at_us: at,
        });
        rows.validity.push(IntervalRow { fact_id, valid_from_us: at, valid_to_us: None });
        rows.facts.push(FactRow {
            fact_id,
            kind: FactKind::Fact,
            body,
            subject: Some("Alice".to_owned()),
            predicate: Some("does".to_owned()),
            object: Some(WORDS[n % WORDS.len()].to_owned()),
            confidence: 0.9,
            process_id: Some("bot".to_owned()),
            extractor: "builtin/1".to_owned(),
            rep_occurred_at_us: at,
            rep_event_id: event_id,
            rep_message_index: 0,
            mentions: 1,
            first_mentioned_at_us: at,
            last_mentioned_at_us: at,
            vector: vector(n),
        });
    }
    rows
}

fn messages(count: usize) -> MessageRows {
    let said = |n: usize| {
        let event_id = format!("0197f3a0-7c1e-7abc-8def-{n:012}");
        let mut key = [0; 16];
        key[..8].copy_from_slice(&(n as u64).to_be_bytes());
        let role = if n.is_multiple_of(2) { Role::User } else { Role::Assistant };
        MessageRow {
            message_key: MessageKey(key),
            message_id: format!("{event_id}#0"),
            event_id,
            content_hash: ContentHash([0; 32]),
            message_index: 0,
            role,
            name: None,
            content: if role == Role::User { sentence(n) } else { format!("{} {}", sentence(n), sentence(n + 1)) },
            content_format: ContentFormat::Text,
            created_at_us: None,
            process_id: Some("bot".to_owned()),
            session_id: Some(format!("session-{}", n / 20)),
            occurred_at_us: i64::try_from(n).unwrap_or(0) * 1_000_000,
            vector: if role == Role::User { vector(n) } else { None },
        }
    };
    MessageRows { version: Some(1), generation: 1, messages: (0..count).map(said).collect(), ..MessageRows::default() }
}

fn milliseconds(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64() * 1e3
}

/// The median of many.
fn p50(mut work: impl FnMut(usize)) -> f64 {
    let mut took: Vec<f64> = (0..RUNS).map(|n| milliseconds(|| work(n))).collect();
    took.sort_by(f64::total_cmp);
    took[RUNS / 2]
}

#[allow(clippy::cast_precision_loss)] // small numbers
fn main() {
    let key = ids::entity_key("t", "e");
    let model = Model { id: "random@1".into(), dimensions: DIMENSIONS };
    for size in [1_000_usize, 10_000, 100_000] {
        let rows = facts(0, size);
        let packs = pack(&key, &rows, Some(&model.id), usize::MAX);
        let mut image = EntityImage::empty(1);
        let built = milliseconds(|| image = EntityImage::build(&key, rows, Some(&model), None));
        let nothing = FactRows { version: Some(1), generation: 1, ..FactRows::default() };
        let unpacked = milliseconds(|| {
            let chunks = packs.chunks().expect("packs");
            std::hint::black_box(EntityImage::unpack(&key, chunks, Vec::new(), &nothing, Some(&model)));
        });
        let more = facts(size, size + 1);
        let refreshed = milliseconds(|| drop(std::hint::black_box(image.refreshed(&key, &more))));
        let said = MessageImage::build(&key, messages(size), Some(&model), None);
        let directions: Vec<Embedding> = (0..8).map(direction).collect();
        let ask = |n: usize, vectors: bool, said: Option<&MessageImage>| {
            let word = |k: usize| WORDS[(n * 7 + k * 5) % WORDS.len()];
            let text = format!("what does Alice think about {} and {} in {}", word(1), word(2), word(3));
            let query = RecallQuery { include_messages: said.is_some(), ..RecallQuery::new("e", text) };
            std::hint::black_box(answer(&image, said, &query, vectors.then_some(&directions[n % 8]), Micros(0)));
        };
        println!(
            "{size:>6} facts: built {built:.1}, unpacked {unpacked:.2}, refreshed {refreshed:.2}; by words {:.3}, with vectors {:.3}, \
             and as many messages {:.3} ms; {} bytes a fact, {} a message",
            p50(|n| ask(n, false, None)),
            p50(|n| ask(n, true, None)),
            p50(|n| ask(n, true, Some(&said))),
            image.bytes / size,
            said.bytes / size,
        );
    }
}
