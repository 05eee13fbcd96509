//! What a record is, and whether a failed one is tried again: decisions without I/O and without a clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use memori_event_log::backoff::Backoff;
use memori_event_log::driver::{Reading, Windowing};
use memori_event_log::{LogRecord, TopicPartition};
use memori_schemas::framing::{self, FramingError};
use memori_schemas::{ConversationEvent, DeadLetterClass, LogRecordBody, Message, ids};
use memori_service::tokens;

use crate::window::windowing;

/// What stands in a record of a conversation topic.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Incoming {
    /// To be extracted.
    Event(Arc<ConversationEvent>),
    /// Closes the window before it; nothing else is to be done.
    Flush,
    /// Another worker's.
    Elsewhere,
    /// Never to be extracted.
    Hopeless { class: DeadLetterClass, reason: String, event: Option<Box<ConversationEvent>> },
}

/// A record of somebody whose events are not this worker's: there is nothing to do.
pub(crate) fn elsewhere(tenant: Arc<str>) -> Reading<Incoming> {
    Reading { tenant, cost: 1, bytes: 0, window: windowing(&Incoming::Elsewhere), item: Incoming::Elsewhere }
}

/// Reads a record: what it is, whose turn it takes, and what that costs. Events that are carried over are gathered apart from those that
/// are extracted.
pub(crate) fn reading(record: &LogRecord, tenant: Arc<str>, carries: impl Fn(&ConversationEvent) -> bool) -> Reading<Incoming> {
    let item = incoming(&record.key, &record.payload);
    let mut window = windowing(&item);
    if let (Incoming::Event(event), Windowing::With { group, .. }) = (&item, &mut window)
        && carries(event)
    {
        *group = !*group;
    }
    let event = match &item {
        Incoming::Event(event) => Some(&**event),
        Incoming::Flush | Incoming::Elsewhere => None,
        Incoming::Hopeless { event, .. } => event.as_deref(),
    };
    Reading { tenant, cost: event.map_or(1, cost), bytes: event.map_or(0, memory), window, item }
}

/// Whose key it is; empty where it is none of ours.
pub(crate) fn tenant(key: &[u8]) -> Arc<str> {
    Arc::from(tenant_of(key))
}

/// The same, of the key.
pub(crate) fn tenant_of(key: &[u8]) -> &str {
    ids::parse_log_key(key).map_or("", |(tenant, _)| tenant)
}

/// Estimated tokens of what was said; of parts, with the marks around them.
fn cost(event: &ConversationEvent) -> u64 {
    let tokens: usize = event.messages.iter().map(|message| tokens::of_item(&message.content)).sum();
    u64::try_from(tokens).unwrap_or(u64::MAX).max(1)
}

/// What an event holds in memory.
fn memory(event: &ConversationEvent) -> usize {
    let of = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let messages: usize = event
        .messages
        .iter()
        .map(|message| size_of::<Message>() + message.content.len() + of(&message.message_id) + of(&message.name))
        .sum();
    let metadata: usize = event.metadata.iter().map(|entry| size_of_val(entry) + entry.key.len() + entry.value.len()).sum();
    let names = event.tenant.len() + event.entity_id.len() + event.event_id.len();
    size_of::<ConversationEvent>() + names + of(&event.process_id) + of(&event.session_id) + messages + metadata
}

/// Tells what a record is.
pub(crate) fn incoming(key: &[u8], payload: &[u8]) -> Incoming {
    let hopeless = |class, reason: String| Incoming::Hopeless { class, reason, event: None };
    let body = match framing::decode(payload) {
        Ok(body) => body,
        Err(e @ FramingError::UnknownFingerprint(_)) => return hopeless(DeadLetterClass::UnknownRecord, e.to_string()),
        Err(e) => return hopeless(DeadLetterClass::Poison, e.to_string()),
    };
    if body.key_id().is_some() {
        let event = if let LogRecordBody::Conversation(event) = body { Some(Box::new(event)) } else { None };
        return Incoming::Hopeless { class: DeadLetterClass::Sealed, reason: "the body is sealed".into(), event };
    }
    match body {
        LogRecordBody::Conversation(event) if ids::parse_log_key(key) != Some((&event.tenant, &event.entity_id)) => {
            hopeless(DeadLetterClass::Poison, "the record's key is not that of its event".into())
        }
        LogRecordBody::Conversation(event) => Incoming::Event(Arc::new(event)),
        LogRecordBody::Flush(_) => Incoming::Flush,
        LogRecordBody::Facts(_)
        | LogRecordBody::EraseEntity(_)
        | LogRecordBody::ForgetFact(_)
        | LogRecordBody::WithdrawFacts(_)
        | LogRecordBody::DeadLetter(_) => hopeless(DeadLetterClass::UnknownRecord, "a record of another topic".into()),
    }
}

/// How long and how often an event is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts, the first one included.
    pub max_attempts: u32,
    /// From the first attempt to the last.
    pub max_elapsed: Duration,
    /// The first wait.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
}

impl RetryPolicy {
    /// The wait before the next attempt, after `failed_attempts` in `elapsed`; none where the bounds are reached. `chance` is uniform
    /// in 0..1; a provider's own wish is never undercut, but never outlives the bound either.
    #[must_use]
    pub fn wait(&self, failed_attempts: u32, elapsed: Duration, retry_after: Option<Duration>, chance: f64) -> Option<Duration> {
        if failed_attempts >= self.max_attempts {
            return None;
        }
        let wait = self.pause(failed_attempts, retry_after, chance);
        (elapsed.saturating_add(wait) <= self.max_elapsed).then_some(wait)
    }

    /// The wait after `failed_attempts` where nothing bounds their number.
    #[must_use]
    pub fn pause(&self, failed_attempts: u32, retry_after: Option<Duration>, chance: f64) -> Duration {
        let doubled = self.first.saturating_mul(1_u32.checked_shl(failed_attempts.saturating_sub(1)).unwrap_or(u32::MAX));
        // Full jitter: members that failed together come back apart.
        let jittered = doubled.min(self.longest).mul_f64(chance.clamp(0.0, 1.0));
        jittered.max(retry_after.unwrap_or_default()).max(Duration::from_millis(1))
    }
}

/// Events that failed while the extractor worked for nobody: what they failed until then does not count against them. As many as are
/// held at a time; one that is forgotten beyond that only asks sooner whether the extractor works.
#[derive(Debug)]
pub(crate) struct Forgiven {
    most: usize,
    events: BTreeMap<(TopicPartition, i64), Pardon>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pardon {
    /// Attempts that do not count.
    attempts: u32,
    /// What was before does not count.
    at_ms: i64,
    /// The extractor was seen to work since, and before the attempt that comes next.
    worked: bool,
}

impl Forgiven {
    /// For at most so many events.
    pub(crate) fn new(most: usize) -> Self {
        Self { most: most.max(1), events: BTreeMap::new() }
    }

    /// Of `attempts` since `first_tried_at_ms` those that count, and since when.
    pub(crate) fn charged(&self, event: (TopicPartition, i64), attempts: u32, first_tried_at_ms: i64) -> (u32, i64) {
        match self.events.get(&event) {
            Some(pardon) => (attempts.saturating_sub(pardon.attempts), first_tried_at_ms.max(pardon.at_ms)),
            None => (attempts, first_tried_at_ms),
        }
    }

    /// All that it failed until now does not count.
    pub(crate) fn forgive(&mut self, event: (TopicPartition, i64), attempts: u32, now_ms: i64) {
        *self.of(event) = Pardon { attempts, at_ms: now_ms, worked: false };
    }

    /// The extractor works, now that it failed this event: what this event fails from here on is its own. Whether that was known
    /// before the attempt that has just failed; if not, it may have failed as the last of those that all failed.
    pub(crate) fn works(&mut self, event: (TopicPartition, i64)) -> bool {
        std::mem::replace(&mut self.of(event).worked, true)
    }

    fn of(&mut self, event: (TopicPartition, i64)) -> &mut Pardon {
        if self.events.len() >= self.most && !self.events.contains_key(&event) {
            self.events.pop_first();
        }
        self.events.entry(event).or_default()
    }

    /// Its last attempt of `attempts` was none: nobody was asked. Nor was it tried until then.
    pub(crate) fn not_tried(&mut self, event: (TopicPartition, i64), attempts: u32, now_ms: i64) {
        let forgiven = self.events.get(&event).map_or(0, |pardon| pardon.attempts);
        self.forgive(event, forgiven.saturating_add(1).min(attempts), now_ms);
    }

    /// It is finished.
    pub(crate) fn forget(&mut self, event: (TopicPartition, i64)) {
        self.events.remove(&event);
    }
}

/// The waits of an append that the log has not confirmed.
pub(crate) fn append_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use memori_event_log::{LogRecord, Topic, TopicPartition};
    use memori_schemas::{
        ContentFormat, ConversationEvent, DeadLetterClass, Flush, LogRecordBody, Message, Micros, Role, Supplied, framing, ids,
    };
    use proptest::prelude::*;

    use super::{Forgiven, Incoming, RetryPolicy, incoming};

    const POLICY: RetryPolicy = RetryPolicy {
        max_attempts: 4,
        max_elapsed: Duration::from_secs(60),
        first: Duration::from_millis(100),
        longest: Duration::from_secs(5),
    };

    proptest! {
        #[test]
        fn retries_are_bounded_in_number_and_in_time(failed in 0_u32..10, elapsed_ms in 0_u64..100_000, after_ms in proptest::option::of(0_u64..100_000), chance in 0.0..1.0) {
            let elapsed = Duration::from_millis(elapsed_ms);
            let after = after_ms.map(Duration::from_millis);
            match POLICY.wait(failed, elapsed, after, chance) {
                None => prop_assert!(failed >= 4 || elapsed + after.unwrap_or(POLICY.longest) > POLICY.max_elapsed),
                Some(wait) => {
                    prop_assert!(failed < 4 && elapsed + wait <= POLICY.max_elapsed);
                    prop_assert!(wait >= after.unwrap_or_default());
                    prop_assert!(wait <= POLICY.longest.max(after.unwrap_or_default()));
                }
            }
        }

        #[test]
        fn any_bytes_are_told_apart(key in proptest::collection::vec(any::<u8>(), 0..20), payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let told = incoming(&key, &payload);
            let hopeless = matches!(told, Incoming::Hopeless { event: None, .. });
            prop_assert!(hopeless);
        }
    }

    #[test]
    fn what_a_record_is() {
        let flush = |key_id: Option<&str>| {
            let body =
                Flush { tenant: "t".into(), entity_id: "e".into(), requested_at: Micros(0), key_id: key_id.map(Into::into) };
            framing::encode(&LogRecordBody::Flush(body)).unwrap()
        };
        let key = ids::log_key("t", "e");
        assert_eq!(incoming(&key, &flush(None)), Incoming::Flush);
        let class = |payload: &[u8]| match incoming(&key, payload) {
            Incoming::Hopeless { class, .. } => class,
            other => panic!("{other:?}"),
        };
        assert_eq!(class(&flush(Some("k"))), DeadLetterClass::Sealed);
        assert_eq!(class(b"nonsense"), DeadLetterClass::Poison);
        let mut foreign = flush(None);
        foreign[3] ^= 0xff;
        assert_eq!(class(&foreign), DeadLetterClass::UnknownRecord);
    }

    #[test]
    fn whose_turn_a_record_takes_and_what_it_costs() {
        let read = |key: &[u8], payload: Vec<u8>| {
            let record = LogRecord {
                source: TopicPartition { topic: Topic::ConversationsLive, partition: 0 },
                offset: 0,
                appended_at_ms: 0,
                key: Bytes::copy_from_slice(key),
                payload: payload.into(),
                headers: Vec::new(),
            };
            super::reading(&record, super::tenant(&record.key), |_| false)
        };
        let said = |content: &str| Message {
            message_id: None,
            role: Role::User,
            name: None,
            content: content.into(),
            content_format: ContentFormat::Text,
            created_at: None,
        };
        let event = ConversationEvent {
            tenant: "acme".into(),
            entity_id: "e".into(),
            process_id: None,
            session_id: None,
            event_id: "1".into(),
            content_hash: ids::content_hash("e", None, &[], &[]),
            occurred_at: Micros(0),
            accepted_at: Micros(0),
            messages: vec![said(&"four".repeat(100)), said("four")],
            metadata: Vec::new(),
            supplied: Supplied::default(),
            spooled: false,
            attempt: 0,
            origin: None,
            key_id: None,
        };
        let key = ids::log_key("acme", "e");
        let of_event = read(&key, framing::encode(&LogRecordBody::Conversation(event)).unwrap());
        assert_eq!((&*of_event.tenant, of_event.cost), ("acme", 100 + 4 + 1 + 4));
        assert!(of_event.bytes > 404 && matches!(of_event.item, Incoming::Event(_)));
        let poison = read(&key, b"poison".to_vec());
        assert_eq!((&*poison.tenant, poison.cost, poison.bytes), ("acme", 1, 0));
        assert_eq!(&*read(b"no key of ours", b"poison".to_vec()).tenant, "");
    }

    #[test]
    fn what_failed_while_nobody_was_served_does_not_count() {
        let at = |offset| (TopicPartition { topic: Topic::ConversationsLive, partition: 0 }, offset);
        let mut forgiven = Forgiven::new(2);
        assert_eq!(forgiven.charged(at(1), 8, 100), (8, 100));
        forgiven.forgive(at(1), 8, 900);
        assert_eq!(forgiven.charged(at(1), 9, 100), (1, 900));
        forgiven.forgive(at(1), 16, 1_900);
        assert_eq!(forgiven.charged(at(1), 17, 100), (1, 1_900));
        assert_eq!(forgiven.charged(at(2), 8, 100), (8, 100));
        forgiven.forgive(at(2), 8, 900);
        forgiven.forgive(at(3), 8, 900);
        assert_eq!(forgiven.charged(at(1), 17, 100), (17, 100), "bounded");
        forgiven.forget(at(3));
        assert_eq!(forgiven.charged(at(3), 9, 100), (9, 100));
        forgiven.not_tried(at(3), 9, 700);
        forgiven.not_tried(at(3), 10, 800);
        assert_eq!(forgiven.charged(at(3), 11, 100), (9, 800), "attempts at which nobody was asked are none");
        assert!(!forgiven.works(at(3)), "the attempt before may have been the last that failed for everybody");
        assert!(forgiven.works(at(3)));
        forgiven.forgive(at(3), 12, 900);
        assert!(!forgiven.works(at(3)));
        assert_eq!(forgiven.charged(at(3), 13, 100), (1, 900));
    }
}
