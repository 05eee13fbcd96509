//! Matrices of the network, and what is done to rows.

use super::steps::{Bytes, Packed};

/// A weight matrix as it is stored, row by row: `rows` inputs to `columns` outputs.
#[derive(Clone, Debug)]
pub(crate) struct Steps {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) values: Vec<i8>,
    /// What a step of each column is worth.
    pub(crate) step: Vec<f32>,
}

impl Steps {
    /// Of int8 steps of which one is worth `step`.
    pub(crate) fn new(rows: usize, columns: usize, values: &[i8], step: f32) -> Self {
        assert_eq!(values.len(), rows * columns, "a matrix of another size");
        Self { rows, columns, values: values.to_vec(), step: vec![step; columns] }
    }

    /// These beside each other, as one: all have the same inputs.
    pub(crate) fn beside(parts: &[Self]) -> Self {
        let rows = parts[0].rows;
        assert!(parts.iter().all(|part| part.rows == rows), "matrices of unlike heights");
        let columns = parts.iter().map(|part| part.columns).sum();
        let mut values = Vec::with_capacity(rows * columns);
        for row in 0..rows {
            for part in parts {
                values.extend_from_slice(&part.values[row * part.columns..][..part.columns]);
            }
        }
        Self { rows, columns, values, step: parts.iter().flat_map(|part| part.step.iter().copied()).collect() }
    }

    /// The matrix cut into `parts` of equal height.
    pub(crate) fn cut(&self, parts: usize) -> Vec<Self> {
        let rows = self.rows / parts;
        let cut = self.values.chunks_exact(rows * self.columns);
        cut.map(|values| Self { rows, columns: self.columns, values: values.to_vec(), step: self.step.clone() }).collect()
    }
}

/// A matrix, ready to multiply.
#[derive(Debug)]
pub(crate) struct Matrix {
    rows: usize,
    columns: usize,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Bytes(Packed),
    Floats(Vec<f32>),
}

impl Matrix {
    /// To be multiplied with `bytes`, which must be possible, or with floats.
    pub(crate) fn of(steps: &Steps, bytes: bool) -> Self {
        let form = if bytes {
            Form::Bytes(Packed::of(steps))
        } else {
            let worth = steps.values.iter().zip(steps.step.iter().cycle());
            Form::Floats(worth.map(|(value, step)| f32::from(*value) * step).collect())
        };
        Self { rows: steps.rows, columns: steps.columns, form }
    }

    /// Outputs.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// The product with bytes, where this matrix takes them.
    pub(crate) fn packed(&self) -> Option<&Packed> {
        if let Form::Bytes(packed) = &self.form { Some(packed) } else { None }
    }

    /// `out = input · self`, or `out += …`, for `count` rows of `input`, which begin `stride` apart.
    pub(crate) fn apply(&self, input: &[f32], stride: usize, count: usize, out: &mut [f32], add: bool, scratch: &mut Bytes) {
        assert!(stride >= self.rows && out.len() >= count * self.columns, "a product into too little room");
        assert!(count == 0 || input.len() >= (count - 1) * stride + self.rows, "a product of too little");
        let values = match &self.form {
            Form::Bytes(packed) => {
                scratch.of(input, stride, self.rows, count);
                packed.apply(scratch, out, add);
                return;
            }
            Form::Floats(values) => values,
        };
        let (left, right) = (View::of(input, stride, count, self.rows), View::of(values, self.columns, self.rows, self.columns));
        product(left, right, out, self.columns, 1.0, add);
    }
}

/// Rows and columns of floats that stand in a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    /// From one row to the next, and from one column to the next.
    strides: (usize, usize),
}

impl<'a> View<'a> {
    /// `rows` rows of `columns` values each, which begin `stride` apart.
    pub(crate) fn of(values: &'a [f32], stride: usize, rows: usize, columns: usize) -> Self {
        assert!(stride >= columns, "rows that overlap");
        assert!(rows == 0 || values.len() >= (rows - 1) * stride + columns, "a view beyond its slice");
        Self { values, rows, columns, strides: (stride, 1) }
    }

    /// Rows as columns.
    #[cfg(feature = "minilm")]
    pub(crate) fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, strides: (self.strides.1, self.strides.0), ..self }
    }
}

/// `out = scale · left · right`, or `out += …`; the rows of `out` begin `stride` apart.
pub(crate) fn product(left: View<'_>, right: View<'_>, out: &mut [f32], stride: usize, scale: f32, add: bool) {
    let (rows, columns, inner) = (left.rows, right.columns, left.columns);
    assert!(inner == right.rows && stride >= columns, "a product of unlike sizes");
    assert!(rows == 0 || out.len() >= (rows - 1) * stride + columns, "a product into too little room");
    let signed = |n: usize| isize::try_from(n).expect("a matrix fits the address space");
    // SAFETY: a view's making and the asserts above hold every index below inside its slice, and `out` is borrowed alone.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            out.as_mut_ptr(),
            1,
            signed(stride),
            add,
            left.values.as_ptr(),
            signed(left.strides.1),
            signed(left.strides.0),
            right.values.as_ptr(),
            signed(right.strides.1),
            signed(right.strides.0),
            1.0_f32,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

const LANES: usize = 16;

/// The sum of `of` over a row, in lanes that the compiler can keep in registers.
fn sum(row: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += of(*value);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|value| of(*value)).sum::<f32>()
}

/// Layer normalisation of one row, in place.
pub(crate) fn normalise(row: &mut [f32], gain: &[f32], bias: &[f32], epsilon: f32) {
    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
    let count = row.len() as f32;
    let mean = sum(row, |value| value) / count;
    let variance = sum(row, |value| (value - mean) * (value - mean)) / count;
    let factor = (variance + epsilon).sqrt().recip();
    for ((value, gain), bias) in row.iter_mut().zip(gain).zip(bias) {
        *value = (*value - mean) * factor * gain + bias;
    }
}

/// `to += from`.
pub(crate) fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

/// `row = max(row, 0) + residual`.
pub(crate) fn rectify_and_add(row: &mut [f32], residual: &[f32]) {
    for (value, residual) in row.iter_mut().zip(residual) {
        *value = value.max(0.0) + residual;
    }
}

/// `row = max(row, 0)`.
pub(crate) fn rectify(row: &mut [f32]) {
    for value in row {
        *value = value.max(0.0);
    }
}

/// The row at unit length.
pub(crate) fn to_unit(row: &mut [f32], epsilon: f32) {
    let factor = sum(row, |value| value * value).max(epsilon).sqrt().recip();
    for value in row {
        *value *= factor;
    }
}
