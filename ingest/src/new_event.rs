//! One conversation event as a client gave it, validated by hand: every broken rule is named by its path, in one go.

use std::collections::{HashMap, HashSet};

use memori_schemas::{
    ContentFormat, ContentHash, ConversationEvent, EntityKey, Message, MetadataEntry, Micros, Role, Supplied, ids,
};
use memori_service::problem::{Answer, FieldErrors, Fields, parse_json};
use serde_json::Value;

use crate::context_block::remove_blocks;

mod plain;

/// The most bytes of JSON in one event.
pub const MAX_EVENT_BYTES: usize = 1 << 20;
/// The most messages in one event.
pub const MAX_MESSAGES: usize = 1_000;
/// The most metadata entries in one event.
pub const MAX_METADATA: usize = 64;
/// The most characters in an event id.
pub const MAX_EVENT_ID_CHARS: usize = 128;
/// The most bytes in an entity, process, session or message id.
pub const MAX_ID_BYTES: usize = 256;

/// A valid event, before the door has judged it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// The client's id; `None` where it gave none.
    pub event_id: Option<String>,
    /// Whom it is about, exactly as given.
    pub entity_id: String,
    /// The agent or program that talks.
    pub process_id: Option<String>,
    /// The conversation, where named.
    pub session_id: Option<String>,
    /// When it happened, where said.
    pub occurred_at: Option<Micros>,
    /// In order, at least one.
    pub messages: Vec<Message>,
    /// Sorted by key.
    pub metadata: Vec<MetadataEntry>,
    /// How many injected blocks were removed from its messages.
    pub context_blocks_removed: usize,
}

impl NewEvent {
    /// Reads one event as text.
    ///
    /// # Errors
    /// 400 where it is not JSON, else as [`NewEvent::read`].
    pub fn read_text(text: &[u8]) -> Answer<Self> {
        match Self::read_plain(text) {
            Some(event) => Ok(event),
            None => Self::read(parse_json(text)?),
        }
    }

    /// Reads one event as text, where it is as plain as nearly all are. `None` says nothing about what it is.
    #[must_use]
    pub fn read_plain(text: &[u8]) -> Option<Self> {
        plain::read(text)
    }

    /// Reads one event.
    ///
    /// # Errors
    /// 422 with every broken rule.
    pub fn read(value: Value) -> Answer<Self> {
        let mut errors = FieldErrors::default();
        let event = Self::take_apart(value, &mut errors);
        match event {
            Some(event) if errors.is_empty() => Ok(event),
            _ => Err(errors.into_problem()),
        }
    }

    /// `None` only where something was noted.
    fn take_apart(value: Value, errors: &mut FieldErrors) -> Option<Self> {
        let mut removed = 0;
        let mut fields = Fields::of(value, "", errors)?;
        let event_id = event_id(&mut fields);
        let entity_id = fields.required_text("entity_id", 1..=MAX_ID_BYTES);
        let process_id = fields.text("process_id", 0..=MAX_ID_BYTES);
        let session_id = fields.text("session_id", 0..=MAX_ID_BYTES);
        let occurred_at = time(&mut fields, "occurred_at");
        let messages = fields.required_list("messages", 1..=MAX_MESSAGES);
        let messages = messages.map(|list| read_messages(list, fields.errors(), &mut removed)).unwrap_or_default();
        let metadata = fields.take("metadata").map(|value| read_metadata(value, fields.errors())).unwrap_or_default();
        fields.finish();
        Some(Self {
            event_id,
            entity_id: entity_id?,
            process_id,
            session_id,
            occurred_at,
            messages,
            metadata,
            context_blocks_removed: removed,
        })
    }

    /// Whom it is about.
    #[must_use]
    pub fn entity_key(&self, tenant: &str) -> EntityKey {
        ids::entity_key(tenant, &self.entity_id)
    }

    /// What it says.
    #[must_use]
    pub fn content_hash(&self) -> ContentHash {
        ids::content_hash(&self.entity_id, self.process_id.as_deref(), &self.messages, &self.metadata)
    }

    /// The record for the log. `event_id` is the client's where it gave one, else a new one.
    #[must_use]
    pub fn into_record(
        self,
        tenant: &str,
        event_id: String,
        content_hash: ContentHash,
        accepted_at: Micros,
    ) -> ConversationEvent {
        ConversationEvent {
            tenant: tenant.to_owned(),
            supplied: Supplied { event_id: self.event_id.is_some(), occurred_at: self.occurred_at.is_some() },
            entity_id: self.entity_id,
            process_id: self.process_id,
            session_id: self.session_id,
            event_id,
            content_hash,
            occurred_at: self.occurred_at.unwrap_or(accepted_at),
            accepted_at,
            messages: self.messages,
            metadata: self.metadata,
            spooled: false,
            attempt: 0,
            origin: None,
            key_id: None,
        }
    }
}

/// An event id that is fit to be one.
#[must_use]
pub fn is_event_id(text: &str) -> bool {
    !text.is_empty() && text.chars().nth(MAX_EVENT_ID_CHARS).is_none() && !text.contains('\0')
}

fn event_id(fields: &mut Fields<'_>) -> Option<String> {
    let text = fields.text("event_id", 0..=usize::MAX)?;
    if !is_event_id(&text) {
        fields.broken("event_id", format!("must be 1 to {MAX_EVENT_ID_CHARS} characters and has {}", text.chars().count()));
    }
    Some(text)
}

fn time(fields: &mut Fields<'_>, name: &str) -> Option<Micros> {
    fields.parsed(name, "an RFC 3339 time such as 2026-01-31T12:00:00Z", Micros::parse_rfc3339)
}

fn read_messages(list: Vec<Value>, errors: &mut FieldErrors, removed: &mut usize) -> Vec<Message> {
    let mut first_with: HashMap<String, usize> = HashMap::new();
    let mut messages = Vec::with_capacity(list.len());
    for (index, value) in list.into_iter().enumerate() {
        let path = format!("messages[{index}]");
        let Some(message) = read_message(value, path, errors, removed) else { continue };
        if let Some(id) = &message.message_id
            && let Some(first) = first_with.insert(id.clone(), index)
        {
            errors.push(
                format!("messages[{index}].message_id"),
                format!("is that of messages[{first}], too; ids are distinct within an event"),
            );
        }
        messages.push(message);
    }
    messages
}

/// `None` only where something was noted.
fn read_message(value: Value, path: String, errors: &mut FieldErrors, removed: &mut usize) -> Option<Message> {
    let mut fields = Fields::of(value, path, errors)?;
    let message_id = fields.text("message_id", 0..=MAX_ID_BYTES);
    let role = match fields.required("role") {
        Some(value) => {
            let role = value.as_str().and_then(Role::parse);
            if role.is_none() {
                fields.broken("role", "must be one of user, assistant, system, tool");
            }
            role
        }
        None => None,
    };
    let content = fields.required("content").and_then(|value| read_content(value, &mut fields, removed));
    let name = fields.text("name", 0..=MAX_EVENT_BYTES);
    let created_at = time(&mut fields, "created_at");
    fields.finish();
    let (content, content_format) = content?;
    Some(Message { message_id, role: role?, name, content, content_format, created_at })
}

fn read_content(value: Value, fields: &mut Fields<'_>, removed: &mut usize) -> Option<(String, ContentFormat)> {
    match value {
        Value::String(text) => {
            if text.contains('\0') {
                fields.broken("content", "must not contain U+0000");
                return None;
            }
            Some((without_blocks(text, removed), ContentFormat::Text))
        }
        Value::Array(mut parts) => {
            let mut fine = true;
            let mut index = 0;
            parts.retain_mut(|part| {
                let path = fields.path_of("content");
                let before = *removed;
                let broken = match part {
                    Value::String(_) | Value::Object(_) if has_nul(part) => Some("must not contain U+0000"),
                    Value::String(text) => {
                        *text = without_blocks(std::mem::take(text), removed);
                        None
                    }
                    Value::Object(members) => {
                        if let Some(Value::String(text)) = members.get_mut("text") {
                            *text = without_blocks(std::mem::take(text), removed);
                        }
                        None
                    }
                    _ => Some("must be an object or a string"),
                };
                if let Some(broken) = broken {
                    fields.errors().push(format!("{path}[{index}]"), broken);
                    fine = false;
                }
                index += 1;
                *removed == before || !was_only_text(part)
            });
            fine.then(|| (ids::canonical_json(&Value::Array(parts)), ContentFormat::Parts))
        }
        _ => {
            fields.broken("content", "must be a string or a list of parts");
            None
        }
    }
}

/// Whether nothing is left of a part that held text and nothing else: blocks that stood alone take their part with them.
fn was_only_text(part: &Value) -> bool {
    match part {
        Value::String(text) => text.is_empty(),
        Value::Object(members) => {
            members.len() == 2 && members.contains_key("type") && members.get("text").is_some_and(|text| text == "")
        }
        _ => false,
    }
}

fn without_blocks(text: String, removed: &mut usize) -> String {
    let (left, count) = remove_blocks(&text);
    *removed += count;
    if count == 0 { text } else { left.into_owned() }
}

/// Whether any text or name inside holds U+0000. Nesting is bounded by the parser.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn read_metadata(value: Value, errors: &mut FieldErrors) -> Vec<MetadataEntry> {
    let Value::Object(members) = value else {
        errors.push("metadata", "must be an object of strings");
        return Vec::new();
    };
    if members.len() > MAX_METADATA {
        errors.push("metadata", format!("must have at most {MAX_METADATA} entries and has {}", members.len()));
        return Vec::new();
    }
    let mut entries = Vec::with_capacity(members.len());
    for (key, value) in members {
        let path = memori_service::problem::join("metadata", &key);
        match value {
            Value::String(value) if key.contains('\0') || value.contains('\0') => errors.push(path, "must not contain U+0000"),
            Value::String(value) => entries.push(MetadataEntry { key, value }),
            _ => errors.push(path, "must be a string"),
        }
    }
    entries.sort_unstable();
    debug_assert_eq!(entries.iter().map(|e| &e.key).collect::<HashSet<_>>().len(), entries.len());
    entries
}

#[cfg(test)]
mod tests;
