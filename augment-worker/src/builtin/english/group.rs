//! Where a clause's verb group ends and what its object is.

use super::verbs;
use crate::builtin::words::Word;

pub(super) const PREPOSITIONS: &[&str] = &[
    "in", "at", "for", "with", "to", "on", "from", "as", "about", "of", "by", "into", "near", "against", "after", "out", "up",
    "towards", "through", "under", "over", "like",
];
pub(super) const TAKES_INFINITIVE: &[&str] = &[
    "want", "wants", "wanted", "need", "needs", "needed", "like", "love", "hate", "prefer", "plan", "plans", "planned",
    "planning", "hope", "hopes", "try", "tried", "trying", "have", "had", "used", "going", "decided", "started", "able",
];

/// Where the verb group that begins at `from` ends, its preposition included.
pub(super) fn verb_group_end(words: &[Word], from: usize) -> usize {
    let mut at = from;
    let skippable = |w: &Word| verbs::is_adverb(&w.lower) || w.is_any(&["not", "no", "longer"]);
    let mut be = false;
    while let Some(word) = words.get(at) {
        if verbs::is_auxiliary(&word.lower) && !(word.lower == "need" && at > from) {
            be |= word.is_any(&["am", "is", "are", "was", "were", "be", "been", "isn't", "aren't", "wasn't"]);
            at += 1;
        } else if skippable(word)
            && words.len() > at + 1
            && !(word.lower == "no" && words.get(at + 1).is_some_and(|w| w.lower != "longer"))
        {
            at += 1;
        } else {
            break;
        }
        if !words[at - 1].after.is_empty() && !verbs::is_adverb(&words[at - 1].lower) {
            return at;
        }
    }
    let group: Vec<&str> = words[from..at].iter().map(|w| w.lower.as_str()).collect();
    let full_verb_said = group.last().is_some_and(|w| matches!(*w, "have" | "has" | "had" | "do" | "does" | "did"))
        && !words.get(at).is_some_and(|w| {
            verbs::is_past(&w.lower) || w.is_any(&["gone", "known", "seen", "taken", "done", "written", "eaten", "to"])
        });
    if be {
        let participle = words.get(at).is_some_and(|w| {
            (w.lower.ends_with("ing") && w.lower.len() > 4)
                || (verbs::is_past(&w.lower)
                    && w.lower.ends_with("ed")
                    && words.get(at + 1).is_some_and(|n| n.is_any(PREPOSITIONS)))
                || w.is_any(&[
                    "born",
                    "allergic",
                    "afraid",
                    "interested",
                    "scared",
                    "good",
                    "bad",
                    "able",
                    "fluent",
                    "proud",
                    "tired",
                ])
        });
        if participle {
            at += 1;
        }
    } else if !full_verb_said && at < words.len() {
        at += 1;
    }
    if at > from
        && words[at - 1].is_any(TAKES_INFINITIVE)
        && words[at - 1].after.is_empty()
        && words.get(at).is_some_and(|w| w.lower == "to")
        && words.len() > at + 1
    {
        at += 2;
    }
    if at > from
        && at < words.len()
        && words[at - 1].after.is_empty()
        && words[at].is_any(PREPOSITIONS)
        && !words[at].is_date
        && words.len() > at + 1
    {
        at += 1;
    }
    at.min(words.len())
}

/// The object's words: what is behind the verb group, without a date at the end.
pub(super) fn object_of(words: &[Word], from: usize) -> &[Word] {
    let mut end = words.len();
    while end > from
        && (words[end - 1].is_date || (end < words.len() && words[end - 1].is_any(&["since", "until", "by", "on", "in"])))
    {
        end -= 1;
    }
    while end > from && words[end - 1].is_any(&["anymore", "now", "too", "lately", "though", "currently", "nowadays", "again"]) {
        end -= 1;
    }
    // "since 2019" is a date that was said outright.
    if end >= from + 2
        && words[end - 2].is_any(&["since", "in", "until"])
        && words[end - 1].lower.len() == 4
        && words[end - 1].lower.parse::<u16>().is_ok()
        && end - 2 > from
    {
        end -= 2;
    }
    &words[from..end]
}
