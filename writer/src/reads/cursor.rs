//! Cursors of listings: opaque to clients, a place in a total order inside.
//!
//! A page continues after the place, whether or not what stood there still exists: nothing is shown twice, and nothing that was
//! there all the time is left out.

use memori_schemas::{ContentHash, EntityKey, FactId};
use uuid::Uuid;

use super::letters::LetterPlace;
use super::lineages::WithdrawnPlace;
use crate::plan::DeadLetterKey;

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

/// After which withdrawn event a page continues.
#[must_use]
pub fn of_withdrawn((entity_key, event_id, content_hash): &WithdrawnPlace) -> String {
    hex::encode([&entity_key.0[..], &content_hash.0[..], event_id.as_bytes()].concat())
}

/// Reads [`of_withdrawn`] back; `None` where the text is not one.
#[must_use]
pub fn withdrawn(text: &str) -> Option<WithdrawnPlace> {
    let bytes = hex::decode(text).ok()?;
    let (entity_key, rest) = bytes.split_first_chunk::<16>()?;
    let (content_hash, event_id) = rest.split_first_chunk::<32>()?;
    let event_id = std::str::from_utf8(event_id).ok().filter(|id| !id.contains('\0'))?.to_owned();
    Some((EntityKey(*entity_key), event_id, ContentHash(*content_hash)))
}

/// After which dead letter a page continues.
#[must_use]
pub fn of_letter(place: &LetterPlace) -> String {
    let key = &place.key;
    let mut bytes = place.failed_at_us.to_be_bytes().to_vec();
    bytes.extend(key.source_offset.to_be_bytes());
    bytes.extend(key.source_partition.to_be_bytes());
    bytes.extend(key.generation.to_be_bytes());
    bytes.extend(key.source_topic_id.as_bytes());
    hex::encode(bytes)
}

/// Reads [`of_letter`] back; `None` where the text is not one.
#[must_use]
pub fn letter(text: &str) -> Option<LetterPlace> {
    let bytes = hex::decode(text).ok()?;
    let (failed_at_us, rest) = bytes.split_first_chunk::<8>()?;
    let (source_offset, rest) = rest.split_first_chunk::<8>()?;
    let (source_partition, rest) = rest.split_first_chunk::<4>()?;
    let (generation, topic_id) = rest.split_first_chunk::<4>()?;
    let source_topic_id = std::str::from_utf8(topic_id).ok().filter(|id| !id.contains('\0'))?.to_owned();
    Some(LetterPlace {
        failed_at_us: i64::from_be_bytes(*failed_at_us),
        key: DeadLetterKey {
            source_topic_id,
            source_partition: i32::from_be_bytes(*source_partition),
            source_offset: i64::from_be_bytes(*source_offset),
            generation: i32::from_be_bytes(*generation),
        },
    })
}

/// The id of a dead letter in the API: the topic's id, the partition, the offset and the generation, with dots between.
#[must_use]
pub fn letter_id(key: &DeadLetterKey) -> String {
    format!("{}.{}.{}.{}", key.source_topic_id, key.source_partition, key.source_offset, key.generation)
}

/// Reads [`letter_id`] back; `None` where the text is not one.
#[must_use]
pub fn letter_key(text: &str) -> Option<DeadLetterKey> {
    if text.contains('\0') {
        return None;
    }
    let mut parts = text.rsplitn(4, '.');
    let generation = parts.next()?.parse().ok()?;
    let source_offset = parts.next()?.parse().ok()?;
    let source_partition = parts.next()?.parse().ok()?;
    Some(DeadLetterKey { source_topic_id: parts.next()?.to_owned(), source_partition, source_offset, generation })
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
        fn letters_read_back(
            failed_at_us in any::<i64>(), topic in "[^\u{0}]{0,12}", partition in any::<i32>(), offset in any::<i64>(), generation in any::<i32>(),
        ) {
            let key = DeadLetterKey { source_topic_id: topic, source_partition: partition, source_offset: offset, generation };
            prop_assert_eq!(letter_key(&letter_id(&key)), Some(key.clone()));
            let place = LetterPlace { failed_at_us, key };
            prop_assert_eq!(letter(&of_letter(&place)), Some(place));
        }

        #[test]
        fn any_other_text_is_none_and_no_panic(text in "\\PC{0,48}") {
            if let Some((generation, id)) = fact(&text) {
                prop_assert_eq!(of_fact(generation, id), text.to_ascii_lowercase());
            }
            prop_assert!(entity(&text).is_none() || text.len() == 32);
            if let Some(place) = letter(&text) {
                prop_assert_eq!(of_letter(&place), text.to_ascii_lowercase());
            }
            let _ = letter_key(&text);
        }
    }
}
