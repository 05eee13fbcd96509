//! Normalisation of a fact's text, as decision 1 fixes it.

use icu_casemap::CaseMapper;
use icu_normalizer::{ComposingNormalizer, DecomposingNormalizer};

/// NFD → full case folding → NFC, white space runs to one space, trimmed, one final `.`, `!` or `。` dropped.
#[must_use]
pub fn normalise(text: &str) -> String {
    let decomposed = DecomposingNormalizer::new_nfd().normalize(text);
    let folded = CaseMapper::new().fold_string(&decomposed);
    let composed = ComposingNormalizer::new_nfc().normalize(&folded).into_owned();
    let mut out = String::with_capacity(composed.len());
    for word in composed.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    if let Some(stripped) = out.strip_suffix(['.', '!', '。']) {
        let kept = stripped.trim_end().len();
        out.truncate(kept);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::normalise;

    #[test]
    fn case_space_and_one_final_stop_do_not_count() {
        assert_eq!(normalise("  Alice  likes\tTea. "), "alice likes tea");
        assert_eq!(normalise("Straße!"), "strasse");
        assert_eq!(normalise("他住在巴黎。"), "他住在巴黎");
    }

    #[test]
    fn punctuation_and_script_keep_facts_apart() {
        for (a, b) in [("C", "C++"), ("C++", "C#"), ("item 10", "item 1-0"), ("他住在巴黎", "他住在柏林"), ("really?", "really")]
        {
            assert_ne!(normalise(a), normalise(b));
        }
    }

    #[test]
    fn only_one_stop_is_dropped() {
        assert_eq!(normalise("well..."), "well..");
    }
}
