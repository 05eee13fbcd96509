//! The tokenizer: a text into the ids of pieces, as SentencePiece's unigram model does it.
//!
//! Normalisation by the model's own character map (a double array and a table of replacements), then the best segmentation (Viterbi)
//! over a byte trie of the pieces. Linear in the text, and without a panic for any text and any map: what points outside is no match.

use crate::file::{FileError, ModelFile};

const UNKNOWN: u32 = 0;
/// Begins every sentence.
pub const BEGIN: u32 = 1;
/// Ends every sentence.
pub const END: u32 = 2;
/// U+2581, which stands for a space.
const SPACE: &[u8] = "\u{2581}".as_bytes();
/// What an unknown character costs below the rarest piece.
const UNKNOWN_COST: f64 = 10.0;
/// Bytes of a text that are looked at; the rest is cut off before a character.
pub const MAX_TEXT_BYTES: usize = 4_096;
/// Ids of one sentence at most, with those of its begin and end.
pub const MAX_TOKENS: usize = 512;

/// The parts of a trie: the children of node `n` are the nodes `first[n]..first[n + 1]`, in the order of their labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TrieParts {
    pub(crate) first: Vec<u32>,
    pub(crate) label: Vec<u8>,
    /// The piece that ends here, plus one; 0: none does.
    pub(crate) piece: Vec<u32>,
}

impl TrieParts {
    /// The trie of `pieces`; of equal ones the last counts.
    pub(crate) fn build(pieces: &[Vec<u8>]) -> Self {
        let mut order: Vec<u32> = (0..u32::try_from(pieces.len()).unwrap_or(u32::MAX)).collect();
        order.sort_by(|a, b| (&pieces[*a as usize], a).cmp(&(&pieces[*b as usize], b)));
        let mut parts = Self { first: vec![1], label: vec![0], piece: vec![0] };
        // Level by level: (range of `order` below a node, its depth), in the nodes' order.
        let mut below = std::collections::VecDeque::from([(0, order.len(), 0)]);
        let mut node = 0;
        while let Some((mut from, to, depth)) = below.pop_front() {
            while from < to && pieces[order[from] as usize].len() == depth {
                parts.piece[node] = order[from] + 1;
                from += 1;
            }
            while from < to {
                let label = pieces[order[from] as usize][depth];
                let run = order[from..to].partition_point(|n| pieces[*n as usize][depth] == label);
                parts.label.push(label);
                parts.piece.push(0);
                below.push_back((from, from + run, depth + 1));
                from += run;
            }
            parts.first.push(u32::try_from(parts.label.len()).unwrap_or(u32::MAX));
            node += 1;
        }
        parts
    }
}

/// A trie in a model's file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trie<'a> {
    first: &'a [u32],
    label: &'a [u8],
    /// As in [`TrieParts`].
    pub(crate) piece: &'a [u32],
}

impl<'a> Trie<'a> {
    pub(crate) fn of(file: &'a ModelFile) -> Result<Self, FileError> {
        let (label, _) = file.section("trie.label")?;
        let (first, _) = file.exactly("trie.first", label.len() + 1)?;
        let (piece, _) = file.exactly("trie.piece", label.len())?;
        Ok(Self { first, label, piece })
    }

    /// The node that `label` leads to from `node`.
    pub(crate) fn child(&self, node: usize, label: u8) -> Option<usize> {
        let from = *self.first.get(node)? as usize;
        let to = *self.first.get(node + 1)? as usize;
        let labels = self.label.get(from..to)?;
        let at = if labels.len() <= 8 { labels.iter().position(|l| *l == label)? } else { labels.binary_search(&label).ok()? };
        Some(from + at)
    }
}

/// A model's pieces and character map, in the file.
#[derive(Clone, Copy, Debug)]
struct Pieces<'a> {
    trie: Trie<'a>,
    score: &'a [f32],
    units: &'a [u32],
    replacements: &'a [u8],
}

impl<'a> Pieces<'a> {
    fn of(file: &'a ModelFile) -> Result<Self, FileError> {
        Ok(Self {
            trie: Trie::of(file)?,
            score: file.section("score")?.0,
            units: file.section("map.units")?.0,
            replacements: file.section("map.text")?.0,
        })
    }

    /// What the longest key of the map that begins `text` turns into, and its length in bytes; else the first character itself.
    fn replaced<'t>(&self, text: &'t [u8]) -> (&'t [u8], usize)
    where
        'a: 't,
    {
        let mut best = None;
        let mut node = self.units.first().map_or(0, |unit| offset(*unit));
        for (n, byte) in text.iter().enumerate() {
            node ^= usize::from(*byte);
            let Some(unit) = self.units.get(node) else { break };
            if unit & 0x8000_00ff != u32::from(*byte) {
                break;
            }
            node ^= offset(*unit);
            if unit & 0x100 != 0
                && let Some(value) = self.units.get(node)
            {
                best = Some(((value & 0x7fff_ffff) as usize, n + 1));
            }
        }
        if let Some((value, length)) = best
            && let Some(rest) = self.replacements.get(value..)
        {
            let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
            return (&rest[..end], length);
        }
        let length = char_bytes(text);
        (&text[..length], length)
    }
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 0x200) >> 6)) as usize
}

/// Bytes of the character that `text` begins with; 1 where it is none, 0 where nothing is left.
fn char_bytes(text: &[u8]) -> usize {
    let wanted = match text.first() {
        None => return 0,
        Some(0xc0..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf7) => 4,
        Some(_) => 1,
    };
    let whole = text.len() >= wanted && text[1..wanted].iter().all(|b| b & 0xc0 == 0x80);
    if whole { wanted } else { 1 }
}

/// Buffers of one tokenization, kept for the next.
#[derive(Debug, Default)]
pub struct Scratch {
    normalised: Vec<u8>,
    best: Vec<f64>,
    start: Vec<u32>,
    piece: Vec<u32>,
}

/// The tokenizer of a model file.
#[derive(Debug)]
pub struct Tokenizer {
    file: std::sync::Arc<ModelFile>,
    unknown_score: f64,
}

impl Tokenizer {
    /// Over the sections of `file`.
    ///
    /// # Errors
    /// [`FileError`] where one is missing or they do not fit each other.
    pub fn new(file: std::sync::Arc<ModelFile>) -> Result<Self, FileError> {
        let pieces = Pieces::of(&file)?;
        if pieces.trie.piece.iter().any(|p| *p as usize > pieces.score.len()) {
            return Err(FileError::Section("trie.piece"));
        }
        let unknown_score = f64::from(pieces.score.iter().copied().fold(f32::INFINITY, f32::min)) - UNKNOWN_COST;
        Ok(Self { file, unknown_score })
    }

    /// Appends the ids of `text` with those of begin and end to `ids`, at most [`MAX_TOKENS`]; a text without anything to see is one
    /// unknown piece.
    ///
    /// # Errors
    /// [`FileError`], which [`Tokenizer::new`] has ruled out.
    pub fn encode(&self, text: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) -> Result<(), FileError> {
        let pieces = Pieces::of(&self.file)?;
        let text = &text[..text.floor_char_boundary(MAX_TEXT_BYTES)];
        normalise(pieces, text.as_bytes(), &mut scratch.normalised);
        ids.push(BEGIN);
        let from = ids.len();
        self.segment(pieces, scratch, ids);
        if ids.len() == from {
            ids.push(UNKNOWN);
        }
        ids.truncate(from + MAX_TOKENS - 2);
        ids.push(END);
        Ok(())
    }

    fn segment(&self, pieces: Pieces<'_>, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let Scratch { normalised, best, start, piece } = scratch;
        let text = normalised.as_slice();
        best.clear();
        best.resize(text.len() + 1, f64::NEG_INFINITY);
        start.clear();
        start.resize(text.len() + 1, 0);
        piece.clear();
        piece.resize(text.len() + 1, UNKNOWN);
        best[0] = 0.0;
        let mut at = 0;
        while at < text.len() {
            let base = best[at];
            let next = at + char_bytes(&text[at..]);
            let mut reach = |end: usize, score: f64, id: u32| {
                if score > best[end] {
                    best[end] = score;
                    start[end] = u32::try_from(at).unwrap_or(u32::MAX);
                    piece[end] = id;
                }
            };
            let mut node = 0;
            let mut single = false;
            for (n, byte) in text[at..].iter().enumerate() {
                let Some(child) = pieces.trie.child(node, *byte) else { break };
                node = child;
                let id = pieces.trie.piece[node];
                if id > 0 {
                    let end = at + n + 1;
                    reach(end, base + f64::from(pieces.score[id as usize - 1]), id - 1);
                    single |= end == next;
                }
            }
            if !single {
                reach(next, base + self.unknown_score, UNKNOWN);
            }
            at = next;
        }
        let from = ids.len();
        let mut end = text.len();
        while end > 0 {
            ids.push(piece[end]);
            end = start[end] as usize;
        }
        ids[from..].reverse();
    }
}

/// The text with the map applied, runs of spaces as one, none at either end, and each written as [`SPACE`], one in front.
fn normalise(pieces: Pieces<'_>, text: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut at = 0;
    while at < text.len() {
        let (piece, length) = pieces.replaced(&text[at..]);
        if piece != b" " {
            break;
        }
        at += length;
    }
    if at >= text.len() {
        return;
    }
    out.extend_from_slice(SPACE);
    let mut after_space = true;
    while at < text.len() {
        let (mut piece, length) = pieces.replaced(&text[at..]);
        at += length;
        while after_space && piece.first() == Some(&b' ') {
            piece = &piece[1..];
        }
        for byte in piece {
            if *byte == b' ' {
                out.extend_from_slice(SPACE);
            } else {
                out.push(*byte);
            }
        }
        if let Some(last) = piece.last() {
            after_space = *last == b' ';
        }
    }
    while out.ends_with(SPACE) {
        out.truncate(out.len() - SPACE.len());
    }
}
