//! What the model is told, and in which form it answers: files with a version, whose hash stands in every fact's lineage.
//!
//! Promises: a released version never changes; another wording is another folder and another [`VERSION`]. The folders of older ones stay:
//! stored facts name their hashes.

use std::sync::LazyLock;

use serde_json::Value;

/// The extractor's version: that of the assets.
pub(crate) const VERSION: &str = "2";

/// The standing orders.
pub(crate) const SYSTEM: &str = include_str!("assets/v2/system.md");
/// What is said of an answer that cannot be used; holds `{errors}`.
pub(crate) const REPAIR: &str = include_str!("assets/v2/repair.md");
/// What introduces the schema for servers that cannot be bound to it.
pub(crate) const FORM: &str = include_str!("assets/v2/form.md");
/// What introduces the wishes that an operator has for a tenant; they stand behind the standing orders.
pub(crate) const WISHES: &str = include_str!("assets/v2/wishes.md");
/// What is asked to see whether the provider answers.
pub(crate) const PROBE: &str = include_str!("assets/v2/probe.md");

const SCHEMA_TEXT: &str = include_str!("assets/v2/schema.json");

/// The schema of answers.
pub(crate) static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    // Part of the program, read by a test.
    serde_json::from_str(SCHEMA_TEXT).unwrap_or_default()
});

/// The schema on one line, for prompts.
pub(crate) static SCHEMA_LINE: LazyLock<String> = LazyLock::new(|| SCHEMA.to_string());

/// BLAKE3 of everything that shapes an answer, in hex, as the lineage shows it: the files above, and the tenant's wishes where it has
/// some.
pub(crate) fn prompt_hash(wishes: Option<&str>) -> String {
    match wishes {
        None => hash_of(&[SYSTEM, REPAIR, FORM, SCHEMA_TEXT]),
        Some(wishes) => hash_of(&[SYSTEM, REPAIR, FORM, SCHEMA_TEXT, WISHES, wishes]),
    }
}

fn hash_of(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{REPAIR, SCHEMA, VERSION, hash_of, prompt_hash};
    use crate::slots::{ATTITUDE, NAMES};

    /// A change of any asset is a change of what facts' lineage says: it needs a new version.
    #[test]
    fn released_versions_have_not_changed() {
        let first = [
            include_str!("assets/v1/system.md"),
            include_str!("assets/v1/repair.md"),
            include_str!("assets/v1/form.md"),
            include_str!("assets/v1/schema.json"),
        ];
        assert_eq!(hash_of(&first), "ab2a701713f72492faa16c2c5aed496beec5f52ee366268afeea37f9e69880c6");
        assert_eq!(VERSION, "2");
        let hashes = [prompt_hash(None), prompt_hash(Some("{}"))];
        let second = [
            "a925e5a7cbf0123469b31aee52314e7369c1b442e44453f8e63904e833afe8de",
            "4d325a49c0118b780d6d5e543769fc1f84d0943bf3516d840ebcc5c05c131005",
        ];
        assert_eq!(hashes, second);
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
