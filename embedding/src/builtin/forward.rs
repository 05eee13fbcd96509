//! The network: ids of pieces in, unit vectors out, for many sentences at a time.
//!
//! Per piece a row of the table; three branches that look at 2, 3 and 5 neighbours through two convolutions each; a sum over the
//! sentence; a small head. The pieces of all sentences stand in one matrix, so weights are streamed once for all of them. A
//! convolution is one product (every piece with every tap) and shifted additions that end at the sentence's ends, so a sentence's
//! vector does not depend on its neighbours.

use std::sync::Arc;

use super::matrix::{self, Matrix, Steps};
use super::shape::{BRANCH, BRANCHES, CHUNK_ROWS, CHUNKS, EMBEDDING, FEATURES, MATRICES, NARROW};
use super::steps::{Bytes, Packed};
use crate::file::{FileError, ModelFile};

const EPSILON: f32 = 1e-12;
const PROJECTED: usize = BRANCHES.len() * BRANCH;
/// Pieces that are worked on together: enough to make up for streaming the weights, few enough to stay near the core.
const TOGETHER: usize = 160;

/// One convolution: every tap's matrix side by side, and the bias.
#[derive(Debug)]
struct Convolution {
    taps: Matrix,
    bias: Vec<f32>,
}

#[derive(Debug)]
struct Branch {
    neighbours: usize,
    before: usize,
    first: Convolution,
    second: Convolution,
}

/// The weights, ready to multiply.
#[derive(Debug)]
pub struct Network {
    file: Arc<ModelFile>,
    low: Vec<f32>,
    scale: Vec<f32>,
    projection: Matrix,
    projection_bias: Vec<f32>,
    projection_norm: (Vec<f32>, Vec<f32>),
    branches: Vec<Branch>,
    feature_norm: (Vec<f32>, Vec<f32>),
    out: Matrix,
    out_bias: Vec<f32>,
    /// `d0` beside `p1`: both read the same.
    d0_p1: Matrix,
    d1: Matrix,
    d2: Matrix,
    p3: Matrix,
    d3: Matrix,
}

/// Buffers of one pass, kept for the next.
#[derive(Debug, Default)]
pub struct Scratch {
    features: Vec<f32>,
    projected: Vec<f32>,
    taps: Vec<f32>,
    hidden: Vec<f32>,
    sums: Vec<f32>,
    mean: Vec<f32>,
    wide: Vec<f32>,
    y0: Vec<f32>,
    y1: Vec<f32>,
    y2: Vec<f32>,
    vectors: Vec<f32>,
    bytes: Bytes,
}

/// `buffer` with room for `count` values, whatever they are.
fn room(buffer: &mut Vec<f32>, count: usize) -> &mut [f32] {
    if buffer.len() < count {
        buffer.resize(count, 0.0);
    }
    &mut buffer[..count]
}

impl Network {
    /// Over the sections of `file`, with products of what this processor does best.
    ///
    /// # Errors
    /// [`FileError`] where one is missing or of another size.
    pub fn new(file: Arc<ModelFile>) -> Result<Self, FileError> {
        Self::with(file, Packed::possible())
    }

    /// [`Network::new`], with products of bytes or of floats.
    pub(crate) fn with(file: Arc<ModelFile>, bytes: bool) -> Result<Self, FileError> {
        file.exactly::<u8>("table", CHUNKS * CHUNK_ROWS * EMBEDDING)?;
        let vector = |name, count| file.exactly::<f32>(name, count).map(|(values, _)| values.to_vec());
        let steps = |name: &'static str| {
            let (_, rows, columns) = MATRICES.into_iter().find(|(n, ..)| *n == name).ok_or(FileError::Section(name))?;
            let (values, step) = file.exactly::<i8>(name, rows * columns)?;
            Ok::<_, FileError>(Steps::new(rows, columns, values, step))
        };
        // The head stays exact: what it sees are sums, whose few large components would leave the others no bits.
        let matrix = |name: &'static str| steps(name).map(|steps| Matrix::of(&steps, false));
        let vectors = |names: [&'static str; 3]| {
            let mut all = Vec::with_capacity(PROJECTED);
            for name in names {
                all.extend(vector(name, BRANCH)?);
            }
            Ok::<_, FileError>(all)
        };
        let names: [[&'static str; 4]; 3] =
            [["w1_2", "b1_2", "w2_2", "b2_2"], ["w1_3", "b1_3", "w2_3", "b2_3"], ["w1_5", "b1_5", "w2_5", "b2_5"]];
        let mut branches = Vec::new();
        for ((neighbours, before), [w1, b1, w2, b2]) in BRANCHES.into_iter().zip(names) {
            let convolution = |weights, bias| {
                let taps = Matrix::of(&Steps::beside(&steps(weights)?.cut(neighbours)), bytes);
                Ok::<_, FileError>(Convolution { taps, bias: vector(bias, BRANCH)? })
            };
            branches.push(Branch { neighbours, before, first: convolution(w1, b1)?, second: convolution(w2, b2)? });
        }
        Ok(Self {
            low: vector("lo", CHUNKS)?,
            scale: vector("scale", CHUNKS)?,
            projection: Matrix::of(&Steps::beside(&[steps("proj2")?, steps("proj3")?, steps("proj5")?]), bytes),
            projection_bias: vectors(["proj_b2", "proj_b3", "proj_b5"])?,
            projection_norm: (vectors(["ln_g2", "ln_g3", "ln_g5"])?, vectors(["ln_b2", "ln_b3", "ln_b5"])?),
            branches,
            feature_norm: (vector("ln_g", FEATURES)?, vector("ln_b", FEATURES)?),
            out: matrix("cnn_W")?,
            out_bias: vector("cnn_b", EMBEDDING)?,
            d0_p1: Matrix::of(&Steps::beside(&[steps("d0")?, steps("p1")?]), false),
            d1: matrix("d1")?,
            d2: matrix("d2")?,
            p3: matrix("p3")?,
            d3: matrix("d3")?,
            file,
        })
    }

    /// One unit vector of [`EMBEDDING`] components per sentence, handed to `each` in order. No sentence is empty; an id that is no
    /// piece's is the unknown one.
    ///
    /// # Errors
    /// [`FileError`], which [`Network::new`] has ruled out.
    pub fn run(
        &self,
        ids: &[u32],
        lengths: &[usize],
        scratch: &mut Scratch,
        mut each: impl FnMut(&[f32]),
    ) -> Result<(), FileError> {
        let (mut ids, mut lengths) = (ids, lengths);
        while !lengths.is_empty() {
            let mut pieces = 0;
            let fit = lengths.iter().take_while(|length| {
                pieces += **length;
                pieces <= TOGETHER
            });
            let sentences = fit.count().max(1);
            let (now, later) = lengths.split_at(sentences);
            let (these, those) = ids.split_at(now.iter().sum());
            self.together(these, now, scratch)?;
            scratch.vectors[..sentences * EMBEDDING].chunks_exact(EMBEDDING).for_each(&mut each);
            (ids, lengths) = (those, later);
        }
        Ok(())
    }

    fn together(&self, ids: &[u32], lengths: &[usize], scratch: &mut Scratch) -> Result<(), FileError> {
        let pieces = ids.len();
        let features = room(&mut scratch.features, pieces * FEATURES);
        let bytes = &mut scratch.bytes;
        self.look_up(ids, features, bytes)?;

        let projected = room(&mut scratch.projected, pieces * PROJECTED);
        match self.projection.packed() {
            // The table's steps themselves: exact.
            Some(packed) => packed.apply(bytes, projected, false),
            None => self.projection.apply(features, FEATURES, pieces, projected, false, bytes),
        }
        for row in projected.chunks_exact_mut(PROJECTED) {
            matrix::add(row, &self.projection_bias);
            matrix::normalise(row, &self.projection_norm.0, &self.projection_norm.1, EPSILON);
        }

        let hidden = room(&mut scratch.hidden, pieces * BRANCH);
        for (n, branch) in self.branches.iter().enumerate() {
            let taps = room(&mut scratch.taps, pieces * branch.first.taps.columns());
            branch.first.taps.apply(&projected[n * BRANCH..], PROJECTED, pieces, taps, false, bytes);
            branch.gather(&branch.first.bias, taps, lengths, |piece, row| {
                matrix::rectify_and_add(row, &projected[piece * PROJECTED + n * BRANCH..][..BRANCH]);
                hidden[piece * BRANCH..][..BRANCH].copy_from_slice(row);
            });
            branch.second.taps.apply(hidden, BRANCH, pieces, taps, false, bytes);
            branch.gather(&branch.second.bias, taps, lengths, |piece, row| {
                matrix::rectify_and_add(row, &hidden[piece * BRANCH..][..BRANCH]);
                features[piece * FEATURES + EMBEDDING + n * BRANCH..][..BRANCH].copy_from_slice(row);
            });
        }

        let sums = room(&mut scratch.sums, lengths.len() * FEATURES);
        sums.fill(0.0);
        let mut rows = features.chunks_exact_mut(FEATURES);
        for (sum, length) in sums.chunks_exact_mut(FEATURES).zip(lengths) {
            for row in rows.by_ref().take(*length) {
                matrix::normalise(row, &self.feature_norm.0, &self.feature_norm.1, EPSILON);
                matrix::add(sum, row);
            }
        }
        self.head(lengths, scratch);
        Ok(())
    }

    /// Each piece's row of the table: as it is into `bytes`, what it is worth into the first columns of its features.
    fn look_up(&self, ids: &[u32], features: &mut [f32], bytes: &mut Bytes) -> Result<(), FileError> {
        let (table, _) = self.file.section::<u8>("table")?;
        bytes.bytes.clear();
        bytes.grid.clear();
        for (id, row) in ids.iter().zip(features.chunks_exact_mut(FEATURES)) {
            let id = Some(*id as usize).filter(|id| *id < CHUNKS * CHUNK_ROWS).unwrap_or(0);
            let (scale, low) = (self.scale[id % CHUNKS], self.low[id % CHUNKS]);
            let steps = &table[id * EMBEDDING..][..EMBEDDING];
            bytes.bytes.extend_from_slice(steps);
            bytes.grid.push((scale, low));
            for (value, step) in row.iter_mut().zip(steps) {
                *value = f32::from(*step) * scale + low;
            }
        }
        Ok(())
    }

    /// From sums over sentences to vectors. The sum and the linear layer after it commute, so that layer sees sentences, not pieces.
    fn head(&self, lengths: &[usize], scratch: &mut Scratch) {
        let count = lengths.len();
        let bytes = &mut scratch.bytes;
        let mean = room(&mut scratch.mean, count * EMBEDDING);
        self.out.apply(&scratch.sums, FEATURES, count, mean, false, bytes);
        for (row, length) in mean.chunks_exact_mut(EMBEDDING).zip(lengths) {
            #[expect(clippy::cast_precision_loss, reason = "some hundreds at most")]
            let length = *length as f32;
            let factor = length.sqrt().recip();
            for (value, bias) in row.iter_mut().zip(&self.out_bias) {
                *value = (*value + length * bias) * factor;
            }
        }
        let wide = room(&mut scratch.wide, count * 2 * NARROW);
        self.d0_p1.apply(mean, EMBEDDING, count, wide, false, bytes);
        let y0 = room(&mut scratch.y0, count * NARROW);
        let y1 = room(&mut scratch.y1, count * NARROW);
        for (n, row) in wide.chunks_exact(2 * NARROW).enumerate() {
            y0[n * NARROW..][..NARROW].copy_from_slice(&row[..NARROW]);
            y1[n * NARROW..][..NARROW].copy_from_slice(&row[NARROW..]);
        }
        matrix::rectify(y0);
        self.d1.apply(y0, NARROW, count, y1, true, bytes);
        matrix::rectify(y1);
        let y2 = room(&mut scratch.y2, count * EMBEDDING);
        self.d2.apply(y1, NARROW, count, y2, false, bytes);
        matrix::rectify(y2);
        let vectors = room(&mut scratch.vectors, count * EMBEDDING);
        self.p3.apply(y1, NARROW, count, vectors, false, bytes);
        self.d3.apply(y2, EMBEDDING, count, vectors, true, bytes);
        for row in vectors.chunks_exact_mut(EMBEDDING) {
            for value in row.iter_mut() {
                *value = value.tanh();
            }
            matrix::to_unit(row, EPSILON);
        }
    }
}

impl Branch {
    /// Hands each piece's row to `done`: the bias, and of each tap what the neighbour there gives, as far as it is of the sentence.
    fn gather(&self, bias: &[f32], taps: &[f32], lengths: &[usize], mut done: impl FnMut(usize, &mut [f32])) {
        let width = self.neighbours * BRANCH;
        let mut row = [0.0_f32; BRANCH];
        let mut begin = 0;
        for length in lengths {
            let end = begin + length;
            for piece in begin..end {
                row.copy_from_slice(bias);
                for tap in 0..self.neighbours {
                    let neighbour = piece + tap;
                    if neighbour >= begin + self.before && neighbour < end + self.before {
                        matrix::add(&mut row, &taps[(neighbour - self.before) * width + tap * BRANCH..][..BRANCH]);
                    }
                }
                done(piece, &mut row);
            }
            begin = end;
        }
    }
}
