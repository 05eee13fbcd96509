//! Bytes on the log: Avro single-object encoding, told from the registry's wire format by its first byte.
//!
//! Promises: bytes of every released schema version decode, fields that are newer than them with their defaults; whatever
//! the bytes, the answer is a record or an error, never a panic; what is allocated is bounded by a small multiple of the
//! payload's length, because lengths and counts are held against the bytes that are left ([`shape`]). No error holds content.

mod codec;
mod datum;
pub mod registry;
mod shape;
mod versions;

use std::sync::LazyLock;

use self::codec::Codec;
pub use self::versions::{RELEASED, SchemaVersion};
use crate::records::{
    ConversationEvent, DeadLetter, EraseEntity, FactsExtracted, FactsToWrite, Flush, ForgetFact, LogRecordBody, WithdrawFacts,
};

/// The largest payload that is written or read, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 8 * 1024 * 1024;

/// What single-object encoding begins with, before the fingerprint.
const MARKER: [u8; 2] = [0xC3, 0x01];
const FINGERPRINT_BYTES: usize = 8;
const HEADER_BYTES: usize = MARKER.len() + FINGERPRINT_BYTES;

/// The first byte of the Confluent wire format.
const REGISTRY_MAGIC: u8 = 0;

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FramingError {
    /// Over [`MAX_PAYLOAD_BYTES`].
    #[error("payload of {bytes} bytes is over the bound of {MAX_PAYLOAD_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Neither framing's first bytes.
    #[error("payload has no known framing")]
    NotFramed,
    /// The Confluent wire format.
    #[error(
        "payload is in the schema registry's wire format, and its schema is not known: set registry.url, or look whether the schema is there"
    )]
    RegistryFraming,
    /// Written with a schema that this build does not know: newer, or foreign.
    #[error("payload has the unknown schema fingerprint {0}; upgrade first")]
    UnknownFingerprint(String),
    /// The datum does not decode.
    #[error("payload is not a valid {record}: {reason}")]
    Invalid {
        /// The record's name.
        record: &'static str,
        /// What is wrong with its form.
        reason: String,
    },
}

/// One codec per record type, made once: schemas are parsed and resolved here and nowhere else.
struct Codecs {
    conversation: Codec<ConversationEvent>,
    flush: Codec<Flush>,
    facts: Codec<FactsExtracted>,
    erase_entity: Codec<EraseEntity>,
    forget_fact: Codec<ForgetFact>,
    withdraw_facts: Codec<WithdrawFacts>,
    dead_letter: Codec<DeadLetter>,
}

static CODECS: LazyLock<Codecs> = LazyLock::new(|| {
    // The walk over the datum is the real bound; this one only keeps the library's own far below its default of 512 MiB.
    apache_avro::util::max_allocation_bytes(16 * MAX_PAYLOAD_BYTES);
    Codecs {
        conversation: Codec::released("ConversationEvent"),
        flush: Codec::released("Flush"),
        facts: Codec::released("FactsExtracted"),
        erase_entity: Codec::released("EraseEntity"),
        forget_fact: Codec::released("ForgetFact"),
        withdraw_facts: Codec::released("WithdrawFacts"),
        dead_letter: Codec::released("DeadLetter"),
    }
});

/// Encodes a record with the present schema of its type.
///
/// # Errors
/// [`FramingError::TooLarge`] where the result would be over the bound, [`FramingError::Invalid`] where the type and its schema disagree.
pub fn encode(body: &LogRecordBody) -> Result<Vec<u8>, FramingError> {
    let codecs = &*CODECS;
    match body {
        LogRecordBody::Conversation(record) => codecs.conversation.encode(record),
        LogRecordBody::Flush(record) => codecs.flush.encode(record),
        LogRecordBody::Facts(record) => codecs.facts.encode(record),
        LogRecordBody::EraseEntity(record) => codecs.erase_entity.encode(record),
        LogRecordBody::ForgetFact(record) => codecs.forget_fact.encode(record),
        LogRecordBody::WithdrawFacts(record) => codecs.withdraw_facts.encode(record),
        LogRecordBody::DeadLetter(record) => codecs.dead_letter.encode(record),
    }
}

/// As [`encode`] does it with the record of these parts, and the fingerprint for its header.
///
/// # Errors
/// As [`encode`].
pub fn encode_facts(parts: &FactsToWrite<'_>) -> Result<(Vec<u8>, &'static str), FramingError> {
    let codec = &CODECS.facts;
    Ok((codec.encode_as(parts)?, codec.fingerprint_hex()))
}

/// Decodes a record of any released version.
///
/// # Errors
/// One of [`FramingError`]; never a panic, whatever the bytes.
pub fn decode(payload: &[u8]) -> Result<LogRecordBody, FramingError> {
    let (fingerprint, datum) = unframe(payload)?;
    let codecs = &*CODECS;
    codecs
        .conversation
        .try_decode(fingerprint, datum, LogRecordBody::Conversation)
        .or_else(|| codecs.facts.try_decode(fingerprint, datum, LogRecordBody::Facts))
        .or_else(|| codecs.flush.try_decode(fingerprint, datum, LogRecordBody::Flush))
        .or_else(|| codecs.dead_letter.try_decode(fingerprint, datum, LogRecordBody::DeadLetter))
        .or_else(|| codecs.erase_entity.try_decode(fingerprint, datum, LogRecordBody::EraseEntity))
        .or_else(|| codecs.forget_fact.try_decode(fingerprint, datum, LogRecordBody::ForgetFact))
        .or_else(|| codecs.withdraw_facts.try_decode(fingerprint, datum, LogRecordBody::WithdrawFacts))
        .unwrap_or_else(|| Err(FramingError::UnknownFingerprint(hex::encode(fingerprint))))
}

/// The fingerprint that [`encode`] gives this record, in hex, its bytes in the order in which they stand in the payload: for headers.
#[must_use]
pub fn fingerprint_hex(body: &LogRecordBody) -> &'static str {
    let codecs = &*CODECS;
    match body {
        LogRecordBody::Conversation(_) => codecs.conversation.fingerprint_hex(),
        LogRecordBody::Flush(_) => codecs.flush.fingerprint_hex(),
        LogRecordBody::Facts(_) => codecs.facts.fingerprint_hex(),
        LogRecordBody::EraseEntity(_) => codecs.erase_entity.fingerprint_hex(),
        LogRecordBody::ForgetFact(_) => codecs.forget_fact.fingerprint_hex(),
        LogRecordBody::WithdrawFacts(_) => codecs.withdraw_facts.fingerprint_hex(),
        LogRecordBody::DeadLetter(_) => codecs.dead_letter.fingerprint_hex(),
    }
}

/// Splits a payload into fingerprint and datum.
fn unframe(payload: &[u8]) -> Result<(&[u8; FINGERPRINT_BYTES], &[u8]), FramingError> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(FramingError::TooLarge { bytes: payload.len() });
    }
    if payload.first() == Some(&REGISTRY_MAGIC) {
        return Err(FramingError::RegistryFraming);
    }
    payload.strip_prefix(&MARKER).and_then(<[u8]>::split_first_chunk).ok_or(FramingError::NotFramed)
}
