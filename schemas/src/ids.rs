//! Deterministic ids, exactly as decision 1 (`docs/decisions/0001-ids-and-keys.md`) writes them down.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::normalise::normalise;
use crate::records::{ContentFormat, FactKind, Message, MetadataEntry};

macro_rules! hash_newtype {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The number of bytes.
            pub const LEN: usize = $len;

            /// From a slice of exactly `LEN` bytes.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The raw bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                // Raw bytes in Avro, hex where people read it.
                if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_bytes(&self.0) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Bytes;
                impl serde::de::Visitor<'_> for Bytes {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "{} bytes, in text as hex", $len)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        let mut bytes = [0; $len];
                        hex::decode_to_slice(text, &mut bytes).map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))?;
                        Ok($name(bytes))
                    }

                    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<$name, E> {
                        $name::from_slice(bytes).ok_or_else(|| E::invalid_length(bytes.len(), &self))
                    }
                }
                if deserializer.is_human_readable() { deserializer.deserialize_str(Bytes) } else { deserializer.deserialize_bytes(Bytes) }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex::encode(self.0))
            }
        }
    };
}

hash_newtype!(
    /// Whom a memory is about: 16 bytes of hash(tenant, entity_id).
    EntityKey, 16
);
hash_newtype!(
    /// What an event says, without its times and session.
    ContentHash, 32
);
hash_newtype!(
    /// One message, the same when it is re-sent under its own id.
    MessageKey, 16
);
hash_newtype!(
    /// A fact's normalised text, in every generation.
    TextHash, 16
);
hash_newtype!(
    /// A fact's normalised subject, predicate and object, in every generation.
    TripleHash, 16
);

/// A fact's id: a UUIDv8 that carries 60 bits of its entity's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FactId(pub Uuid);

impl fmt::Display for FactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What an event is behind the door.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventIdentity {
    /// The tenant that owns it.
    pub tenant: String,
    /// Whom it is about.
    pub entity_key: EntityKey,
    /// The caller's id, unique per tenant but for races.
    pub event_id: String,
    /// What it says.
    pub content_hash: ContentHash,
}

/// Length-prefixed fields, one behind the other, for BLAKE3. Hashed in one go: the incremental hasher is two kilobytes that would be set up
/// for what is mostly shorter.
struct Fields(Vec<u8>);

impl Fields {
    fn new() -> Self {
        Self::with_capacity(128)
    }

    fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    fn u8(mut self, n: u8) -> Self {
        self.0.push(n);
        self
    }

    fn u32(self, n: usize) -> Self {
        self.raw(&u32_of(n).to_be_bytes())
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn lp(self, bytes: &[u8]) -> Self {
        self.u32(bytes.len()).raw(bytes)
    }

    fn opt(self, text: Option<&str>) -> Self {
        match text {
            None => self.u8(0),
            Some(text) => self.u8(1).lp(text.as_bytes()),
        }
    }

    fn full(self) -> [u8; 32] {
        *blake3::hash(&self.0).as_bytes()
    }

    fn half(self) -> [u8; 16] {
        let mut out = [0; 16];
        out.copy_from_slice(&self.full()[..16]);
        out
    }
}

/// Fields are bounded far below 4 GiB by the contract (1 MiB an event); a longer one is a broken invariant.
fn u32_of(n: usize) -> u32 {
    u32::try_from(n).expect("a hashed field is shorter than 4 GiB")
}

/// The Kafka key of every record about an entity: length-prefixed tenant and entity bytes.
#[must_use]
pub fn log_key(tenant: &str, entity_id: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + tenant.len() + entity_id.len());
    for part in [tenant, entity_id] {
        key.extend_from_slice(&u32_of(part.len()).to_be_bytes());
        key.extend_from_slice(part.as_bytes());
    }
    key
}

/// Reads a [`log_key`] back into (tenant, entity_id). `None` where the bytes are not one.
#[must_use]
pub fn parse_log_key(key: &[u8]) -> Option<(&str, &str)> {
    fn part(bytes: &[u8]) -> Option<(&str, &[u8])> {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let len = u32::from_be_bytes(*len) as usize;
        if rest.len() < len {
            return None;
        }
        let (part, rest) = rest.split_at(len);
        Some((std::str::from_utf8(part).ok()?, rest))
    }
    let (tenant, rest) = part(key)?;
    let (entity, rest) = part(rest)?;
    rest.is_empty().then_some((tenant, entity))
}

/// Kafka's murmur2 (seed 0x9747b28c), as its Java client computes it over a key.
/// Source: `org.apache.kafka.common.utils.Utils.murmur2`; the algorithm is Austin Appleby's, in the public domain.
#[must_use]
pub fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h: u32 = 0x9747_b28c ^ u32_of(bytes.len());
    let mut chunks = bytes.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let tail = chunks.remainder();
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

/// The partition of a key among `partitions` (> 0), the same for Kafka and the SQL log.
#[must_use]
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    let positive = i32::try_from(murmur2(key) & 0x7fff_ffff).unwrap_or(i32::MAX);
    positive % partitions.max(1)
}

/// Whom a memory is about.
#[must_use]
pub fn entity_key(tenant: &str, entity_id: &str) -> EntityKey {
    EntityKey(Fields::new().lp(tenant.as_bytes()).lp(entity_id.as_bytes()).half())
}

/// What an event says: entity, process, roles, contents, names and metadata; not its times, session or message ids.
/// `metadata` must be sorted by key and without repeats, as [`crate::records::ConversationEvent`] keeps it.
#[must_use]
pub fn content_hash(entity_id: &str, process_id: Option<&str>, messages: &[Message], metadata: &[MetadataEntry]) -> ContentHash {
    let content_bytes: usize = messages.iter().map(|message| message.content.len() + 32).sum();
    let mut fields = Fields::with_capacity(content_bytes + 128).lp(entity_id.as_bytes()).opt(process_id).u32(messages.len());
    for message in messages {
        fields = fields
            .lp(message.role.as_str().as_bytes())
            .opt(message.name.as_deref())
            .u8(message.content_format.hash_byte())
            .lp(message.content.as_bytes());
    }
    if metadata.is_empty() {
        return ContentHash(fields.lp(b"{}").full());
    }
    let object: serde_json::Map<String, serde_json::Value> =
        metadata.iter().map(|entry| (entry.key.clone(), entry.value.clone().into())).collect();
    let canonical = canonical_json(&serde_json::Value::Object(object));
    ContentHash(fields.lp(canonical.as_bytes()).full())
}

/// RFC 8785 text of a JSON value that came through serde_json (finite numbers, string keys), for which it cannot fail.
#[must_use]
pub fn canonical_json(value: &serde_json::Value) -> String {
    serde_json_canonicalizer::to_string(value).expect("a parsed JSON value has a canonical form")
}

/// One message of an event; `index` counts from 0 within it.
#[must_use]
pub fn message_key(event_id: &str, content_hash: &ContentHash, index: usize, message: &Message) -> MessageKey {
    let fields = match &message.message_id {
        Some(id) => Fields::with_capacity(message.content.len() + 128)
            .u8(1)
            .lp(id.as_bytes())
            .lp(message.role.as_str().as_bytes())
            .opt(message.name.as_deref())
            .u8(ContentFormat::hash_byte(message.content_format))
            .lp(message.content.as_bytes()),
        None => Fields::new().u8(2).lp(event_id.as_bytes()).raw(content_hash.as_bytes()).u32(index),
    };
    MessageKey(fields.half())
}

/// A fact's id within one generation.
#[must_use]
pub fn fact_id(entity_key: &EntityKey, generation: i32, kind: FactKind, subject: Option<&str>, text: &str) -> FactId {
    let low = Fields::new()
        .raw(&generation.to_be_bytes())
        .lp(kind.as_str().as_bytes())
        .lp(subject.map(normalise).unwrap_or_default().as_bytes())
        .lp(normalise(text).as_bytes())
        .half();
    FactId(entity_scoped_uuid(entity_key, &low))
}

/// A fact's text in every generation.
#[must_use]
pub fn text_hash(text: &str) -> TextHash {
    TextHash(Fields::new().lp(normalise(text).as_bytes()).half())
}

/// A fact's triple in every generation; `None` unless all three parts are known.
#[must_use]
pub fn triple_hash(subject: Option<&str>, predicate: Option<&str>, object: Option<&str>) -> Option<TripleHash> {
    let fields = [subject?, predicate?, object?].iter().fold(Fields::new(), |f, part| f.lp(normalise(part).as_bytes()));
    Some(TripleHash(fields.half()))
}

/// The id of a session that the client did not name: the island whose first event is `first_event_id`.
#[must_use]
pub fn island_session_id(entity_key: &EntityKey, process_id: Option<&str>, first_event_id: &str) -> Uuid {
    let low = Fields::new().opt(process_id).lp(first_event_id.as_bytes()).half();
    entity_scoped_uuid(entity_key, &low)
}

/// The range of entity keys that a [`FactId`] can belong to: those whose first 60 bits it carries.
#[must_use]
pub fn entity_key_range(fact_id: FactId) -> (EntityKey, EntityKey) {
    let bytes = fact_id.0.as_bytes();
    let mut low = [0; 16];
    low[..6].copy_from_slice(&bytes[..6]);
    low[6] = (bytes[6] << 4) | (bytes[7] >> 4);
    low[7] = bytes[7] << 4;
    let mut high = low;
    high[7] |= 0x0f;
    high[8..].fill(0xff);
    (EntityKey(low), EntityKey(high))
}

/// UUIDv8: 48 + 12 bits of the entity's key in front, 62 bits of `low` behind.
fn entity_scoped_uuid(entity_key: &EntityKey, low: &[u8; 16]) -> Uuid {
    let key = &entity_key.0;
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&key[..6]);
    bytes[6] = key[6] >> 4;
    bytes[7] = (key[6] << 4) | (key[7] >> 4);
    bytes[8..].copy_from_slice(&low[..8]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
