//! Message histories of LangChain and states of LangGraph: what `messages_to_dict`, `dumps` and `model_dump` write, one message a record or
//! a list of them; rows of `SQLChatMessageHistory`; a thread's state or checkpoint with all messages until then, of which
//! each brings the whole thread, so that overlaps add nothing.

use serde_json::Value;

use super::content;
use crate::options::{at, id};
use crate::record::{Bad, Row};
use crate::time;
use crate::turns::{Conversation, Said, role};

/// Where messages stand in a record.
const LISTS: [&str; 6] =
    ["messages", "history", "values.messages", "channel_values.messages", "checkpoint.channel_values.messages", "state.messages"];
/// Where a record names its thread.
const THREADS: [&str; 6] =
    ["session_id", "thread_id", "config.configurable.thread_id", "metadata.thread_id", "configurable.thread_id", "SessionId"];
/// Where a record names a time.
const TIMES: [&str; 4] = ["created_at", "ts", "timestamp", "checkpoint.ts"];

/// One message in any of its forms.
pub(super) fn message(value: &Value) -> Option<Said> {
    let members = value.as_object()?;
    // A row of a table holds the message as text.
    if let Some(text) = members.get("message").and_then(Value::as_str) {
        let mut said = message(&serde_json::from_str(text).ok()?)?;
        said.at = said.at.or_else(|| TIMES.iter().find_map(|name| time::read(at(members, name)?)));
        said.id = said.id.or_else(|| id(members.get("id")));
        return Some(said);
    }
    let (kind, data) = if members.get("type").and_then(Value::as_str) == Some("constructor") {
        let class = members.get("id")?.as_array()?.last()?.as_str()?;
        (class, members.get("kwargs")?)
    } else {
        (members.get("type")?.as_str()?, members.get("data").filter(|data| data.is_object()).unwrap_or(value))
    };
    let kind = if kind == "chat" { data["role"].as_str()? } else { kind };
    let role = role(kind)?;
    data.get("content")?;
    let sent = ["created_at", "timestamp"].iter().find_map(|name| time::read(&data["additional_kwargs"][*name]));
    let sent = sent.or_else(|| TIMES.iter().find_map(|name| time::read(at(members, name)?)));
    let content = if data["content"].is_object() { content(&data["content"]) } else { data["content"].clone() };
    Some(Said { id: id(data.get("id")), role, name: id(data.get("name")), content, at: sent })
}

fn list(value: &Value) -> Option<&Vec<Value>> {
    match value {
        Value::Array(list) => Some(list),
        Value::Object(members) => LISTS.iter().find_map(|path| at(members, path)?.as_array()),
        _ => None,
    }
}

pub(super) fn is_one(value: &Value) -> bool {
    message(value).is_some()
        || (value.is_object() && list(value).and_then(|list| list.first()).is_some_and(|first| message(first).is_some()))
}

/// A record that holds a whole conversation stands alone; messages of one thread follow each other.
pub(super) fn group(row: &Row) -> Option<String> {
    if LISTS.iter().any(|path| at(row, path).is_some_and(Value::is_array)) {
        return None;
    }
    Some(THREADS.iter().find_map(|path| id(at(row, path))).unwrap_or_default())
}

pub(super) fn speaks(row: &Row) -> bool {
    message(&Value::Object(row.clone())).is_some_and(|said| said.role == "user")
}

/// A list of messages, or an object that has one.
pub(super) fn conversation(value: &Value) -> Result<Conversation, String> {
    let members = value.as_object();
    let mut messages = Vec::new();
    for item in list(value).ok_or("the record holds no messages")? {
        messages.push(message(item).ok_or("a message's type is none that is known")?);
    }
    let thread = members.and_then(|members| THREADS.iter().find_map(|path| id(at(members, path))));
    let began = members.and_then(|members| TIMES.iter().find_map(|path| time::read(at(members, path)?)));
    Ok(Conversation { id: thread, at: began, messages, ..Conversation::default() })
}

/// Messages of one thread, or the one record that holds a conversation.
pub(super) fn conversation_of(rows: &[Row]) -> Result<(Conversation, Vec<Bad>), String> {
    if let [row] = rows
        && group(row).is_none()
    {
        return conversation(&Value::Object(row.clone())).map(|conversation| (conversation, Vec::new()));
    }
    let mut bad = Vec::new();
    let mut messages = Vec::with_capacity(rows.len());
    for row in rows {
        let value = Value::Object(row.clone());
        match message(&value) {
            Some(said) => messages.push(said),
            None => bad.push(Bad::new("the message's type is none that is known", value.to_string().as_bytes())),
        }
    }
    let thread = rows.first().and_then(|row| THREADS.iter().find_map(|path| id(at(row, path))));
    Ok((Conversation { id: thread, messages, ..Conversation::default() }, bad))
}
