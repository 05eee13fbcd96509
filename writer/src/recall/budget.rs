//! Which items fit a budget of estimated tokens.

pub use memori_service::tokens::{ITEM_TOKENS, of_item as tokens};

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
    fn a_long_item_does_not_shut_out_the_short_ones_behind_it() {
        assert_eq!(fitting([10, 90, 20], 40), (vec![true, false, true], 10));
        assert_eq!(fitting([1], 0), (vec![false], 0));
    }
}
