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
