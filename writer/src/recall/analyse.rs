//! A text of an entity, taken apart once: its words, its date's words, whether it asks and whether it says when.

use memori_schemas::{ContentFormat, Message, Role};

use super::asks;
use super::packed::Analysed;
use super::text;

/// What the words of a text come to. It is found by its date, too; that does not make it longer.
#[must_use]
pub fn text(content: &str, occurred_at_us: i64) -> Analysed {
    let date = jiff::Timestamp::from_microsecond(occurred_at_us)
        .map(|instant| instant.to_zoned(jiff::tz::TimeZone::UTC).strftime("%B %-d %Y").to_string())
        .unwrap_or_default();
    let mut words = text::words(content);
    let (count, dated) = (words.len().max(1), asks::says_when(content, &words));
    words.extend(text::words(&date));
    let terms = text::document_of(&words);
    Analysed {
        terms: terms.terms.into_vec(),
        words: u32::try_from(count).unwrap_or(u32::MAX),
        languages: terms.languages,
        question: asks::is_question(content),
        dated,
    }
}

/// What was said, as text, of a text or a provider's list of parts.
#[must_use]
pub fn spoken(content: &str, format: ContentFormat) -> String {
    let message = Message {
        message_id: None,
        role: Role::User,
        name: None,
        content: content.to_owned(),
        content_format: format,
        created_at: None,
    };
    message.text().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packed chunks keep terms by their hashes, so other work needs another version.
    #[test]
    fn the_version_is_that_of_this_work() {
        let corpus = [
            "Alice's CAFÉ opened in March 2024, and she writes C++ there",
            "Ich habe zwei Wohnungen in Köln gekauft, wirklich?",
            "il habitait à Lyon; ¿dónde está el café? domani a casa",
            "ela se mudou ontem, zij fietst elke dag, mieszkam w Krakowie od wczoraj",
            "я живу в Москве с 2019 года, İstanbul'da yaşıyorum",
            "東京に住んでいます。他住在巴黎吗？ 저는 파리에서 살아요",
            "أنا أعيش في القاهرة منذ شهر ฉันชอบยาสีฟันรสมินต์ 🍕",
        ];
        let mut bytes = Vec::new();
        for content in corpus {
            let analysed = text(content, 1_767_225_600_000_000);
            for (term, count) in &analysed.terms {
                bytes.extend_from_slice(&term.to_le_bytes());
                bytes.extend_from_slice(&count.to_le_bytes());
            }
            bytes.extend_from_slice(&analysed.words.to_le_bytes());
            bytes.extend_from_slice(&analysed.languages.bits().to_le_bytes());
            bytes.extend_from_slice(&[u8::from(analysed.question), u8::from(analysed.dated)]);
        }
        assert_eq!(
            (text::VERSION, crc32fast::hash(&bytes)),
            (1, 2_621_488_400),
            "raise `text::VERSION`, and put the new sum here"
        );
    }
}
