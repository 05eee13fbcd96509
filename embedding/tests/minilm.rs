//! MiniLM against the reference: the same tokens, the same vectors. Asks for the model where `memori model fetch --model minilm` puts
//! it.
#![cfg(feature = "minilm")]

use std::path::PathBuf;

use memori_embedding::minilm::{self, Model, Session};
use memori_embedding::{Embedding, embedder_of, model_dir, open_minilm};
use memori_service::Settings;
use proptest::prelude::*;

/// The model where it is fetched to. Without it nothing here can be judged, so nothing passes.
fn model() -> Model {
    let dir = model_dir(&Settings::default()).unwrap();
    open_minilm(&dir).unwrap_or_else(|error| panic!("{error}"))
}

#[derive(serde::Deserialize)]
struct Golden {
    text: String,
    ids: Vec<u32>,
    vector: Vec<f32>,
}

fn golden() -> Vec<Golden> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/minilm-l6.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    let all: Vec<Golden> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(all.len() >= 20, "golden texts are missing");
    all
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn vectors(model: &Model, texts: &[&str], session: &mut Session) -> Vec<Vec<f32>> {
    let mut out = Vec::new();
    model.run(texts.iter().copied(), session, |vector| out.push(vector.to_vec())).unwrap();
    out
}

#[test]
fn tokens_and_vectors_are_the_references() {
    const LEAST: f64 = 0.999_99;
    let (model, mut session, golden) = (model(), Session::default(), golden());
    for expected in &golden {
        assert_eq!(model.ids(&expected.text, &mut session).unwrap(), expected.ids, "{:?}", expected.text);
        let alone = vectors(&model, &[&expected.text], &mut session).remove(0);
        assert_eq!(alone.len(), minilm::DIMENSIONS);
        let likeness = cosine(&alone, &expected.vector);
        assert!(likeness >= LEAST, "{likeness} for {:?}", expected.text);
        let rounded = Embedding::quantise(&alone).components();
        assert!(cosine(&rounded, &alone) >= 0.999, "as int8: {:?}", expected.text);
    }
    // All at once: texts do not see each other.
    let texts: Vec<&str> = golden.iter().map(|expected| expected.text.as_str()).collect();
    let together = vectors(&model, &texts, &mut session);
    assert_eq!(together.len(), golden.len());
    for (together, expected) in together.iter().zip(&golden) {
        let likeness = cosine(together, &expected.vector);
        assert!(likeness >= LEAST, "{likeness} in a batch, for {:?}", expected.text);
    }
}

#[test]
fn any_text_has_a_unit_vector_and_long_ones_are_bounded() {
    let (model, mut session) = (model(), Session::default());
    let long = "näßê 漢字 ".repeat(1 << 16);
    let ids = model.ids(&long, &mut session).unwrap();
    assert_eq!(ids.len(), minilm::MAX_TOKENS);
    assert_eq!((ids[0], ids[ids.len() - 1]), (minilm::BEGIN, minilm::END));
    let every: String = (0..=0x10_ffff).step_by(7).filter_map(char::from_u32).collect();
    let mut parts: Vec<&str> = vec![&long, "", "\u{0}"];
    let mut rest = every.as_str();
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.ceil_char_boundary(3_000.min(rest.len())));
        parts.push(part);
        rest = after;
    }
    for part in &parts {
        assert!((2..=minilm::MAX_TOKENS).contains(&model.ids(part, &mut session).unwrap().len()));
    }
    for vector in vectors(&model, &parts[..6], &mut session) {
        let norm = vector.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
        assert!((norm - 1.0).abs() < 1e-3, "{norm}");
    }
}

#[test]
fn no_text_makes_the_tokenizer_fail() {
    let (model, session) = (model(), std::cell::RefCell::new(Session::default()));
    proptest!(ProptestConfig::with_cases(300), |(text in any::<String>(), odd in "[ \ta#漢가\u{301}\u{e000}'-]{0,400}")| {
        for text in [text.as_str(), odd.as_str()] {
            let ids = model.ids(text, &mut session.borrow_mut()).unwrap();
            prop_assert!((2..=minilm::MAX_TOKENS).contains(&ids.len()));
        }
    });
}

#[tokio::test]
async fn the_embedder_of_the_settings_finds_what_means_the_same() {
    let mut settings = Settings::default();
    settings.embedding.kind = "minilm".to_owned();
    let embedder = embedder_of(&settings).unwrap().expect("minilm");
    assert_eq!((embedder.model(), embedder.dimensions()), ("minilm-l6@2", 384));
    let texts = [
        "Where does she live?",
        "The invoice was paid on Tuesday.",
        "She has her home in Madrid, with a dog.",
        "Her house, which she shares with her dog, is in Madrid.",
    ];
    let vectors = embedder.embed(&texts.map(ToOwned::to_owned)).await.unwrap();
    assert!(vectors.iter().all(|vector| vector.values.len() == embedder.dimensions()));
    let like = |a: usize, b: usize| vectors[a].cosine(&vectors[b]);
    assert!(like(2, 3) > 0.8 && like(2, 3) > like(2, 1) + 0.5 && like(0, 2) > like(0, 1) + 0.1, "{} {}", like(2, 3), like(0, 2));
}
