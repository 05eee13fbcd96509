//! The records on the log. `schemas/avro/*.avsc` are the source; these types are held to them by test.

use serde::{Deserialize, Serialize};

use crate::ids::{self, ContentHash, EntityKey, EventIdentity, FactId, MessageKey, TextHash, TripleHash};
use crate::time::Micros;

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every value, in the order of the Avro enum.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name on the log, in the API and in metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value of that name.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

names!(
    /// Which of the two streams a record travels in. `Live` sorts (and ranks) before `Backfill`.
    Lane {
        /// The present.
        Live = "live",
        /// History and replays.
        Backfill = "backfill",
    }
);

names!(
    /// Who speaks.
    Role {
        /// A person.
        User = "user",
        /// The model.
        Assistant = "assistant",
        /// The operator.
        System = "system",
        /// A tool's result.
        Tool = "tool",
    }
);

names!(
    /// How `Message::content` is to be read.
    ContentFormat {
        /// Plain text.
        Text = "text",
        /// A provider's list of parts, as RFC 8785 JSON.
        Parts = "parts",
    }
);

impl ContentFormat {
    /// The byte that stands for it inside hashed fields.
    #[must_use]
    pub fn hash_byte(self) -> u8 {
        match self {
            Self::Text => 0,
            Self::Parts => 1,
        }
    }
}

names!(
    /// What a fact is.
    FactKind {
        /// One statement about an entity.
        Fact = "fact",
        /// A standing wish of the user.
        Instruction = "instruction",
        /// A trait of a process.
        Attribute = "attribute",
        /// A session's digest.
        Summary = "summary",
        /// The dated course of one subject over sessions.
        Timeline = "timeline",
    }
);

names!(
    /// Why a record became a dead letter.
    DeadLetterClass {
        /// Its bytes cannot be read.
        Poison = "poison",
        /// A record type that this topic does not carry.
        UnknownRecord = "unknown_record",
        /// It is sealed, and sealed bodies are not supported yet.
        Sealed = "sealed",
        /// The extractor's answer was not usable.
        InvalidOutput = "invalid_output",
        /// The provider refused it for good.
        Refused = "refused",
        /// It does not fit a bound.
        TooLarge = "too_large",
        /// A budget is used up.
        Quota = "quota",
        /// It was retried for as long as is allowed.
        Expired = "expired",
    }
);

/// A place in a lane's conversation topic, in the entity's partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The lane.
    pub lane: Lane,
    /// The offset in that lane's topic.
    pub offset: i64,
}

/// Which of the always-present fields the client gave itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supplied {
    /// `event_id` is the client's, not ours.
    pub event_id: bool,
    /// `occurred_at` is the client's, not the time of arrival.
    pub occurred_at: bool,
}

/// One `metadata` entry. Lists of them are sorted by key, without repeats.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MetadataEntry {
    /// The name.
    pub key: String,
    /// The text.
    pub value: String,
}

/// One message of a conversation event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The client's id, distinct within the event.
    pub message_id: Option<String>,
    /// Who speaks.
    pub role: Role,
    /// Which person or tool speaks.
    pub name: Option<String>,
    /// Text, or RFC 8785 JSON of a list of parts.
    pub content: String,
    /// How to read `content`.
    pub content_format: ContentFormat,
    /// When it was said, where the client said so.
    pub created_at: Option<Micros>,
}

impl Message {
    /// What was said, as text: the content itself, or the `text` of its parts joined by line ends.
    #[must_use]
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        match self.content_format {
            ContentFormat::Text => self.content.as_str().into(),
            ContentFormat::Parts => parts_text(&self.content).into(),
        }
    }
}

/// The text of a list of parts: strings, and the `text` member of objects, one a line.
fn parts_text(json: &str) -> String {
    let Ok(serde_json::Value::Array(parts)) = serde_json::from_str(json) else { return String::new() };
    let texts: Vec<&str> =
        parts.iter().filter_map(|part| part.as_str().or_else(|| part.get("text").and_then(serde_json::Value::as_str))).collect();
    texts.join("\n")
}

/// What one LLM turn added: the unit on the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationEvent {
    /// The owner.
    pub tenant: String,
    /// Whom the memory is about, exactly as given.
    pub entity_id: String,
    /// The agent or program that talks.
    pub process_id: Option<String>,
    /// The conversation, where the client named it.
    pub session_id: Option<String>,
    /// The idempotency key.
    pub event_id: String,
    /// What it says: [`ids::content_hash`].
    pub content_hash: ContentHash,
    /// When it happened.
    pub occurred_at: Micros,
    /// When the door took it.
    pub accepted_at: Micros,
    /// In order.
    pub messages: Vec<Message>,
    /// Sorted by key.
    pub metadata: Vec<MetadataEntry>,
    /// What of it the client gave.
    pub supplied: Supplied,
    /// It went through the spool.
    pub spooled: bool,
    /// 0, and one more with each redrive.
    pub attempt: i32,
    /// Where its first copy stands, for redrives.
    pub origin: Option<Origin>,
    /// Reserved for sealed bodies.
    pub key_id: Option<String>,
}

impl ConversationEvent {
    /// Whom it is about.
    #[must_use]
    pub fn entity_key(&self) -> EntityKey {
        ids::entity_key(&self.tenant, &self.entity_id)
    }

    /// What it is behind the door.
    #[must_use]
    pub fn identity(&self) -> EventIdentity {
        EventIdentity {
            tenant: self.tenant.clone(),
            entity_key: self.entity_key(),
            event_id: self.event_id.clone(),
            content_hash: self.content_hash,
        }
    }

    /// The key of its message number `index`. Panics where there is none.
    #[must_use]
    pub fn message_key(&self, index: usize) -> MessageKey {
        ids::message_key(&self.event_id, &self.content_hash, index, &self.messages[index])
    }

    /// The id that the API shows for message number `index`: the client's, else `event_id#index`.
    #[must_use]
    pub fn shown_message_id(&self, index: usize) -> String {
        match self.messages.get(index).and_then(|m| m.message_id.as_ref()) {
            Some(id) => id.clone(),
            None => format!("{}#{index}", self.event_id),
        }
    }
}

/// Asks the worker to close the windows of an entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flush {
    /// The owner.
    pub tenant: String,
    /// Whose windows.
    pub entity_id: String,
    /// When it was asked.
    pub requested_at: Micros,
    /// Reserved for sealed bodies.
    pub key_id: Option<String>,
}

/// One conversation event that a fact event accounts for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cover {
    /// Its id.
    pub event_id: String,
    /// Its content.
    pub content_hash: ContentHash,
    /// The lane of the record that was read.
    pub lane: Lane,
    /// The offset of the record that was read.
    pub offset: i64,
    /// As in the event.
    pub origin: Option<Origin>,
    /// As in the event.
    pub spooled: bool,
    /// As in the event.
    pub accepted_at: Micros,
    /// As in the event.
    pub occurred_at: Micros,
    /// As in the event.
    pub attempt: i32,
}

/// One message in support of a fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The message's event, one of `covers`.
    pub event_id: String,
    /// The event's content.
    pub content_hash: ContentHash,
    /// The message.
    pub message_key: MessageKey,
    /// The message's place in the event, from 0.
    pub message_index: i32,
    /// The id that the API shows for the message.
    pub message_id: String,
    /// When it was said: the event's time.
    pub occurred_at: Micros,
}

/// An embedding: `values[i] * scale` is component i. Models never mix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vector {
    /// Model id and version.
    pub model: String,
    /// What a step of the int8 values is worth.
    pub scale: f32,
    /// int8 values as bytes (two's complement).
    #[serde(with = "apache_avro::serde::bytes")]
    pub values: Vec<u8>,
}

/// One statement about an entity, with its evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// What it is.
    pub kind: FactKind,
    /// The statement, self-contained.
    pub text: String,
    /// Whom or what it is about, where known.
    pub subject: Option<String>,
    /// The relation, where known.
    pub predicate: Option<String>,
    /// What it is related to, where known.
    pub object: Option<String>,
    /// The single-valued slot that it fills (such as `user/lives_in`), where it is one: a later value closes an earlier one.
    pub slot: Option<String>,
    /// When it begins to hold, where said; else its mention's time.
    pub valid_from: Option<Micros>,
    /// When it ceases to hold, where said.
    pub valid_to: Option<Micros>,
    /// 0–1.
    pub confidence: f32,
    /// At least one.
    pub evidence: Vec<Evidence>,
    /// Its embedding, where a model was there.
    pub vector: Option<Vector>,
}

impl Fact {
    /// Its id within `generation` of the entity.
    #[must_use]
    pub fn id(&self, entity_key: &EntityKey, generation: i32) -> FactId {
        ids::fact_id(entity_key, generation, self.kind, self.subject.as_deref(), &self.text)
    }

    /// Its text in every generation.
    #[must_use]
    pub fn text_hash(&self) -> TextHash {
        ids::text_hash(&self.text)
    }

    /// Its triple in every generation.
    #[must_use]
    pub fn triple_hash(&self) -> Option<TripleHash> {
        ids::triple_hash(self.subject.as_deref(), self.predicate.as_deref(), self.object.as_deref())
    }
}

/// The embedding of one message that a person wrote: of its first words, see [`MessageVector::WORDS`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MessageVector {
    /// The message's event, one of `covers`.
    pub event_id: String,
    /// The event's content.
    pub content_hash: ContentHash,
    /// The message.
    pub message_key: MessageKey,
    /// The message's place in the event, from 0.
    pub message_index: i32,
    /// The embedding.
    pub vector: Vector,
}

impl MessageVector {
    /// How many words of a message are embedded, from its first. More blur what it is about, and cost.
    pub const WORDS: usize = 50;
}

/// What yielded a fact event, and what that cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtractorInfo {
    /// `builtin` or `llm`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The model, for `llm`.
    pub model: Option<String>,
    /// BLAKE3 of prompt and schema in hex, for `llm`.
    pub prompt_hash: Option<String>,
    /// Tokens read.
    pub tokens_in: i64,
    /// Tokens written.
    pub tokens_out: i64,
    /// Cost in millionths of the configured currency.
    pub cost_micros: i64,
}

/// All that augmentation yields for one conversation event (or window): one record, so it is atomic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactsExtracted {
    /// The owner.
    pub tenant: String,
    /// Whom it is about.
    pub entity_id: String,
    /// The events' process.
    pub process_id: Option<String>,
    /// The events' session, where named.
    pub session_id: Option<String>,
    /// Which version of the augmentation pipeline.
    pub generation: i32,
    /// The events it accounts for, at least one.
    pub covers: Vec<Cover>,
    /// Perhaps none.
    pub facts: Vec<Fact>,
    /// Of people's messages in the events it covers, where a model was there. Version 1 of the schema has none.
    pub message_vectors: Vec<MessageVector>,
    /// Who made it.
    pub extractor: ExtractorInfo,
    /// When.
    pub extracted_at: Micros,
    /// Reserved for sealed bodies.
    pub key_id: Option<String>,
}

/// A [`FactsExtracted`] to be written, of parts that lie elsewhere: what a record repeats of its events is not copied to be written.
#[derive(Clone, Debug, Serialize)]
#[serde(rename = "FactsExtracted")]
pub struct FactsToWrite<'a> {
    /// The owner.
    pub tenant: &'a str,
    /// Whom it is about.
    pub entity_id: &'a str,
    /// The events' process.
    pub process_id: Option<&'a str>,
    /// The events' session, where named.
    pub session_id: Option<&'a str>,
    /// Which version of the augmentation pipeline.
    pub generation: i32,
    /// The events it accounts for, at least one.
    pub covers: Vec<CoverToWrite<'a>>,
    /// Perhaps none.
    pub facts: &'a [Fact],
    /// Of people's messages in the events it covers, where a model was there.
    pub message_vectors: &'a [MessageVector],
    /// Who made it.
    pub extractor: &'a ExtractorInfo,
    /// When.
    pub extracted_at: Micros,
    /// Reserved for sealed bodies.
    pub key_id: Option<&'a str>,
}

/// A [`Cover`] to be written.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename = "Cover")]
pub struct CoverToWrite<'a> {
    /// Its id.
    pub event_id: &'a str,
    /// Its content.
    pub content_hash: ContentHash,
    /// The lane of the record that was read.
    pub lane: Lane,
    /// The offset of the record that was read.
    pub offset: i64,
    /// As in the event.
    pub origin: Option<Origin>,
    /// As in the event.
    pub spooled: bool,
    /// As in the event.
    pub accepted_at: Micros,
    /// As in the event.
    pub occurred_at: Micros,
    /// As in the event.
    pub attempt: i32,
}

impl From<CoverToWrite<'_>> for Cover {
    fn from(cover: CoverToWrite<'_>) -> Self {
        let CoverToWrite { event_id, content_hash, lane, offset, origin, spooled, accepted_at, occurred_at, attempt } = cover;
        Self { event_id: event_id.to_owned(), content_hash, lane, offset, origin, spooled, accepted_at, occurred_at, attempt }
    }
}

/// Erases an entity: see decision 5.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EraseEntity {
    /// The owner.
    pub tenant: String,
    /// Whom to erase.
    pub entity_id: String,
    /// The receipt's id.
    pub erasure_id: String,
    /// When it was asked; spooled events accepted no later are erased.
    pub requested_at: Micros,
    /// End offset of the entity's partition in the live conversation topic.
    pub live_end_offset: i64,
    /// End offset of the entity's partition in the backfill conversation topic.
    pub backfill_end_offset: i64,
    /// Reserved for sealed bodies.
    pub key_id: Option<String>,
}

/// Forgets a fact: see decision 5.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetFact {
    /// The owner.
    pub tenant: String,
    /// Whose fact.
    pub entity_id: String,
    /// Names this control.
    pub forget_id: String,
    /// The fact as it was asked for.
    pub fact_id: String,
    /// When it was asked.
    pub requested_at: Micros,
    /// The fact's text, in every generation.
    pub text_hash: TextHash,
    /// The fact's triple, in every generation, where it has one.
    pub triple_hash: Option<TripleHash>,
    /// The messages from which it is not to be learned again.
    pub message_keys: Vec<MessageKey>,
    /// Reserved for sealed bodies.
    pub key_id: Option<String>,
}

/// Withdraws what a lineage made of an entity's events: see decision 5. A selector that is absent selects all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithdrawFacts {
    /// The owner.
    pub tenant: String,
    /// Whose facts.
    pub entity_id: String,
    /// Names the withdrawal; the same for every entity that it concerns.
    pub withdrawal_id: String,
    /// When it was asked.
    pub requested_at: Micros,
    /// The extractor's name.
    pub extractor: Option<String>,
    /// The extractor's version.
    pub version: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// The prompt's hash.
    pub prompt_hash: Option<String>,
    /// The generation.
    pub generation: Option<i32>,
    /// End offset of the entity's partition in the live facts topic: what comes later stands.
    pub live_end_offset: i64,
    /// End offset of the entity's partition in the backfill facts topic.
    pub backfill_end_offset: i64,
    /// Reserved for sealed bodies.
    pub key_id: Option<String>,
}

/// A record that cannot be processed. Identified by (source_topic_id, source_partition, source_offset, generation).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The owner, where the record's key told.
    pub tenant: Option<String>,
    /// Whom it is about, where the record's key told.
    pub entity_id: Option<String>,
    /// The topic's name without the prefix, such as `conversations.live`.
    pub source_topic: String,
    /// The log's id of that topic.
    pub source_topic_id: String,
    /// Its partition.
    pub source_partition: i32,
    /// Its offset.
    pub source_offset: i64,
    /// The lane of that topic.
    pub lane: Lane,
    /// The generation that gave up.
    pub generation: i32,
    /// Why, as a class.
    pub class: DeadLetterClass,
    /// Why, in words; no content.
    pub reason: String,
    /// How often it was tried.
    pub attempts: i32,
    /// The events that end here; empty where the bytes could not be read.
    pub covers: Vec<Cover>,
    /// The record's key.
    #[serde(with = "apache_avro::serde::bytes")]
    pub original_key: Vec<u8>,
    /// The record's payload.
    #[serde(with = "apache_avro::serde::bytes")]
    pub original_payload: Vec<u8>,
    /// When it was given up.
    pub failed_at: Micros,
    /// Reserved for sealed bodies.
    pub key_id: Option<String>,
}

/// Any record that can stand on the log.
#[derive(Clone, Debug, PartialEq)]
pub enum LogRecordBody {
    /// On conversation topics.
    Conversation(ConversationEvent),
    /// On conversation topics.
    Flush(Flush),
    /// On facts topics.
    Facts(FactsExtracted),
    /// On the controls topic.
    EraseEntity(EraseEntity),
    /// On the controls topic.
    ForgetFact(ForgetFact),
    /// On the controls topic.
    WithdrawFacts(WithdrawFacts),
    /// On the dead letters topic.
    DeadLetter(DeadLetter),
}

impl LogRecordBody {
    /// The reserved field of sealed bodies.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        match self {
            Self::Conversation(r) => r.key_id.as_deref(),
            Self::Flush(r) => r.key_id.as_deref(),
            Self::Facts(r) => r.key_id.as_deref(),
            Self::EraseEntity(r) => r.key_id.as_deref(),
            Self::ForgetFact(r) => r.key_id.as_deref(),
            Self::WithdrawFacts(r) => r.key_id.as_deref(),
            Self::DeadLetter(r) => r.key_id.as_deref(),
        }
    }
}
