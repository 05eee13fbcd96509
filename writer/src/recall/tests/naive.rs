//! The recipe written down once more, literally and slowly: per item, over lists of words, with floating vectors.

use std::collections::BTreeMap;

use memori_embedding::Embedding;
use memori_schemas::{FactKind, Micros, Role};
use proptest::prelude::*;

use super::world::{KEY, fact_rows, fact_seed, message_rows, message_seed, model};
use crate::reads::rows::VectorRow;
use crate::recall::answer::answer;
use crate::recall::asks::{self, Asks};
use crate::recall::recipe::{self, Weights};
use crate::recall::{EntityImage, MessageImage, RecallQuery, analyse, text};

/// An item as the recipe sees it.
struct Item {
    id: String,
    terms: BTreeMap<u64, f64>,
    words: f64,
    group: Option<String>,
    person: bool,
    assistant: bool,
    name: Option<String>,
    vector: Option<Vec<f64>>,
    question: bool,
    dated: bool,
    shown: bool,
}

impl Item {
    fn of(id: String, content: &str, at: i64, vector: Option<&VectorRow>) -> Self {
        let analysed = analyse::text(content, at);
        let component = |row: &VectorRow, v: u8| f64::from(v.cast_signed()) * f64::from(row.scale);
        let vector = vector.map(|row| row.values.iter().map(|v| component(row, *v)).collect::<Vec<f64>>());
        Self {
            id,
            terms: analysed.terms.iter().map(|(term, count)| (*term, f64::from(*count))).collect(),
            words: f64::from(u32::try_from(text::words(content).len().max(1)).unwrap()),
            group: None,
            person: true,
            assistant: false,
            name: None,
            vector: vector.filter(|v| v.iter().any(|c| *c != 0.0)),
            question: asks::is_question(content),
            dated: asks::says_when(content, &text::words(content)),
            shown: true,
        }
    }
}

fn bm25(documents: &[(BTreeMap<u64, f64>, f64)], query: &text::QueryTerms) -> Vec<f64> {
    let count = |n: usize| f64::from(u32::try_from(n).unwrap());
    let mean = documents.iter().map(|d| d.1).sum::<f64>() / count(documents.len().max(1));
    let frequency = |document: &(BTreeMap<u64, f64>, f64), word: &text::QueryWord| {
        word.alternatives.iter().filter_map(|term| document.0.get(term)).copied().fold(0.0, f64::max)
    };
    let of = |document: &(BTreeMap<u64, f64>, f64)| {
        query
            .words
            .iter()
            .map(|word| {
                let having = count(documents.iter().filter(|d| frequency(d, word) > 0.0).count());
                let rarity = (1.0 + (count(documents.len()) - having + 0.5) / (having + 0.5)).ln();
                let f = frequency(document, word);
                let length = if mean > 0.0 { document.1 / mean } else { 1.0 };
                word.weight * rarity * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * length))
            })
            .sum()
    };
    documents.iter().map(of).collect()
}

fn best_of(scores: impl Iterator<Item = f64>) -> f64 {
    let best = scores.fold(0.0, f64::max);
    if best > 0.0 { best } else { 1.0 }
}

/// BM25 of documents that are several items each: per query word the items' counts are added up.
fn grouped(items: &[Item], query: &text::QueryTerms, groups: &[Vec<usize>], only_people: bool) -> Vec<f64> {
    let documents: Vec<(BTreeMap<u64, f64>, f64)> = groups
        .iter()
        .map(|group| {
            let mut terms = BTreeMap::new();
            let counted = || group.iter().map(|i| &items[*i]).filter(|item| item.person || !only_people);
            for (n, word) in (0_u64..).zip(&query.words) {
                let of = |item: &Item| word.alternatives.iter().filter_map(|t| item.terms.get(t)).copied().fold(0.0, f64::max);
                terms.insert(n, counted().map(of).sum::<f64>());
            }
            (terms, counted().map(|item| item.words).sum())
        })
        .collect();
    let mut numbered = text::QueryTerms::default();
    numbered.words =
        (0_u64..).zip(&query.words).map(|(n, word)| text::QueryWord { alternatives: vec![n], weight: word.weight }).collect();
    bm25(&documents, &numbered)
}

fn z_quarter(values: &[Option<f64>]) -> Vec<f64> {
    let there: Vec<f64> = values.iter().flatten().copied().collect();
    let n = f64::from(u32::try_from(there.len().max(1)).unwrap());
    let mean = there.iter().sum::<f64>() / n;
    let deviation = (there.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n).sqrt();
    let z = |value: &Option<f64>| value.filter(|_| deviation > 1e-4).map_or(0.0, |value| (value - mean) / deviation / 4.0);
    values.iter().map(z).collect()
}

/// The recipe. `items` stand in conversation order within their groups.
fn scores(
    items: &[Item],
    query: &str,
    languages: crate::recall::language::Languages,
    vector: Option<&[f64]>,
    w: &Weights,
    messages: bool,
) -> Vec<f64> {
    let terms = text::query(query, languages);
    let asks = Asks::of(query, &terms.spoken);
    let role_counts = !asks.assistant && !asks.summary;
    let documents: Vec<_> = items.iter().map(|item| (item.terms.clone(), item.words)).collect();
    let b = bm25(&documents, &terms);
    let best = best_of(b.iter().zip(items).filter(|(_, item)| item.shown).map(|(b, _)| *b));
    let b: Vec<f64> = b.iter().map(|b| (b / best).min(if messages { 1.0 } else { f64::MAX })).collect();
    let group_of = |i: usize| items[i].group.clone();
    let members = |i: usize| -> Vec<usize> {
        group_of(i).map_or(vec![i], |group| (0..items.len()).filter(|j| items[*j].group.as_ref() == Some(&group)).collect())
    };
    let step = |i: usize, by: i64| -> Option<usize> {
        let all = members(i);
        let at = i64::try_from(all.iter().position(|j| *j == i)?).unwrap() + by;
        // Facts are neighbours only where nothing stands between them.
        let other = *all.get(usize::try_from(at).ok()?)?;
        (messages || other.abs_diff(i) == usize::try_from(by.abs()).unwrap()).then_some(other)
    };
    let around = |i: usize, by: i64| [step(i, -by), step(i, by)].into_iter().flatten().collect::<Vec<usize>>();
    let sessions: Vec<Vec<usize>> = (0..items.len()).map(members).collect();
    let mut distinct = sessions.clone();
    distinct.sort();
    distinct.dedup();
    let sb_all = grouped(items, &terms, &distinct, false);
    let sb_best = best_of(sb_all.iter().copied());
    let sb = |i: usize| sb_all[distinct.iter().position(|session| *session == sessions[i]).unwrap()] / sb_best;
    let windows: Vec<Vec<usize>> = (0..items.len()).map(|i| (-6..=6).filter_map(|by| step(i, by)).collect()).collect();
    let win_all = grouped(items, &terms, &windows, true);
    let win_best = best_of(win_all.iter().copied());

    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let cosine = |v: &[f64]| {
        let (query, length) = (vector?, dot(v, v).sqrt());
        (length > 1e-9).then(|| dot(v, query) / length / dot(query, query).sqrt())
    };
    let d_raw: Vec<Option<f64>> = items.iter().map(|item| item.vector.as_deref().and_then(cosine)).collect();
    let an_raw: Vec<Option<f64>> = (0..items.len())
        .map(|i| {
            let mut sum = items[i].vector.clone().unwrap_or_else(|| vec![0.0; 3]);
            for other in around(i, 1) {
                for (s, v) in sum.iter_mut().zip(items[other].vector.iter().flatten()) {
                    *s += 0.5 * v;
                }
            }
            cosine(&sum)
        })
        .collect();
    let (d, d_an) = (z_quarter(&d_raw), z_quarter(&an_raw));
    let yes = |holds: bool| f64::from(u8::from(holds));
    (0..items.len())
        .map(|i| {
            let item = &items[i];
            let among_people = messages && {
                let all = &sessions[i];
                let voices: std::collections::BTreeSet<_> =
                    all.iter().filter(|j| items[**j].person).map(|j| &items[*j].name).collect();
                voices.len() > 1 && !all.iter().any(|j| items[*j].assistant)
            };
            let max = |values: Vec<f64>| values.into_iter().fold(0.0, f64::max);
            let named = item
                .name
                .as_deref()
                .is_some_and(|name| terms.names(&text::words(name).iter().map(|word| text::term(word)).collect::<Vec<_>>()));
            let beside: Vec<f64> =
                around(i, 1).into_iter().filter(|j| items[*j].vector.is_some() && d[*j] != 0.0).map(|j| d[j]).collect();
            w.bm25 * b[i]
                + w.role * yes(role_counts && item.person)
                + w.neighbour * max(around(i, 1).into_iter().filter(|j| items[*j].shown).map(|j| b[j]).collect())
                + w.person_two_away * max(around(i, 2).into_iter().filter(|j| items[*j].person).map(|j| b[j]).collect())
                + w.session * if messages { sb(i) } else { 0.0 }
                + w.window * if messages { win_all[i] / win_best } else { 0.0 }
                + w.speaker * yes(named)
                + w.length * (1.0 + item.words.min(60.0)).ln() / 4.0
                + w.vector * d[i]
                + w.vector_context * d_an[i]
                + w.vector_neighbour * beside.iter().copied().reduce(f64::max).unwrap_or(0.0)
                + w.time * yes(asks.when && item.dated && (among_people || !messages))
                + w.question * yes(among_people && item.question)
        })
        .collect()
}

fn query_vector() -> (Embedding, Vec<f64>) {
    let embedding = Embedding::quantise(&[0.3, -0.8, 0.5]);
    let floats = embedding.values.iter().map(|v| f64::from(*v)).collect();
    (embedding, floats)
}

fn close(ours: &BTreeMap<String, f64>, naive: &BTreeMap<String, f64>) -> Result<(), TestCaseError> {
    prop_assert_eq!(ours.keys().collect::<Vec<_>>(), naive.keys().collect::<Vec<_>>());
    for (id, score) in ours {
        // Single precision in the vectors' part.
        prop_assert!((score - naive[id]).abs() < 2e-4, "{}: {} and {}", id, score, naive[id]);
    }
    Ok(())
}

proptest! {
    #[test]
    fn facts_score_as_the_recipe_says(
        seeds in prop::collection::vec(fact_seed(), 1..14),
        query in super::world::words(),
        vectors in any::<bool>(),
    ) {
        let rows = fact_rows(1, &seeds);
        let image = EntityImage::build(&KEY, rows, Some(&model()), None);
        let (embedding, floats) = query_vector();
        let asked = RecallQuery {
            limit: 1_000, instruction_limit: 0, explain: true, include_superseded: true, ..RecallQuery::new("e", query.as_str())
        };
        let answer = answer(&image, None, &asked, vectors.then_some(&embedding), Micros(0));
        let ours: BTreeMap<String, f64> =
            answer.facts.iter().map(|fact| (fact.fact_id.clone(), fact.explained.as_ref().unwrap().score_raw)).collect();
        for fact in &answer.facts {
            let explained = fact.explained.as_ref().unwrap();
            prop_assert!((explained.score_parts.sum() - explained.score_raw).abs() <= 1e-6);
        }
        prop_assert!(answer.facts.windows(2).all(|pair| pair[0].score >= pair[1].score));

        let with_vectors = vectors && image.model().is_some();
        let items: Vec<Item> = seeds_of(&image, &fact_rows(1, &seeds));
        let weights = if with_vectors { &recipe::FACTS } else { &recipe::FACTS_BY_WORDS };
        let naive = scores(&items, &query, image.languages, with_vectors.then_some(&floats), weights, false);
        let asks = Asks::of(&query, &text::query(&query, image.languages).spoken);
        let digest = if asks.summary || asks.when { 1.0 } else { crate::recall::rank_facts::DIGEST };
        let by_rules: Vec<bool> = image.facts().map(|fact| fact.extractor() == crate::recall::digests::EXTRACTOR).collect();
        let own = naive.into_iter().zip(by_rules).map(|(score, by_rules)| if by_rules { score * digest } else { score });
        let naive = items.iter().zip(own).filter(|(item, _)| item.shown).map(|(item, score)| (item.id.clone(), score)).collect();
        close(&ours, &naive)?;
    }

    #[test]
    fn messages_score_as_the_recipe_says(
        seeds in prop::collection::vec(message_seed(), 1..24),
        query in super::world::words(),
        vectors in any::<bool>(),
    ) {
        let rows = message_rows(1, &seeds);
        let image = MessageImage::build(&KEY, rows.clone(), Some(&model()), None);
        let (embedding, floats) = query_vector();
        let asked =
            RecallQuery { limit: 1_000, explain: true, include_messages: true, ..RecallQuery::new("e", query.as_str()) };
        let facts = EntityImage::empty(1);
        let answer = answer(&facts, Some(&image), &asked, vectors.then_some(&embedding), Micros(0));
        let said = answer.messages.unwrap();
        let ours: BTreeMap<String, f64> =
            said.iter().map(|m| (m.event_id.clone(), m.explained.as_ref().unwrap().score_raw)).collect();

        let with_vectors = vectors && image.model().is_some();
        let mut rows = rows.messages;
        rows.sort_by(|a, b| (a.occurred_at_us, &a.event_id).cmp(&(b.occurred_at_us, &b.event_id)));
        let sessions: BTreeMap<String, Option<String>> = said.iter().map(|m| (m.event_id.clone(), m.session_id.clone())).collect();
        let items: Vec<Item> = rows.iter().map(|row| Item {
            group: sessions[&row.event_id].as_ref().map(|session| format!("{:?} {session}", row.process_id)),
            person: row.role == Role::User,
            assistant: row.role == Role::Assistant,
            name: row.name.clone(),
            ..Item::of(row.event_id.clone(), &row.content, row.occurred_at_us, row.vector.as_ref())
        }).collect();
        let weights = if with_vectors { &recipe::MESSAGES } else { &recipe::MESSAGES_BY_WORDS };
        let naive = scores(&items, &query, image.languages, with_vectors.then_some(&floats), weights, true);
        close(&ours, &items.iter().zip(naive).map(|(item, score)| (item.id.clone(), score)).collect())?;
    }
}

/// The facts in their order, as the recipe sees them.
fn seeds_of(image: &EntityImage, rows: &crate::reads::rows::FactRows) -> Vec<Item> {
    (0..image.len())
        .map(|number| {
            let fact = image.fact(number);
            // Digests are in no row.
            let row = rows.facts.iter().find(|row| row.fact_id == fact.fact_id());
            let session = fact.sources().next().and_then(|source| image.session_of(number, &source).map(str::to_owned));
            Item {
                group: session.filter(|_| matches!(fact.kind(), FactKind::Fact | FactKind::Attribute)),
                name: fact.subject().map(str::to_owned),
                shown: fact.kind() != FactKind::Instruction,
                ..Item::of(
                    fact.fact_id().to_string(),
                    fact.content(),
                    fact.occurred_at_us(),
                    row.and_then(|row| row.vector.as_ref()),
                )
            }
        })
        .collect()
}
