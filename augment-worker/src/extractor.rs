//! The seam of extractors: a window of events in, facts out, or an error that says what to do with them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use memori_event_log::driver::LiveBound;
use memori_schemas::{ConversationEvent, DeadLetterClass, ExtractorInfo, Fact, Lane};

use crate::builtin;
use crate::llm::may_support;

/// Windows with more content than this are parsed off the runtime's threads, in bytes.
const INLINE_BYTES: usize = 16 * 1024;

/// What an extractor yielded for one window.
#[derive(Clone, Debug, PartialEq)]
pub struct Extraction {
    /// Perhaps none.
    pub facts: Vec<Fact>,
    /// Who made them, and what that cost.
    pub extractor: ExtractorInfo,
}

/// Why a call may work later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryReason {
    /// No answer in time.
    Timeout,
    /// Too many calls.
    RateLimited,
    /// The provider is down.
    Unavailable,
    /// The provider refuses us: key, model or address are wrong.
    Misconfigured,
    /// The account's quota is used up.
    OutOfQuota,
    /// No call was made: there was no room, or nobody to ask.
    NotAsked,
}

impl RetryReason {
    /// The name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Misconfigured => "misconfigured",
            Self::OutOfQuota => "out_of_quota",
            Self::NotAsked => "not_asked",
        }
    }

    /// Whether the event itself may be the reason. Where an operator must act it never is, and no event is given up for it.
    #[must_use]
    pub fn is_of_the_event(self) -> bool {
        match self {
            Self::Timeout | Self::RateLimited | Self::Unavailable => true,
            Self::Misconfigured | Self::OutOfQuota | Self::NotAsked => false,
        }
    }
}

/// Why an extractor yielded nothing. Messages hold no content of the events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtractError {
    /// It may work later.
    #[error("{message}")]
    Transient {
        /// Why.
        reason: RetryReason,
        /// In words.
        message: String,
        /// Not before this, where the provider said so.
        retry_after: Option<Duration>,
    },
    /// It will never work for these events together; for one alone: never.
    #[error("{message}")]
    Permanent {
        /// Of the dead letter.
        class: DeadLetterClass,
        /// In words.
        message: String,
    },
}

/// Turns conversation events into facts.
#[async_trait]
pub trait Extractor: Send + Sync + 'static {
    /// What `events` state, each fact with evidence in at least one of them. They are at least one, of one entity, process, session and
    /// lane, in log order.
    async fn extract(&self, lane: Lane, events: &[Arc<ConversationEvent>]) -> Result<Extraction, ExtractError>;

    /// Whether it has worked for others since then: asked before an event is given up that was tried for as long as is allowed.
    ///
    /// # Errors
    /// Why not; then the event waits on.
    async fn works(&self, _since: Instant) -> Result<(), String> {
        Ok(())
    }

    /// How many calls there may be at a time now, below `most`: moved as long as the extractor lives, and 0 while nobody is to be asked.
    fn pace(&self, most: LiveBound) -> LiveBound {
        most
    }

    /// Whether nobody is asked just now, because whoever was asked failed. What failed meanwhile needs no wait of its own.
    fn is_shut(&self) -> bool {
        false
    }

    /// Since when somebody is asked again, where that was not so before. What an event waited until then is no time that it was tried.
    fn open_since(&self) -> Option<Instant> {
        None
    }

    /// What an operator must mend so that it works, if anything; it waits meanwhile.
    fn complaint(&self) -> Option<String> {
        None
    }
}

/// The `builtin` extractor behind the seam. A panic in it costs the event, not the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Builtin;

#[async_trait]
impl Extractor for Builtin {
    async fn extract(&self, _: Lane, events: &[Arc<ConversationEvent>]) -> Result<Extraction, ExtractError> {
        let bytes: usize = events.iter().flat_map(|event| &event.messages).map(|m| m.content.len()).sum();
        let facts = if bytes <= INLINE_BYTES {
            guarded(events)
        } else {
            let events = events.to_vec();
            tokio::task::spawn_blocking(move || guarded(&events)).await.unwrap_or_else(|e| Err(panicked(&e.to_string())))
        };
        Ok(Extraction { facts: facts?, extractor: builtin::info() })
    }
}

fn guarded(events: &[Arc<ConversationEvent>]) -> Result<Vec<Fact>, ExtractError> {
    let extract = || events.iter().flat_map(|event| builtin::extract(event)).collect();
    // Pure, so nothing is left half done behind a panic.
    catch_unwind(AssertUnwindSafe(extract)).map_err(|_| panicked("builtin extractor"))
}

fn panicked(whose: &str) -> ExtractError {
    ExtractError::Permanent { class: DeadLetterClass::InvalidOutput, message: format!("a panic in the extractor: {whose}") }
}

/// Refuses what no extractor may say: facts without evidence, evidence outside the window, and about a person evidence that no person
/// gave. What a process is like (an attribute), its own messages may show.
///
/// # Errors
/// What is wrong, in words without content.
pub fn check(facts: &[Fact], events: &[Arc<ConversationEvent>]) -> Result<(), String> {
    for (at, fact) in facts.iter().enumerate() {
        if fact.text.trim().is_empty() {
            return Err(format!("fact {at} has no text"));
        }
        if fact.evidence.is_empty() {
            return Err(format!("fact {at} has no evidence"));
        }
        if !(0.0..=1.0).contains(&fact.confidence) {
            return Err(format!("fact {at} has a confidence outside 0 to 1"));
        }
        for evidence in &fact.evidence {
            let event = events.iter().find(|e| e.event_id == evidence.event_id && e.content_hash == evidence.content_hash);
            let index = usize::try_from(evidence.message_index).ok();
            let Some(message) = event.zip(index).and_then(|(event, index)| event.messages.get(index)) else {
                return Err(format!("fact {at} names evidence outside its window"));
            };
            if !may_support(fact.kind, message.role) {
                return Err(format!("fact {at} names a message that no user wrote"));
            }
        }
    }
    Ok(())
}
