//! The network's shape, and the sections of its file.

/// Components of a token's state, and of a vector.
pub(crate) const WIDTH: usize = 384;
/// Blocks of attention and of a small network each.
pub(crate) const LAYERS: usize = 6;
/// Heads of an attention.
pub(crate) const HEADS: usize = 12;
/// Components that a head looks at.
pub(crate) const HEAD: usize = WIDTH / HEADS;
/// Query, key and value side by side.
pub(crate) const TRIPLE: usize = 3 * WIDTH;
/// Width of a block's small network.
pub(crate) const INNER: usize = 1_536;
/// Words and parts of words.
pub(crate) const WORDS: usize = 30_522;
/// Tokens of a text at most, with those of its begin and end. The network has places for 512; it is published for this many.
pub const MAX_TOKENS: usize = 256;

/// A section of the file: its name, and how many floats of it belong to one layer (of [`LAYERS`]).
pub(crate) type PerLayer = (&'static str, usize);

/// Matrices stand row by row, inputs to outputs; a norm is its gain and then its bias.
pub(crate) const TRIPLE_WEIGHTS: PerLayer = ("triple.w", WIDTH * TRIPLE);
pub(crate) const TRIPLE_BIAS: PerLayer = ("triple.b", TRIPLE);
pub(crate) const OUT_WEIGHTS: PerLayer = ("out.w", WIDTH * WIDTH);
pub(crate) const OUT_BIAS: PerLayer = ("out.b", WIDTH);
pub(crate) const OUT_NORM: PerLayer = ("out.norm", 2 * WIDTH);
pub(crate) const UP_WEIGHTS: PerLayer = ("up.w", WIDTH * INNER);
pub(crate) const UP_BIAS: PerLayer = ("up.b", INNER);
pub(crate) const DOWN_WEIGHTS: PerLayer = ("down.w", INNER * WIDTH);
pub(crate) const DOWN_BIAS: PerLayer = ("down.b", WIDTH);
pub(crate) const DOWN_NORM: PerLayer = ("down.norm", 2 * WIDTH);

/// A row for every word.
pub(crate) const WORD_ROWS: &str = "words";
/// A row for every place of a token, with the row that says "first sentence" added: there is no second.
pub(crate) const PLACE_ROWS: &str = "places";
/// Of a token's word and place.
pub(crate) const FIRST_NORM: &str = "norm";
