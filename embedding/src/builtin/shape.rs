//! The network's shape: which arrays there are, and how large.

/// Components of a vector, and of a piece's row in the table.
pub(crate) const EMBEDDING: usize = 512;
/// Features of one branch.
pub(crate) const BRANCH: usize = 256;
/// What is averaged over a sentence: the table's row and the three branches.
pub(crate) const FEATURES: usize = EMBEDDING + BRANCHES.len() * BRANCH;
/// The branches: how many neighbouring pieces they look at, and how many of those stand before.
pub(crate) const BRANCHES: [(usize, usize); 3] = [(2, 0), (3, 1), (5, 2)];
/// The table was quantised in parts: piece `id` is of part `id % CHUNKS`.
pub(crate) const CHUNKS: usize = 17;
/// Rows of each part.
pub(crate) const CHUNK_ROWS: usize = 7_530;
/// Pieces of the tokenizer; the table's last rows are nobody's.
pub(crate) const PIECES: usize = 128_000;
/// Width of the head's narrow layers.
pub(crate) const NARROW: usize = 320;

/// Matrices, with rows and columns; int8 steps in the file.
pub(crate) const MATRICES: [(&str, usize, usize); 16] = [
    ("proj2", EMBEDDING, BRANCH),
    ("proj3", EMBEDDING, BRANCH),
    ("proj5", EMBEDDING, BRANCH),
    ("w1_2", 2 * BRANCH, BRANCH),
    ("w1_3", 3 * BRANCH, BRANCH),
    ("w1_5", 5 * BRANCH, BRANCH),
    ("w2_2", 2 * BRANCH, BRANCH),
    ("w2_3", 3 * BRANCH, BRANCH),
    ("w2_5", 5 * BRANCH, BRANCH),
    ("cnn_W", FEATURES, EMBEDDING),
    ("d0", EMBEDDING, NARROW),
    ("d1", NARROW, NARROW),
    ("p1", EMBEDDING, NARROW),
    ("d2", NARROW, EMBEDDING),
    ("p3", NARROW, EMBEDDING),
    ("d3", EMBEDDING, EMBEDDING),
];

/// Vectors, with their length.
pub(crate) const VECTORS: [(&str, usize); 20] = [
    ("lo", CHUNKS),
    ("scale", CHUNKS),
    ("proj_b2", BRANCH),
    ("proj_b3", BRANCH),
    ("proj_b5", BRANCH),
    ("ln_g2", BRANCH),
    ("ln_g3", BRANCH),
    ("ln_g5", BRANCH),
    ("ln_b2", BRANCH),
    ("ln_b3", BRANCH),
    ("ln_b5", BRANCH),
    ("b1_2", BRANCH),
    ("b1_3", BRANCH),
    ("b1_5", BRANCH),
    ("b2_2", BRANCH),
    ("b2_3", BRANCH),
    ("b2_5", BRANCH),
    ("ln_g", FEATURES),
    ("ln_b", FEATURES),
    ("cnn_b", EMBEDDING),
];
