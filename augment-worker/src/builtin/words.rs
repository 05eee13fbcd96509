//! A sentence as words that can be rewritten one by one and put together again. `C`, `C++`, `C#` and `1-0` are words of their own.

/// One word with the punctuation that touches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// Opening punctuation in front of it.
    pub(crate) before: String,
    /// The word itself.
    pub(crate) core: String,
    /// The word in lower case, with straight apostrophes.
    pub(crate) lower: String,
    /// Closing punctuation behind it.
    pub(crate) after: String,
    /// Part of an expression of time.
    pub(crate) is_date: bool,
}

impl Word {
    /// A word without punctuation.
    pub(crate) fn bare(core: &str) -> Self {
        Self { before: String::new(), core: core.to_owned(), lower: lower(core), after: String::new(), is_date: false }
    }

    /// Whether any of `list` is this word.
    pub(crate) fn is_any(&self, list: &[&str]) -> bool {
        list.contains(&self.lower.as_str())
    }

    /// Whether a pause follows.
    pub(crate) fn ends_with_comma(&self) -> bool {
        self.after.contains([',', ';', ':', '，', '；'])
    }

    /// Starts with a capital letter.
    pub(crate) fn is_capitalised(&self) -> bool {
        self.core.chars().next().is_some_and(char::is_uppercase)
    }
}

/// Lower case, with the typographic apostrophe made straight.
pub(crate) fn lower(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '’' | 'ʼ' | '＇') { '\'' } else { c }).flat_map(char::to_lowercase).collect()
}

fn is_opening(c: char) -> bool {
    matches!(c, '"' | '\'' | '(' | '[' | '{' | '“' | '„' | '‘' | '«' | '*' | '_' | '`' | '¡' | '¿' | '—' | '–')
}

fn is_closing(c: char) -> bool {
    matches!(
        c,
        '"' | '\''
            | ')'
            | ']'
            | '}'
            | '”'
            | '“'
            | '’'
            | '»'
            | '*'
            | '_'
            | '`'
            | '.'
            | ','
            | ';'
            | ':'
            | '!'
            | '?'
            | '…'
            | '—'
            | '–'
            | '。'
            | '，'
    )
}

/// Splits at white space; marks that stand alone join the word before them.
pub(crate) fn split(sentence: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    for chunk in sentence.split_whitespace() {
        let start = chunk.find(|c| !is_opening(c)).unwrap_or(chunk.len());
        let (before, rest) = chunk.split_at(start);
        let end = rest.rfind(|c| !is_closing(c)).map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8));
        let (core, after) = rest.split_at(end);
        if core.is_empty() {
            let marks = format!("{before}{after}");
            match words.last_mut() {
                Some(last) if marks.chars().all(|c| matches!(c, '-' | '—' | '–')) => {
                    last.after.push(' ');
                    last.after.push_str(&marks);
                }
                Some(last) => last.after.push_str(&marks),
                None => {}
            }
            continue;
        }
        words.push(Word { before: before.into(), core: core.into(), lower: lower(core), after: after.into(), is_date: false });
    }
    words
}

/// Puts words together again.
pub(crate) fn join(words: &[Word]) -> String {
    let mut out = String::new();
    for word in words.iter().filter(|w| !w.core.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&word.before);
        out.push_str(&word.core);
        out.push_str(&word.after);
    }
    out
}

/// The words without the punctuation around the whole: what a subject, a predicate or an object is shown as.
pub(crate) fn phrase(words: &[Word]) -> String {
    let text = join(words);
    let text = text.trim_matches(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | ':' | '—' | '–'));
    let text = text.strip_suffix(['.', '!', '。', '…']).unwrap_or(text);
    balance(text).to_owned()
}

/// Drops one unmatched closing or opening bracket or quote at the ends.
fn balance(text: &str) -> &str {
    let text = text.trim();
    for (open, close) in [('(', ')'), ('[', ']'), ('“', '”'), ('«', '»')] {
        let opens = text.matches(open).count();
        let closes = text.matches(close).count();
        if opens < closes && text.ends_with(close) {
            return text.trim_end_matches(close);
        }
        if closes < opens && text.starts_with(open) {
            return text.trim_start_matches(open);
        }
    }
    text
}

/// `text` cut at a character boundary to at most `max_bytes`.
pub(crate) fn cut(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

#[cfg(test)]
mod tests {
    use super::{join, phrase, split};

    #[test]
    fn tokens_of_programmers_and_scores_stay_whole() {
        let words = split("I use C, C++ and C#, (item 1-0)!");
        let cores: Vec<&str> = words.iter().map(|w| w.core.as_str()).collect();
        assert_eq!(cores, ["I", "use", "C", "C++", "and", "C#", "item", "1-0"]);
        assert_eq!(join(&words), "I use C, C++ and C#, (item 1-0)!");
    }

    #[test]
    fn a_phrase_has_no_punctuation_around_it() {
        assert_eq!(phrase(&split("in Berlin,")), "in Berlin");
        assert_eq!(phrase(&split("Acme Inc.).")), "Acme Inc.");
        assert_eq!(phrase(&split("“C++”")), "“C++”");
    }
}
