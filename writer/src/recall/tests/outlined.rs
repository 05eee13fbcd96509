//! What an outline chooses, told by the chunks that hold it, is the answer of the image of the same packs: to the last bit.

use memori_embedding::Embedding;
use memori_schemas::{FactKind, Micros};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

use super::world::{FactSeed, KEY, fact_rows, fact_seed, model};
use crate::reads::rows::FactRows;
use crate::recall::answer::{answer, chosen, told};
use crate::recall::image::{self, FactPacks};
use crate::recall::outline::Outline;
use crate::recall::packed::{OutlineChunk, VectorChunk};
use crate::recall::rank_facts::Facts as _;
use crate::recall::{EntityImage, Model, RecallQuery};

/// Rows in which every session has a name.
fn named(seeds: &[FactSeed]) -> FactRows {
    let mut rows = fact_rows(1, seeds);
    rows.unnamed.clear();
    for mention in rows.mentions.iter_mut().filter(|mention| mention.session_id.is_none()) {
        mention.session_id = Some("s1".to_owned());
    }
    rows
}

fn outline(packs: &FactPacks, model: Option<&Model>) -> Option<Outline> {
    let chunks = packs.outline.iter().map(|bytes| OutlineChunk::decode(bytes.clone()).unwrap()).collect();
    let vectors = packs.vectors.iter().map(|bytes| VectorChunk::decode(bytes.clone()).unwrap()).collect();
    Outline::of(chunks, vectors, model).unwrap()
}

fn queries(text: &str) -> Vec<RecallQuery> {
    let all = RecallQuery { limit: 1_000, instruction_limit: 1_000, explain: true, ..RecallQuery::new("e", text) };
    vec![
        RecallQuery { include_superseded: true, ..all.clone() },
        RecallQuery { limit: 2, instruction_limit: 1, ..all.clone() },
        RecallQuery { token_budget: Some(12), ..all.clone() },
        RecallQuery { min_score: Some(0.3), kinds: vec![FactKind::Fact, FactKind::Timeline], ..all.clone() },
        RecallQuery { instruction_limit: 0, ..all.clone() },
        all,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn an_outline_chooses_what_its_image_answers(
        seeds in prop::collection::vec(fact_seed(), 1..40),
        text in super::world::words(),
        now in 0..80_000_000_000_i64,
    ) {
        let (rows, model, now) = (named(&seeds), model(), Micros(now));
        let vector = Embedding::quantise(&[0.3, -0.8, 0.5]);
        for of_packs in [None, Some(&model)] {
            let packs = image::pack(&KEY, &rows, of_packs.map(|model| &*model.id), 0);
            let has_vectors = of_packs.is_some() && rows.facts.iter().any(|fact| fact.vector.is_some());
            let of_facts = of_packs.filter(|_| has_vectors);
            let Some(outline) = outline(&packs, of_facts) else { return Err(TestCaseError::fail("there is none")) };
            let chunks = packs.chunks().unwrap();
            // Whatever read all of it: here from the rows.
            let image = EntityImage::build(&KEY, rows.clone(), of_packs, None);
            prop_assert_eq!(outline.len(), image.len());
            prop_assert_eq!(outline.model().is_some(), image.model().is_some());
            for query in queries(&text) {
                for vector in [None, Some(&vector)] {
                    let best = chosen(&outline, &query, vector, now);
                    let told = told(best, |number| outline.fact_id(number), &chunks, rows.generation, &query, now).unwrap();
                    let wanted = answer(&image, None, &query, vector, now);
                    prop_assert_eq!(serde_json::to_string(&told).unwrap(), serde_json::to_string(&wanted).unwrap());
                }
            }
            for number in 0..outline.len() {
                let is_digest = image.fact(number).extractor() == crate::recall::digests::EXTRACTOR;
                prop_assert_eq!(outline.digest_chunk(number).is_some(), is_digest);
            }
        }
    }
}

#[test]
fn an_outline_is_made_where_it_can_tell_everything() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seeds = prop::collection::vec(fact_seed(), 30).new_tree(&mut runner).unwrap().current();
    seeds.sort_by_key(|seed| seed.n);
    let rows = named(&seeds);
    let count = rows.facts.len();
    assert!(!image::pack(&KEY, &rows, None, count).outline.is_empty());
    assert!(image::pack(&KEY, &rows, None, count + 1).outline.is_empty(), "too few");
    assert!(image::pack(&KEY, &fact_rows(1, &seeds), None, 0).outline.is_empty(), "sessions without names");
    let packs = image::pack(&KEY, &rows, Some("tiny@1"), 0);
    assert!(outline(&packs, Some(&model())).is_some());
    let other = Model { dimensions: 4, ..model() };
    assert!(outline(&packs, Some(&other)).is_none(), "vectors of another length");
}
