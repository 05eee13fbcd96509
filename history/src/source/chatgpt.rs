//! The data export of ChatGPT, `conversations.json`: each conversation is a tree of nodes (`mapping`), and `current_node` is the leaf of
//! the branch that the person saw last. That branch is read, from its root.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::options::id;
use crate::time;
use crate::turns::{Conversation, Said, role};

pub(super) fn conversation(value: &Value) -> Result<Conversation, String> {
    let mapping = value["mapping"].as_object().ok_or("the conversation has no `mapping`")?;
    let leaf = match value["current_node"].as_str().filter(|node| mapping.contains_key(*node)) {
        Some(node) => Some(node),
        // Without one, the youngest message that nothing follows.
        None => mapping
            .iter()
            .filter(|(_, node)| node["children"].as_array().is_none_or(Vec::is_empty))
            .max_by(|(a_id, a), (b_id, b)| {
                let at = |node: &Value| node["message"]["create_time"].as_f64().unwrap_or(0.0);
                at(a).total_cmp(&at(b)).then_with(|| a_id.cmp(b_id))
            })
            .map(|(id, _)| id.as_str()),
    };
    let mut branch = Vec::new();
    let mut passed = HashSet::new();
    let mut next = leaf;
    while let Some(node) = next {
        if !passed.insert(node) {
            return Err("the conversation's nodes lead back to themselves".to_owned());
        }
        let node = mapping.get(node).unwrap_or(&Value::Null);
        branch.extend(said(&node["message"]));
        next = node["parent"].as_str().filter(|parent| mapping.contains_key(*parent));
    }
    branch.reverse();
    Ok(Conversation {
        id: id(value.get("conversation_id")).or_else(|| id(value.get("id"))),
        at: time::read(&value["create_time"]),
        metadata: json!({"source": "chatgpt"}).as_object().cloned().unwrap_or_default(),
        messages: branch,
        ..Conversation::default()
    })
}

/// What the person saw of a node.
fn said(message: &Value) -> Option<Said> {
    let role = role(message["author"]["role"].as_str()?)?;
    if message["metadata"]["is_visually_hidden_from_conversation"].as_bool() == Some(true)
        || message["weight"].as_f64() == Some(0.0)
    {
        return None;
    }
    let content = &message["content"];
    let text = match content["content_type"].as_str() {
        Some("text" | "multimodal_text") | None => parts(&content["parts"]),
        Some("code" | "execution_output") => content["text"].as_str().unwrap_or_default().to_owned(),
        // What the model thought, and what it was told beside the conversation.
        Some("thoughts" | "reasoning_recap" | "user_editable_context" | "model_editable_context") => return None,
        Some(_) => {
            let text = content["text"].as_str().or_else(|| content["result"].as_str());
            text.map_or_else(|| parts(&content["parts"]), str::to_owned)
        }
    };
    Some(Said {
        id: id(message.get("id")),
        role,
        name: id(message["author"].get("name")),
        content: text.into(),
        at: time::read(&message["create_time"]),
    })
}

/// Texts, and what is text of pictures and voices.
fn parts(parts: &Value) -> String {
    let texts = parts.as_array().into_iter().flatten().filter_map(|part| match part {
        Value::String(text) => Some(text.as_str()),
        Value::Object(part) => part.get("text").and_then(Value::as_str),
        _ => None,
    });
    texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
}
