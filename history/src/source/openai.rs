//! Chats as OpenAI's fine-tuning takes them: a list `messages` of `role` and `content`; pairs of `prompt` and `completion`; an `input`
//! with the preferred of two answers. The same `messages` are what most programs log.

use serde_json::Value;

use crate::options::id;
use crate::time;
use crate::turns::{Conversation, Said, role};

pub(super) fn is_one(value: &Value) -> bool {
    let roles = |list: &Value| list.as_array().and_then(|list| list.first()).is_some_and(|first| first["role"].is_string());
    roles(&value["messages"])
        || roles(&value["input"]["messages"])
        || (value["prompt"].is_string() && value["completion"].is_string())
}

pub(super) fn conversation(value: &Value) -> Result<Conversation, String> {
    let mut messages = Vec::new();
    if let (Some(prompt), Some(completion)) = (value["prompt"].as_str(), value["completion"].as_str()) {
        messages.push(Said { role: "user", content: prompt.into(), ..Said::default() });
        messages.push(Said { role: "assistant", content: completion.into(), ..Said::default() });
    } else {
        let list = [&value["messages"], &value["input"]["messages"], value].into_iter().find_map(Value::as_array);
        for message in list
            .ok_or("the record has no list `messages`")?
            .iter()
            .chain(value["preferred_output"].as_array().into_iter().flatten())
        {
            let role = message["role"].as_str().and_then(role).ok_or("a message's `role` is none that is known")?;
            let at = ["created_at", "timestamp", "created"].iter().find_map(|name| time::read(&message[*name]));
            messages.push(Said {
                id: id(message.get("id")),
                role,
                name: id(message.get("name")),
                content: super::content(&message["content"]),
                at,
            });
        }
    }
    let of = |names: &[&str]| names.iter().find_map(|name| id(value.get(*name)));
    let at = ["created_at", "timestamp", "created", "create_time"].iter().find_map(|name| time::read(&value[*name]));
    Ok(Conversation {
        id: of(&["id", "conversation_id", "thread_id"]),
        session: of(&["session_id", "thread_id"]),
        at,
        messages,
        ..Conversation::default()
    })
}
