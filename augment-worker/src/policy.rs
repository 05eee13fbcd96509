//! What a record is, and whether a failed one is tried again: decisions without I/O and without a clock.

use std::time::Duration;

use memori_event_log::backoff::Backoff;
use memori_schemas::framing::{self, FramingError};
use memori_schemas::{ConversationEvent, DeadLetterClass, LogRecordBody, ids};

/// What stands in a record of a conversation topic.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Incoming {
    /// To be extracted.
    Event(Box<ConversationEvent>),
    /// Closes windows; nothing to do where every event is a window of its own.
    Flush,
    /// Never to be extracted.
    Hopeless { class: DeadLetterClass, reason: String, event: Option<Box<ConversationEvent>> },
}

/// Reads a record.
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
        LogRecordBody::Conversation(event) => Incoming::Event(Box::new(event)),
        LogRecordBody::Flush(_) => Incoming::Flush,
        LogRecordBody::Facts(_) | LogRecordBody::EraseEntity(_) | LogRecordBody::ForgetFact(_) | LogRecordBody::DeadLetter(_) => {
            hopeless(DeadLetterClass::UnknownRecord, "a record of another topic".into())
        }
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
        let doubled = self.first.saturating_mul(1_u32.checked_shl(failed_attempts.saturating_sub(1)).unwrap_or(u32::MAX));
        // Full jitter: members that failed together come back apart.
        let jittered = doubled.min(self.longest).mul_f64(chance.clamp(0.0, 1.0));
        let wait = jittered.max(retry_after.unwrap_or_default()).max(Duration::from_millis(1));
        (elapsed.saturating_add(wait) <= self.max_elapsed).then_some(wait)
    }
}

/// The waits of an append that the log has not confirmed.
pub(crate) fn append_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use memori_schemas::{DeadLetterClass, Flush, LogRecordBody, Micros, framing, ids};
    use proptest::prelude::*;

    use super::{Incoming, RetryPolicy, incoming};

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
}
