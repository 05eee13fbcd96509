//! What is no statement: greetings, thanks, fillers, questions, requests.

use std::collections::HashSet;
use std::sync::LazyLock;

use super::words::{Word, lower};

/// Small talk, a phrase of up to four words each, in lower case without punctuation.
static SMALL_TALK: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    let lines = include_str!("lists/small-talk.txt").lines().filter(|line| !line.starts_with('#'));
    lines.flat_map(|line| line.split('|')).map(str::trim).filter(|phrase| !phrase.is_empty()).collect()
});

/// Whether a sentence is nothing but greetings, thanks, fillers, or marks without a letter.
pub(crate) fn is_small_talk(sentence: &str) -> bool {
    let bare: String =
        lower(sentence).chars().map(|c| if c.is_alphanumeric() || c == '\'' || is_combining(c) { c } else { ' ' }).collect();
    let words: Vec<&str> = bare.split_whitespace().collect();
    if !words.iter().any(|w| w.chars().any(char::is_alphabetic)) {
        return true;
    }
    if words.len() > 14 {
        return false;
    }
    let mut at = 0;
    while at < words.len() {
        let Some(taken) =
            (1..=4).rev().find(|n| words.get(at..at + n).is_some_and(|w| SMALL_TALK.contains(&w.join(" ").as_str())))
        else {
            // "Hi Bob", "Thanks Anna": one name behind a greeting.
            return at > 0
                && at + 1 == words.len()
                && sentence.split_whitespace().last().is_some_and(|w| w.chars().next().is_some_and(char::is_uppercase))
                && [
                    "hi", "hello", "hey", "thanks", "bye", "morning", "hallo", "danke", "bonjour", "merci", "hola", "gracias",
                    "ciao", "olá", "goodbye", "you", "welcome",
                ]
                .contains(&words[at - 1]);
        };
        at += taken;
    }
    true
}

/// Vowel signs and the like, which belong to their letter.
fn is_combining(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{591}'..='\u{5c7}' | '\u{610}'..='\u{6ed}' | '\u{900}'..='\u{dff}' | '\u{e31}'..='\u{e4e}' | '\u{200c}' | '\u{200d}')
}

const PRONOUNS_AND_STARTS: &[&str] = &[
    "you", "i", "we", "he", "she", "they", "it", "there", "this", "that", "these", "those", "the", "my", "your", "our", "his",
    "her", "a", "an", "any", "anyone", "anybody", "someone", "everyone", "u",
];
const ASKING_VERBS: &[&str] = &[
    "do", "does", "did", "is", "are", "was", "were", "can", "could", "should", "would", "will", "am", "have", "has", "much",
    "many", "long", "often", "far", "about", "to", "else", "if", "come", "isn't", "aren't", "don't", "doesn't", "didn't",
    "can't", "won't", "would've", "kind", "type", "sort", "time", "shall", "may", "might", "exactly", "big", "old", "good",
];

/// Whether the words ask, with or without a question mark, by English word order.
pub(crate) fn asks(words: &[Word]) -> bool {
    let (Some(first), second) = (words.first(), words.get(1).map_or("", |w| w.lower.as_str())) else { return false };
    match first.lower.as_str() {
        "what's" | "who's" | "where's" | "how's" | "when's" | "why's" | "whats" | "wheres" | "hows" | "what're" | "how'd" => true,
        "what" | "where" | "who" | "whom" | "whose" | "why" | "how" | "which" => {
            ASKING_VERBS.contains(&second) || (first.lower == "why" && second == "not")
        }
        // "When I was …" states, "When is …" asks.
        "when" => matches!(
            second,
            "do" | "does" | "did" | "is" | "are" | "was" | "were" | "can" | "could" | "should" | "would" | "will"
        ),
        "do" | "does" | "did" | "is" | "are" | "was" | "were" | "can" | "could" | "should" | "would" | "will" | "shall"
        | "have" | "has" | "may" | "might" | "isn't" | "aren't" | "don't" | "doesn't" | "didn't" | "can't" | "couldn't"
        | "won't" | "wouldn't" | "shouldn't" | "haven't" | "hasn't" => {
            let states = match first.lower.as_str() {
                // "Don't use …" orders, "Have a dog …" and "Do the dishes" state or order.
                "don't" => !matches!(second, "you" | "they" | "we"),
                "have" => matches!(second, "a" | "the" | "my" | "an"),
                "do" => matches!(second, "the" | "this" | "that" | "it" | "my" | "a"),
                _ => false,
            };
            !states && PRONOUNS_AND_STARTS.contains(&second)
        }
        _ => false,
    }
}

/// Beginnings of questions that are clear without a question mark, outside English.
const FOREIGN_ASKING: &[&str] = &[
    "kannst du ",
    "können sie ",
    "könntest du ",
    "könnten sie ",
    "weißt du ",
    "est-ce que ",
    "qu'est-ce ",
    "peux-tu ",
    "pouvez-vous ",
    "pourrais-tu ",
    "pourriez-vous ",
    "puedes ",
    "podrías ",
    "puede usted ",
    "¿",
    "puoi ",
    "potresti ",
    "você pode ",
    "pode me ",
    "você poderia ",
    "هل ",
    "هل\u{a0}",
    "kun je ",
    "czy ",
    "क्या आप ",
    "можешь ",
];

/// Whether a sentence asks.
pub(crate) fn is_question(sentence: &str) -> bool {
    let body = sentence.trim_end_matches(|c: char| {
        c.is_whitespace()
            || matches!(c, '"' | '”' | '»' | ')' | '」' | '!' | '…')
            || !c.is_alphanumeric() && c > '\u{2190}' && c != '？' && !is_combining(c) && c != '。'
    });
    if body.ends_with(['?', '？', '؟', '⁇', '⁉', '⸮', '՞', '፧'])
        || (body.ends_with([';', '\u{37e}']) && body.chars().any(|c| ('\u{370}'..='\u{3ff}').contains(&c)))
    {
        return true;
    }
    let bare = body.trim_end_matches(['。', '.', ' ']);
    if bare.ends_with(['吗', '嗎'])
        || ["ですか", "ますか", "でしょうか", "ませんか", "かな", "습니까", "ㅂ니까", "나요", "할까요"]
            .iter()
            .any(|end| bare.ends_with(end))
    {
        return true;
    }
    let head = lower(super::words::cut(body.trim_start(), 40));
    FOREIGN_ASKING.iter().any(|start| head.starts_with(start))
}

const REQUEST_VERBS: &[&str] = &[
    "tell",
    "show",
    "give",
    "write",
    "explain",
    "summarize",
    "summarise",
    "translate",
    "help",
    "list",
    "create",
    "generate",
    "make",
    "find",
    "suggest",
    "recommend",
    "describe",
    "compare",
    "fix",
    "draft",
    "rewrite",
    "rephrase",
    "convert",
    "calculate",
    "compute",
    "solve",
    "define",
    "improve",
    "check",
    "review",
    "analyze",
    "analyse",
    "provide",
    "teach",
    "outline",
    "edit",
    "search",
    "look",
    "let's",
    "lets",
    "let",
    "send",
    "schedule",
    "book",
    "add",
    "remove",
    "delete",
    "open",
    "continue",
    "try",
    "consider",
    "pretend",
    "act",
    "imagine",
    "ask",
    "implement",
    "refactor",
    "debug",
    "proofread",
    "forget",
    "walk",
    "guide",
    "elaborate",
    "clarify",
    "update",
    "repeat",
    "brainstorm",
    "propose",
    "design",
    "plan",
    "read",
    "answer",
    "respond",
    "reply",
    "come",
    "set",
    "run",
    "play",
];

/// Whether the words ask the assistant to do something now.
pub(crate) fn is_request(words: &[Word]) -> bool {
    let start = words
        .iter()
        .take_while(|w| {
            w.is_any(&["please", "pls", "plz", "now", "just", "ok", "okay", "then", "also", "and", "so", "hey", "kindly"])
        })
        .count();
    let rest = &words[start.min(words.len())..];
    let at = |i: usize| rest.get(i).map_or("", |w| w.lower.as_str());
    let polite = words[..start.min(words.len())].iter().any(|w| w.is_any(&["please", "pls", "plz", "kindly"]));
    match (at(0), at(1), at(2)) {
        ("i", "want" | "need", "you") | ("i'd", "like", "you") => return true,
        ("i", "would", "like") if at(3) == "you" => return true,
        ("i", "want" | "need", "to") if matches!(at(3), "know" | "understand" | "see" | "find") && is_wh(at(4)) => return true,
        ("i'd", "like" | "love", "to") if matches!(at(3), "know" | "understand" | "see" | "hear") => return true,
        ("i", "wonder", _) | ("i'm", "wondering" | "curious", _) | ("i", "was", "wondering") => return true,
        ("i", "don't" | "dont", "understand" | "know" | "get") if is_wh(at(3)) => return true,
        ("i", "have" | "had", "a") if matches!(at(3), "question" | "request") => return true,
        ("wondering", _, _) => return true,
        _ => {}
    }
    let imperative = REQUEST_VERBS.contains(&at(0));
    if !imperative {
        // "Please X …" is a request whatever the verb; instructions were looked for before.
        return polite
            && rest.len() >= 2
            && rest[0].core.chars().all(char::is_alphabetic)
            && !matches!(at(0), "note" | "remember" | "know" | "i" | "i'm" | "my" | "be" | "keep");
    }
    // "Plan B is ready" and "Open source matters" state.
    let states = rest.iter().skip(1).take(3).any(|w| {
        w.is_any(&[
            "is", "was", "are", "were", "has", "had", "will", "can", "matters", "costs", "starts", "runs", "works", "lives",
        ])
    });
    !states && rest.len() > 1
}

fn is_wh(word: &str) -> bool {
    matches!(word, "what" | "how" | "why" | "when" | "where" | "who" | "which" | "if" | "whether" | "more")
}

#[cfg(test)]
mod tests {
    use super::{asks, is_question, is_request, is_small_talk};
    use crate::builtin::words::split;

    #[test]
    fn small_talk() {
        for text in [
            "Hi!",
            "Hello there",
            "Hi Bob",
            "Thanks a lot!!",
            "ok thanks",
            "Danke schön!",
            "谢谢！",
            "ありがとうございます。",
            "😀",
            "...",
            "42",
            "Ok, sounds good. ",
            "धन्यवाद",
        ] {
            assert!(is_small_talk(text), "{text}");
        }
        for text in ["Hi, I am Bob", "I like tea", "item 10", "Bob", "我住在巴黎", "Mir geht es schlecht", "C++"] {
            assert!(!is_small_talk(text), "{text}");
        }
    }

    #[test]
    fn questions() {
        for text in [
            "Really?",
            "Wo wohnst du?",
            "你住在哪里？",
            "お元気ですか。",
            "هل تحب الشاي",
            "¿Dónde vives?",
            "Is it? 😀",
            "Что это?!",
        ] {
            assert!(is_question(text), "{text}");
        }
        for text in ["I like tea.", "When I was ten, I moved", "我住在巴黎。", "I asked him if he likes tea"] {
            assert!(!is_question(text), "{text}");
        }
        for text in ["what is the time", "how do I get there", "do you know Anna", "can you help", "when is lunch"] {
            assert!(asks(&split(text)), "{text}");
        }
        for text in ["what I like is tea", "when I was ten", "have a dog at home", "will do", "don't use emojis"] {
            assert!(!asks(&split(text)), "{text}");
        }
    }

    #[test]
    fn requests() {
        for text in [
            "Please write a poem",
            "Tell me a joke",
            "I want you to act as a pirate",
            "I'd like to know more",
            "Summarize this text",
            "please review my code",
        ] {
            assert!(is_request(&split(text)), "{text}");
        }
        for text in ["Plan B is ready", "I want a dog", "Open source matters to me", "item 10", "I wrote a poem"] {
            assert!(!is_request(&split(text)), "{text}");
        }
    }
}
