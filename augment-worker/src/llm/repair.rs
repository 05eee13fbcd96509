//! The second and last call for an answer that could not be used: the model sees what it said, and what is wrong with it.

use super::assets;
use super::prompt::ChatMessage;
use super::refused::Refusal;

/// Bytes of an answer that are shown again.
const MAX_SHOWN_BYTES: usize = 16_000;
/// Errors that are named.
const MAX_ERRORS: usize = 20;

/// What was wrong with the items of an answer, a line each.
pub(crate) fn errors_of(refused: &[(String, Refusal)]) -> Vec<String> {
    refused.iter().take(MAX_ERRORS).map(|(place, refusal)| format!("{place} {}", refusal.in_words())).collect()
}

/// The first call's messages, the answer, and the complaint.
pub(crate) fn messages(mut first: Vec<ChatMessage>, answer: &str, errors: &[String]) -> Vec<ChatMessage> {
    let shown = &answer[..answer.floor_char_boundary(MAX_SHOWN_BYTES)];
    // Some servers refuse an empty message.
    let shown = if shown.trim().is_empty() { "(no answer)" } else { shown };
    first.push(ChatMessage { role: "assistant", content: shown.to_owned() });
    let lines: Vec<String> = errors.iter().map(|error| format!("- {error}")).collect();
    first.push(ChatMessage { role: "user", content: assets::REPAIR.replace("{errors}", &lines.join("\n")) });
    first
}

#[cfg(test)]
mod tests {
    use super::{errors_of, messages};
    use crate::llm::prompt::ChatMessage;
    use crate::llm::refused::Refusal;

    #[test]
    fn the_model_sees_its_answer_and_what_is_wrong_within_bounds() {
        let refused: Vec<(String, Refusal)> = (0..100).map(|i| (format!("facts[{i}]"), Refusal::NoEvidence)).collect();
        let first = vec![ChatMessage { role: "user", content: "data".into() }];
        let sent = messages(first.clone(), &"é".repeat(20_000), &errors_of(&refused));
        assert_eq!((sent.len(), sent[1].role, sent[2].role), (3, "assistant", "user"));
        assert!(sent[1].content.len() <= 16_000);
        assert!(sent[2].content.contains("- facts[0] names no message as evidence"));
        assert!(!sent[2].content.contains("facts[20]") && !sent[2].content.contains("{errors}"));
        assert_eq!(messages(first, " ", &[])[1].content, "(no answer)");
    }
}
