//! Memories of mem0, as `get_all` and its export give them. A memory is a sentence about a user: it comes as what the user said, so that
//! extraction makes of it what it makes of anything said, with its origin as metadata.

use serde_json::{Value, json};

use super::as_text;
use crate::options::id;
use crate::time;
use crate::turns::{Conversation, Said};

pub(super) fn conversation(value: &Value) -> Result<Conversation, String> {
    let memory = value["memory"].as_str().ok_or("the record has no `memory`")?;
    let of = |name: &str| id(value.get(name));
    let memory_id = of("id").or_else(|| of("hash"));
    let mut metadata = json!({"source": "mem0"}).as_object().cloned().unwrap_or_default();
    if let Some(memory_id) = &memory_id {
        metadata.insert("memory_id".into(), memory_id.as_str().into());
    }
    for (name, value) in value["metadata"].as_object().into_iter().flatten().take(32) {
        if !value.is_null() {
            metadata.insert(name.clone(), as_text(value).into());
        }
    }
    let at = time::read(&value["created_at"]).or_else(|| time::read(&value["updated_at"]));
    // A memory that was worded anew keeps its id there, and is another message here.
    let message = Said { role: "user", content: memory.into(), at, ..Said::default() };
    Ok(Conversation {
        id: memory_id,
        entity: of("user_id"),
        process: of("agent_id"),
        session: Some(of("run_id").unwrap_or_else(|| "mem0".to_owned())),
        at,
        metadata,
        messages: vec![message],
    })
}
