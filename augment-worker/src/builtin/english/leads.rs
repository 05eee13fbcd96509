//! What stands before a statement and says nothing: fillers, hedges, greetings, a remark before a question.

use super::super::junk;
use super::super::words::{Word, join};

pub(super) const FILLERS: &[&str] = &[
    "well",
    "so",
    "oh",
    "btw",
    "actually",
    "also",
    "yeah",
    "yep",
    "yes",
    "ok",
    "okay",
    "anyway",
    "anyways",
    "hmm",
    "ah",
    "fyi",
    "and",
    "but",
    "plus",
    "honestly",
    "frankly",
    "basically",
    "look",
    "listen",
    "right",
    "sure",
    "hey",
    "hi",
    "hello",
    "please",
    "besides",
    "moreover",
    "furthermore",
    "additionally",
    "however",
];
pub(super) const LEADS: &[&str] = &[
    "by the way",
    "to be honest",
    "just so you know",
    "for the record",
    "for your information",
    "as you know",
    "you know",
    "please note that",
    "note that",
    "please remember that",
    "remember that",
    "keep in mind that",
    "always remember that",
    "please keep in mind that",
    "please remember",
    "remember",
    "note",
    "fun fact",
    "i mean",
    "in fact",
    "to be fair",
    "you should know that",
    "i should mention that",
    "i want you to know that",
    "i forgot to mention that",
    "i forgot to mention",
    "guess what",
    "as i said",
    "like i said",
    "as mentioned",
    "it turns out that",
    "turns out",
    "tbh",
    "quick update",
    "update",
    "good news",
    "bad news",
    "speaking of which",
    "on top of that",
    "in addition",
];
pub(super) const HEDGES: &[&str] = &[
    "i think that",
    "i think",
    "i guess that",
    "i guess",
    "i believe that",
    "i believe",
    "i suppose",
    "i feel like",
    "maybe",
    "perhaps",
    "probably",
    "possibly",
    "i'd say",
    "i would say",
];

/// Whether a clause at the end of a question is what asks.
pub(super) fn asks_of(words: &[Word]) -> bool {
    junk::asks(words) || words.first().is_some_and(|w| w.is_any(&["what", "which", "who", "where", "when", "how", "why", "any"]))
}

/// The clauses in front of a question, if there are any.
pub(super) fn told_before_question(words: &[Word]) -> (Vec<Word>, bool) {
    let pause = (1..words.len()).rev().find(|&i| {
        let previous = &words[i - 1];
        let joined = words[i].is_any(&["so", "and", "but"]);
        (previous.ends_with_comma() || previous.after.contains(['—', '–']) || joined)
            && asks_of(&words[i + usize::from(joined)..])
    });
    let Some(at) = pause else { return (Vec::new(), false) };
    let mut told = words[..at].to_vec();
    if told.first().is_some_and(|w| w.is_any(&["since", "as", "because", "given", "if"])) {
        if told[0].lower == "if" {
            return (Vec::new(), false);
        }
        told.remove(0);
        if told.first().is_some_and(|w| w.lower == "that") {
            told.remove(0);
        }
    }
    if let Some(last) = told.last_mut() {
        last.after.clear();
    }
    (told, true)
}

pub(super) fn states_of_speaker(words: &[Word]) -> bool {
    words.first().is_some_and(|w| w.is_any(&["i", "my", "we", "our"])) && words.len() > 1
}

/// "Here is my code:" says nothing without what follows.
pub(super) fn leads_in(words: &[Word]) -> bool {
    let opens = words[0].is_any(&["here", "here's", "heres", "below", "see", "this", "these"]);
    opens && words.len() <= 8 && words.last().is_some_and(|w| w.after.ends_with(':'))
}

/// Without "By the way," and the like; a greeting in front goes too.
pub(super) fn without_lead(mut words: Vec<Word>) -> Vec<Word> {
    for _ in 0..6 {
        let comma = words.iter().take(6).position(Word::ends_with_comma);
        if let Some(at) = comma.filter(|at| at + 1 < words.len())
            && junk::is_small_talk(&join(&words[..=at]))
            && words[at].lower.chars().any(char::is_alphabetic)
        {
            words.drain(..=at);
            continue;
        }
        let lead = LEADS.iter().filter_map(|lead| starts_with(&words, lead)).max().unwrap_or(0);
        let bare_noun =
            lead == 1 && !words[0].ends_with_comma() && !words.get(1).is_some_and(|w| w.is_any(&["that", "i", "my", "we"]));
        if lead > 0 && lead < words.len() && !bare_noun {
            words.drain(..lead);
            continue;
        }
        let filler = words.len() > 2
            && words[0].is_any(FILLERS)
            && (words[0].ends_with_comma()
                || words[1].is_any(&["i", "my", "we", "he", "she", "it", "the", "they"])
                || words[0].is_any(&["and", "but", "also", "btw", "fyi"]));
        if !filler {
            break;
        }
        words.remove(0);
    }
    words
}

/// How many words of `words` are the phrase at its start.
pub(super) fn starts_with(words: &[Word], phrase: &str) -> Option<usize> {
    let parts: Vec<&str> = phrase.split(' ').collect();
    let hit = words.len() > parts.len() && parts.iter().zip(words).all(|(p, w)| w.lower == *p);
    hit.then_some(parts.len())
}
