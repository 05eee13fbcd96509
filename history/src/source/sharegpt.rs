//! Conversations as lists of `from` and `value`, as people share them.

use serde_json::Value;

use super::content;
use crate::options::id;
use crate::time;
use crate::turns::{Conversation, Said, role};

pub(super) fn conversation(value: &Value) -> Result<Conversation, String> {
    let list = match value {
        Value::Array(list) => list,
        _ => ["conversations", "conversation", "items"]
            .iter()
            .find_map(|name| value[*name].as_array())
            .ok_or("the record has no list `conversations`")?,
    };
    let mut messages = Vec::with_capacity(list.len());
    if let Some(system) = value["system"].as_str() {
        messages.push(Said { role: "system", content: system.into(), ..Said::default() });
    }
    for message in list {
        let from = message["from"].as_str().or_else(|| message["role"].as_str()).unwrap_or_default();
        let role = role(from).ok_or("a message's `from` is none that is known")?;
        let said = message.get("value").or_else(|| message.get("content")).unwrap_or(&Value::Null);
        messages.push(Said {
            id: id(message.get("id")),
            role,
            name: None,
            content: content(said),
            at: time::read(&message["timestamp"]),
        });
    }
    let at = ["create_time", "created_at", "timestamp"].iter().find_map(|name| time::read(&value[*name]));
    Ok(Conversation {
        id: id(value.get("id")).or_else(|| id(value.get("conversation_id"))),
        at,
        messages,
        ..Conversation::default()
    })
}
