//! Sentences of any script, by Unicode's rules (UAX 29), with abbreviations and quotations kept whole.

use icu_segmenter::SentenceSegmenter;

/// The longest quotation that holds its sentences together, in bytes.
const MAX_QUOTATION_BYTES: usize = 600;

const ABBREVIATIONS: &[&str] = &[
    "dr", "mr", "mrs", "ms", "prof", "st", "e.g", "i.e", "vs", "no", "nr", "approx", "jr", "sr", "inc", "ltd", "co", "corp",
    "u.s", "u.k", "ca", "z.b", "d.h", "bzw", "usw", "sra", "dra", "mme", "mlle", "sig", "fig", "ave", "blvd", "mt", "ft", "lt",
    "gen", "col", "gov", "sen",
];

/// Cuts a paragraph into sentences, trimmed, none empty. Linear.
pub(crate) fn sentences(paragraph: &str) -> Vec<&str> {
    let segmenter = SentenceSegmenter::new(Default::default());
    let mut out = Vec::new();
    let mut start = 0;
    let mut quotes = Quotes::default();
    let mut from = 0;
    for at in segmenter.segment_str(paragraph) {
        if at == from {
            continue;
        }
        quotes.read(&paragraph[from..at]);
        from = at;
        let sentence = &paragraph[start..at];
        let held =
            at < paragraph.len() && ((quotes.open && at - start < MAX_QUOTATION_BYTES) || ends_with_abbreviation(sentence));
        if held {
            continue;
        }
        quotes = Quotes::default();
        start = at;
        push(&mut out, sentence);
    }
    push(&mut out, &paragraph[start..]);
    out
}

fn push<'a>(out: &mut Vec<&'a str>, sentence: &'a str) {
    let mut rest = sentence;
    // Unicode's rules do not end a sentence before a small letter; people who write without capitals do.
    if !sentence.contains(['"', '“', '„', '«']) {
        let mut from = 0;
        while let Some(at) = rest[from..].find(". ").map(|i| from + i) {
            let small = rest[at + 2..].trim_start().chars().next().is_some_and(char::is_lowercase);
            if small && ends_word(&rest[..at]) && !ends_with_abbreviation(&rest[..=at]) {
                out.push(rest[..=at].trim());
                rest = &rest[at + 2..];
                from = 0;
            } else {
                from = at + 2;
            }
        }
    }
    let rest = rest.trim();
    if !rest.is_empty() {
        out.push(rest);
    }
}

/// Ends in a word of two letters or more: neither an ellipsis nor an initial.
fn ends_word(text: &str) -> bool {
    text.chars().rev().take(2).filter(|c| c.is_alphanumeric()).count() == 2 && !text.trim().is_empty()
}

fn ends_with_abbreviation(sentence: &str) -> bool {
    let Some(body) = sentence.trim_end().strip_suffix('.') else { return false };
    let word = body.rsplit(|c: char| c.is_whitespace() || c == '(').next().unwrap_or(body);
    let start = body.len() - word.len();
    // An initial ("J. Smith") goes on; the languages C and R, and the pronoun I, end sentences.
    let mut chars = word.chars();
    let is_initial = matches!((chars.next(), chars.next()), (Some(c), None) if c.is_uppercase() && c.is_ascii() && !matches!(c, 'C' | 'R' | 'I'));
    (is_initial && start > 0) || (word.len() <= 6 && ABBREVIATIONS.contains(&word.to_lowercase().as_str()))
}

/// Whether a quotation is open at the end of what was read.
#[derive(Default)]
struct Quotes {
    open: bool,
    before: Option<char>,
}

impl Quotes {
    fn read(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '“' | '„' | '«' | '「' | '『' => self.open = true,
                '”' | '»' | '」' | '』' => self.open = false,
                '"' => {
                    let opens = self.before.is_none_or(|b| b.is_whitespace() || b == '(');
                    self.open = opens && !self.open;
                }
                _ => {}
            }
            self.before = Some(c);
        }
    }
}

/// Whether the whole sentence stands in quotation marks: someone else's words, or words that are only mentioned.
pub(crate) fn is_quotation(sentence: &str) -> bool {
    let body = sentence.trim().trim_end_matches(['.', '!', '?', ',', '。']);
    let pairs = [('“', '”'), ('„', '“'), ('«', '»'), ('「', '」'), ('『', '』'), ('"', '"')];
    pairs.iter().any(|(open, close)| {
        body.starts_with(*open)
            && body.len() > open.len_utf8()
            && body[open.len_utf8()..].find(*close) == Some(body.len() - open.len_utf8() - close.len_utf8())
    })
}

#[cfg(test)]
mod tests {
    use super::{is_quotation, sentences};

    #[test]
    fn enders_of_many_scripts() {
        assert_eq!(sentences("I like tea. I hate rain! Do you?"), ["I like tea.", "I hate rain!", "Do you?"]);
        assert_eq!(sentences("我住在巴黎。我喜欢茶！"), ["我住在巴黎。", "我喜欢茶！"]);
        assert_eq!(sentences("मैं दिल्ली में रहता हूँ। मुझे चाय पसंद है।").len(), 2);
        assert_eq!(sentences("أعيش في القاهرة. أحب الشاي؟").len(), 2);
    }

    #[test]
    fn abbreviations_and_languages() {
        assert_eq!(sentences("I see Dr. Smith. I use C. I like J. Doe."), ["I see Dr. Smith.", "I use C.", "I like J. Doe."]);
        assert_eq!(sentences("Version 1.5 is out, e.g. in Rome."), ["Version 1.5 is out, e.g. in Rome."]);
        assert_eq!(
            sentences("i live in rome. i like tea... and rain. item 1-0"),
            ["i live in rome.", "i like tea... and rain.", "item 1-0"]
        );
    }

    #[test]
    fn quotations_hold_together() {
        assert_eq!(
            sentences("He said \"I hate tea. I like rain.\" and left."),
            ["He said \"I hate tea. I like rain.\" and left."]
        );
        assert!(is_quotation("\"I hate tea.\""));
        assert!(is_quotation("“Never again.”"));
        assert!(!is_quotation("\"Dune\" is a book, \"Emma\" too"));
        assert!(!is_quotation("\""));
    }

    #[test]
    fn a_sentence_never_starts_inside_a_character() {
        assert!(sentences("").is_empty());
        assert!(sentences(" \u{3000} ").is_empty());
        assert_eq!(sentences("!\u{a0}.𞸤").concat().chars().filter(|c| *c == '𞸤').count(), 1);
    }
}
