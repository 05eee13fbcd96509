//! How many tokens a text costs a prompt, estimated without any model's tokeniser.
//!
//! The estimate: one token per four ASCII characters, one per two letters of other alphabets, one per character of a script
//! without spaces, and [`ITEM_TOKENS`] for what surrounds an item. It errs on the high side of common tokenisers. Recall's
//! budget and the injected block's are both counted by it.

/// What an item costs beside its words: line, marks, date.
pub const ITEM_TOKENS: usize = 4;

/// Quarters of a token: they add up exactly over the pieces of a text.
#[must_use]
pub fn quarters(text: &str) -> usize {
    text.chars()
        .map(|c| match c {
            c if c.is_ascii() => 1,
            '\u{0080}'..='\u{08FF}' | '\u{1E00}'..='\u{1FFF}' => 2,
            _ => 4,
        })
        .sum()
}

/// The estimated tokens of a text as it stands.
#[must_use]
pub fn of_text(text: &str) -> usize {
    quarters(text).div_ceil(4)
}

/// The estimated tokens of a text as one item of a list.
#[must_use]
pub fn of_item(text: &str) -> usize {
    of_text(text) + ITEM_TOKENS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_cost_what_they_cost() {
        assert_eq!(of_item(""), ITEM_TOKENS);
        assert_eq!(of_item("abcdefgh"), ITEM_TOKENS + 2);
        assert_eq!(of_text("他住在巴黎"), 5);
        assert_eq!(of_text("москва"), 3);
        assert_eq!(of_text("abc") + of_text("d"), 2);
        assert_eq!((quarters("abc") + quarters("d")).div_ceil(4), of_text("abcd"));
    }
}
