//! Standing instructions outside English: by how a sentence begins, and in Japanese and Korean by how it ends.

use std::sync::LazyLock;

use super::instruction;
use crate::builtin::words::{cut, lower};
use crate::builtin::{Speaker, Statement};

/// (language, beginning): what opens a standing instruction outside English. Where the language is empty, the script tells.
static FOREIGN: LazyLock<Vec<(&'static str, String)>> = LazyLock::new(|| {
    let lines = include_str!("../lists/instructions.txt").lines().filter(|line| !line.starts_with('#'));
    let of_line = |(language, starts): (&'static str, &'static str)| {
        starts.split('|').map(move |start| (language, start.trim().replace('_', " "))).collect::<Vec<_>>()
    };
    lines.filter_map(|line| line.split_once(':')).flat_map(of_line).collect()
});

/// Ends of Japanese and Korean requests, which stand where other languages have their beginning.
const ASKING_ENDS: &[&str] = &[
    "てください",
    "で下さい",
    "て下さい",
    "でください",
    "ないで",
    "してね",
    "お願いします",
    "해줘",
    "해 주세요",
    "해주세요",
    "불러줘",
    "불러 주세요",
];
/// Beginnings that also begin plain statements: the sentence must ask.
const NEEDS_END: &[&str] = &[
    "いつも",
    "常に",
    "必ず",
    "今後",
    "今後は",
    "これからは",
    "決して",
    "항상",
    "앞으로",
    "절대",
    "나를 ",
    "저를 ",
    "지금부터",
    "이제부터",
];

/// The standing instruction that a sentence of another language gives, if it does.
pub(crate) fn foreign(sentence: &str, language: &str, speaker: &Speaker) -> Option<Statement> {
    let head = lower(cut(sentence.trim_start(), 120));
    let head = [
        "bitte ",
        "por favor ",
        "por favor, ",
        "s'il te plaît, ",
        "s'il vous plaît, ",
        "per favore ",
        "per favore, ",
        "пожалуйста, ",
        "alsjeblieft ",
    ]
    .iter()
    .find_map(|p| head.strip_prefix(p))
    .unwrap_or(&head);
    let head = if language == "de" { head.replace(" bitte ", " ") } else { head.to_owned() };
    let of_language = FOREIGN.iter().filter(|(of, _)| of.is_empty() || *of == language);
    let hit = of_language.map(|(_, start)| start.as_str()).find(|start| head.starts_with(start))?;
    let bare = sentence.trim_end_matches(['。', '.', '!', '！', ' ']);
    if NEEDS_END.contains(&hit) && !ASKING_ENDS.iter().any(|end| bare.ends_with(end)) {
        return None;
    }
    if hit == "bana " && !bare.ends_with("de") && !bare.ends_with("ver") {
        return None;
    }
    let tells = match language {
        // "Immer wenn ich …", "Ab jetzt wohne ich …": of the speaker.
        "de" => {
            head.split_whitespace().any(|w| w == "ich")
                && !hit.starts_with("wenn ich")
                && !hit.starts_with("jedes mal")
                && !head.contains("mich")
                && !head.contains("mir ")
        }
        "fr" => (head.contains(" je ") || head.contains(" j'")) && !hit.contains("je ") && !hit.ends_with("je"),
        "es" => {
            head.starts_with("siempre he")
                || head.starts_with("siempre me") && !head.contains("llam")
                || head.starts_with("nunca me ") && !head.contains("llames") && !head.contains("digas")
        }
        "it" => head.starts_with("mai ") || head.starts_with("sempre ") && head.contains("ho "),
        "pt" => {
            head.starts_with("sempre gost")
                || head.starts_with("sempre fu")
                || head.starts_with("nunca me ") && !head.contains("chame")
        }
        "nl" => head.split_whitespace().any(|w| w == "ik") && !hit.contains("ik"),
        _ => {
            head.starts_with("叫我") && head.contains('的')
                || head.starts_with("总是") && head.contains('我')
                || head.starts_with("всегда ") && head.contains(" я ")
                || head.starts_with("每次我") && !head.contains('请') && !head.contains('你')
        }
    };
    (!tells).then(|| instruction(sentence, None, speaker))
}
