//! One partition of every topic, full of what makes order matter: events in both lanes, spooled and redriven copies, outcomes
//! delivered twice with different content, windows over two events, dead letters beside applied outcomes, erasures that worker
//! output and the spool overtake, forgets that meet their fact early or late.

use std::collections::BTreeMap;

use memori_event_log::topic::Topic;
use memori_schemas::{
    ContentFormat, ConversationEvent, Cover, DeadLetter, DeadLetterClass, EraseEntity, Evidence, ExtractorInfo, Fact, FactKind,
    FactsExtracted, ForgetFact, Lane, LogRecordBody, Message, MessageVector, Micros, Origin, Role, Supplied, Vector,
    WithdrawFacts, ids,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// The tenant of every record.
pub const TENANT: &str = "tenant-a";
const GENERATION: i32 = 1;
const BASE_US: i64 = 1_770_000_000_000_000;
const SECOND_US: i64 = 1_000_000;

/// Records by topic; a record's place in its list is its offset.
pub type Partition = BTreeMap<Topic, Vec<LogRecordBody>>;

/// A conversation record that stands on the log.
#[derive(Clone)]
struct Standing {
    event: ConversationEvent,
    lane: Lane,
    offset: i64,
}

impl Standing {
    fn cover(&self) -> Cover {
        Cover {
            event_id: self.event.event_id.clone(),
            content_hash: self.event.content_hash,
            lane: self.lane,
            offset: self.offset,
            origin: self.event.origin,
            spooled: self.event.spooled,
            accepted_at: self.event.accepted_at,
            occurred_at: self.event.occurred_at,
            attempt: self.event.attempt,
        }
    }
}

struct Builder {
    rng: StdRng,
    partition: Partition,
    standing: Vec<Standing>,
    clock_us: i64,
}

/// Makes a partition from a seed: `entities` of them, about `events` events each.
#[must_use]
pub fn partition(seed: u64, entities: usize, events: usize) -> Partition {
    let mut builder = Builder {
        rng: StdRng::seed_from_u64(seed),
        partition: Topic::ALL.into_iter().map(|topic| (topic, Vec::new())).collect(),
        standing: Vec::new(),
        clock_us: BASE_US,
    };
    for n in 0..entities * events {
        let entity = format!("user-{}", builder.rng.random_range(0..entities));
        builder.event(&entity, n);
        match builder.rng.random_range(0..12) {
            0 => builder.erase(&entity),
            1 => builder.forget(&entity),
            2 => builder.withdraw(&entity),
            _ => {}
        }
    }
    builder.partition
}

impl Builder {
    fn append(&mut self, topic: Topic, body: LogRecordBody) -> i64 {
        let records = self.partition.entry(topic).or_default();
        records.push(body);
        i64::try_from(records.len()).expect("few records") - 1
    }

    fn now(&mut self) -> Micros {
        self.clock_us += self.rng.random_range(1..5) * SECOND_US;
        Micros(self.clock_us)
    }

    fn event(&mut self, entity: &str, n: usize) {
        let mut messages: Vec<Message> = (0..self.rng.random_range(1..=2))
            .map(|m| Message {
                // A few messages are re-sent in several events under one id.
                message_id: self.rng.random_bool(0.4).then(|| format!("m{}", self.rng.random_range(0..4))),
                role: Role::User,
                name: None,
                content: format!("said {m} {}", self.rng.random_range(0..3)),
                content_format: ContentFormat::Text,
                created_at: None,
            })
            .collect();
        if messages.len() == 2 && messages[0].message_id == messages[1].message_id {
            messages[1].message_id = None;
        }
        let accepted_at = self.now();
        let process_id = self.rng.random_bool(0.5).then(|| "bot".to_owned());
        // Ties and events from the past.
        let occurred_at = Micros(BASE_US + self.rng.random_range(0..20) * SECOND_US);
        let event = ConversationEvent {
            tenant: TENANT.to_owned(),
            entity_id: entity.to_owned(),
            content_hash: ids::content_hash(entity, process_id.as_deref(), &messages, &[]),
            process_id,
            session_id: self.rng.random_bool(0.5).then(|| "s".to_owned()),
            event_id: format!("e{n}"),
            occurred_at,
            accepted_at,
            messages,
            metadata: Vec::new(),
            supplied: Supplied { event_id: true, occurred_at: true },
            spooled: self.rng.random_bool(0.25),
            attempt: 0,
            origin: None,
            key_id: None,
        };
        let lanes: &[Lane] = match self.rng.random_range(0..6) {
            0 => &[Lane::Backfill],
            1 | 2 => &[Lane::Live, Lane::Backfill],
            3 => &[Lane::Live, Lane::Live],
            _ => &[Lane::Live],
        };
        for (copy, lane) in lanes.iter().enumerate() {
            let mut event = event.clone();
            if copy > 0 {
                // Another copy of the same event: taken later, perhaps with another time and session.
                event.accepted_at = self.now();
                event.occurred_at = Micros(event.occurred_at.0 + self.rng.random_range(0..3) * SECOND_US);
                event.session_id = self.rng.random_bool(0.5).then(|| "other".to_owned());
                event.spooled = self.rng.random_bool(0.25);
            }
            let standing = self.stand(event, *lane);
            self.outcomes(&standing);
        }
    }

    fn stand(&mut self, event: ConversationEvent, lane: Lane) -> Standing {
        let offset = self.append(Topic::conversations(lane), LogRecordBody::Conversation(event.clone()));
        let standing = Standing { event, lane, offset };
        self.standing.push(standing.clone());
        standing
    }

    fn outcomes(&mut self, standing: &Standing) {
        if self.rng.random_bool(0.3) {
            self.bury(standing);
            if self.rng.random_bool(0.5) {
                // Redriven: a copy with its origin, which is applied or buried in turn.
                let mut event = standing.event.clone();
                event.attempt += 1;
                event.origin = Some(Origin { lane: standing.lane, offset: standing.offset });
                let lane = if self.rng.random_bool(0.5) { Lane::Live } else { Lane::Backfill };
                let again = self.stand(event, lane);
                if self.rng.random_bool(0.3) {
                    self.bury(&again);
                } else {
                    self.extract(&[again]);
                }
            }
            if self.rng.random_bool(0.4) {
                return;
            }
        }
        // A worker that died after its append does it again, and may word it otherwise.
        for _ in 0..self.rng.random_range(1..=2) {
            let earlier = self.standing.iter().rev().find(|other| {
                other.event.entity_id == standing.event.entity_id
                    && other.lane == standing.lane
                    && other.event.event_id != standing.event.event_id
            });
            match earlier.cloned() {
                Some(earlier) if self.rng.random_bool(0.25) => self.extract(&[earlier, standing.clone()]),
                _ => self.extract(std::slice::from_ref(standing)),
            }
        }
    }

    fn extract(&mut self, window: &[Standing]) {
        let lane = window[0].lane;
        let facts = (0..self.rng.random_range(0..=3)).map(|_| self.fact(window)).collect();
        let message_vectors = self.message_vectors(window);
        let record = FactsExtracted {
            tenant: TENANT.to_owned(),
            entity_id: window[0].event.entity_id.clone(),
            process_id: window[0].event.process_id.clone(),
            session_id: window[0].event.session_id.clone(),
            generation: GENERATION,
            covers: window.iter().map(Standing::cover).collect(),
            facts,
            message_vectors,
            extractor: ExtractorInfo {
                name: "builtin".to_owned(),
                version: self.rng.random_range(1..3).to_string(),
                model: None,
                prompt_hash: None,
                tokens_in: 0,
                tokens_out: 0,
                cost_micros: 0,
            },
            extracted_at: self.now(),
            key_id: None,
        };
        self.append(Topic::facts(lane), LogRecordBody::Facts(record));
    }

    /// Of one of two models; a worker that does it again may have the other.
    fn vector(&mut self) -> Vector {
        let model = *["one@1", "two@1"].choose(&mut self.rng).expect("not empty");
        Vector { model: model.to_owned(), scale: 0.5, values: vec![self.rng.random(), self.rng.random()] }
    }

    fn message_vectors(&mut self, window: &[Standing]) -> Vec<MessageVector> {
        let mut vectors = Vec::new();
        for standing in window {
            for index in 0..standing.event.messages.len() {
                if self.rng.random_bool(0.7) {
                    vectors.push(MessageVector {
                        event_id: standing.event.event_id.clone(),
                        content_hash: standing.event.content_hash,
                        message_key: standing.event.message_key(index),
                        message_index: i32::try_from(index).expect("few messages"),
                        vector: self.vector(),
                    });
                }
            }
        }
        vectors
    }

    fn fact(&mut self, window: &[Standing]) -> Fact {
        let city = *["Lima", "Oslo", "LIMA"].choose(&mut self.rng).expect("not empty");
        let (text, predicate, slot) = if self.rng.random_bool(0.6) {
            (format!("User lives in {city}"), "lives in", Some("user/lives_in".to_owned()))
        } else {
            (format!("User likes {city}."), "likes", None)
        };
        let whole = self.rng.random_bool(0.8);
        let mut evidence: Vec<Evidence> = Vec::new();
        for standing in window {
            for index in 0..standing.event.messages.len() {
                if evidence.is_empty() || self.rng.random_bool(0.4) {
                    evidence.push(Evidence {
                        event_id: standing.event.event_id.clone(),
                        content_hash: standing.event.content_hash,
                        message_key: standing.event.message_key(index),
                        message_index: i32::try_from(index).expect("few messages"),
                        message_id: standing.event.shown_message_id(index),
                        occurred_at: standing.event.occurred_at,
                    });
                }
            }
        }
        // The later window's event may be the only evidence.
        if evidence.len() > 1 && self.rng.random_bool(0.3) {
            evidence.remove(0);
        }
        Fact {
            kind: FactKind::Fact,
            text,
            subject: Some("user".to_owned()),
            predicate: whole.then(|| predicate.to_owned()),
            object: whole.then(|| city.to_owned()),
            slot,
            valid_from: self.rng.random_bool(0.2).then(|| Micros(BASE_US + self.rng.random_range(0..20) * SECOND_US)),
            valid_to: self.rng.random_bool(0.1).then(|| Micros(BASE_US + self.rng.random_range(20..40) * SECOND_US)),
            confidence: *[0.5, 0.75, 1.0].choose(&mut self.rng).expect("not empty"),
            evidence,
            vector: self.rng.random_bool(0.7).then(|| self.vector()),
        }
    }

    fn bury(&mut self, standing: &Standing) {
        let topic = Topic::conversations(standing.lane);
        for _ in 0..self.rng.random_range(1..=2) {
            let letter = DeadLetter {
                tenant: Some(TENANT.to_owned()),
                entity_id: Some(standing.event.entity_id.clone()),
                source_topic: topic.as_str().to_owned(),
                source_topic_id: format!("id-of-{topic}"),
                source_partition: 0,
                source_offset: standing.offset,
                lane: standing.lane,
                generation: GENERATION,
                class: *[DeadLetterClass::Expired, DeadLetterClass::Refused].choose(&mut self.rng).expect("not empty"),
                reason: format!("gave up {}", self.rng.random_range(0..3)),
                attempts: self.rng.random_range(1..4),
                covers: vec![standing.cover()],
                original_key: ids::log_key(TENANT, &standing.event.entity_id),
                original_payload: b"bytes".to_vec(),
                failed_at: self.now(),
                key_id: None,
            };
            self.append(Topic::DeadLetters, LogRecordBody::DeadLetter(letter));
        }
    }

    fn erase(&mut self, entity: &str) {
        let n = self.partition[&Topic::Controls].len();
        let requested_at = self.now();
        // Asked for some time ago: worker output, and what lay in the spool, reach the log before the control does.
        let back = self.rng.random_range(0..3);
        let end = |topic: Topic| i64::try_from(self.partition[&topic].len()).expect("few records");
        let control = EraseEntity {
            tenant: TENANT.to_owned(),
            entity_id: entity.to_owned(),
            erasure_id: format!("erasure-{n}"),
            requested_at,
            live_end_offset: (end(Topic::ConversationsLive) - back).max(0),
            backfill_end_offset: (end(Topic::ConversationsBackfill) - back).max(0),
            key_id: None,
        };
        self.append(Topic::Controls, LogRecordBody::EraseEntity(control));
        if self.rng.random_bool(0.5) {
            // Accepted into the spool before the erasure was asked for, delivered after it.
            let mine: Vec<Standing> =
                self.standing.iter().filter(|standing| standing.event.entity_id == entity).cloned().collect();
            if let Some(standing) = mine.choose(&mut self.rng).cloned() {
                let mut event = standing.event;
                event.event_id = format!("{}-late", event.event_id);
                event.spooled = true;
                event.accepted_at = Micros(requested_at.0 - self.rng.random_range(0..2) * SECOND_US);
                let late = self.stand(event, Lane::Live);
                self.outcomes(&late);
            }
        }
    }

    fn forget(&mut self, entity: &str) {
        let Some(fact) = self.known_fact(entity) else { return };
        let entity_key = ids::entity_key(TENANT, entity);
        let requested_at = self.now();
        let n = self.partition[&Topic::Controls].len();
        let control = ForgetFact {
            tenant: TENANT.to_owned(),
            entity_id: entity.to_owned(),
            forget_id: format!("forget-{n}"),
            fact_id: fact.id(&entity_key, GENERATION).to_string(),
            requested_at,
            text_hash: fact.text_hash(),
            triple_hash: fact.triple_hash(),
            message_keys: fact.evidence.iter().map(|evidence| evidence.message_key).collect(),
            key_id: None,
        };
        self.append(Topic::Controls, LogRecordBody::ForgetFact(control));
    }

    /// What extractors have made so far, or did some time ago; and one event is put back, to be extracted again.
    fn withdraw(&mut self, entity: &str) {
        let requested_at = self.now();
        let n = self.partition[&Topic::Controls].len();
        let end = |topic: Topic| i64::try_from(self.partition[&topic].len()).expect("few records");
        let back = self.rng.random_range(0..3);
        let control = WithdrawFacts {
            tenant: TENANT.to_owned(),
            entity_id: entity.to_owned(),
            withdrawal_id: format!("withdrawal-{n}"),
            requested_at,
            extractor: self.rng.random_bool(0.5).then(|| "builtin".to_owned()),
            version: None,
            model: None,
            prompt_hash: None,
            generation: self.rng.random_bool(0.5).then_some(GENERATION),
            live_end_offset: (end(Topic::FactsLive) - back).max(0),
            backfill_end_offset: (end(Topic::FactsBackfill) - back).max(0),
            key_id: None,
        };
        self.append(Topic::Controls, LogRecordBody::WithdrawFacts(control));
        let mine: Vec<Standing> = self.standing.iter().filter(|standing| standing.event.entity_id == entity).cloned().collect();
        if let Some(standing) = mine.choose(&mut self.rng).cloned() {
            let mut event = standing.event;
            event.attempt += 1;
            event.origin = event.origin.or(Some(Origin { lane: standing.lane, offset: standing.offset }));
            let again = self.stand(event, Lane::Backfill);
            self.extract(&[again]);
        }
    }

    fn known_fact(&mut self, entity: &str) -> Option<Fact> {
        let facts: Vec<Fact> = [Topic::FactsLive, Topic::FactsBackfill]
            .iter()
            .flat_map(|topic| &self.partition[topic])
            .filter_map(|body| match body {
                LogRecordBody::Facts(record) if record.entity_id == entity => Some(record.facts.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        facts.choose(&mut self.rng).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_every_situation() {
        let mut both_lanes = 0;
        let mut controls = 0;
        let mut windows = 0;
        let mut buried_and_applied = 0;
        let mut late = 0;
        for seed in 0..20 {
            let partition = partition(seed, 2, 8);
            let ids_of = |topic| -> std::collections::BTreeSet<String> {
                partition[&topic]
                    .iter()
                    .filter_map(|body| match body {
                        LogRecordBody::Conversation(event) => Some(event.event_id.clone()),
                        _ => None,
                    })
                    .collect()
            };
            both_lanes += ids_of(Topic::ConversationsLive).intersection(&ids_of(Topic::ConversationsBackfill)).count();
            late += ids_of(Topic::ConversationsLive).iter().filter(|id| id.ends_with("-late")).count();
            controls += partition[&Topic::Controls].len();
            let applied: std::collections::BTreeSet<String> = [Topic::FactsLive, Topic::FactsBackfill]
                .iter()
                .flat_map(|topic| &partition[topic])
                .filter_map(|body| match body {
                    LogRecordBody::Facts(record) => Some(record),
                    _ => None,
                })
                .inspect(|record| windows += usize::from(record.covers.len() > 1))
                .flat_map(|record| record.covers.iter().map(|cover| cover.event_id.clone()))
                .collect();
            buried_and_applied += partition[&Topic::DeadLetters]
                .iter()
                .filter(|body| matches!(body, LogRecordBody::DeadLetter(letter) if applied.contains(&letter.covers[0].event_id)))
                .count();
        }
        for (what, count) in [
            ("both lanes", both_lanes),
            ("controls", controls),
            ("windows", windows),
            ("buried and applied", buried_and_applied),
            ("late", late),
        ] {
            assert!(count > 10, "{what}: {count}");
        }
    }
}
