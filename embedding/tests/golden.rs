//! The built-in model against the package that its weights come from: the same pieces, the same vectors.

use std::path::PathBuf;

use memori_embedding::builtin::{self, Model, Session};
use memori_embedding::{Embedding, embedder_of, model_dir, open_builtin};
use memori_service::Settings;
use proptest::prelude::*;

/// The model where `make setup` puts it. Without it nothing here can be judged, so nothing passes.
fn model() -> Model {
    let dir = model_dir(&Settings::default()).unwrap();
    open_builtin(&dir).unwrap_or_else(|error| panic!("{error} (or `make setup`)"))
}

struct Golden {
    text: String,
    ids: Vec<u32>,
    vector: Vec<f32>,
}

fn golden() -> Vec<Golden> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/use-multilingual.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    let all: Vec<Golden> = lines
        .lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            Golden {
                text: value["text"].as_str().unwrap().to_owned(),
                ids: serde_json::from_value(value["ids"].clone()).unwrap(),
                vector: serde_json::from_value(value["vector"].clone()).unwrap(),
            }
        })
        .collect();
    assert!(all.len() >= 30, "golden texts are missing");
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
fn pieces_and_vectors_are_the_reference_packages() {
    held_to_the_reference(&model(), 0.999);
}

#[test]
fn with_floats_they_are_nearer_still() {
    model();
    let path = memori_embedding::BUILTIN.prepare(&model_dir(&Settings::default()).unwrap()).unwrap();
    held_to_the_reference(&Model::open_with_floats(&path).unwrap(), 0.999_99);
}

fn held_to_the_reference(model: &Model, least: f64) {
    let mut session = Session::default();
    let golden = golden();
    for expected in &golden {
        assert_eq!(model.ids(&expected.text, &mut session).unwrap(), expected.ids, "{:?}", expected.text);
        let alone = vectors(model, &[&expected.text], &mut session).remove(0);
        let likeness = cosine(&alone, &expected.vector);
        assert!(likeness >= least, "{likeness} for {:?}", expected.text);
        let rounded = Embedding::quantise(&alone).components();
        assert!(cosine(&rounded, &alone) >= 0.999, "as int8: {:?}", expected.text);
    }
    // All at once: sentences do not see each other.
    let texts: Vec<&str> = golden.iter().map(|expected| expected.text.as_str()).collect();
    for (together, expected) in vectors(model, &texts, &mut session).iter().zip(&golden) {
        let likeness = cosine(together, &expected.vector);
        assert!(likeness >= least, "{likeness} in a batch, for {:?}", expected.text);
    }
}

#[test]
fn any_text_has_a_unit_vector_and_long_ones_are_bounded() {
    let (model, mut session) = (model(), Session::default());
    let long = "näßê 漢字 ".repeat(1 << 16);
    let ids = model.ids(&long, &mut session).unwrap();
    assert_eq!(ids.len(), builtin::pieces::MAX_TOKENS);
    assert_eq!((ids[0], ids[ids.len() - 1]), (builtin::pieces::BEGIN, builtin::pieces::END));
    let every: String = (0..=0x10_ffff).step_by(7).filter_map(char::from_u32).collect();
    let mut parts: Vec<&str> = vec![&long];
    let mut rest = every.as_str();
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.ceil_char_boundary(3_000.min(rest.len())));
        parts.push(part);
        rest = after;
    }
    for part in &parts {
        assert!(model.ids(part, &mut session).unwrap().len() <= builtin::pieces::MAX_TOKENS);
    }
    for vector in vectors(&model, &parts[..12], &mut session) {
        let norm = vector.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
        assert!((norm - 1.0).abs() < 1e-3, "{norm}");
    }
}

#[test]
fn no_text_makes_the_tokenizer_fail() {
    let (model, session) = (model(), std::cell::RefCell::new(Session::default()));
    proptest!(ProptestConfig::with_cases(300), |(text in any::<String>(), spaces in "[ \t\u{3000}a\u{2581}\u{301}]{0,40}")| {
        for text in [text.as_str(), spaces.as_str()] {
            let ids = model.ids(text, &mut session.borrow_mut()).unwrap();
            prop_assert!((3..=builtin::pieces::MAX_TOKENS).contains(&ids.len()));
        }
    });
}

#[tokio::test]
async fn the_embedder_of_the_settings_finds_what_means_the_same() {
    let embedder = embedder_of(&Settings::default()).unwrap().expect("the built-in model");
    assert_eq!((embedder.model(), embedder.dimensions()), (builtin::MODEL, builtin::DIMENSIONS));
    let texts = [
        "Where does she live?",
        "Ella vive en Madrid con su perro.",
        "私は東京に住んでいます。",
        "The invoice was paid on Tuesday.",
        "She has her home in Madrid, with a dog.",
    ];
    let vectors = embedder.embed(&texts.map(ToOwned::to_owned)).await.unwrap();
    assert!(vectors.iter().all(|vector| vector.values.len() == embedder.dimensions()));
    let like = |a: usize, b: usize| vectors[a].cosine(&vectors[b]);
    assert!(like(1, 4) > 0.6 && like(1, 4) > like(1, 3) + 0.3 && like(0, 4) > like(0, 3), "{} {}", like(1, 4), like(1, 3));
}
