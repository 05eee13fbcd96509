//! What an operator wishes for a tenant: what is worth remembering in its conversations, and the topics to look for.
//!
//! Promises: bounded, and checked at the start; it stands behind our orders as data, and is part of the prompt's hash. It steers what a
//! model looks for and can do nothing else: evidence, owners and form are checked in answers whatever it says.

use std::collections::BTreeMap;

use memori_service::settings::ExtractorTenant;
use serde_json::{Map, Value};

use super::assets;
use super::prompt::{clean, clean_line};

/// Bytes of a tenant's instructions.
const MAX_INSTRUCTIONS_BYTES: usize = 4_000;
/// Categories of one tenant.
const MAX_CATEGORIES: usize = 50;
/// Bytes of a category's name.
const MAX_NAME_BYTES: usize = 64;
/// Bytes of a category's description.
const MAX_DESCRIPTION_BYTES: usize = 300;

/// The wishes for one tenant, as they are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// One JSON document.
    pub(crate) json: String,
    /// Of the whole prompt with them.
    pub(crate) prompt_hash: String,
}

/// What the settings say, by tenant; those that wish nothing are left out.
///
/// # Errors
/// What to change, in words.
pub(crate) fn of(tenants: &BTreeMap<String, ExtractorTenant>) -> Result<BTreeMap<String, Wishes>, String> {
    let mut wishes = BTreeMap::new();
    for (tenant, given) in tenants {
        let shown = shown(given).map_err(|why| format!("extractor.tenants.{tenant}: {why}"))?;
        if !shown.is_empty() {
            let json = Value::Object(shown).to_string();
            let prompt_hash = assets::prompt_hash(Some(&json));
            wishes.insert(tenant.clone(), Wishes { json, prompt_hash });
        }
    }
    Ok(wishes)
}

fn shown(given: &ExtractorTenant) -> Result<Map<String, Value>, String> {
    let mut shown = Map::new();
    let instructions = clean(&given.instructions).trim().to_owned();
    if instructions.len() > MAX_INSTRUCTIONS_BYTES {
        return Err(format!("the instructions have {} bytes; they may have {MAX_INSTRUCTIONS_BYTES}", instructions.len()));
    }
    if !instructions.is_empty() {
        shown.insert("instructions".to_owned(), instructions.into());
    }
    if given.categories.len() > MAX_CATEGORIES {
        return Err(format!("there are {} categories; there may be {MAX_CATEGORIES}", given.categories.len()));
    }
    let mut categories: Vec<Value> = Vec::with_capacity(given.categories.len());
    for (place, category) in given.categories.iter().enumerate() {
        let (name, description) = (clean_line(&category.name), clean_line(category.description.as_deref().unwrap_or_default()));
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(format!("the name of category {place} must have 1 to {MAX_NAME_BYTES} bytes"));
        }
        if description.len() > MAX_DESCRIPTION_BYTES {
            return Err(format!("the description of category {place} may have {MAX_DESCRIPTION_BYTES} bytes"));
        }
        let mut one = Map::new();
        one.insert("name".to_owned(), name.into());
        if !description.is_empty() {
            one.insert("description".to_owned(), description.into());
        }
        categories.push(one.into());
    }
    if !categories.is_empty() {
        shown.insert("categories".to_owned(), categories.into());
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use memori_service::settings::{ExtractorCategory, ExtractorTenant};

    use super::of;
    use crate::llm::assets::prompt_hash;

    fn category(name: &str, description: Option<&str>) -> ExtractorCategory {
        ExtractorCategory { name: name.into(), description: description.map(Into::into) }
    }

    fn tenant(instructions: &str, categories: Vec<ExtractorCategory>) -> BTreeMap<String, ExtractorTenant> {
        BTreeMap::from([("acme".to_owned(), ExtractorTenant { instructions: instructions.into(), categories })])
    }

    #[test]
    fn wishes_are_shown_cleaned_and_hashed_with_the_prompt() {
        let wishes =
            of(&tenant(" Only health.\u{202e} ", vec![category("diet\n", None), category("sport", Some("what they do"))]))
                .unwrap();
        let acme = &wishes["acme"];
        assert_eq!(
            acme.json,
            r#"{"categories":[{"name":"diet"},{"description":"what they do","name":"sport"}],"instructions":"Only health."}"#
        );
        assert_eq!(acme.prompt_hash, prompt_hash(Some(&acme.json)));
        assert_ne!(acme.prompt_hash, prompt_hash(None));
        assert!(of(&tenant(" ", vec![])).unwrap().is_empty(), "who wishes nothing has our prompt");
    }

    #[test]
    fn wishes_are_bounded_and_what_is_wrong_is_named() {
        assert!(of(&tenant(&"x".repeat(4_000), vec![category(&"n".repeat(64), Some(&"d".repeat(300))); 50])).is_ok());
        for (wrong, named) in [
            (tenant(&"x".repeat(4_001), vec![]), "instructions have 4001 bytes"),
            (tenant("", vec![category("a", None); 51]), "51 categories"),
            (tenant("", vec![category("a", None), category(" ", None)]), "category 1"),
            (tenant("", vec![category(&"n".repeat(65), None)]), "category 0"),
            (tenant("", vec![category("a", Some(&"d".repeat(301)))]), "category 0"),
        ] {
            let error = of(&wrong).unwrap_err();
            assert!(error.starts_with("extractor.tenants.acme: ") && error.contains(named), "{error}");
        }
    }
}
