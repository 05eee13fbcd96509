//! What the model is told, and in which form it answers: files with a version, whose hash stands in every fact's lineage.
//!
//! Promises: a released version never changes; another wording is another folder and another [`VERSION`].

use std::sync::LazyLock;

use serde_json::Value;

/// The extractor's version: that of the assets.
pub(crate) const VERSION: &str = "1";

/// The standing orders.
pub(crate) const SYSTEM: &str = include_str!("assets/v1/system.md");
/// What is said of an answer that cannot be used; holds `{errors}`.
pub(crate) const REPAIR: &str = include_str!("assets/v1/repair.md");
/// What introduces the schema for servers that cannot be bound to it.
pub(crate) const FORM: &str = include_str!("assets/v1/form.md");
/// What is asked to see whether the provider answers.
pub(crate) const PROBE: &str = include_str!("assets/v1/probe.md");

const SCHEMA_TEXT: &str = include_str!("assets/v1/schema.json");

/// The schema of answers.
pub(crate) static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    // Part of the program, read by a test.
    serde_json::from_str(SCHEMA_TEXT).unwrap_or_default()
});

/// The schema on one line, for prompts.
pub(crate) static SCHEMA_LINE: LazyLock<String> = LazyLock::new(|| SCHEMA.to_string());

/// BLAKE3 of everything above that shapes an answer, in hex, as the lineage shows it.
pub(crate) static PROMPT_HASH: LazyLock<String> = LazyLock::new(|| {
    let mut hasher = blake3::Hasher::new();
    for part in [SYSTEM, REPAIR, FORM, SCHEMA_TEXT] {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
});

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{PROMPT_HASH, REPAIR, SCHEMA, VERSION};
    use crate::slots::{ATTITUDE, NAMES};

    /// A change of any asset is a change of what facts' lineage says: it needs a new version.
    #[test]
    fn the_released_version_has_not_changed() {
        assert_eq!((VERSION, PROMPT_HASH.as_str()), ("1", "ab2a701713f72492faa16c2c5aed496beec5f52ee366268afeea37f9e69880c6"));
    }

    #[test]
    fn the_schema_is_strict_and_names_the_shared_slots() {
        fn strict(schema: &Value) {
            if schema["type"] == "object" {
                assert_eq!(schema["additionalProperties"], Value::Bool(false));
                let named: Vec<&String> = schema["properties"].as_object().expect("properties").keys().collect();
                let mut required: Vec<&str> =
                    schema["required"].as_array().expect("required").iter().filter_map(Value::as_str).collect();
                required.sort_unstable();
                assert_eq!(named, required);
                schema["properties"].as_object().expect("properties").values().for_each(strict);
            }
            if schema["type"] == "array" {
                strict(&schema["items"]);
            }
        }
        strict(&SCHEMA);
        let slots = &SCHEMA["properties"]["facts"]["items"]["properties"]["slot"]["anyOf"][0]["enum"];
        let expected: Vec<Value> = NAMES.iter().chain([&ATTITUDE]).map(|name| Value::from(*name)).collect();
        assert_eq!(slots, &Value::Array(expected));
        assert!(REPAIR.contains("{errors}"));
    }
}
