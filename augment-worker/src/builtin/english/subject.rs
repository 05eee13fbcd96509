//! Whom a clause is about, and whether it speaks of what was or of what will be.

use super::rewrite::is_i;
use super::verbs;
use crate::builtin::dates::Tense;
use crate::builtin::words::Word;

pub(super) enum Subject {
    /// "I", whose verb group begins at this word.
    Speaker(usize),
    /// "he", "she", "it" in front.
    Pronoun,
    /// A noun phrase up to this word, its verb.
    Phrase(usize),
    Unknown,
}

pub(super) fn subject_of(words: &[Word]) -> Subject {
    if let Some(at) = (0..words.len().min(9)).find(|&i| is_i(words, i)) {
        let lead = &words[..at];
        let is_object = lead.iter().any(|w| w.is_any(&["and", "or", "that", "which", "who", "what", "than"]));
        let subordinate = lead.first().is_some_and(|w| {
            w.is_any(&[
                "when", "if", "while", "because", "since", "after", "before", "whenever", "where", "once", "although", "though",
            ])
        });
        let verb_before = lead.iter().any(|w| !w.is_date && verbs::is_finite(&w.lower));
        if !is_object && !subordinate && !verb_before && words.len() > at + 1 && !words[at + 1].is_any(&["and", "or"]) {
            return Subject::Speaker(at + 1);
        }
        if subordinate && let Some(main) = (at + 1..words.len()).find(|&i| is_i(words, i) && words[i - 1].ends_with_comma()) {
            return Subject::Speaker(main + 1);
        }
    }
    let Some(first) = words.first() else { return Subject::Unknown };
    if first.is_any(&["he", "she", "it"]) {
        return Subject::Pronoun;
    }
    if first.is_any(&[
        "when", "if", "while", "because", "since", "after", "before", "although", "though", "as", "once", "there", "to", "in",
        "on", "at", "for", "with", "without", "not", "we", "they", "you", "this", "that", "these", "those", "what", "who", "how",
    ]) {
        return Subject::Unknown;
    }
    let mut relative = false;
    for i in 1..words.len().min(12) {
        let word = &words[i];
        if word.is_any(&["who", "that", "which"]) {
            relative = true;
            continue;
        }
        let named = word.is_any(&[
            "named", "called", "based", "located", "used", "retired", "married", "left", "lost", "broken", "red", "bound", "led",
        ]);
        let in_name = word.is_capitalised() && words[i - 1].is_capitalised() && !verbs::is_auxiliary(&word.lower) && i > 1;
        let used_to = word.lower == "used" && words.get(i + 1).is_some_and(|w| w.lower == "to");
        if verbs::is_finite(&word.lower) && (used_to || !named || words[i - 1].is_capitalised()) && !in_name {
            if relative {
                relative = false;
                continue;
            }
            return Subject::Phrase(i);
        }
    }
    Subject::Unknown
}

/// "Moved to Berlin last week", "Love hiking": the speaker is meant.
pub(super) fn implies_speaker(words: &[Word]) -> bool {
    let at = usize::from(words.first().is_some_and(|w| {
        w.is_any(&["just", "recently", "also", "really", "still", "never", "always", "finally", "currently", "already"])
    }));
    let Some(first) = words.get(at) else { return false };
    let second = words.get(at + 1).map_or("", |w| w.lower.as_str());
    if words.len() < at + 2 || is_first_subject(words) {
        return false;
    }
    let past = verbs::is_past(&first.lower)
        && !matches!(
            first.lower.as_str(),
            "was"
                | "were"
                | "had"
                | "did"
                | "said"
                | "let"
                | "left"
                | "lay"
                | "based"
                | "called"
                | "named"
                | "used"
                | "built"
                | "ground"
                | "bound"
                | "upset"
                | "saw"
                | "felt"
                | "located"
                | "related"
                | "compared"
                | "given"
                | "made"
                | "hung"
                | "found"
                | "led"
                | "hid"
                | "lit"
                | "red"
        )
        && matches!(
            second,
            "to" | "a"
                | "an"
                | "the"
                | "my"
                | "in"
                | "at"
                | "for"
                | "from"
                | "with"
                | "as"
                | "up"
                | "out"
                | "back"
                | "on"
                | "off"
                | "his"
                | "her"
                | "two"
                | "three"
                | "some"
                | "into"
                | "lots"
                | "by"
                | "down"
                | "over"
                | "yesterday"
                | "last"
                | "this"
                | "through"
                | "about"
        );
    let stance = matches!(first.lower.as_str(), "love" | "hate" | "prefer" | "enjoy" | "adore" | "dislike" | "live" | "am")
        && !words[at..].iter().any(|w| w.is_any(&["is", "was", "are", "has", "will"]));
    let been = first.lower == "been" && (second.ends_with("ing") || matches!(second, "to" | "a" | "in" | "at"));
    let going = matches!(
        first.lower.as_str(),
        "going"
            | "planning"
            | "working"
            | "living"
            | "moving"
            | "flying"
            | "studying"
            | "learning"
            | "looking"
            | "thinking"
            | "trying"
            | "travelling"
            | "traveling"
    ) && matches!(second, "to" | "on" | "in" | "at" | "for" | "about" | "as" | "with" | "from")
        && !words.iter().any(|w| w.is_any(&["is", "was", "are", "has", "can"]));
    past || stance || been || going
}

pub(super) fn is_first_subject(words: &[Word]) -> bool {
    words.iter().take(3).enumerate().any(|(i, w)| is_i(words, i) || w.is_any(&["he", "she", "it", "we", "they", "you"]))
}

/// The small letter that a verb has inside a sentence; "been" and "going" get their auxiliary.
pub(super) fn lower_first(words: &mut Vec<Word>) {
    words[0].core = words[0].core.to_lowercase();
    let at = usize::from(verbs::is_adverb(&words[0].lower));
    let auxiliary = match words.get(at).map(|w| w.lower.as_str()) {
        Some("been") => "have",
        Some(verb) if verb.ends_with("ing") => "am",
        _ => return,
    };
    words.insert(0, Word::bare(auxiliary));
}

pub(super) fn tense_of(words: &[Word]) -> Tense {
    let has = |list: &[&str]| words.iter().any(|w| w.is_any(list));
    let pair = |a: &str, b: &str| words.windows(2).any(|w| w[0].lower == a && w[1].lower == b);
    let progressive = words.windows(2).any(|w| w[0].is_any(&["am", "is", "are"]) && w[1].lower.ends_with("ing"));
    let to_come = has(&[
        "appointment",
        "free",
        "busy",
        "available",
        "meeting",
        "exam",
        "interview",
        "flight",
        "party",
        "wedding",
        "trip",
        "deadline",
        "concert",
        "game",
        "match",
        "presentation",
        "surgery",
        "due",
        "starts",
        "leaves",
        "arrives",
        "launch",
        "demo",
    ]);
    let past = words.iter().any(|w| {
        verbs::is_past(&w.lower)
            && !w.is_any(&["need", "used", "married", "based", "interested", "scheduled", "excited", "tired"])
    });
    if has(&["will", "'ll", "won't", "gonna", "tomorrow", "next", "upcoming", "shall"])
        || pair("going", "to")
        || pair("plan", "to")
        || pair("have", "to")
        || pair("need", "to")
        || pair("hope", "to")
        || pair("want", "to")
    {
        return Tense::Future;
    }
    if past {
        return Tense::Past;
    }
    if progressive || to_come { Tense::Future } else { Tense::Open }
}

/// Words for people, and for animals that are spoken of like people.
pub(super) fn is_person(word: &str) -> bool {
    matches!(
        word,
        "sister"
            | "brother"
            | "mother"
            | "father"
            | "mom"
            | "mum"
            | "dad"
            | "wife"
            | "husband"
            | "son"
            | "daughter"
            | "girlfriend"
            | "boyfriend"
            | "partner"
            | "friend"
            | "boss"
            | "manager"
            | "colleague"
            | "coworker"
            | "neighbour"
            | "neighbor"
            | "cousin"
            | "uncle"
            | "aunt"
            | "grandmother"
            | "grandfather"
            | "grandma"
            | "grandpa"
            | "nephew"
            | "niece"
            | "teacher"
            | "doctor"
            | "roommate"
            | "flatmate"
            | "fiancé"
            | "fiancée"
            | "fiance"
            | "fiancee"
            | "dog"
            | "cat"
            | "puppy"
            | "kitten"
            | "horse"
            | "baby"
            | "kid"
            | "child"
            | "boy"
            | "girl"
            | "twin"
            | "landlord"
            | "therapist"
            | "dentist"
            | "trainer"
            | "coach"
            | "mentor"
            | "client"
            | "stepmother"
            | "stepfather"
            | "parrot"
            | "rabbit"
            | "hamster"
    )
}
