//! Standing instructions outside English: by how a sentence begins, and in Japanese and Korean by how it ends.

use std::collections::BTreeMap;
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

/// Words of standing wishes in one language.
#[derive(Default)]
struct Wishes {
    always: Vec<&'static str>,
    when: Vec<&'static str>,
    verbs: Vec<&'static str>,
}

static WISHES: LazyLock<BTreeMap<&'static str, Wishes>> = LazyLock::new(|| {
    let mut of_language: BTreeMap<&'static str, Wishes> = BTreeMap::new();
    for line in include_str!("../lists/wishes.txt").lines().filter(|line| !line.starts_with('#')) {
        let (head, words) = line.split_once(':').unwrap_or_else(|| panic!("a line without words: {line}"));
        let (language, list) = head.split_once(' ').unwrap_or_else(|| panic!("a line without a list: {line}"));
        let wishes = of_language.entry(language).or_default();
        let list = match list {
            "always" => &mut wishes.always,
            "when" => &mut wishes.when,
            "do" => &mut wishes.verbs,
            _ => panic!("no such list: {line}"),
        };
        list.extend(words.split_whitespace());
    }
    of_language
});

/// Languages that neither script nor small words tell apart here: all of them are tried.
const UNTOLD: &[&str] = &["ru", "uk", "pl", "sv"];

/// Whether a sentence wishes by its shape: what is to be done, always; or a condition, and behind a pause what is to be done then.
fn wishes(head: &str, language: &str) -> bool {
    let of = |language: &str| WISHES.get(language).is_some_and(|wishes| wishes.fit(head));
    if language.is_empty() { UNTOLD.iter().any(|language| of(language)) } else { of(language) }
}

impl Wishes {
    fn fit(&self, head: &str) -> bool {
        let words = |text: &str| -> Vec<String> {
            let apart = text.split(|c: char| c.is_whitespace() || matches!(c, ':' | '.' | '!')).filter(|word| !word.is_empty());
            apart.map(str::to_owned).collect()
        };
        let is = |list: &[&str], word: &String| list.contains(&word.as_str());
        let (first, rest) = head.split_once(',').map_or((head, ""), |(first, rest)| (first, rest));
        let first_words = words(first);
        let Some(opens) = first_words.first() else { return false };
        // "Usa sempre metri": the verb in front, and a word for always in the same clause.
        if is(&self.verbs, opens) && first_words.iter().any(|word| is(&self.always, word)) {
            return true;
        }
        // "Wenn ich von Wellen rede, nimm immer Meter": the verb opens what follows, or stands behind "always" or "please".
        let asked = |clause: &str| {
            let clause = words(clause);
            let verb = clause.iter().take(3).position(|word| is(&self.verbs, word));
            verb.is_some_and(|at| {
                clause[..at].iter().all(|word| {
                    is(&self.always, word)
                        || matches!(word.as_str(), "bitte" | "dann" | "alors" | "não" | "no" | "non" | "то" | "proszę")
                })
            })
        };
        is(&self.when, opens) && rest.split(',').any(asked)
    }
}

/// What makes a wish of a Chinese sentence, and of the polite end of a Japanese or Korean one.
const LASTING: &[&str] = &[
    "以后",
    "以後",
    "的时候",
    "的時候",
    "每次",
    "总是",
    "總是",
    "一直",
    "永远",
    "始终",
    "如果",
    "いつも",
    "必ず",
    "常に",
    "今後",
    "これから",
    "ときは",
    "時は",
    "場合は",
    "たびに",
    "항상",
    "언제나",
    "앞으로",
    "때는",
    "때마다",
    "때 ",
];

fn wishes_without_spaces(sentence: &str, bare: &str) -> bool {
    let lasting = LASTING.iter().any(|word| sentence.contains(word));
    let asks = sentence.contains('请') || sentence.contains('請') || ASKING_ENDS.iter().any(|end| bare.ends_with(end));
    lasting && asks
}

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
    let bare = sentence.trim_end_matches(['。', '.', '!', '！', ' ']);
    if wishes(&head, language) || matches!(language, "zh" | "ja" | "ko") && wishes_without_spaces(sentence, bare) {
        return Some(instruction(sentence, None, speaker));
    }
    let hit = of_language.map(|(_, start)| start.as_str()).find(|start| head.starts_with(start))?;
    if NEEDS_END.contains(&hit) && !ASKING_ENDS.iter().any(|end| bare.ends_with(end)) {
        return None;
    }
    if hit == "bana " && !bare.ends_with("de") && !bare.ends_with("ver") {
        return None;
    }
    // What a later clause tells of the speaker ("…, I read on the phone") is the reason for the wish.
    let clause_end = head[hit.len()..].trim_start_matches([',', ' ']);
    let clause_start = head.len() - clause_end.len();
    let head = &head[..head[clause_start..].find(',').map_or(head.len(), |pause| clause_start + pause)];
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
