//! The network: ids of tokens in, unit vectors out, for many texts at a time.
//!
//! A row for every token and its place; six blocks, each of an attention within the text and a small network; the mean over the text.
//! The tokens of all texts stand in one matrix without padding, so weights are streamed once for all of them, and a text's vector
//! does not depend on its neighbours. Weights are read where the file is mapped: processes share them.

use std::sync::Arc;

use super::shape::{
    DOWN_BIAS, DOWN_NORM, DOWN_WEIGHTS, FIRST_NORM, HEAD, HEADS, INNER, LAYERS, MAX_TOKENS, OUT_BIAS, OUT_NORM, OUT_WEIGHTS,
    PLACE_ROWS, PerLayer, TRIPLE, TRIPLE_BIAS, TRIPLE_WEIGHTS, UP_BIAS, UP_WEIGHTS, WIDTH, WORD_ROWS, WORDS,
};
use crate::builtin::matrix::{self, View, product};
use crate::file::{FileError, ModelFile};

const EPSILON: f32 = 1e-12;
/// Tokens that are worked on together, where they are of several texts.
const TOGETHER: usize = 160;

/// The weights, where they are mapped.
#[derive(Debug)]
pub(crate) struct Network {
    file: Arc<ModelFile>,
}

/// Buffers of one pass, kept for the next.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    states: Vec<f32>,
    triples: Vec<f32>,
    scores: Vec<f32>,
    seen: Vec<f32>,
    inner: Vec<f32>,
    out: Vec<f32>,
    vector: Vec<f32>,
}

/// Inputs by outputs, and what is added to the outputs.
struct Linear<'a> {
    weights: &'a [f32],
    bias: &'a [f32],
    inputs: usize,
}

struct Layer<'a> {
    triple: Linear<'a>,
    out: Linear<'a>,
    out_norm: &'a [f32],
    up: Linear<'a>,
    down: Linear<'a>,
    down_norm: &'a [f32],
}

struct Weights<'a> {
    words: &'a [f32],
    places: &'a [f32],
    first_norm: &'a [f32],
    layers: Vec<Layer<'a>>,
}

impl<'a> Weights<'a> {
    fn of(file: &'a ModelFile) -> Result<Self, FileError> {
        let floats = |name, count| file.exactly::<f32>(name, count).map(|(values, _)| values);
        let part = |(name, each): PerLayer, layer: usize| floats(name, LAYERS * each).map(|all| &all[layer * each..][..each]);
        let linear = |weights, bias, inputs, layer| {
            Ok::<_, FileError>(Linear { weights: part(weights, layer)?, bias: part(bias, layer)?, inputs })
        };
        let layers = (0..LAYERS).map(|layer| {
            Ok(Layer {
                triple: linear(TRIPLE_WEIGHTS, TRIPLE_BIAS, WIDTH, layer)?,
                out: linear(OUT_WEIGHTS, OUT_BIAS, WIDTH, layer)?,
                out_norm: part(OUT_NORM, layer)?,
                up: linear(UP_WEIGHTS, UP_BIAS, WIDTH, layer)?,
                down: linear(DOWN_WEIGHTS, DOWN_BIAS, INNER, layer)?,
                down_norm: part(DOWN_NORM, layer)?,
            })
        });
        Ok(Self {
            words: floats(WORD_ROWS, WORDS * WIDTH)?,
            places: floats(PLACE_ROWS, MAX_TOKENS * WIDTH)?,
            first_norm: floats(FIRST_NORM, 2 * WIDTH)?,
            layers: layers.collect::<Result<_, FileError>>()?,
        })
    }
}

/// `buffer` with room for `count` values, whatever they are.
fn room(buffer: &mut Vec<f32>, count: usize) -> &mut [f32] {
    if buffer.len() < count {
        buffer.resize(count, 0.0);
    }
    &mut buffer[..count]
}

impl Network {
    /// Over the sections of `file`.
    ///
    /// # Errors
    /// [`FileError`] where one is missing or of another size.
    pub(crate) fn new(file: Arc<ModelFile>) -> Result<Self, FileError> {
        Weights::of(&file)?;
        Ok(Self { file })
    }

    /// One unit vector of [`WIDTH`] components per text, handed to `each` in order. No text is empty or longer than [`MAX_TOKENS`];
    /// an id that is no word's is the first word's.
    ///
    /// # Errors
    /// [`FileError`], which [`Network::new`] has ruled out.
    pub(crate) fn run(
        &self,
        ids: &[u32],
        lengths: &[usize],
        scratch: &mut Scratch,
        mut each: impl FnMut(&[f32]),
    ) -> Result<(), FileError> {
        let weights = Weights::of(&self.file)?;
        let (mut ids, mut lengths) = (ids, lengths);
        while !lengths.is_empty() {
            let mut tokens = 0;
            let fit = lengths.iter().take_while(|length| {
                tokens += **length;
                tokens <= TOGETHER
            });
            let (now, later) = lengths.split_at(fit.count().max(1));
            let (these, those) = ids.split_at(now.iter().sum());
            weights.together(these, now, scratch, &mut each);
            (ids, lengths) = (those, later);
        }
        Ok(())
    }
}

impl Weights<'_> {
    fn together(&self, ids: &[u32], lengths: &[usize], scratch: &mut Scratch, each: &mut impl FnMut(&[f32])) {
        let states = room(&mut scratch.states, ids.len() * WIDTH);
        let places = lengths.iter().flat_map(|length| 0..*length);
        for ((id, place), row) in ids.iter().zip(places).zip(states.chunks_exact_mut(WIDTH)) {
            let id = Some(*id as usize).filter(|id| *id < WORDS).unwrap_or(0);
            row.copy_from_slice(&self.words[id * WIDTH..][..WIDTH]);
            matrix::add(row, &self.places[place.min(MAX_TOKENS - 1) * WIDTH..][..WIDTH]);
            normalise(row, self.first_norm);
        }
        for layer in &self.layers {
            layer.run(lengths, scratch);
        }
        let mut rows = scratch.states.chunks_exact(WIDTH);
        let vector = room(&mut scratch.vector, WIDTH);
        for length in lengths {
            // The sum points where the mean does.
            vector.fill(0.0);
            rows.by_ref().take(*length).for_each(|row| matrix::add(vector, row));
            matrix::to_unit(vector, EPSILON);
            each(vector);
        }
    }
}

impl Layer<'_> {
    fn run(&self, lengths: &[usize], scratch: &mut Scratch) {
        let tokens: usize = lengths.iter().sum();
        let states = &mut scratch.states[..tokens * WIDTH];
        let triples = room(&mut scratch.triples, tokens * TRIPLE);
        self.triple.apply(states, triples);
        triples.chunks_exact_mut(TRIPLE).for_each(|row| matrix::add(row, self.triple.bias));

        let seen = room(&mut scratch.seen, tokens * WIDTH);
        let mut begin = 0;
        for length in lengths {
            let (triples, seen) = (&triples[begin * TRIPLE..], &mut seen[begin * WIDTH..]);
            attend(triples, *length, room(&mut scratch.scores, length * length), seen);
            begin += length;
        }
        let out = room(&mut scratch.out, tokens * WIDTH);
        self.out.apply(seen, out);
        settle(states, out, self.out.bias, self.out_norm);

        let inner = room(&mut scratch.inner, tokens * INNER);
        self.up.apply(states, inner);
        for row in inner.chunks_exact_mut(INNER) {
            for (value, bias) in row.iter_mut().zip(self.up.bias) {
                *value = gelu(*value + bias);
            }
        }
        self.down.apply(inner, out);
        settle(states, out, self.down.bias, self.down_norm);
    }
}

impl Linear<'_> {
    /// The products of rows; the bias is left to whoever goes over them anyway.
    fn apply(&self, input: &[f32], out: &mut [f32]) {
        let outputs = self.bias.len();
        let input = View::of(input, self.inputs, input.len() / self.inputs, self.inputs);
        product(input, View::of(self.weights, outputs, self.inputs, outputs), out, outputs, 1.0, false);
    }
}

/// What each token of one text sees of all its tokens, head by head.
fn attend(triples: &[f32], length: usize, scores: &mut [f32], seen: &mut [f32]) {
    #[expect(clippy::cast_precision_loss, reason = "some dozens")]
    let scale = (HEAD as f32).sqrt().recip();
    for head in 0..HEADS {
        let part = |of: usize| View::of(&triples[of * WIDTH + head * HEAD..], TRIPLE, length, HEAD);
        product(part(0), part(1).transposed(), scores, length, scale, false);
        scores.chunks_exact_mut(length).for_each(shares);
        product(View::of(scores, length, length, length), part(2), &mut seen[head * HEAD..], WIDTH, 1.0, false);
    }
}

/// Scores as shares of one (softmax).
fn shares(row: &mut [f32]) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for value in row.iter_mut() {
        *value = (*value - most).exp();
        sum += *value;
    }
    let factor = sum.recip();
    row.iter_mut().for_each(|value| *value *= factor);
}

/// `states = norm(states + out + bias)`, row by row.
fn settle(states: &mut [f32], out: &[f32], bias: &[f32], norm: &[f32]) {
    for (state, out) in states.chunks_exact_mut(WIDTH).zip(out.chunks_exact(WIDTH)) {
        matrix::add(state, out);
        matrix::add(state, bias);
        normalise(state, norm);
    }
}

fn normalise(row: &mut [f32], norm: &[f32]) {
    let (gain, bias) = norm.split_at(WIDTH);
    matrix::normalise(row, gain, bias, EPSILON);
}

/// The exact one, by the error function.
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + error_function(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// erf within 1e-6, as a quotient of polynomials, which the compiler can make vectors of. Beyond ±4 it is ±1 to a float.
fn error_function(x: f32) -> f32 {
    const ABOVE: [f32; 7] =
        [-2.726_142_3e-10, 2.770_681_4e-8, -2.101_024e-6, -5.692_506_4e-5, -7.349_906_3e-4, -2.954_6e-3, -1.609_603_3e-2];
    const BELOW: [f32; 5] = [-1.456_607_1e-5, -2.133_740_5e-4, -1.682_827e-3, -7.373_33e-3, -1.426_473_9e-2];
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let of = |factors: &[f32]| factors.iter().fold(0.0, |sum, factor| sum * square + factor);
    x * of(&ABOVE) / of(&BELOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The series, which is exact to doubles where it is summed to its end.
    fn series(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            let n = f64::from(n);
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn the_error_function_is_that_of_its_series() {
        for step in -4_000..=4_000 {
            let x = step as f32 / 1_000.0;
            let (found, expected) = (f64::from(error_function(x)), series(f64::from(x)));
            assert!((found - expected).abs() < 1e-6, "{x}: {found} {expected}");
        }
        for x in [4.5, 100.0, f32::INFINITY] {
            assert!((error_function(x) - 1.0).abs() < 1e-6 && (error_function(-x) + 1.0).abs() < 1e-6);
        }
        assert!((gelu(1.0) - 0.841_344_7).abs() < 1e-6 && gelu(0.0) == 0.0 && gelu(-50.0).abs() < 1e-4);
    }

    #[test]
    fn shares_are_of_one_whatever_the_scores() {
        for mut row in [vec![1.0_f32, 2.0, 3.0], vec![1e30, -1e30, 0.0], vec![-500.0; 7]] {
            shares(&mut row);
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{row:?}");
        }
        let mut row = [0.0, 3.0_f32.ln()];
        shares(&mut row);
        assert!((row[0] - 0.25).abs() < 1e-6);
    }

    #[test]
    fn attention_is_that_of_its_definition() {
        let length = 5;
        let triples: Vec<f32> = (0..length * TRIPLE).map(|n| ((n * 7_919 % 1_009) as f32 / 504.0 - 1.0) * 0.5).collect();
        let (mut scores, mut seen) = (vec![0.0; length * length], vec![f32::NAN; length * WIDTH]);
        attend(&triples, length, &mut scores, &mut seen);
        let at = |token: usize, of: usize, n: usize| f64::from(triples[token * TRIPLE + of * WIDTH + n]);
        for (token, n) in [(0, 0), (1, HEAD), (4, WIDTH - 1), (2, 200)] {
            let head = n / HEAD * HEAD;
            let scores = (0..length).map(|other| (0..HEAD).map(|n| at(token, 0, head + n) * at(other, 1, head + n)).sum::<f64>());
            let powers: Vec<f64> = scores.map(|score| (score / (HEAD as f64).sqrt()).exp()).collect();
            let expected = (0..length).map(|other| powers[other] * at(other, 2, n)).sum::<f64>() / powers.iter().sum::<f64>();
            assert!((f64::from(seen[token * WIDTH + n]) - expected).abs() < 1e-5, "token {token}, component {n}");
        }
    }
}
