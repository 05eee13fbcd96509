//! Cursors of listings: opaque to clients, a place in a total order inside.
//!
//! A page continues after the place, whether or not what stood there still exists: nothing is shown twice, and nothing that was
//! there all the time is left out.

use memori_schemas::{EntityKey, FactId};
use uuid::Uuid;

/// After which entity a page continues.
#[must_use]
pub fn of_entity(entity_key: &EntityKey) -> String {
    hex::encode(entity_key.0)
}

/// Reads [`of_entity`] back; `None` where the text is not one.
#[must_use]
pub fn entity(text: &str) -> Option<EntityKey> {
    EntityKey::from_slice(&hex::decode(text).ok()?)
}

/// After which fact of which generation a page continues.
#[must_use]
pub fn of_fact(generation: i32, fact_id: FactId) -> String {
    hex::encode([generation.to_be_bytes().as_slice(), fact_id.0.as_bytes()].concat())
}

/// Reads [`of_fact`] back; `None` where the text is not one.
#[must_use]
pub fn fact(text: &str) -> Option<(i32, FactId)> {
    let bytes = hex::decode(text).ok()?;
    let (generation, id) = bytes.split_first_chunk::<4>()?;
    Some((i32::from_be_bytes(*generation), FactId(Uuid::from_slice(id).ok()?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cursors_read_back(key in any::<[u8; 16]>(), id in any::<[u8; 16]>(), generation in any::<i32>()) {
            prop_assert_eq!(entity(&of_entity(&EntityKey(key))), Some(EntityKey(key)));
            let id = FactId(Uuid::from_bytes(id));
            prop_assert_eq!(fact(&of_fact(generation, id)), Some((generation, id)));
        }

        #[test]
        fn any_other_text_is_none_and_no_panic(text in "\\PC{0,48}") {
            if let Some((generation, id)) = fact(&text) {
                prop_assert_eq!(of_fact(generation, id), text.to_ascii_lowercase());
            }
            prop_assert!(entity(&text).is_none() || text.len() == 32);
        }
    }
}
