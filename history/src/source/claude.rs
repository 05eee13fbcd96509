//! The data export of Claude, `conversations.json`: `chat_messages` of `human` and `assistant`. Where messages name the ones before them,
//! the branch of the last one is read.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use crate::options::id;
use crate::time;
use crate::turns::{Conversation, Said, role};

pub(super) fn conversation(value: &Value) -> Result<Conversation, String> {
    let all = value["chat_messages"].as_array().ok_or("the conversation has no `chat_messages`")?;
    let mut messages = Vec::new();
    for message in branch(all) {
        let sender = message["sender"].as_str().unwrap_or_default();
        let role = role(sender).ok_or_else(|| "a message's `sender` is none that is known".to_owned())?;
        messages.push(Said {
            id: id(message.get("uuid")),
            role,
            name: None,
            content: text(message).into(),
            at: time::read(&message["created_at"]),
        });
    }
    Ok(Conversation {
        id: id(value.get("uuid")),
        at: time::read(&value["created_at"]),
        metadata: json!({"source": "claude"}).as_object().cloned().unwrap_or_default(),
        messages,
        ..Conversation::default()
    })
}

/// The messages that lead to the last one; all where they do not say which.
fn branch(all: &[Value]) -> Vec<&Value> {
    let by_id: HashMap<&str, &Value> = all.iter().filter_map(|message| Some((message["uuid"].as_str()?, message))).collect();
    let parent = |message: &Value| message["parent_message_uuid"].as_str().and_then(|parent| by_id.get(parent).copied());
    if !all.iter().any(|message| parent(message).is_some()) {
        return all.iter().collect();
    }
    let mut branch = Vec::new();
    let mut passed = HashSet::new();
    let mut next = all.last();
    while let Some(message) = next {
        if !passed.insert(message["uuid"].as_str()) {
            return all.iter().collect();
        }
        branch.push(message);
        next = parent(message);
    }
    branch.reverse();
    branch
}

/// The text blocks; where there are none, the flat text, and of files what was read from them.
fn text(message: &Value) -> String {
    let blocks = message["content"].as_array().into_iter().flatten();
    let texts: Vec<&str> = blocks
        .filter(|block| block["type"] == "text")
        .filter_map(|block| block["text"].as_str())
        .filter(|text| !text.is_empty())
        .collect();
    let mut said = if texts.is_empty() { message["text"].as_str().unwrap_or_default().to_owned() } else { texts.join("\n") };
    for file in message["attachments"].as_array().into_iter().flatten() {
        if let Some(content) = file["extracted_content"].as_str().filter(|content| !content.trim().is_empty()) {
            if !said.is_empty() {
                said.push_str("\n\n");
            }
            said.push_str(&format!("[{}]\n{content}", file["file_name"].as_str().unwrap_or("attachment")));
        }
    }
    said
}
