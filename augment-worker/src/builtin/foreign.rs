//! Other languages: which one it is, and light cues for who lives, works, is called and likes what. The words stay the speaker's own.

use std::collections::HashSet;
use std::sync::LazyLock;

use super::words::{cut, lower};
use crate::slots;

/// Function words by which a language of Latin script shows itself.
static MARKERS: LazyLock<Vec<(&'static str, HashSet<&'static str>)>> = LazyLock::new(|| {
    let lines = include_str!("lists/function-words.txt").lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once(':'))
        .map(|(language, words)| (language, words.split_whitespace().collect()))
        .collect()
});

/// The language of a sentence, as far as script and function words tell; empty where they do not.
pub(crate) fn language(sentence: &str) -> &'static str {
    let sample = cut(sentence, 600);
    if sample.chars().any(|c| matches!(c, '\u{3040}'..='\u{30ff}')) {
        return "ja";
    }
    if sample.chars().any(|c| matches!(c, '\u{ac00}'..='\u{d7af}')) {
        return "ko";
    }
    if sample.chars().any(|c| matches!(c, '\u{4e00}'..='\u{9fff}')) {
        return "zh";
    }
    let letters = sample.chars().filter(|c| c.is_alphabetic()).count();
    let latin = sample.chars().filter(|c| c.is_alphabetic() && *c < '\u{250}').count();
    if letters == 0 || latin * 2 < letters {
        return "";
    }
    let lowered = lower(sample);
    let words: Vec<&str> = lowered.split(|c: char| !c.is_alphabetic() && c != '\'').filter(|w| !w.is_empty()).collect();
    let mut best = ("", 0);
    for (language, markers) in MARKERS.iter() {
        let score = words.iter().filter(|w| markers.contains(*w)).count();
        if score > best.1 {
            best = (*language, score);
        }
    }
    // Letters that English lacks outweigh a tie that it wins by standing first.
    if best.0 == "en" && best.1 <= 1 && lowered.chars().any(|c| c.is_alphabetic() && !c.is_ascii()) {
        let other = MARKERS.iter().skip(1).find(|(_, markers)| words.iter().any(|w| markers.contains(w)));
        return other.map_or("", |(language, _)| *language);
    }
    best.0
}

/// What a cue told.
pub(crate) struct Cue {
    pub(crate) predicate: &'static str,
    pub(crate) object: String,
    slot: &'static str,
}

impl Cue {
    /// The slot, where the cue fills one.
    pub(crate) fn slot_of(&self, subject: &str) -> Option<String> {
        let long = self.object.split_whitespace().count() > 6;
        if self.slot.is_empty() || self.slot == slots::ATTITUDE && long {
            return None;
        }
        slots::slot(subject, self.slot, Some(&self.object))
    }
}

/// One row of the list of cues.
struct Row {
    language: &'static str,
    before: &'static str,
    behind: &'static str,
    predicate: &'static str,
    slot: &'static str,
}

static CUES: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let lines = include_str!("lists/cues.txt").lines().filter(|line| !line.starts_with('#'));
    let row = |line: &'static str| {
        let mut cells = line.split('|');
        let (language, (before, behind)) = (cells.next()?, cells.next()?.split_once('_')?);
        Some(Row { language, before, behind, predicate: cells.next()?, slot: cells.next()? })
    };
    lines.map(|line| row(line).unwrap_or_else(|| panic!("a cue that is none: {line}"))).collect()
});

/// What joins two clauses, by language; the second one must begin as a cue begins.
const JOINTS: &[(&str, &[&str])] = &[
    ("de", &[" und ", ", aber ", " aber ", ", "]),
    ("fr", &[" et ", ", mais ", " mais ", ", "]),
    ("es", &[" y ", ", pero ", " pero ", ", "]),
    ("it", &[" e ", ", ma ", " ma ", ", "]),
    ("pt", &[" e ", ", mas ", " mas ", ", "]),
    ("nl", &[" en ", ", maar ", " maar ", ", "]),
    ("zh", &["，但是", "，而且", "，也", "，但", "，"]),
    ("", &[", но ", ", а ", ", и ", " и ", ", "]),
];
/// Pronouns that a second clause may leave out.
const LEFT_OUT: &[(&str, &str)] = &[("de", "ich "), ("nl", "ik ")];

/// The clauses of a sentence in which the speaker tells two things of himself: each can stand alone. Else the sentence.
pub(crate) fn clauses(sentence: &str, language: &str) -> Vec<String> {
    let lowered = lower(sentence);
    let joints = JOINTS.iter().find(|(of, _)| *of == language).map_or(&[][..], |(_, joints)| joints);
    if lowered.len() != sentence.len() || joints.is_empty() {
        return vec![sentence.to_owned()];
    }
    let pronoun = LEFT_OUT.iter().find(|(of, _)| *of == language).map_or("", |(_, pronoun)| pronoun);
    let mut out: Vec<String> = Vec::new();
    let (mut start, mut from) = (0, 0);
    while let Some((at, joint)) = joints.iter().filter_map(|joint| Some((from + lowered[from..].find(joint)?, *joint))).min() {
        // Of joints at one place the longest.
        let joint = joints.iter().filter(|one| lowered[at..].starts_with(**one)).max_by_key(|one| one.len()).unwrap_or(&joint);
        let behind = at + joint.len();
        let rest = &lowered[behind..];
        let begins = |row: &&Row| row.language == language && !row.before.is_empty();
        let whole = CUES.iter().filter(begins).any(|row| rest.starts_with(row.before));
        let bare = !pronoun.is_empty()
            && lowered[start..at].split_whitespace().any(|word| word == pronoun.trim_end())
            && CUES.iter().filter(begins).any(|row| row.before.strip_prefix(pronoun).is_some_and(|verb| rest.starts_with(verb)));
        let stands = lowered[start..at].split(' ').count() > 1 || language == "zh";
        if (whole || bare) && stands {
            out.push(sentence[start..at].trim_end_matches(',').to_owned());
            (start, from) = (behind, behind);
            if !whole {
                let named = format!("{}{}", capital(pronoun), &sentence[behind..]);
                let more = clauses(&named, language);
                out.extend(more);
                return out;
            }
        } else {
            from = behind;
        }
    }
    out.push(sentence[start..].to_owned());
    out
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// What the speaker tells of himself in another language, where a cue knows it.
pub(crate) fn cue(sentence: &str, language: &str) -> Option<Cue> {
    let body = sentence.trim().trim_end_matches(['.', '!', '。', '！', '।', ' ']);
    let lowered = lower(body);
    // Lower case may change lengths in bytes; then the object is shown in lower case.
    let same = lowered.len() == body.len();
    for Row { language: of, before, behind, predicate, slot } in CUES.iter() {
        if *of != language
            || !lowered.starts_with(before)
            || !lowered.ends_with(behind)
            || lowered.len() <= before.len() + behind.len()
        {
            continue;
        }
        let range = before.len()..lowered.len() - behind.len();
        let object = if same { body.get(range.clone()).unwrap_or(&lowered[range]) } else { &lowered[range] };
        let object = object.trim();
        let compound = object.contains([',', '，', '、', ';'])
            || [" und ", " aber ", " et ", " mais ", " y ", " pero ", " e ", " ma ", " mas ", " en ", "但"]
                .iter()
                .any(|joint| object.contains(joint));
        let plain_age = *slot != "age" || object.chars().all(|c| c.is_numeric()) || object.split_whitespace().count() == 1;
        if object.is_empty() || object.len() > 160 || !plain_age {
            continue;
        }
        let slot = if compound && *slot == "attitude" { "" } else { slot };
        if compound && !slot.is_empty() {
            // Two clauses, perhaps: the first part of it is the value.
            let end = [" und ", " aber ", " et ", " mais ", " y ", " pero ", " e ", " ma ", " mas ", ",", "，", "、", ";", "但"]
                .iter()
                .filter_map(|joint| object.find(joint))
                .min()
                .unwrap_or(object.len());
            return Some(Cue { predicate, object: object[..end].trim().to_owned(), slot });
        }
        return Some(Cue { predicate, object: object.to_owned(), slot });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{clauses, cue, language};

    #[test]
    fn languages() {
        for (text, meant) in [
            ("I live in Berlin", "en"),
            ("Ich wohne in Berlin", "de"),
            ("J'habite à Paris", "fr"),
            ("Vivo en Madrid y me gusta el té", "es"),
            ("Mi chiamo Anna e vivo a Roma", "it"),
            ("Eu moro em Lisboa", "pt"),
            ("Ik woon in Utrecht", "nl"),
            ("我住在巴黎", "zh"),
            ("私は東京に住んでいます", "ja"),
            ("저는 서울에 살아요", "ko"),
            ("Я живу в Москве", ""),
            ("item 10", ""),
        ] {
            assert_eq!(language(text), meant, "{text}");
        }
    }

    #[test]
    fn cues() {
        for (text, language, parts) in [
            ("Ich wohne in Köln und arbeite bei Siemens.", "de", vec!["Ich wohne in Köln", "Ich arbeite bei Siemens."]),
            ("Vivo en Madrid y me encanta el té", "es", vec!["Vivo en Madrid", "me encanta el té"]),
            ("J'aime le thé et le café", "fr", vec!["J'aime le thé et le café"]),
            ("我叫李雷，我是老师。", "zh", vec!["我叫李雷", "我是老师。"]),
            ("Meine Frau und ich haben zwei Katzen", "de", vec!["Meine Frau und ich haben zwei Katzen"]),
        ] {
            assert_eq!(clauses(text, language), parts);
        }
        for (text, predicate, object, slot) in [
            ("Ich wohne in Köln.", "lives in", "Köln", Some("user/lives_in")),
            ("Ich bin 34 Jahre alt.", "is aged", "34", Some("user/age")),
            ("Me encanta el chocolate.", "loves", "el chocolate", Some("user/attitude/el chocolate")),
            ("我住在巴黎。", "lives in", "巴黎", Some("user/lives_in")),
            ("私は東京に住んでいます。", "lives in", "東京", Some("user/lives_in")),
            ("Меня зовут Анна.", "is called", "Анна", Some("user/name")),
        ] {
            let cue = cue(text, language(text)).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((cue.predicate, cue.object.as_str(), cue.slot_of("User").as_deref()), (predicate, object, slot));
        }
        assert!(cue("Der Server läuft.", "de").is_none());
    }
}
