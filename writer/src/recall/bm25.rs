//! BM25's two constants. What is counted over which items is with [`super::items`].

/// How fast a word's repetition stops to count.
pub(super) const K1: f64 = 1.2;
/// How much a long document is held back: `b`.
pub(super) const LENGTH_SHARE: f64 = 0.75;
