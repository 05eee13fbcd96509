//! From the speaker's mouth to a statement that stands alone: "I love my dog" → "Alice loves their dog".

use super::verbs;
use crate::builtin::Speaker;
use crate::builtin::words::{Word, lower};

/// The possessive of a name.
pub(crate) fn possessive(name: &str) -> String {
    format!("{name}'s")
}

/// "I'm" and "she's" become two words, so that a rule meets one form only. "im" and a small "i" are understood.
pub(crate) fn expand(words: Vec<Word>) -> Vec<Word> {
    let mut out = Vec::with_capacity(words.len() + 2);
    let mut rest = words.into_iter().peekable();
    while let Some(word) = rest.next() {
        if matches!(word.lower.as_str(), "he's" | "she's" | "it's" | "there's")
            && let Some(next) = rest.peek()
            && word.after.is_empty()
        {
            let done = next.is_any(&["been", "got", "gone", "had", "taken", "lived", "worked", "become", "never", "always"]);
            let pronoun: String = word.core.chars().take_while(|c| c.is_alphabetic()).collect();
            out.push(Word { before: word.before, ..Word::bare(&pronoun) });
            out.push(Word::bare(if done { "has" } else { "is" }));
            continue;
        }
        let verb = match word.lower.as_str() {
            "i'm" | "im" => Some("am"),
            "i've" | "ive" => Some("have"),
            "i'll" => Some("will"),
            "i'd" => Some("'d"),
            _ => None,
        };
        match verb {
            Some(verb) => {
                let mut pronoun = Word::bare("I");
                pronoun.before = word.before;
                let mut verb = Word::bare(verb);
                verb.after = word.after;
                out.extend([pronoun, verb]);
            }
            None => out.push(word),
        }
    }
    // "'d better", "'d been" are "had", otherwise "would".
    for i in 0..out.len() {
        if out[i].lower == "'d" {
            let next = out.get(i + 1).map_or("", |w| w.lower.as_str());
            let meant = if next == "better" || next == "been" || verbs::is_past(next) { "had" } else { "would" };
            meant.clone_into(&mut out[i].core);
            meant.clone_into(&mut out[i].lower);
        }
    }
    out
}

/// Whether the word is the pronoun, and not a Roman numeral ("World War I").
pub(crate) fn is_i(words: &[Word], at: usize) -> bool {
    let Some(word) = words.get(at).filter(|w| w.lower == "i") else { return false };
    let numeral = word.core == "I"
        && at > 1
        && words[at - 1].is_capitalised()
        && words[at - 1].after.is_empty()
        && words
            .get(at + 1)
            .is_none_or(|next| !verbs::is_auxiliary(&next.lower) && !verbs::FIRST_PERSON.contains(&next.lower.as_str()));
    !numeral
}

/// Whether the clause speaks of the speaker.
pub(crate) fn is_first_person(words: &[Word]) -> bool {
    (0..words.len()).any(|i| is_i(words, i) || words[i].is_any(&["me", "my", "mine", "myself", "we", "us", "our", "ours"]))
}

/// Puts the speaker's name for the pronouns and the third person for the verbs. Word for word: places stay.
pub(crate) fn to_third_person(words: &mut [Word], speaker: &Speaker) {
    let mut named = false;
    let mut quoted = false;
    for at in 0..words.len() {
        quoted ^= words[at].before.contains(['"', '“']);
        if !quoted {
            named |= rewrite_one(words, at, speaker, named);
        }
        quoted ^= words[at].after.contains(['"', '”']) && quoted;
    }
}

/// Rewrites one word; true where it is now the speaker's name as a subject.
fn rewrite_one(words: &mut [Word], at: usize, speaker: &Speaker, named: bool) -> bool {
    if is_i(words, at) {
        words[at].core = speaker.name().to_owned();
        // "My wife and I are": they are two.
        let two = at > 1 && words[at - 1].is_any(&["and", "&"]);
        if words[at].after.is_empty() && !two {
            conjugate(words, at + 1);
        }
        return true;
    }
    let new = match words[at].lower.as_str() {
        "me" => speaker.name().to_owned(),
        "my" | "mine" if named => if words[at].lower == "my" { "their" } else { "theirs" }.to_owned(),
        "my" | "mine" => possessive(speaker.name()),
        "myself" => "themselves".to_owned(),
        _ => return false,
    };
    words[at].core = new;
    false
}

/// The verb that goes with the speaker's name, past the adverbs before it.
fn conjugate(words: &mut [Word], from: usize) {
    for word in words.iter_mut().skip(from).take(4) {
        if (verbs::is_adverb(&word.lower) || matches!(word.lower.as_str(), "no" | "longer")) && !word.ends_with_comma() {
            continue;
        }
        let is_verb_like = word.core.chars().all(|c| c.is_alphabetic() || matches!(c, '\'' | '’' | '-'));
        if is_verb_like && !matches!(word.lower.as_str(), "and" | "or" | "as" | "who" | "to" | "not") {
            word.core = verbs::third_person(&lower(&word.core));
        }
        return;
    }
}
