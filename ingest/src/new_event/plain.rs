//! The short way from text to an event, for what nearly every event is: members that are known and each there once, contents that are text.
//!
//! It answers nothing where anything is otherwise, or broken: then the long way, which builds a JSON value, says what. A test holds that
//! where both answer, they answer the same.

use std::fmt;

use memori_schemas::{ContentFormat, Message, MetadataEntry, Micros, Role};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::{MAX_EVENT_BYTES, MAX_ID_BYTES, MAX_MESSAGES, MAX_METADATA, NewEvent, is_event_id, without_blocks};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainEvent<'a> {
    #[serde(default)]
    event_id: Option<String>,
    entity_id: String,
    #[serde(default)]
    process_id: Option<String>,
    #[serde(default)]
    session_id: Option<String>,
    #[serde(borrow, default)]
    occurred_at: Option<&'a str>,
    #[serde(borrow)]
    messages: Vec<PlainMessage<'a>>,
    #[serde(default)]
    metadata: Option<Entries>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainMessage<'a> {
    #[serde(default)]
    message_id: Option<String>,
    role: Role,
    content: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(borrow, default)]
    created_at: Option<&'a str>,
}

struct Entries(Vec<MetadataEntry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some((key, value)) = access.next_entry()? {
                    entries.push(MetadataEntry { key, value });
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// The event that `text` is; `None` where the long way has to look.
pub(super) fn read(text: &[u8]) -> Option<NewEvent> {
    // Looked at once for all, instead of string by string.
    let plain: PlainEvent<'_> = serde_json::from_str(std::str::from_utf8(text).ok()?).ok()?;
    let id = |id: &Option<String>| id.as_deref().is_none_or(|id| id.len() <= MAX_ID_BYTES && !id.contains('\0'));
    let fine = plain.event_id.as_deref().is_none_or(is_event_id)
        && (1..=MAX_ID_BYTES).contains(&plain.entity_id.len())
        && !plain.entity_id.contains('\0')
        && id(&plain.process_id)
        && id(&plain.session_id)
        && (1..=MAX_MESSAGES).contains(&plain.messages.len());
    if !fine {
        return None;
    }
    let mut removed = 0;
    let mut messages: Vec<Message> = Vec::with_capacity(plain.messages.len());
    // Ids that are looked through for a repeat, one by one: more of them than this are for the long way.
    const FEW: usize = 16;
    for PlainMessage { message_id, role, content, name, created_at } in plain.messages {
        let name_fits = name.as_deref().is_none_or(|name| name.len() <= MAX_EVENT_BYTES && !name.contains('\0'));
        if !id(&message_id) || !name_fits || content.contains('\0') {
            return None;
        }
        if message_id.is_some() && (messages.len() > FEW || messages.iter().any(|before| before.message_id == message_id)) {
            return None;
        }
        let content = without_blocks(content, &mut removed);
        messages.push(Message {
            message_id,
            role,
            name,
            content,
            content_format: ContentFormat::Text,
            created_at: time(created_at)?,
        });
    }
    Some(NewEvent {
        event_id: plain.event_id,
        entity_id: plain.entity_id,
        process_id: plain.process_id,
        session_id: plain.session_id,
        occurred_at: time(plain.occurred_at)?,
        messages,
        metadata: metadata(plain.metadata)?,
        context_blocks_removed: removed,
    })
}

fn time(text: Option<&str>) -> Option<Option<Micros>> {
    text.map_or(Some(None), |text| Micros::parse_rfc3339(text).map(Some))
}

fn metadata(entries: Option<Entries>) -> Option<Vec<MetadataEntry>> {
    let Some(Entries(mut entries)) = entries else { return Some(Vec::new()) };
    entries.sort_unstable();
    let distinct = entries.windows(2).all(|pair| pair[0].key != pair[1].key);
    let texts = entries.iter().all(|entry| !entry.key.contains('\0') && !entry.value.contains('\0'));
    (entries.len() <= MAX_METADATA && distinct && texts).then_some(entries)
}
