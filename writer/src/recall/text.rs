//! Words of a text, as documents and queries are compared.
//!
//! Promises: NFKC, full case folding, UAX 29 word boundaries with a dictionary for scripts without spaces (Chinese, Japanese,
//! Thai, Lao, Khmer, Burmese). A document is indexed by each word as written *and* by what it may be looked for as (its stem, the
//! word without accents, `c++` beside `c`, single Han characters, pairs of Hangul syllables). A word of a query is a group of
//! alternatives of which any may match, stemmed in every language that the entity's texts are in: so a wrong guess of a language
//! never parts a query from its document.

use std::cell::RefCell;
use std::sync::LazyLock;

use icu_casemap::CaseMapper;
use icu_normalizer::{ComposingNormalizer, DecomposingNormalizer};
use icu_segmenter::WordSegmenterBorrowed;
use icu_segmenter::options::WordBreakInvariantOptions;

use super::language::{self, Languages};

/// A term by its hash.
pub type Term = u64;

/// Changes with whatever decides which terms a text has, since packed chunks keep them: this module, `language`, `asks`, and the
/// versions of the segmenter and the stemmers. A test holds it to their work.
pub const VERSION: u16 = 1;

/// Words of a query that are looked for; the rest of a longer query is left aside.
pub const MAX_QUERY_WORDS: usize = 512;

/// What a single character of a longer Han word, or a pair of Hangul syllables, counts beside a word.
const PART_WEIGHT: f64 = 0.35;

/// A document as it is indexed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocumentTerms {
    /// Distinct terms with how often each stands in the text, sorted.
    pub terms: Box<[(Term, u16)]>,
    /// Words of the text.
    pub words: u32,
    /// The languages of the text.
    pub languages: Languages,
}

/// One thing to look for.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryWord {
    /// Any of these, sorted and distinct.
    pub alternatives: Vec<Term>,
    /// What it counts; a whole word is 1.
    pub weight: f64,
}

/// A query, taken apart for the languages of one entity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryTerms {
    /// What to look for; small words are left out unless there is nothing else.
    pub words: Vec<QueryWord>,
    /// Every word of the query, small ones included, folded.
    pub spoken: Vec<String>,
    /// Their hashes, and those of possessives without their ending; sorted.
    named: Vec<Term>,
    /// Whether the user speaks of themselves.
    own: bool,
}

/// Words by which the user speaks of themselves: they name the subject `user`.
const OWN_WORDS: &[&str] = &[
    "i",
    "i'm",
    "i've",
    "me",
    "my",
    "mine",
    "ich",
    "mein",
    "meine",
    "meinen",
    "mir",
    "mich",
    "je",
    "j'ai",
    "mon",
    "ma",
    "mes",
    "moi",
    "yo",
    "mi",
    "mis",
    "io",
    "mio",
    "mia",
    "eu",
    "meu",
    "minha",
    "ik",
    "mijn",
    "ja",
    "mój",
    "moja",
    "я",
    "мой",
    "моя",
    "мне",
    "меня",
    "我",
    "我的",
    "私",
    "僕",
    "저",
    "내",
    "나는",
    "ben",
    "benim",
    "أنا",
    "ฉัน",
    "ผม",
];

static USER: LazyLock<[Term; 3]> = LazyLock::new(|| ["user", "i", "me"].map(term));

impl QueryTerms {
    /// Whether the query names someone by all words of the name, given as hashes of folded words.
    #[must_use]
    pub fn names(&self, name: &[Term]) -> bool {
        if let [one] = name
            && self.own
            && USER.contains(one)
        {
            return true;
        }
        !name.is_empty() && name.iter().all(|word| self.named.binary_search(word).is_ok())
    }
}

thread_local! {
    /// The segmenter's tables are static; only the handle is made per thread.
    static SEGMENTER: RefCell<Option<WordSegmenterBorrowed<'static>>> = const { RefCell::new(None) };
}

static NFKC: LazyLock<icu_normalizer::ComposingNormalizerBorrowed<'static>> = LazyLock::new(ComposingNormalizer::new_nfkc);
static NFD: LazyLock<icu_normalizer::DecomposingNormalizerBorrowed<'static>> = LazyLock::new(DecomposingNormalizer::new_nfd);

/// NFKC and full case folding; typographic apostrophes become `'`, and the Russian ё the е that most people write.
#[must_use]
pub fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let composed = NFKC.normalize(text);
    let folded = CaseMapper::new().fold_string(&composed);
    NFKC.normalize(&folded).replace(['\u{2019}', '\u{02BC}'], "'").replace('ё', "е")
}

/// The words of a text, folded, in order. Emoji and other pictures are words too; punctuation is not.
#[must_use]
pub fn words(text: &str) -> Vec<String> {
    words_of_folded(&fold(text))
}

fn words_of_folded(folded: &str) -> Vec<String> {
    if folded.is_ascii() { words_of_ascii(folded) } else { words_of_unicode(folded) }
}

/// As [`words_of_unicode`], by the few of its rules that ASCII can meet: letters, digits and `_` hold together, and so do two
/// letters or two digits with one sign between them that may stand inside of a word or a number.
fn words_of_ascii(folded: &str) -> Vec<String> {
    let bytes = folded.as_bytes();
    let holds = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let joins = |before: u8, sign: u8, after: u8| match sign {
        b'.' | b'\'' => {
            before.is_ascii_alphabetic() && after.is_ascii_alphabetic() || before.is_ascii_digit() && after.is_ascii_digit()
        }
        b':' => before.is_ascii_alphabetic() && after.is_ascii_alphabetic(),
        b',' | b';' => before.is_ascii_digit() && after.is_ascii_digit(),
        _ => false,
    };
    let mut out: Vec<String> = Vec::with_capacity(bytes.len() / 5);
    let (mut at, mut word_end) = (0, usize::MAX);
    while at < bytes.len() {
        let start = at;
        at += 1;
        if holds(bytes[start]) {
            loop {
                match bytes.get(at) {
                    Some(byte) if holds(*byte) => at += 1,
                    Some(sign) if bytes.get(at + 1).is_some_and(|after| joins(bytes[at - 1], *sign, *after)) => at += 2,
                    _ => break,
                }
            }
            out.push(folded[start..at].to_owned());
            word_end = at;
        } else if matches!(bytes[start], b'+' | b'#')
            && start == word_end
            && let Some(last) = out.last_mut().filter(|last| last.len() < 16)
        {
            last.push(char::from(bytes[start]));
            word_end = at;
        }
    }
    out
}

fn words_of_unicode(folded: &str) -> Vec<String> {
    SEGMENTER.with_borrow_mut(|segmenter| {
        let segmenter =
            *segmenter.get_or_insert_with(|| icu_segmenter::WordSegmenter::new_dictionary(WordBreakInvariantOptions::default()));
        let mut out: Vec<String> = Vec::new();
        let mut start = 0;
        // Where the last word ends, signs included.
        let mut word_end = usize::MAX;
        for (end, word_type) in segmenter.segment_str(folded).iter_with_word_type() {
            let (begin, segment) = (start, &folded[start..end]);
            start = end;
            if word_type.is_word_like() {
                out.push(segment.to_owned());
                word_end = end;
            } else if let Some(symbol) = segment.chars().next() {
                match symbol {
                    // C++ and C# are words of their own: the sign sticks to the word before it.
                    '+' | '#' if begin == word_end => {
                        if let Some(last) = out.last_mut().filter(|last| last.len() < 16) {
                            last.push_str(segment);
                            word_end = end;
                        }
                    }
                    '\u{2190}'..='\u{2BFF}' | '\u{1F000}'..='\u{1FAFF}' => out.push(segment.to_owned()),
                    _ => {}
                }
            }
        }
        out
    })
}

/// The hash of a term (FNV-1a, mixed so that its low bits serve as an index).
#[must_use]
pub fn term(word: &str) -> Term {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in word.as_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

/// A document as it is indexed.
#[must_use]
pub fn document(text: &str) -> DocumentTerms {
    document_of(&words(text))
}

/// A document of these folded words.
#[must_use]
pub fn document_of(words: &[String]) -> DocumentTerms {
    let language = language::guess(words);
    let mut languages = Languages::default();
    let mut terms: Vec<Term> = Vec::with_capacity(words.len() * 2);
    let mut of_word: Vec<Term> = Vec::with_capacity(8);
    for word in words {
        of_word.clear();
        of_word.push(term(word));
        let stemmed_in = language::of_word(word, language);
        languages = stemmed_in.map_or(languages, |language| languages.with(language));
        of_word.extend(stemmed_in.map(|language| term(&language.stem(word))));
        if let Some(form) = without_accents(word) {
            of_word.push(term(&form));
            of_word.extend(stemmed_in.map(|language| term(&language.stem(&form))));
        }
        of_word.extend(parts(word).map(term));
        of_word.sort_unstable();
        of_word.dedup();
        terms.extend_from_slice(&of_word);
    }
    DocumentTerms { terms: counted(terms), words: u32::try_from(words.len()).unwrap_or(u32::MAX), languages }
}

/// A query for documents in `languages`.
#[must_use]
pub fn query(text: &str, languages: Languages) -> QueryTerms {
    let spoken = words(text);
    let language = language::guess(&spoken);
    let languages = languages.with(language);
    let means_something = |word: &String| !language::of_word(word, language).unwrap_or(language).is_stop_word(word);
    let all_small = !spoken.iter().any(means_something);
    let mut seen = std::collections::HashSet::new();
    let mut seen_parts = std::collections::HashSet::new();
    let mut looked_for = Vec::new();
    for word in spoken.iter().filter(|word| all_small || means_something(word)) {
        if looked_for.len() >= MAX_QUERY_WORDS {
            break;
        }
        if !seen.insert(word.as_str()) {
            continue;
        }
        let forms: Vec<String> = std::iter::once(word.clone()).chain(without_accents(word)).collect();
        let guessed = language::of_word(word, language).into_iter();
        let stemmed_in = guessed.chain(languages.iter().filter(|language| language::of_word(word, *language) == Some(*language)));
        let stems = stemmed_in.flat_map(|language| forms.iter().map(move |form| term(&language.stem(form))));
        let mut alternatives: Vec<Term> = stems.collect();
        alternatives.extend(forms.iter().map(|form| term(form)));
        alternatives.sort_unstable();
        alternatives.dedup();
        looked_for.push(QueryWord { alternatives, weight: 1.0 });
        // A word without spaces may be as long as the query: its parts count as words.
        let room = MAX_QUERY_WORDS.saturating_sub(looked_for.len());
        let new_parts = parts(word).filter(|part| seen_parts.insert(part.to_string())).take(room);
        looked_for.extend(new_parts.map(|part| QueryWord { alternatives: vec![term(part)], weight: PART_WEIGHT }));
    }
    let without_ending = spoken.iter().filter_map(|word| word.strip_suffix("'s"));
    let mut named: Vec<Term> = spoken.iter().map(String::as_str).chain(without_ending).map(term).collect();
    named.sort_unstable();
    let own = spoken.iter().any(|word| OWN_WORDS.contains(&word.as_str()));
    QueryTerms { words: looked_for, spoken, named, own }
}

fn counted(mut terms: Vec<Term>) -> Box<[(Term, u16)]> {
    terms.sort_unstable();
    let mut out: Vec<(Term, u16)> = Vec::with_capacity(terms.len());
    for term in terms {
        match out.last_mut() {
            Some((last, count)) if *last == term => *count = count.saturating_add(1),
            _ => out.push((term, 1)),
        }
    }
    out.into_boxed_slice()
}

/// The word without its accents, where that differs.
fn without_accents(word: &str) -> Option<String> {
    let accented = |c: char| matches!(c, '\u{00C0}'..='\u{024F}' | '\u{0370}'..='\u{03FF}');
    if word.is_ascii() || !word.chars().any(accented) {
        return None;
    }
    let decomposed = NFD.normalize(word);
    let plain: String = decomposed.chars().filter(|c| !matches!(c, '\u{0300}'..='\u{036F}')).collect();
    (plain != word).then_some(plain)
}

/// What a word is also found by, for less: `c++` by `c`, and in scripts with loose word boundaries characters of Han words and
/// pairs of Hangul syllables.
fn parts(word: &str) -> impl Iterator<Item = &str> {
    let first = word.chars().next();
    let han = first.is_some_and(is_han);
    let hangul = first.is_some_and(|c| matches!(c, '\u{AC00}'..='\u{D7A3}'));
    let width = if han { 1 } else { 2 };
    let long_enough = (han || hangul) && word.chars().nth(width).is_some();
    let bare = word.trim_end_matches(['+', '#']);
    let bare = (bare.len() < word.len() && !bare.is_empty()).then_some(bare);
    let pieces = word.char_indices().filter(move |_| long_enough).filter_map(move |(start, c)| {
        if han && !is_han(c) {
            return None;
        }
        let rest = &word[start..];
        let end = rest.char_indices().nth(width).map_or(rest.len(), |(end, _)| end);
        (rest[..end].chars().count() == width).then_some(&rest[..end])
    });
    bare.into_iter().chain(pieces)
}

fn is_han(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{323AF}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(query_text: &str, document_text: &str) -> bool {
        let document = document(document_text);
        query(query_text, document.languages)
            .words
            .iter()
            .any(|word| word.alternatives.iter().any(|term| document.terms.binary_search_by_key(term, |(t, _)| *t).is_ok()))
    }

    #[test]
    fn words_are_folded_and_cut_by_unicode_rules() {
        assert_eq!(words("Alice’s ＣＡＦÉ, don't: item 1-0!"), ["alice's", "café", "don't", "item", "1", "0"]);
        assert_eq!(words("C, C++ and C#"), ["c", "c++", "and", "c#"]);
        assert_eq!(words("a + b, #tag"), ["a", "b", "tag"]);
        assert_eq!(words("I ❤ 🍕"), ["i", "❤", "🍕"]);
        assert_eq!(words("…!? — "), Vec::<String>::new());
        assert_eq!(words("他住在巴黎").concat(), "他住在巴黎");
        assert!(words("他住在巴黎").len() > 1);
        assert!(words("ภาษาไทยภาษาไทย").len() > 1);
    }

    #[test]
    fn a_query_finds_its_document_in_every_language() {
        for (query, document) in [
            ("running shoes", "Alice runs every morning"),
            ("Wohnung in Berlin?", "Ich habe zwei Wohnungen gekauft"),
            ("où habite-t-il", "il habitait à Lyon"),
            ("mañanas", "me gusta correr por la manana"),
            ("где живет", "я живу в Москве, он живет в Казани"),
            ("他住在哪里", "他住在巴黎"),
            ("どこに住んでいますか", "東京に住む"),
            ("파리", "저는 파리에서 살아요"),
            ("ยาสีฟัน", "ฉันชอบยาสีฟันรสมินต์"),
            ("قهوة", "أحب قهوة الصباح"),
            ("c++", "She writes C++ at work"),
            ("🍕", "likes 🍕 on Fridays"),
            ("１２", "the code is 12"),
        ] {
            assert!(found(query, document), "{query} in {document}");
        }
    }

    #[test]
    fn what_differs_stays_apart() {
        assert!(!found("c#", "She writes Rust at work"));
        assert!(!found("tea", "Alice drinks coffee"));
        let cpp = document("C++");
        let sharp = query("C#", cpp.languages);
        assert!(sharp.words[0].alternatives.contains(&term("c#")) && !cpp.terms.iter().any(|(t, _)| *t == term("c#")));
    }

    #[test]
    fn small_words_count_only_when_there_is_nothing_else() {
        let english = Languages::default();
        assert_eq!(query("what is the tea", english).words.len(), 1);
        assert_eq!(query("what is it", english).words.len(), 3);
        assert!(query("…", english).words.is_empty());
        assert_eq!(query("tea tea TEA", english).words.len(), 1);
    }

    proptest! {
        #[test]
        fn any_text_has_words_and_finds_itself(text in "\\PC{0,60}") {
            let document = document(&text);
            prop_assert_eq!(document.words as usize, words(&text).len());
            prop_assert!(document.terms.windows(2).all(|pair| pair[0].0 < pair[1].0));
            let query = query(&text, document.languages);
            for word in &query.words {
                prop_assert!(word.alternatives.iter().any(|t| document.terms.binary_search_by_key(t, |(d, _)| *d).is_ok()));
            }
        }

        #[test]
        fn ascii_words_are_the_general_ones(text in "[ -~\t\n]{0,40}|[a-c0-2_.:;,'+# ]{0,24}") {
            prop_assert_eq!(words_of_ascii(&text), words_of_unicode(&text));
        }

        #[test]
        fn ascii_folding_is_the_general_one(text in "[ -~]{0,40}") {
            let composed = NFKC.normalize(&text);
            prop_assert_eq!(fold(&text), CaseMapper::new().fold_string(&composed).into_owned());
        }
    }
}
