//! An image that was brought up to date, or unpacked, is the image that reading everything would make: the answers are equal, to the
//! last bit of every part of a score.

use memori_embedding::Embedding;
use memori_schemas::Micros;
use proptest::prelude::*;

use super::world::{KEY, fact_rows, fact_seed, message_rows, message_seed, model};
use crate::reads::rows::{FactRows, MessageRows};
use crate::recall::answer::answer;
use crate::recall::image;
use crate::recall::packed::{MessageChunk, pack_messages, pack_unnamed, unpack_unnamed};
use crate::recall::{EntityImage, MessageImage, RecallQuery};

/// Everything that can be seen of two images.
fn seen(facts: &EntityImage, messages: &MessageImage, text: &str) -> String {
    let query = RecallQuery {
        limit: 1_000,
        instruction_limit: 1_000,
        include_messages: true,
        explain: true,
        ..RecallQuery::new("e", text)
    };
    let vector = Embedding::quantise(&[0.3, -0.8, 0.5]);
    let mut out = String::new();
    for include_superseded in [false, true] {
        let query = RecallQuery { include_superseded, ..query.clone() };
        for vector in [None, Some(&vector)] {
            let answer = answer(facts, Some(messages), &query, vector, Micros(10_000_000_000));
            out.push_str(&serde_json::to_string(&answer).unwrap());
            out.push('\n');
        }
    }
    out
}

/// What of `after` a store would send to whoever has `before`: the facts that differ, complete, and the events that came.
fn fact_changes(before: &FactRows, after: &FactRows) -> FactRows {
    let of = |rows: &FactRows, id| {
        let fact = rows.facts.iter().find(|fact| fact.fact_id == id);
        let mentions: Vec<_> = rows.mentions.iter().filter(|mention| mention.fact_id == id).collect();
        let validity: Vec<_> = rows.validity.iter().filter(|interval| interval.fact_id == id).collect();
        format!("{fact:?} {mentions:?} {validity:?}")
    };
    let mut since = after.clone();
    since.facts.retain(|fact| of(before, fact.fact_id) != of(after, fact.fact_id));
    let changed: Vec<_> = since.facts.iter().map(|fact| fact.fact_id).collect();
    since.mentions.retain(|mention| changed.contains(&mention.fact_id));
    since.validity.retain(|interval| changed.contains(&interval.fact_id));
    since
}

fn message_changes(before: &MessageRows, after: &MessageRows) -> MessageRows {
    let mut since = after.clone();
    let known = |message: &_| before.messages.iter().any(|one| format!("{one:?}") == format!("{message:?}"));
    since.messages.retain(|message| !known(message));
    since
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_refreshed_image_is_the_one_read_anew(
        fact_steps in prop::collection::vec(prop::collection::vec(fact_seed(), 0..9), 1..6),
        message_steps in prop::collection::vec(prop::collection::vec(message_seed(), 0..12), 6),
        text in super::world::words(),
    ) {
        let model = model();
        let (mut facts, mut messages) = (Vec::new(), Vec::new());
        let (mut fact_image, mut message_image): (Option<EntityImage>, Option<MessageImage>) = (None, None);
        let (mut fact_before, mut message_before) = (FactRows::default(), MessageRows::default());
        for (n, (fact_step, message_step)) in (1..).zip(fact_steps.into_iter().zip(message_steps)) {
            facts.extend(fact_step);
            messages.extend(message_step);
            let (mut fact_after, mut message_after) = (fact_rows(n, &facts), message_rows(n, &messages));
            // Events never go; what a later version of a fact or message no longer names is there all the same.
            for row in &fact_before.unnamed {
                if fact_after.unnamed.iter().all(|one| one.event.event_id != row.event.event_id) {
                    fact_after.unnamed.push(row.clone());
                }
            }
            fact_after.unnamed.sort_by(|a, b| a.event.event_id.cmp(&b.event.event_id));
            let keep = |row: &&crate::reads::rows::UnnamedRow| fact_before.unnamed.iter().any(|one| one.event.event_id == row.event.event_id);
            let kept: Vec<_> = fact_after.unnamed.iter().filter(keep).map(|row| row.event.event_id.clone()).collect();
            for row in &mut fact_after.unnamed {
                if kept.contains(&row.event.event_id) {
                    *row = fact_before.unnamed.iter().find(|one| one.event.event_id == row.event.event_id).unwrap().clone();
                }
            }
            for row in &message_before.unnamed {
                message_after.unnamed.retain(|one| one.event.event_id != row.event.event_id);
                message_after.unnamed.push(row.clone());
            }
            let anew_facts = EntityImage::build(&KEY, fact_after.clone(), Some(&model), None);
            let anew_messages = MessageImage::build(&KEY, message_after.clone(), Some(&model), None);
            let now_facts = match &fact_image {
                None => EntityImage::build(&KEY, fact_after.clone(), Some(&model), None),
                Some(image) => image.refreshed(&KEY, &fact_changes(&fact_before, &fact_after)),
            };
            let now_messages = match &message_image {
                None => MessageImage::build(&KEY, message_after.clone(), Some(&model), None),
                Some(image) => image.refreshed(&KEY, &message_changes(&message_before, &message_after)),
            };
            prop_assert_eq!(now_facts.version, Some(n));
            let wanted = seen(&anew_facts, &anew_messages, &text);
            prop_assert_eq!(&seen(&now_facts, &now_messages, &text), &wanted);

            // Packed when there was less, and brought up to date by what came since.
            let chunks = image::pack(&KEY, &fact_before, Some(&model.id), 0).chunks().unwrap();
            let unnamed = unpack_unnamed(pack_unnamed(&fact_before.unnamed)).unwrap();
            let since = fact_changes(&fact_before, &fact_after);
            let unpacked = EntityImage::unpack(&KEY, chunks, unnamed, &since, Some(&model));
            let chunks = pack_messages(&message_before, Some(&model.id)).into_iter().map(|bytes| MessageChunk::decode(bytes).unwrap());
            let unnamed = unpack_unnamed(pack_unnamed(&message_before.unnamed)).unwrap();
            let since = message_changes(&message_before, &message_after);
            let said = MessageImage::unpack(&KEY, chunks.collect(), unnamed, &since, Some(&model));
            prop_assert_eq!(&seen(&unpacked, &said, &text), &wanted);

            // Packed now, and nothing came since.
            let chunks = image::pack(&KEY, &fact_after, Some(&model.id), 0).chunks().unwrap();
            let unnamed = unpack_unnamed(pack_unnamed(&fact_after.unnamed)).unwrap();
            let nothing = FactRows { facts: Vec::new(), mentions: Vec::new(), validity: Vec::new(), unnamed: Vec::new(), ..fact_after.clone() };
            let unpacked = EntityImage::unpack(&KEY, chunks, unnamed, &nothing, Some(&model));
            prop_assert_eq!(&seen(&unpacked, &now_messages, &text), &wanted);
            for fact in unpacked.facts() {
                prop_assert_eq!(unpacked.digest(&KEY, fact.fact_id()), anew_facts.digest(&KEY, fact.fact_id()));
            }

            // Read whole again by one that has taken the texts apart before.
            let again = EntityImage::build(&KEY, fact_after.clone(), Some(&model), Some(&now_facts));
            let said = MessageImage::build(&KEY, message_after.clone(), Some(&model), Some(&now_messages));
            prop_assert_eq!(&seen(&again, &said, &text), &wanted);
            (fact_image, message_image) = (Some(now_facts), Some(now_messages));
            (fact_before, message_before) = (fact_after, message_after);
        }
    }
}
