//! Products of int8 weights with 8-bit activations, for processors that multiply and add bytes in one instruction (AVX-512 VNNI).
//!
//! The weights lie on a grid of int8 steps anyway, so here they are exact; a row of activations is brought to 8 bits with a scale of
//! its own, which moves a vector by less than what int8 vectors lose later. The result of a row does not depend on the rows beside it.

use super::matrix::Steps;

/// Activations as bytes: `scale * byte + low` for each row.
#[derive(Debug, Default)]
pub(crate) struct Bytes {
    pub(crate) bytes: Vec<u8>,
    pub(crate) grid: Vec<(f32, f32)>,
}

/// The byte that stands for 0.
const MIDDLE: f32 = 128.0;

impl Bytes {
    /// Of `count` rows of `width`, which begin `stride` apart.
    pub(crate) fn of(&mut self, input: &[f32], stride: usize, width: usize, count: usize) {
        self.bytes.clear();
        self.grid.clear();
        for row in input.chunks(stride).take(count) {
            let row = &row[..width];
            let mut most = [0.0_f32; 16];
            let (chunks, rest) = row.as_chunks::<16>();
            for chunk in chunks {
                for (most, value) in most.iter_mut().zip(chunk) {
                    *most = most.max(value.abs());
                }
            }
            let most = most.iter().chain(rest.iter()).fold(0.0_f32, |most, value| most.max(value.abs()));
            let scale = if most > 0.0 { most / 127.0 } else { 1.0 };
            let factor = scale.recip();
            // Rounded by the cast, half up: nothing is below 1 here, so a cut is a floor.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 255")]
            self.bytes.extend(row.iter().map(|value| (value * factor + (MIDDLE + 0.5)) as i32 as u8));
            self.grid.push((scale, -MIDDLE * scale));
        }
    }
}

/// Weights, packed for the kernel: per 16 columns and 4 inputs, 64 bytes.
#[derive(Debug)]
pub(crate) struct Packed {
    rows: usize,
    columns: usize,
    weights: Vec<i8>,
    /// What a step of each column is worth.
    step: Vec<f32>,
    /// The sum of each column, in its steps' worth.
    sum: Vec<f32>,
}

/// Columns of one register.
const LANES: usize = 16;
/// Registers side by side.
const WIDE: usize = 4;

impl Packed {
    /// Whether this processor has what it takes.
    pub(crate) fn possible() -> bool {
        #[cfg(target_arch = "x86_64")]
        return is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    pub(crate) fn of(steps: &Steps) -> Self {
        let (rows, columns) = (steps.rows, steps.columns);
        assert!(rows.is_multiple_of(4) && columns.is_multiple_of(LANES * WIDE), "a matrix that does not fit the kernel");
        let mut weights = Vec::with_capacity(rows * columns);
        for block in 0..columns / LANES {
            for four in 0..rows / 4 {
                for column in 0..LANES {
                    weights.extend((0..4).map(|row| steps.values[(four * 4 + row) * columns + block * LANES + column]));
                }
            }
        }
        let sum = |column: usize| (0..rows).map(|row| i32::from(steps.values[row * columns + column])).sum::<i32>();
        #[expect(clippy::cast_precision_loss, reason = "below 2^24")]
        let sum = (0..columns).map(|column| sum(column) as f32 * steps.step[column]).collect();
        Self { rows, columns, weights, step: steps.step.clone(), sum }
    }

    /// `out = input · self`, or `out += …`.
    pub(crate) fn apply(&self, input: &Bytes, out: &mut [f32], add: bool) {
        let count = input.grid.len();
        assert!(input.bytes.len() == count * self.rows && out.len() >= count * self.columns, "a product into too little room");
        assert!(Self::possible(), "a product that this processor cannot make");
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has the instructions, and the asserts hold every access inside its slice.
        unsafe {
            self.run(input, out, add);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn run(&self, input: &Bytes, out: &mut [f32], add: bool) {
        let count = input.grid.len();
        let mut row = 0;
        while row < count {
            let height = (count - row).min(6);
            for block in (0..self.columns / LANES).step_by(WIDE) {
                // SAFETY: as promised to this function.
                unsafe {
                    match height {
                        1 => self.tile::<1>(input, row, block, out, add),
                        2 => self.tile::<2>(input, row, block, out, add),
                        3 => self.tile::<3>(input, row, block, out, add),
                        4 => self.tile::<4>(input, row, block, out, add),
                        5 => self.tile::<5>(input, row, block, out, add),
                        _ => self.tile::<6>(input, row, block, out, add),
                    }
                }
            }
            row += height;
        }
    }

    /// `HEIGHT` rows of the product by [`WIDE`] registers of columns.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vnni")]
    #[inline]
    unsafe fn tile<const HEIGHT: usize>(&self, input: &Bytes, row: usize, block: usize, out: &mut [f32], add: bool) {
        use std::arch::x86_64::{
            _mm512_add_ps, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
            _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_si512, _mm512_storeu_ps,
        };
        let fours = self.rows / 4;
        let mut sums = [[_mm512_setzero_si512(); WIDE]; HEIGHT];
        for four in 0..fours {
            let mut weights = [_mm512_setzero_si512(); WIDE];
            for (n, weights) in weights.iter_mut().enumerate() {
                let at = ((block + n) * fours + four) * 4 * LANES;
                // SAFETY: `weights` holds 64 bytes for every block and four inputs.
                *weights = unsafe { _mm512_loadu_si512(self.weights.as_ptr().add(at).cast()) };
            }
            for (n, sums) in sums.iter_mut().enumerate() {
                let at = (row + n) * self.rows + four * 4;
                // SAFETY: `bytes` holds `rows` bytes for every row.
                let four = unsafe { input.bytes.as_ptr().add(at).cast::<i32>().read_unaligned() };
                let four = _mm512_set1_epi32(four);
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_dpbusd_epi32(*sum, four, weights);
                }
            }
        }
        for (n, sums) in sums.into_iter().enumerate() {
            let (scale, low) = input.grid[row + n];
            for (m, sum) in sums.into_iter().enumerate() {
                let column = (block + m) * LANES;
                // SAFETY: `step`, `sum` and each row of `out` hold a value for every column.
                unsafe {
                    let step = _mm512_loadu_ps(self.step.as_ptr().add(column));
                    let offset = _mm512_mul_ps(_mm512_loadu_ps(self.sum.as_ptr().add(column)), _mm512_set1_ps(low));
                    let product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(scale));
                    let mut value = _mm512_fmadd_ps(product, step, offset);
                    let to = out.as_mut_ptr().add((row + n) * self.columns + column);
                    if add {
                        value = _mm512_add_ps(value, _mm512_loadu_ps(to));
                    }
                    _mm512_storeu_ps(to, value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn products_are_those_of_the_bytes(count in 1_usize..15, fours in 1_usize..20, seed in any::<u64>(), add in any::<bool>()) {
            if !Packed::possible() {
                return Ok(());
            }
            let (rows, columns) = (fours * 4, 64);
            let mut state = seed | 1;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as i32
            };
            let values: Vec<i8> = (0..rows * columns).map(|_| next() as i8).collect();
            let mut steps = Steps::new(rows, columns, &values, 0.01);
            steps.step[7] = 0.5;
            let input: Vec<f32> = (0..count * rows).map(|_| (next() % 1_000) as f32 / 100.0).collect();
            let mut bytes = Bytes::default();
            bytes.of(&input, rows, rows, count);
            let mut out = vec![1.0_f32; count * columns];
            Packed::of(&steps).apply(&bytes, &mut out, add);
            for row in 0..count {
                let (scale, low) = bytes.grid[row];
                let activations: Vec<f32> =
                    bytes.bytes[row * rows..][..rows].iter().map(|byte| f32::from(*byte) * scale + low).collect();
                for (activation, given) in activations.iter().zip(&input[row * rows..]) {
                    prop_assert!((activation - given).abs() <= scale * 0.51, "{activation} {given}");
                }
                for column in 0..columns {
                    let product: f64 = (0..rows)
                        .map(|n| f64::from(activations[n]) * f64::from(values[n * columns + column]) * f64::from(steps.step[column]))
                        .sum();
                    let expected = product + f64::from(u8::from(add));
                    let found = f64::from(out[row * columns + column]);
                    prop_assert!((found - expected).abs() <= 1e-3 * (1.0 + expected.abs()), "{found} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_row_of_zeros_is_zeros() {
        let mut bytes = Bytes::default();
        bytes.of(&[0.0; 8], 4, 4, 2);
        assert!(bytes.bytes.iter().all(|byte| f32::from(*byte) * bytes.grid[0].0 + bytes.grid[0].1 == 0.0));
    }
}
