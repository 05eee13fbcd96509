//! How many tokens a text costs a prompt, estimated without any model's tokeniser, and which items fit a budget.
//!
//! The estimate: one token per four ASCII characters, one per two letters of other alphabets, one per character of a script
//! without spaces, and [`ITEM_TOKENS`] for what surrounds an item. It errs on the high side of common tokenisers.

/// What an item costs beside its words: line, marks, date.
pub const ITEM_TOKENS: usize = 4;

/// The estimated tokens of a text as one item.
#[must_use]
pub fn tokens(text: &str) -> usize {
    let mut quarters = 0_usize;
    for c in text.chars() {
        quarters += match c {
            c if c.is_ascii() => 1,
            '\u{0080}'..='\u{08FF}' | '\u{1E00}'..='\u{1FFF}' => 2,
            _ => 4,
        };
    }
    quarters.div_ceil(4) + ITEM_TOKENS
}

/// Which of the items, best first, fit: each is taken where what is left suffices for it.
#[must_use]
pub fn fitting(costs: impl IntoIterator<Item = usize>, mut left: usize) -> (Vec<bool>, usize) {
    let taken = costs
        .into_iter()
        .map(|cost| {
            let fits = cost <= left;
            if fits {
                left -= cost;
            }
            fits
        })
        .collect();
    (taken, left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_cost_what_they_cost() {
        assert_eq!(tokens(""), ITEM_TOKENS);
        assert_eq!(tokens("abcdefgh"), ITEM_TOKENS + 2);
        assert_eq!(tokens("他住在巴黎"), ITEM_TOKENS + 5);
        assert_eq!(tokens("москва"), ITEM_TOKENS + 3);
    }

    #[test]
    fn a_long_item_does_not_shut_out_the_short_ones_behind_it() {
        assert_eq!(fitting([10, 90, 20], 40), (vec![true, false, true], 10));
        assert_eq!(fitting([1], 0), (vec![false], 0));
    }
}
