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
}

#[cfg(test)]
mod tests {
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
}
