//! Where a sentence holds several statements: "I like tea and hate coffee" is two, "I like salt and pepper" is one.

use super::rewrite::is_i;
use super::verbs::{self, is_adverb, is_auxiliary, is_finite, is_past};
use crate::builtin::words::Word;

/// A clause, and the subject that it borrows from the one before it.
pub(crate) struct Clause {
    pub(crate) words: Vec<Word>,
    /// "I", where the clause said none of its own.
    pub(crate) shares_subject: bool,
}

const SUBJECTS: &[&str] =
    &["i", "we", "he", "she", "it", "they", "my", "our", "his", "her", "their", "everyone", "everybody", "nobody", "someone"];
const CONJUNCTIONS: &[&str] = &["and", "but", "so", "while", "whereas", "although", "though", "yet"];
const SUBORDINATORS: &[&str] = &[
    "when", "if", "since", "as", "because", "after", "before", "while", "although", "though", "once", "unless", "whenever",
    "until",
];

/// Verbs that begin a statement of their own behind "and", without a subject.
const SHARED: &[&str] = &[
    "hate", "love", "like", "prefer", "enjoy", "live", "work", "have", "own", "speak", "need", "want", "am", "don't", "can't",
    "drink", "eat", "study", "play", "use", "dislike", "adore", "drive", "teach", "collect", "won't",
];
/// As [`SHARED`], where what follows shows that they are verbs there and no nouns.
const SHARED_BEFORE: &[&str] = &[
    "deploy",
    "develop",
    "build",
    "run",
    "manage",
    "write",
    "cook",
    "sing",
    "swim",
    "read",
    "report",
    "save",
    "earn",
    "commute",
    "volunteer",
    "travel",
    "wear",
    "take",
    "help",
    "sleep",
    "sell",
    "rent",
    "pay",
    "maintain",
    "ride",
    "train",
    "go",
    "spend",
    "visit",
    "walk",
    "watch",
    "grow",
    "paint",
    "bake",
    "make",
    "keep",
    "sit",
    "get",
    "start",
    "finish",
];
const SHOW_A_VERB: &[&str] = &[
    "a",
    "an",
    "the",
    "my",
    "our",
    "to",
    "on",
    "in",
    "at",
    "for",
    "with",
    "as",
    "about",
    "from",
    "two",
    "three",
    "four",
    "five",
    "every",
    "everything",
    "by",
    "up",
    "home",
    "it",
    "them",
];

/// Cuts a sentence into clauses; a sentence of one clause is itself.
pub(crate) fn split(words: &[Word]) -> Vec<Clause> {
    let mut out = Vec::new();
    let mut start = 0;
    let mut shares = false;
    let mut quoted = false;
    let mut at = 0;
    let subordinate = words.first().is_some_and(|w| w.is_any(SUBORDINATORS));
    while at < words.len() {
        quoted ^= words[at].before.contains(['"', '“']);
        if !quoted
            && at > start
            && let Some((skip, shared)) = boundary(words, start, at, subordinate && start == 0)
        {
            out.push(clause(&words[start..at], shares));
            start = at + skip;
            shares = shared;
            at = start;
            continue;
        }
        quoted ^= quoted && words[at].after.contains(['"', '”']);
        at += 1;
    }
    out.push(clause(&words[start..], shares));
    out
}

fn clause(words: &[Word], shares_subject: bool) -> Clause {
    let mut words = words.to_vec();
    if let Some(last) = words.last_mut() {
        let kept = last.after.trim_end_matches([',', ';', ':', ' ', '-', '—', '–']).len();
        last.after.truncate(kept);
    }
    Clause { words, shares_subject }
}

/// Whether a clause begins at `at`: how many words of joining to leave out, and whether it shares the subject "I".
fn boundary(words: &[Word], start: usize, at: usize, subordinate: bool) -> Option<(usize, bool)> {
    let previous = &words[at - 1];
    let left = &words[start..at];
    if !has_verb(left) {
        return None;
    }
    let joins = words[at].is_any(CONJUNCTIONS);
    let rest = at + usize::from(joins);
    let pause = previous.after.contains([',', ';', '—', '–']);
    if !joins && !pause {
        return None;
    }
    // "When I was ten, I moved": the comma belongs to the clause.
    if subordinate && !joins {
        return None;
    }
    let skip_adverbs = (rest..words.len()).find(|&i| !is_adverb(&words[i].lower)).unwrap_or(words.len());
    let subject = words.get(skip_adverbs)?;
    if subject.is_any(SUBJECTS) && (subject.lower != "i" || is_i(words, skip_adverbs)) {
        let verb_near = words[skip_adverbs + 1..].iter().take(5).any(|w| is_finite(&w.lower))
            || matches!(subject.lower.as_str(), "i" | "we" | "they");
        let list_of_objects = matches!(subject.lower.as_str(), "my" | "our" | "his" | "her" | "their")
            && !words[skip_adverbs + 1..].iter().take(5).any(|w| is_finite(&w.lower));
        // "… that he" and "my wife and I" go on.
        if verb_near && !list_of_objects && words.len() > skip_adverbs + 1 {
            return Some((rest - at, false));
        }
        return None;
    }
    // "…, but there is a garden"
    let there = subject.lower == "there's"
        || subject.lower == "there" && words.get(skip_adverbs + 1).is_some_and(|w| w.is_any(&["is", "are", "was", "were"]));
    if joins && there {
        return Some((rest - at, false));
    }
    // "the" with a verb soon; a name or another noun only behind a pause as well.
    if joins && skip_adverbs == rest && words[at].is_any(&["and", "but", "while", "whereas"]) {
        let verb_soon = (rest + 1..words.len().min(rest + 5)).any(|i| {
            is_finite(&words[i].lower) && !is_past(&words[i].lower) && !words[i - 1].is_any(&["who", "that", "which", "to"])
        });
        let named = subject.is_capitalised() && words.get(rest + 1).is_some_and(|w| w.is_any(&["is", "are", "has", "was"]));
        let own_subject =
            subject.lower == "the" || named || (pause && !is_finite(&subject.lower) && !subject.is_any(SUBORDINATORS));
        if own_subject && verb_soon && left.iter().any(|w| is_finite(&w.lower)) {
            return Some((rest - at, false));
        }
    }
    if !joins || !words[at].is_any(&["and", "but"]) || !left.iter().enumerate().any(|(i, _)| is_i(left, i)) {
        return None;
    }
    let word = subject.lower.as_str();
    let next = words.get(skip_adverbs + 1);
    let infinitive = left.windows(2).any(|w| w[0].is_any(super::TAKES_INFINITIVE) && w[1].lower == "to");
    let binds = infinitive
        || left
            .iter()
            .any(|w| w.is_any(&["can", "could", "will", "would", "should", "may", "might", "must", "who", "that", "which"]));
    let stance = matches!(word, "hate" | "love" | "like" | "prefer" | "dislike" | "am" | "don't" | "can't" | "won't" | "have");
    if SHARED.contains(&word) && next.is_some() && subject.after.is_empty() && (stance || !binds) {
        let fits = match word {
            "work" => next.is_some_and(|w| w.is_any(&["at", "as", "for", "in", "with", "on", "from"])),
            "live" => next.is_some_and(|w| w.is_any(&["in", "at", "with", "near", "on", "alone", "by"])),
            _ => true,
        };
        return fits.then_some((rest - at, true));
    }
    if SHARED_BEFORE.contains(&word)
        && subject.after.is_empty()
        && !binds
        && next.is_some_and(|w| w.is_any(SHOW_A_VERB) || w.lower.starts_with(|c: char| c.is_ascii_digit()))
    {
        return Some((rest - at, true));
    }
    let left_verb = main_verb(left);
    let left_past = left_verb.is_some_and(|v| is_past(v) && !is_auxiliary(v));
    (left_past && is_past(word) && !binds && next.is_some() && subject.after.is_empty()).then_some((rest - at, true))
}

/// The first verb behind "I".
fn main_verb(words: &[Word]) -> Option<&str> {
    let i = (0..words.len()).find(|&i| is_i(words, i))?;
    words[i + 1..].iter().find(|w| !is_adverb(&w.lower)).map(|w| w.lower.as_str())
}

/// Whether something is said already: a finite verb, or "I" with anything behind it.
fn has_verb(words: &[Word]) -> bool {
    words.iter().skip(1).any(|w| is_finite(&w.lower))
        || (0..words.len()).any(|i| is_i(words, i) && words.get(i + 1).is_some_and(|w| !w.is_any(&["and", "or"])))
        || words.first().is_some_and(|w| verbs::is_past(&w.lower))
}

const PAIRS: &[&str] = &[
    "fish and chips",
    "mac and cheese",
    "salt and pepper",
    "rock and roll",
    "bread and butter",
    "black and white",
    "peanut butter and jelly",
    "arts and crafts",
    "ham and cheese",
    "tom and jerry",
    "gin and tonic",
    "bed and breakfast",
    "drum and bass",
    "wine and cheese",
];

/// The items of an object that is clearly a list: three or more short ones, or two single words. Else none.
pub(crate) fn list_items(object: &[Word], names_split: bool) -> Option<Vec<Vec<Word>>> {
    let text = crate::builtin::words::phrase(object).to_lowercase();
    if PAIRS.iter().any(|pair| text.contains(pair)) || object.len() > 24 {
        return None;
    }
    let mut items: Vec<Vec<Word>> = vec![Vec::new()];
    for word in object {
        if word.lower == "and" || word.lower == "&" {
            if items.last().is_some_and(|item| !item.is_empty()) {
                items.push(Vec::new());
            }
            continue;
        }
        if word.is_any(&[
            "or", "but", "not", "than", "to", "with", "for", "in", "at", "because", "when", "if", "that", "who", "which", "from",
            "of", "about", "on", "as",
        ]) || is_finite(&word.lower) && !word.lower.ends_with("ed")
        {
            return None;
        }
        let ends = word.after.contains(',');
        let mut bare = word.clone();
        if ends {
            bare.after.clear();
        }
        items.last_mut()?.push(bare);
        if ends {
            items.push(Vec::new());
        }
    }
    items.retain(|item| !item.is_empty());
    let longest = items.iter().map(Vec::len).max().unwrap_or(0);
    let has_and = object.iter().any(|w| w.lower == "and" || w.lower == "&");
    let proper = items.iter().flatten().all(Word::is_capitalised);
    let fits = match items.len() {
        0 | 1 => false,
        2 => has_and && longest == 1 && (names_split || !proper),
        _ => has_and && longest <= 3,
    };
    fits.then_some(items)
}

#[cfg(test)]
mod tests {
    use super::{list_items, split};
    use crate::builtin::english::rewrite::expand;
    use crate::builtin::words::{join, phrase, split as words};

    fn clauses(text: &str) -> Vec<String> {
        split(&expand(words(text))).iter().map(|c| phrase(&c.words)).collect()
    }

    #[test]
    fn what_is_two_and_what_is_one() {
        assert_eq!(clauses("I like tea and hate coffee."), ["I like tea", "hate coffee"]);
        assert_eq!(clauses("I live in Berlin, and I work at Acme"), ["I live in Berlin", "I work at Acme"]);
        assert_eq!(clauses("I moved to Rome and started a new job"), ["I moved to Rome", "started a new job"]);
        assert_eq!(clauses("My sister is a doctor and she lives in Rome"), ["My sister is a doctor", "she lives in Rome"]);
        for one in [
            "I have two dogs, Rex and Max",
            "My wife and I live in Rome",
            "When I was ten, I lived in Rome",
            "I want to live and work in Rome",
            "I like rock and roll",
            "I know that he said \"I like tea and I hate rain\"",
        ] {
            assert_eq!(clauses(one), [one]);
        }
    }

    #[test]
    fn lists() {
        let items = |text: &str| list_items(&words(text), false).map(|items| items.iter().map(|i| join(i)).collect::<Vec<_>>());
        assert_eq!(items("tea, green coffee and C#").unwrap(), ["tea", "green coffee", "C#"]);
        assert_eq!(items("tea and coffee").unwrap(), ["tea", "coffee"]);
        assert_eq!(items("fish and chips"), None);
        assert_eq!(items("Tom and Anna"), None);
        assert_eq!(items("the way of peace and love"), None);
    }
}
