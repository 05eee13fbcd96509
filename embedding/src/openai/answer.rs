//! What an endpoint answers, read and checked. Pure; nothing of a hostile answer is believed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::failure::Failure;
use crate::Embedding;

#[derive(Deserialize)]
struct Answer {
    data: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    index: usize,
    embedding: Form,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Floats(Vec<f32>),
    /// Little-endian floats.
    Base64(String),
}

/// The most that `texts` vectors can take, written as decimals.
pub(crate) fn most_bytes(texts: usize, dimensions: usize) -> usize {
    (64 << 10) + texts.saturating_mul(256 + dimensions.saturating_mul(32))
}

/// The vectors of `texts` texts, in their order.
pub(crate) fn read(bytes: &[u8], texts: usize, dimensions: usize) -> Result<Vec<Embedding>, Failure> {
    let answer: Answer = serde_json::from_slice(bytes).map_err(|_| Failure::invalid("it is not the JSON of vectors"))?;
    if answer.data.len() != texts {
        return Err(Failure::invalid("it has another number of vectors"));
    }
    let mut vectors: Vec<Option<Embedding>> = vec![None; texts];
    for item in answer.data {
        let floats = match item.embedding {
            Form::Floats(floats) => floats,
            Form::Base64(text) => floats(&text).ok_or_else(|| Failure::invalid("a vector is not base64 of floats"))?,
        };
        if floats.len() != dimensions {
            return Err(Failure::dimensions(floats.len(), dimensions));
        }
        if !floats.iter().all(|component| component.is_finite()) {
            return Err(Failure::invalid("a vector holds what is no number"));
        }
        let place = vectors.get_mut(item.index).filter(|place| place.is_none());
        let place = place.ok_or_else(|| Failure::invalid("its indices are not those of the texts"))?;
        *place = Some(Embedding::quantise(&floats));
    }
    vectors.into_iter().collect::<Option<_>>().ok_or_else(|| Failure::invalid("a vector is missing"))
}

fn floats(text: &str) -> Option<Vec<f32>> {
    let bytes = STANDARD.decode(text).ok()?;
    let (words, rest) = bytes.as_chunks();
    rest.is_empty().then(|| words.iter().map(|word| f32::from_le_bytes(*word)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::Cause;

    fn cause(text: &str, texts: usize) -> Cause {
        read(text.as_bytes(), texts, 2).map(drop).unwrap_err().cause
    }

    #[test]
    fn both_encodings_are_read_in_the_order_of_the_texts() {
        let bytes: Vec<u8> = [0.0_f32, -2.0].iter().flat_map(|f| f.to_le_bytes()).collect();
        let text = format!(
            r#"{{"object":"list","data":[{{"index":1,"embedding":"{}"}},{{"object":"embedding","index":0,"embedding":[1,0.5]}}],"usage":{{}}}}"#,
            STANDARD.encode(bytes)
        );
        let vectors = read(text.as_bytes(), 2, 2).unwrap();
        assert_eq!(vectors, [Embedding::quantise(&[1.0, 0.5]), Embedding::quantise(&[0.0, -2.0])]);
    }

    #[test]
    fn what_is_not_as_asked_is_refused() {
        for text in [
            "",
            "<html>",
            r#"{"data":[]}"#,
            r#"{"data":[{"index":0,"embedding":[1,2]},{"index":0,"embedding":[1,2]}]}"#,
            r#"{"data":[{"index":1,"embedding":[1,2]}]}"#,
            r#"{"data":[{"index":0,"embedding":[1]}]}"#,
            r#"{"data":[{"index":0,"embedding":[1,1e40]}]}"#,
            r#"{"data":[{"index":0,"embedding":"AAAA"}]}"#,
            r#"{"data":[{"index":0,"embedding":"?"}]}"#,
            r#"{"data":[{"index":0,"embedding":null}]}"#,
            r#"{"error":{"message":"x"}}"#,
        ] {
            assert_eq!(cause(text, 1), Cause::Invalid, "{text}");
        }
    }

    proptest! {
        #[test]
        fn hostile_answers_end(bytes in prop::collection::vec(any::<u8>(), 0..200), index in any::<u64>()) {
            let _ = read(&bytes, 1, 2);
            let _ = read(format!(r#"{{"data":[{{"index":{index},"embedding":[1,2]}}]}}"#).as_bytes(), 1, 2);
        }
    }
}
