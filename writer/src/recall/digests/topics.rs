//! What recurs in an entity's facts: who and what they are about, by named subject, by object and by word.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use memori_schemas::{FactId, FactKind};

use super::DigestFact;
use super::render::Entry;
use crate::recall::language::{self, Language};
use crate::recall::text;

/// Words of one fact that may become topics.
const MAX_WORDS: usize = 12;
/// Words of an object that are a topic together.
const MAX_PHRASE_WORDS: usize = 4;
/// Facts that a topic's name is looked for in.
const NAMED_AFTER: usize = 64;

/// The words of texts, and the language that they are in, as far as they have been asked for: a text is taken apart once, however many
/// digests look at it.
#[derive(Default)]
pub(super) struct Texts<'a>(RefCell<HashMap<&'a str, Rc<Text>>>);

/// A text, taken apart.
pub(super) struct Text {
    pub(super) words: Vec<String>,
    pub(super) language: Language,
}

/// Texts that are kept at one time.
const MOST_TEXTS: usize = 8_192;

impl<'a> Texts<'a> {
    pub(super) fn of(&self, text: &'a str) -> Rc<Text> {
        if let Some(known) = self.0.borrow().get(text) {
            return known.clone();
        }
        let words = text::words(text);
        let made = Rc::new(Text { language: language::guess(&words), words });
        let mut known = self.0.borrow_mut();
        if known.len() >= MOST_TEXTS {
            known.clear();
        }
        known.insert(text, made.clone());
        made
    }
}

/// What facts have in common. The order is by how much it says: a subject before words, more words before fewer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Topic {
    is_subject: bool,
    words: usize,
    key: Reverse<Arc<str>>,
}

impl Topic {
    fn of(key: Arc<str>) -> Self {
        let is_subject = key.starts_with("subject:");
        Self { is_subject, words: key.split(' ').count(), key: Reverse(key) }
    }

    /// What its id is made of.
    pub(super) fn key(&self) -> String {
        self.key.0.to_string()
    }

    /// As it is said most often in these facts.
    pub(super) fn name<'a>(&self, facts: &[DigestFact<'a>], entries: &[Entry], texts: &Texts<'a>) -> String {
        let facts = entries.iter().take(NAMED_AFTER).map(|entry| &facts[entry.fact as usize]);
        let mut said: BTreeMap<String, usize> = BTreeMap::new();
        if self.is_subject {
            facts.filter_map(|fact| fact.subject).for_each(|name| *said.entry(name.trim().to_owned()).or_default() += 1);
            return most(&said);
        }
        let stems: Vec<&str> = self.key.0.trim_start_matches("words:").split(' ').collect();
        let mut forms: Vec<BTreeMap<String, usize>> = vec![BTreeMap::new(); stems.len()];
        for fact in facts {
            for word in words_of(fact, texts) {
                if let Some(place) = stems.iter().position(|stem| *stem == word.stem) {
                    *forms[place].entry(word.form).or_default() += 1;
                }
            }
        }
        let names: Vec<String> = forms.iter().map(most).collect();
        names.join(" ")
    }
}

/// The most frequent, of equally frequent ones the first.
fn most(said: &BTreeMap<String, usize>) -> String {
    said.iter().max_by_key(|(form, count)| (**count, Reverse(*form))).map(|(form, _)| form.clone()).unwrap_or_default()
}

/// The topics of each fact, as numbers of names; a fact that has not changed is not taken apart again.
#[derive(Clone, Debug, Default)]
pub(super) struct Memo {
    of_fact: HashMap<FactId, (u64, Box<[u32]>)>,
    names: Vec<Arc<str>>,
}

impl Memo {
    pub(super) fn of<'a>(facts: &[DigestFact<'a>], previous: Option<&Self>, texts: &Texts<'a>) -> Self {
        let mut numbers: HashMap<Arc<str>, u32> = HashMap::new();
        let mut names: Vec<Arc<str>> = Vec::new();
        let mut number = |name: Arc<str>| {
            *numbers.entry(name).or_insert_with_key(|name| {
                names.push(name.clone());
                u32::try_from(names.len() - 1).expect("an entity has fewer than 2^32 topics")
            })
        };
        // A name's number in the previous run is looked up once.
        let mut renumbered: Vec<Option<u32>> = vec![None; previous.map_or(0, |previous| previous.names.len())];
        let mut of_fact = HashMap::with_capacity(facts.len());
        for fact in facts.iter().filter(|fact| fact.kind == FactKind::Fact) {
            let mut hasher = DefaultHasher::new();
            (fact.content, fact.subject, fact.predicate, fact.object).hash(&mut hasher);
            let fingerprint = hasher.finish();
            let known = previous.and_then(|previous| {
                let (of, topics) = previous.of_fact.get(&fact.fact_id)?;
                (*of == fingerprint).then_some((previous, topics))
            });
            let topics: Box<[u32]> = match known {
                Some((previous, topics)) => topics
                    .iter()
                    .map(|old| *renumbered[*old as usize].get_or_insert_with(|| number(previous.names[*old as usize].clone())))
                    .collect(),
                None => keys_of(fact, texts).into_iter().map(|key| number(key.into())).collect(),
            };
            of_fact.insert(fact.fact_id, (fingerprint, topics));
        }
        Self { of_fact, names }
    }

    /// Each topic that may recur, with its facts.
    pub(super) fn topics(&self, facts: &[DigestFact<'_>]) -> Vec<(Topic, Vec<u32>)> {
        let mut mentions = vec![0_usize; self.names.len()];
        let topics_of = |fact: &DigestFact<'_>| self.of_fact.get(&fact.fact_id).map_or(&[][..], |(_, topics)| topics);
        for fact in facts.iter().filter(|fact| fact.kind == FactKind::Fact) {
            topics_of(fact).iter().for_each(|topic| mentions[*topic as usize] += fact.mentions.len());
        }
        let mut members: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (place, fact) in (0..).zip(facts).filter(|(_, fact)| fact.kind == FactKind::Fact) {
            for topic in topics_of(fact).iter().filter(|topic| mentions[**topic as usize] >= super::LEAST_ENTRIES) {
                members.entry(*topic).or_default().push(place);
            }
        }
        members.into_iter().map(|(topic, facts)| (Topic::of(self.names[topic as usize].clone()), facts)).collect()
    }

    pub(super) fn bytes(&self) -> usize {
        let names: usize = self.names.iter().map(|name| name.len() + 32).sum();
        names + self.of_fact.values().map(|(_, topics)| 48 + topics.len() * 4).sum::<usize>()
    }
}

/// The keys of a fact's topics, sorted.
fn keys_of<'a>(fact: &DigestFact<'a>, texts: &Texts<'a>) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    if let Some(subject) = fact.subject {
        let words = &texts.of(subject).words;
        // Of the one who speaks everything is known; that is no topic.
        if !matches!(words.as_slice(), [only] if only == "user") && !words.is_empty() {
            keys.push(format!("subject:{}", words.join(" ")));
        }
    }
    let words = words_of(fact, texts);
    if fact.object.is_some() && (2..=MAX_PHRASE_WORDS).contains(&words.len()) {
        let stems: Vec<&str> = words.iter().map(|word| word.stem.as_str()).collect();
        keys.push(format!("words:{}", stems.join(" ")));
    }
    keys.extend(words.into_iter().map(|word| format!("words:{}", word.stem)));
    keys.sort_unstable();
    keys.dedup();
    keys
}

struct Word {
    form: String,
    stem: String,
}

/// The words of a fact that say what it is about: of its object where that is known, else of the whole statement.
fn words_of<'a>(fact: &DigestFact<'a>, texts: &Texts<'a>) -> Vec<Word> {
    let language = texts.of(fact.content).language;
    let said = texts.of(fact.object.unwrap_or(fact.content));
    let beside = [fact.subject, fact.predicate].map(|part| part.map(|text| texts.of(text)));
    let is_beside = |word: &String| beside.iter().flatten().any(|text| text.words.contains(word));
    let mut words: Vec<Word> = Vec::new();
    for form in said.words.iter().filter(|word| says_something(word, language) && !is_beside(word)) {
        let stem = language::of_word(form, language).map_or_else(|| form.clone(), |of| of.stem(form));
        if words.len() < MAX_WORDS && words.iter().all(|word| word.stem != stem) {
            words.push(Word { form: form.clone(), stem });
        }
    }
    words
}

/// Whether a word may be a topic: no small word, number or date, and long enough for its script.
fn says_something(word: &str, language: Language) -> bool {
    let letters = word.chars().filter(|c| c.is_alphabetic()).count();
    let hiragana = |c: char| matches!(c, '\u{3041}'..='\u{309F}');
    let dense = |c: char| matches!(c, '\u{2E80}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7AF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}');
    let least = if word.chars().any(dense) { 2 } else { 3 };
    letters >= least
        && !word.chars().all(hiragana)
        && word != "user"
        && !language::of_word(word, language).unwrap_or(language).is_stop_word(word)
        && !Language::English.is_stop_word(word)
}
