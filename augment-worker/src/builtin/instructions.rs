//! Standing instructions of the user: "always …", "from now on …", "when I ask about …", "call me …", in several languages.

mod foreign;

use memori_schemas::FactKind;
use memori_schemas::normalise::normalise;

pub(crate) use self::foreign::foreign;
use super::english::rewrite::to_third_person;
use super::english::verbs;
use super::words::{Word, join};
use super::{Speaker, Statement, plain_text};

const CERTAIN: f32 = 0.9;

fn instruction(text: &str, slot: Option<String>, speaker: &Speaker) -> Statement {
    Statement {
        kind: FactKind::Instruction,
        text: plain_text(text),
        subject: Some(speaker.name().to_owned()),
        predicate: None,
        object: None,
        slot,
        valid_from: None,
        confidence: CERTAIN,
    }
}

/// Phrases with which an English instruction may begin, whatever follows.
const STRONG: &[&str] = &[
    "from now on",
    "from here on",
    "going forward",
    "from this point on",
    "from today on",
    "in the future",
    "in future",
    "for all future",
    "by default",
    "as a rule",
    "every time i",
    "each time i",
    "at all times",
    "make sure you always",
    "make sure you never",
    "make sure to always",
    "make sure to never",
    "be sure to always",
    "you should always",
    "you should never",
    "you must always",
    "you must never",
    "i want you to always",
    "i want you to never",
    "i'd like you to always",
    "i would like you to always",
    "i need you to always",
    "don't ever",
    "do not ever",
    "remember to always",
    "remember to never",
    "for the rest of this conversation",
    "for every answer",
    "in every answer",
    "in all your answers",
    "in all your replies",
    "in all answers",
    "for future reference always",
];
const ASKING: &[&str] = &[
    "ask", "say", "mention", "send", "write", "request", "want", "need", "paste", "type", "share", "tell", "talk", "give",
    "post", "use",
];
const STYLE_VERBS: &[&str] =
    &["answer", "respond", "reply", "speak", "talk", "write", "keep", "use", "avoid", "address", "format", "explain"];
const STYLE_WORDS: &[&str] = &[
    "answers",
    "answer",
    "responses",
    "response",
    "replies",
    "reply",
    "emojis",
    "emoji",
    "units",
    "markdown",
    "bullet",
    "bullets",
    "jargon",
    "tables",
    "headings",
    "tone",
    "concise",
    "brief",
    "short",
    "briefly",
    "concisely",
    "formal",
    "informal",
    "formally",
    "informally",
    "english",
    "german",
    "french",
    "spanish",
    "italian",
    "portuguese",
    "dutch",
    "polish",
    "turkish",
    "russian",
    "chinese",
    "japanese",
    "korean",
    "arabic",
    "hindi",
    "metric",
    "imperial",
    "celsius",
    "fahrenheit",
    "abbreviations",
    "slang",
];
const LANGUAGES: &[&str] = &[
    "english",
    "german",
    "french",
    "spanish",
    "italian",
    "portuguese",
    "dutch",
    "polish",
    "turkish",
    "russian",
    "chinese",
    "japanese",
    "korean",
    "arabic",
    "hindi",
    "swedish",
    "ukrainian",
];

/// The standing instruction that English words give, if they do.
pub(crate) fn english(words: &[Word], speaker: &Speaker) -> Option<Statement> {
    let start = words
        .iter()
        .take_while(|w| w.is_any(&["please", "pls", "and", "also", "so", "but", "ok", "okay", "hey", "just", "then"]))
        .count();
    let body = words.get(start..).filter(|body| body.len() >= 2)?;
    if !is_english_instruction(body) {
        return None;
    }
    let mut shown = words[start..].to_vec();
    // A subordinate "if I ask" keeps its "I" as the name; what follows is said to the assistant and stays.
    to_third_person(&mut shown, speaker);
    Some(instruction(&capitalised(&join(&shown)), english_slot(body, speaker), speaker))
}

fn at(words: &[Word], i: usize) -> &str {
    words.get(i).map_or("", |w| w.lower.as_str())
}

fn begins(words: &[Word], phrase: &str) -> bool {
    phrase.split(' ').enumerate().all(|(i, part)| at(words, i) == part)
}

fn is_english_instruction(words: &[Word]) -> bool {
    let (a, b, c) = (at(words, 0), at(words, 1), at(words, 2));
    if STRONG.iter().any(|phrase| begins(words, phrase)) {
        // "From now on I live in Rome" tells of the speaker.
        let rest = STRONG.iter().filter(|p| begins(words, p)).map(|p| p.split(' ').count()).max().unwrap_or(0);
        let tells = matches!(at(words, rest), "i" | "my" | "we" | "he" | "she" | "they" | "the" | "it")
            && !words.iter().any(|w| w.is_any(&["you", "your"]));
        return !tells || begins(words, "every time i") || begins(words, "each time i");
    }
    match a {
        "always" | "never" => {
            let done = verbs::is_past(b)
                || matches!(
                    b,
                    "been"
                        | "the"
                        | "a"
                        | "my"
                        | "in"
                        | "mind"
                        | "knew"
                        | "seen"
                        | "known"
                        | "ever"
                        | "again"
                        | "too"
                        | "is"
                        | "was"
                        | "had"
                        | "gone"
                        | "done"
                        | "thought"
                        | "wanted"
                );
            return !done && !b.ends_with("ing") && !words.iter().any(|w| w.lower == "i")
                || (!done
                    && matches!(
                        b,
                        "call"
                            | "answer"
                            | "use"
                            | "remind"
                            | "tell"
                            | "ask"
                            | "give"
                            | "show"
                            | "explain"
                            | "include"
                            | "respond"
                            | "reply"
                            | "address"
                            | "mention"
                            | "suggest"
                            | "recommend"
                            | "write"
                            | "check"
                    ));
        }
        "when" | "whenever" | "if" if b == "i" => {
            let asks = ASKING.contains(&c) || (c == "am" && at(words, 3) == "asking");
            let told = words.iter().any(Word::ends_with_comma)
                || words
                    .iter()
                    .skip(3)
                    .any(|w| w.is_any(&["always", "never", "please", "you", "answer", "respond", "use", "give", "don't"]));
            let past = words.iter().any(|w| w.is_any(&["was", "were", "had", "felt", "got"]));
            let says_i_again = words.iter().skip(3).any(|w| w.lower == "i")
                && !words.iter().any(|w| w.is_any(&["you", "your", "please", "always", "never"]));
            return asks && told && !past && !says_i_again;
        }
        "whenever" if b == "you" => return true,
        // "When you write emails for me, sign them …": what comes behind the pause is asked for.
        "when" | "if" if b == "you" => {
            let asked = words.iter().position(Word::ends_with_comma).map_or("", |pause| at(words, pause + 1));
            return STYLE_VERBS.contains(&asked)
                || verbs_of_asking(asked)
                || matches!(asked, "always" | "never" | "please" | "don't" | "make" | "put" | "call" | "leave" | "skip" | "do");
        }
        "call" if b == "me" => return !matches!(c, "at" | "on" | "when" | "back" | "later" | "tomorrow" | "if" | ""),
        "address" if b == "me" => return true,
        "refer" if b == "to" && c == "me" => return true,
        // "Vegan recipes only, please"
        _ if words.last().is_some_and(|w| w.is_any(&["please", "pls"]))
            && words.iter().rev().nth(1).is_some_and(|w| w.lower == "only")
            && !words.iter().any(|w| verbs::is_finite(&w.lower)) =>
        {
            return true;
        }
        "stop" if b.ends_with("ing") => return words.len() > 2,
        _ => {}
    }
    if (a == "don't" || a == "do" && b == "not" || a == "dont") && words.len() > 2 {
        let verb = if a == "do" { c } else { b };
        return matches!(
            verb,
            "call"
                | "use"
                | "ever"
                | "mention"
                | "remind"
                | "suggest"
                | "recommend"
                | "ask"
                | "give"
                | "tell"
                | "address"
                | "include"
                | "show"
                | "send"
                | "explain"
                | "assume"
                | "write"
                | "add"
                | "apologize"
                | "apologise"
                | "repeat"
        );
    }
    // "I prefer that you …", "I want you to call me …", "you can call me …", "my friends call me" is a fact.
    if begins(words, "i prefer you to")
        || begins(words, "i prefer that you")
        || begins(words, "i prefer it when you")
        || begins(words, "you can call me")
        || begins(words, "you may call me")
        || begins(words, "i want you to call me")
        || begins(words, "i'd like you to call me")
        || begins(words, "i would like you to call me")
        || begins(words, "i like it when you")
    {
        return true;
    }
    let wish = [["i", "want", "you", "to"], ["i", "need", "you", "to"]]
        .iter()
        .any(|p| p.iter().enumerate().all(|(i, w)| at(words, i) == *w))
        || begins(words, "i would like you to")
        || begins(words, "you should")
        || begins(words, "you must")
        || begins(words, "make sure to")
        || begins(words, "make sure you")
        || begins(words, "be sure to");
    let lasting = words.iter().any(|w| w.is_any(&["always", "never", "whenever"]))
        || joined_has(words, "from now on")
        || joined_has(words, "every time")
        || joined_has(words, "in the future")
        || joined_has(words, "going forward")
        || joined_has(words, "by default")
        || (joined_has(words, "in all") || joined_has(words, "in every"))
            && words.iter().any(|w| w.is_any(&["you", "your", "me"]));
    if wish && lasting {
        return true;
    }
    let imperative = STYLE_VERBS.contains(&a) || verbs_of_asking(a);
    if imperative && lasting && !words.iter().any(|w| w.lower == "i") {
        return true;
    }
    // A wish about how to answer, without a word for how long: style is meant to last.
    let styled = words.iter().skip(1).any(|w| w.is_any(STYLE_WORDS));
    match a {
        "answer" | "respond" | "reply" | "speak" | "talk" => {
            styled
                && (matches!(b, "in" | "to" | "me" | "briefly" | "concisely" | "formally" | "informally" | "only")
                    || words.len() <= 4)
        }
        "keep" => {
            styled
                && words.iter().any(|w| {
                    w.is_any(&["answers", "responses", "replies", "explanations", "it", "answer", "response", "reply", "tone"])
                })
        }
        "use" => styled && words.len() <= 7,
        "avoid" => styled && words.len() <= 8,
        "be" => styled && matches!(b, "concise" | "brief" | "formal" | "informal" | "short"),
        _ => false,
    }
}

fn verbs_of_asking(word: &str) -> bool {
    matches!(
        word,
        "remind"
            | "tell"
            | "give"
            | "show"
            | "ask"
            | "include"
            | "mention"
            | "suggest"
            | "recommend"
            | "start"
            | "end"
            | "begin"
            | "add"
            | "convert"
            | "translate"
            | "check"
            | "cite"
            | "sign"
            | "assume"
            | "remember"
    )
}

fn joined_has(words: &[Word], phrase: &str) -> bool {
    let parts: Vec<&str> = phrase.split(' ').collect();
    words.windows(parts.len()).any(|w| w.iter().zip(&parts).all(|(w, p)| w.lower == *p))
}

/// Wishes of which only the latest can hold.
fn english_slot(words: &[Word], speaker: &Speaker) -> Option<String> {
    let owner = normalise(speaker.name());
    let names = words.windows(2).any(|w| w[0].lower == "call" && w[1].lower == "me")
        && !words.iter().any(|w| w.is_any(&["don't", "never", "not", "stop"]));
    if names {
        return Some(format!("{owner}/called"));
    }
    let answering = words.iter().any(|w| w.is_any(&["answer", "respond", "reply", "speak", "talk", "write"]));
    let language = words.windows(2).any(|w| w[0].lower == "in" && w[1].is_any(LANGUAGES));
    (answering && language && !words.iter().any(|w| w.is_any(&["when", "if", "whenever", "don't", "never"])))
        .then(|| format!("{owner}/answer_language"))
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().collect::<String>() + chars.as_str(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
