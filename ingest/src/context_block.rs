//! Injected memory that comes back in a message is removed before anything else looks at it: recalled text is never learned again.

use std::borrow::Cow;

/// What opens an injected block.
pub const OPEN: &str = "<memori_context>";
/// What closes it.
pub const CLOSE: &str = "</memori_context>";

/// `text` without its well-formed blocks, and how many there were. A close belongs to the nearest open before it; what a removal
/// joins is looked at again, so that no block is left. An open or close without its partner stays.
#[must_use]
pub fn remove_blocks(text: &str) -> (Cow<'_, str>, usize) {
    if !text.contains('<') || !text.contains(CLOSE) {
        return (Cow::Borrowed(text), 0);
    }
    let mut out = String::with_capacity(text.len());
    let mut opens: Vec<usize> = Vec::new();
    let mut removed = 0;
    // Both tags end in `>`: only there can one be complete.
    for piece in text.split_inclusive('>') {
        out.push_str(piece);
        if out.ends_with(OPEN) {
            opens.push(out.len() - OPEN.len());
        } else if out.ends_with(CLOSE)
            && let Some(start) = opens.pop()
        {
            out.truncate(start);
            removed += 1;
        }
    }
    if removed == 0 { (Cow::Borrowed(text), 0) } else { (Cow::Owned(out), removed) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The plainest thing: while some close has an open before it, cut out the first such close with the last open before it.
    fn naive(text: &str) -> (String, usize) {
        let mut text = text.to_owned();
        let mut removed = 0;
        'again: loop {
            for (close, _) in text.match_indices(CLOSE) {
                if let Some(open) = text[..close].rfind(OPEN) {
                    text.replace_range(open..close + CLOSE.len(), "");
                    removed += 1;
                    continue 'again;
                }
            }
            return (text, removed);
        }
    }

    #[test]
    fn whole_blocks_go_and_halves_stay() {
        let cases = [
            ("plain", "plain", 0),
            ("a <memori_context>\n- x\n</memori_context> b", "a  b", 1),
            ("<memori_context></memori_context><memori_context>y</memori_context>", "", 2),
            ("a <memori_context> never closed", "a <memori_context> never closed", 0),
            ("a </memori_context> never opened", "a </memori_context> never opened", 0),
            ("<memori_context>a<memori_context>b</memori_context>c</memori_context>d", "d", 2),
            ("<memori_context>a<memori_context>b</memori_context>c", "<memori_context>ac", 1),
            ("<memori_<memori_context></memori_context>context>x</memori_context>.", ".", 2),
            ("<MEMORI_CONTEXT>x</MEMORI_CONTEXT>", "<MEMORI_CONTEXT>x</MEMORI_CONTEXT>", 0),
        ];
        for (text, left, removed) in cases {
            assert_eq!(remove_blocks(text), (Cow::Borrowed(left), removed), "{text}");
        }
    }

    proptest! {
        #[test]
        fn as_the_naive_way(pieces in proptest::collection::vec(
            prop_oneof![Just(OPEN), Just(CLOSE), Just("<memori_"), Just("context>"), Just("</memori_"), Just("ä"), Just(">")], 0..12)
        ) {
            let text = pieces.concat();
            let (left, removed) = remove_blocks(&text);
            let (naive_left, naive_removed) = naive(&text);
            prop_assert_eq!(&*left, naive_left.as_str());
            prop_assert_eq!(removed, naive_removed);
            prop_assert_eq!(remove_blocks(&left).1, 0);
        }
    }
}
