//! What is a standing instruction, and what only sounds like one.

use super::{english, foreign};
use crate::builtin::Speaker;
use crate::builtin::english::rewrite::expand;
use crate::builtin::words::split;

fn said(text: &str) -> Option<String> {
    english(&expand(split(text)), &Speaker::of(Some("Alice"))).map(|s| s.text)
}

#[test]
fn instructions_name_the_user() {
    for (text, meant) in [
        ("Always answer me in metric units.", "Always answer Alice in metric units"),
        ("please never use emojis", "Never use emojis"),
        ("From now on, call me Al", "From now on, call Alice Al"),
        ("When I ask about food, suggest vegan dishes", "When Alice asks about food, suggest vegan dishes"),
        ("Please call me Dr. Jones", "Call Alice Dr. Jones"),
        ("Don't use jargon", "Don't use jargon"),
        ("Keep your answers short", "Keep your answers short"),
        ("Answer in German, please", "Answer in German, please"),
        ("I want you to always cite sources", "Alice wants you to always cite sources"),
    ] {
        assert_eq!(said(text).as_deref(), Some(meant), "{text}");
    }
}

#[test]
fn statements_with_the_same_words_are_none() {
    for text in [
        "I always drink tea",
        "Always been a fan of Bach",
        "Never had sushi",
        "When I was ten, I moved",
        "Call me tomorrow",
        "From now on I live in Rome",
        "My friends call me Al",
        "When I ask my boss, I get nervous",
        "I never use emojis",
        "Use Python for this script that parses all of my log files",
    ] {
        assert_eq!(said(text), None, "{text}");
    }
}

#[test]
fn other_languages() {
    let speaker = Speaker::of(None);
    for (language, text) in [
        ("de", "Antworte immer auf Deutsch."),
        ("de", "Bitte nenn mich Alex."),
        ("fr", "À partir de maintenant, réponds en français."),
        ("es", "Siempre responde en español."),
        ("it", "D'ora in poi rispondi in italiano."),
        ("pt", "A partir de agora, responda em português."),
        ("zh", "从现在开始请用中文回答。"),
        ("ja", "これからは日本語で答えてください。"),
        ("ko", "앞으로 한국어로 대답해 주세요."),
        ("ru", "Всегда отвечай на русском."),
    ] {
        assert!(foreign(text, language, &speaker).is_some(), "{text}");
    }
    for (language, text) in [
        ("de", "Immer wenn ich Tee trinke, lese ich."),
        ("ja", "いつも六時に起きます。"),
        ("es", "Siempre he vivido en Madrid."),
        ("fr", "Je réponds toujours."),
        ("zh", "我总是早起。"),
    ] {
        assert!(foreign(text, language, &speaker).is_none(), "{text}");
    }
}
