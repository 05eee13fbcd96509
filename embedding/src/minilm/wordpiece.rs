//! The tokenizer: a text into the ids of words and parts of words, as BERT's uncased one does it.
//!
//! Controls go, blanks are spaces, ideographs stand alone, accents are taken off, letters are made small; what stands between spaces
//! is cut at punctuation, and each word into the longest parts that the vocabulary has, from its front. Linear in the text, and
//! without a panic for any text. A text never names special tokens: `[SEP]` in it is words and marks like any other.
//!
//! What is an accent or punctuation is today's Unicode's word. The reference's tables are older: of all characters 693 fare otherwise
//! there, every one of them added or reclassified since.

use std::sync::Arc;

use icu_normalizer::{DecomposingNormalizer, DecomposingNormalizerBorrowed};
use icu_properties::CodePointMapData;
use icu_properties::props::{GeneralCategory, GeneralCategoryGroup};

use super::shape::{MAX_TOKENS, WORDS};
use crate::builtin::pieces::Trie;
use crate::file::{FileError, ModelFile};

/// A word that the vocabulary has no parts for.
const UNKNOWN: u32 = 100;
/// Begins every text.
pub const BEGIN: u32 = 101;
/// Ends every text.
pub const END: u32 = 102;
/// In front of parts that do not begin a word.
const INSIDE: &[u8] = b"##";
/// Characters of a word that is looked at; a longer one is unknown.
const MAX_WORD_CHARS: usize = 100;
/// Bytes of a text that are looked at; the rest is cut off before a character.
pub const MAX_TEXT_BYTES: usize = 4_096;

/// The tokenizer of a model file.
#[derive(Debug)]
pub(crate) struct Tokenizer {
    file: Arc<ModelFile>,
    /// The trie's node below which the parts stand that do not begin a word.
    inside: usize,
}

impl Tokenizer {
    /// Over the sections of `file`.
    ///
    /// # Errors
    /// [`FileError`] where one is missing or they do not fit each other.
    pub(crate) fn new(file: Arc<ModelFile>) -> Result<Self, FileError> {
        let trie = Trie::of(&file)?;
        if trie.piece.iter().any(|word| *word as usize > WORDS) {
            return Err(FileError::Section("trie.piece"));
        }
        let inside = INSIDE.iter().try_fold(0, |node, byte| trie.child(node, *byte));
        let inside = inside.ok_or(FileError::Section("trie.label"))?;
        Ok(Self { file, inside })
    }

    /// Appends the ids of `text` with those of begin and end to `ids`, at most [`MAX_TOKENS`].
    ///
    /// # Errors
    /// [`FileError`], which [`Tokenizer::new`] has ruled out.
    pub(crate) fn encode(&self, text: &str, plain: &mut String, ids: &mut Vec<u32>) -> Result<(), FileError> {
        let trie = Trie::of(&self.file)?;
        plain.clear();
        simplify(&text[..text.floor_char_boundary(MAX_TEXT_BYTES)], plain);
        ids.push(BEGIN);
        let most = ids.len() + MAX_TOKENS - 2;
        for word in words(plain) {
            self.cut(trie, word, ids);
            if ids.len() >= most {
                break;
            }
        }
        ids.truncate(most);
        ids.push(END);
        Ok(())
    }

    /// Appends the longest parts of `word` from its front, or one unknown where they do not make it up.
    fn cut(&self, trie: Trie<'_>, word: &str, ids: &mut Vec<u32>) {
        let from = ids.len();
        let mut rest = word.as_bytes();
        if word.chars().nth(MAX_WORD_CHARS).is_some() {
            ids.push(UNKNOWN);
            return;
        }
        let mut root = 0;
        while !rest.is_empty() {
            let (mut node, mut longest) = (root, None);
            for (n, byte) in rest.iter().enumerate() {
                let Some(child) = trie.child(node, *byte) else { break };
                node = child;
                if let Some(id) = trie.piece.get(node).and_then(|word| word.checked_sub(1)) {
                    longest = Some((id, n + 1));
                }
            }
            let Some((id, length)) = longest else {
                ids.truncate(from);
                ids.push(UNKNOWN);
                return;
            };
            ids.push(id);
            rest = &rest[length..];
            root = self.inside;
        }
    }
}

static NFD: DecomposingNormalizerBorrowed<'static> = DecomposingNormalizer::new_nfd();

fn category(c: char) -> GeneralCategory {
    CodePointMapData::<GeneralCategory>::new().get(c)
}

/// `text` as the vocabulary writes it, onto `out`.
fn simplify(text: &str, out: &mut String) {
    let clean = text.chars().flat_map(|c| {
        let ideograph = is_ideograph(c);
        let c = if is_blank(c) { ' ' } else { c };
        let kept = c == ' ' || !is_removed(c);
        [Some(' ').filter(|_| ideograph), Some(c).filter(|_| kept), Some(' ').filter(|_| ideograph)].into_iter().flatten()
    });
    let unmarked = NFD.normalize_iter(clean).filter(|c| category(*c) != GeneralCategory::NonspacingMark);
    out.extend(unmarked.flat_map(char::to_lowercase));
}

fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r') || (c.is_whitespace() && category(c) != GeneralCategory::Control)
}

fn is_removed(c: char) -> bool {
    c == char::REPLACEMENT_CHARACTER
        || matches!(category(c), GeneralCategory::Control | GeneralCategory::Format | GeneralCategory::PrivateUse)
}

/// Of the scripts that are written without spaces, those that BERT takes apart by the character.
fn is_ideograph(c: char) -> bool {
    matches!(
        c,
        '\u{3400}'..='\u{4dbf}'
            | '\u{4e00}'..='\u{9fff}'
            | '\u{f900}'..='\u{faff}'
            | '\u{20000}'..='\u{2a6df}'
            | '\u{2a700}'..='\u{2b73f}'
            | '\u{2b740}'..='\u{2b81f}'
            | '\u{2b920}'..='\u{2ceaf}'
            | '\u{2f800}'..='\u{2fa1f}'
    )
}

fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || GeneralCategoryGroup::Punctuation.contains(category(c))
}

/// What stands between spaces, cut before and after punctuation.
fn words(plain: &str) -> impl Iterator<Item = &str> {
    plain.split(char::is_whitespace).flat_map(|part| part.split_inclusive(is_punctuation)).flat_map(|part| {
        let mark = part.char_indices().next_back().filter(|(_, c)| is_punctuation(*c)).map_or(part.len(), |(at, _)| at);
        let (word, mark) = part.split_at(mark);
        [word, mark].into_iter().filter(|word| !word.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::builtin::pieces::TrieParts;
    use crate::file::FileBuilder;

    fn simple(text: &str) -> String {
        let mut out = String::new();
        simplify(text, &mut out);
        out
    }

    /// A tokenizer of these words; the first has id 0.
    fn tokenizer(words: &[&str]) -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.bin");
        let trie = TrieParts::build(&words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>());
        let mut builder = FileBuilder::default();
        builder.add("trie.first", &trie.first, 0.0);
        builder.add("trie.label", &trie.label, 0.0);
        builder.add("trie.piece", &trie.piece, 0.0);
        builder.write(&path).unwrap();
        Tokenizer::new(Arc::new(ModelFile::open(&path).unwrap())).unwrap()
    }

    fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        let mut ids = vec![7];
        tokenizer.encode(text, &mut String::new(), &mut ids).unwrap();
        assert!(ids.len() <= 1 + MAX_TOKENS && ids[..2] == [7, BEGIN] && ids.ends_with(&[END]));
        ids[2..ids.len() - 1].to_vec()
    }

    #[test]
    fn a_text_is_written_as_the_vocabulary_writes() {
        assert_eq!(simple("Café\u{0} NAÏVE\u{200b}\u{fffd}\t\u{3000}İ"), "cafe naive  i");
        assert_eq!(simple("a漢b"), "a 漢 b");
        let cut: Vec<&str> = words("don't stop... (ok)").collect();
        assert_eq!(cut, ["don", "'", "t", "stop", ".", ".", ".", "(", "ok", ")"]);
    }

    #[test]
    fn words_are_cut_into_the_longest_parts_or_are_unknown() {
        let tokenizer = tokenizer(&["un", "una", "##affable", "##able", "##ff", "##a", "u", "é"]);
        assert_eq!(ids(&tokenizer, "Una unaffable"), [1, 1, 4, 3]);
        assert_eq!(ids(&tokenizer, "unable un-u"), [UNKNOWN, 0, UNKNOWN, 6]);
        assert_eq!(ids(&tokenizer, "unff ununa"), [0, 4, UNKNOWN]);
        let (hundred, more) = (format!("u{}", "a".repeat(99)), format!("u{}", "a".repeat(100)));
        assert_eq!(ids(&tokenizer, &format!("u{hundred} {more}")), [UNKNOWN, UNKNOWN]);
        let tokens = ids(&tokenizer, &hundred);
        assert!(tokens.len() == 100 && tokens[0] == 6 && tokens[1..].iter().all(|id| *id == 5), "{tokens:?}");
        assert_eq!(ids(&tokenizer, &"u ".repeat(1_000)), [6; MAX_TOKENS - 2]);
    }

    #[test]
    fn any_text_has_ids() {
        let tokenizer = tokenizer(&["u", "##", "##u", "\u{1100}"]);
        proptest!(|(text in any::<String>(), odd in "[\u{300}-\u{310}u漢'\u{1f600}\u{ad}\u{ac00} \u{e000}]{0,600}")| {
            for text in [text, odd] {
                ids(&tokenizer, &text);
                let once = simple(&text);
                let again = simple(&once);
                prop_assert_eq!(words(&again).collect::<Vec<_>>(), words(&once).collect::<Vec<_>>());
            }
        });
    }
}
