//! What a call costs: the provider's own count of tokens, else an estimate, and its price.

/// Tokens of one or more calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) read: u64,
    pub(crate) written: u64,
}

impl Tokens {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { read: self.read.saturating_add(other.read), written: self.written.saturating_add(other.written) }
    }
}

/// Millionths of a currency per token, which is the same number as units of it per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Prices {
    pub(crate) read: f64,
    pub(crate) written: f64,
}

impl Prices {
    /// What `tokens` cost, in millionths, rounded.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a sum of money, far below 2^53, cut at the type's bounds"
    )]
    pub(crate) fn micros(self, tokens: Tokens) -> i64 {
        (tokens.read as f64 * self.read + tokens.written as f64 * self.written).round() as i64
    }
}

/// About how many tokens a text has: four bytes of ASCII each, else one a character.
pub(crate) fn estimate(text: &str) -> u64 {
    let ascii = text.bytes().filter(u8::is_ascii).count();
    let others = text.chars().count() - ascii;
    (ascii.div_ceil(4) + others) as u64
}

#[cfg(test)]
mod tests {
    use super::{Prices, Tokens, estimate};

    #[test]
    fn cost_is_price_per_million_times_tokens() {
        let prices = Prices { read: 0.15, written: 0.6 };
        assert_eq!(prices.micros(Tokens { read: 1_000_000, written: 500_000 }), 450_000);
        assert_eq!(prices.micros(Tokens { read: 1_234, written: 56 }), 219);
        assert_eq!(Prices::default().micros(Tokens { read: u64::MAX, written: 1 }), 0);
    }

    #[test]
    fn estimates_grow_with_text_in_any_script() {
        assert_eq!((estimate(""), estimate("abcd"), estimate("abcde"), estimate("巴黎")), (0, 1, 2, 2));
    }
}
