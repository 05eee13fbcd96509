//! Vectors of what was extracted: of facts' texts, and of the first words of what people said.
//!
//! Promises: all texts of a window are one call; an embedder that fails (it has its own bounded retries) costs the window its vectors
//! and nothing else, counted by cause. What an assistant or a tool said has no vector: recall prefers people's words, and replies
//! are many times as long.

use std::sync::Arc;

use icu_segmenter::WordSegmenter;
use icu_segmenter::options::WordBreakInvariantOptions;
use memori_embedding::{EmbedError, Embedder, Embedding};
use memori_schemas::{ConversationEvent, Fact, MessageVector, Role, Vector};

use crate::builtin;
use crate::extractor::Extraction;
use crate::metrics::{self, LeftOut};

/// Bytes in which a message's first words are looked for.
const HEAD_BYTES: usize = 4_096;

/// Gives `facts` their vectors, and answers with those of the events' messages: all of them or none.
pub(crate) async fn embed(
    embedder: Option<&dyn Embedder>,
    events: &[Arc<ConversationEvent>],
    facts: &mut [Fact],
) -> Vec<MessageVector> {
    let said = events
        .iter()
        .flat_map(|event| event.messages.iter().enumerate().map(|(index, message)| (&**event, index, message)))
        .filter(|(_, _, message)| message.role == Role::User);
    let Some(embedder) = embedder else {
        metrics::vectors_left_out(LeftOut::NoModel, facts.len() + said.count());
        return Vec::new();
    };
    let messages: Vec<(&ConversationEvent, usize, String)> = said
        .map(|(event, index, message)| {
            (event, index, first_words(&builtin::without_context(&message.text()), MessageVector::WORDS))
        })
        .filter(|(_, _, text)| !text.trim().is_empty())
        .collect();
    let texts: Vec<String> =
        facts.iter().map(|fact| fact.text.clone()).chain(messages.iter().map(|(_, _, text)| text.clone())).collect();
    if texts.is_empty() {
        return Vec::new();
    }
    let embeddings = match embedder.embed(&texts).await {
        Ok(embeddings) if embeddings.len() == texts.len() => embeddings,
        Ok(_) => {
            tracing::error!("the embedder answered with another number of vectors; the window goes without");
            metrics::vectors_left_out(LeftOut::Refused, texts.len());
            return Vec::new();
        }
        Err(error) => {
            let cause = if matches!(error, EmbedError::Unavailable(_)) { LeftOut::Unavailable } else { LeftOut::Refused };
            tracing::warn!(%error, texts = texts.len(), "no vectors; the window goes without");
            metrics::vectors_left_out(cause, texts.len());
            return Vec::new();
        }
    };
    metrics::vectors(facts.len(), messages.len());
    let mut vectors = embeddings.into_iter().map(|embedding| vector(embedder.model(), embedding));
    for fact in facts {
        fact.vector = vectors.next();
    }
    messages
        .into_iter()
        .zip(vectors)
        .map(|((event, index, _), vector)| MessageVector {
            event_id: event.event_id.clone(),
            content_hash: event.content_hash,
            message_key: event.message_key(index),
            message_index: i32::try_from(index).unwrap_or(i32::MAX),
            vector,
        })
        .collect()
}

/// The same facts without their vectors.
pub(crate) fn without_vectors(extraction: &Extraction) -> Extraction {
    let mut bare = extraction.clone();
    for fact in &mut bare.facts {
        fact.vector = None;
    }
    bare
}

fn vector(model: &str, embedding: Embedding) -> Vector {
    let values = embedding.values.iter().map(|value| value.to_le_bytes()[0]).collect();
    Vector { model: model.to_owned(), scale: embedding.scale, values }
}

/// `text` up to the end of its word number `count`, by the words of its script.
fn first_words(text: &str, count: usize) -> String {
    let head = &text[..text.floor_char_boundary(HEAD_BYTES)];
    let segmenter = WordSegmenter::new_auto(WordBreakInvariantOptions::default());
    let mut words = 0;
    let mut boundaries = segmenter.segment_str(head).iter_with_word_type();
    let end = boundaries.find_map(|(end, kind)| {
        words += usize::from(kind.is_word_like());
        (words == count).then_some(end)
    });
    head[..end.unwrap_or(head.len())].trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use memori_schemas::{ContentFormat, FactKind, Message, Micros, Supplied, ids};

    use super::*;

    /// Remembers what it was asked, and answers with lengths or an error.
    struct Asked(Mutex<Vec<Vec<String>>>, Option<EmbedError>);

    #[async_trait]
    impl Embedder for Asked {
        fn model(&self) -> &str {
            "double@1"
        }

        fn dimensions(&self) -> usize {
            2
        }

        async fn embed(&self, texts: &[String]) -> Result<Vec<Embedding>, EmbedError> {
            self.0.lock().unwrap().push(texts.to_vec());
            match &self.1 {
                Some(error) => Err(error.clone()),
                None => Ok(texts.iter().map(|text| Embedding { scale: 0.5, values: [text.len() as i8, -1].into() }).collect()),
            }
        }
    }

    fn event(said: &[(Role, &str)]) -> ConversationEvent {
        let message = |(role, text): &(Role, &str)| Message {
            message_id: None,
            role: *role,
            name: None,
            content: (*text).to_owned(),
            content_format: ContentFormat::Text,
            created_at: None,
        };
        let messages: Vec<Message> = said.iter().map(message).collect();
        ConversationEvent {
            tenant: "t".into(),
            entity_id: "e".into(),
            process_id: None,
            session_id: None,
            event_id: "ev".into(),
            content_hash: ids::content_hash("e", None, &messages, &[]),
            occurred_at: Micros(0),
            accepted_at: Micros(0),
            messages,
            metadata: Vec::new(),
            supplied: Supplied::default(),
            spooled: false,
            attempt: 0,
            origin: None,
            key_id: None,
        }
    }

    fn facts_of(event: &ConversationEvent) -> Vec<Fact> {
        let mut facts = builtin::extract(event);
        facts.retain(|fact| fact.kind != FactKind::Summary);
        assert!(!facts.is_empty() && facts.iter().all(|fact| fact.vector.is_none()), "{facts:?}");
        facts
    }

    fn said() -> ConversationEvent {
        event(&[
            (Role::Assistant, "Where do you live?"),
            (Role::User, "I live in Lisbon. <memori_context>recalled</memori_context>"),
            (Role::User, "  \n"),
            (Role::Tool, "{}"),
        ])
    }

    #[tokio::test]
    async fn facts_and_peoples_messages_are_one_call() {
        let event = said();
        let mut facts = facts_of(&event);
        let events = [Arc::new(event.clone())];
        let asked = Asked(Mutex::default(), None);
        let vectors = embed(Some(&asked), &events, &mut facts).await;
        let mut expected: Vec<String> = facts.iter().map(|fact| fact.text.clone()).collect();
        expected.push("I live in Lisbon.".to_owned());
        assert_eq!(*asked.0.lock().unwrap(), [expected.clone()]);
        for (fact, text) in facts.iter().zip(&expected) {
            let length = u8::try_from(text.len()).unwrap();
            assert_eq!(fact.vector, Some(Vector { model: "double@1".into(), scale: 0.5, values: vec![length, 255] }));
        }
        let [vector] = &vectors[..] else { panic!("{vectors:?}") };
        assert_eq!((vector.message_index, vector.message_key, vector.event_id.as_str()), (1, event.message_key(1), "ev"));
        assert_eq!(vector.vector.values, [17, 255]);
    }

    #[tokio::test]
    async fn without_an_embedder_or_with_one_that_fails_the_facts_are_whole() {
        let event = said();
        let mut facts = facts_of(&event);
        let events = [Arc::new(event.clone())];
        let before = facts.clone();
        assert!(embed(None, &events, &mut facts).await.is_empty());
        for error in [EmbedError::Unavailable("away".into()), EmbedError::Refused("no".into())] {
            let asked = Asked(Mutex::default(), Some(error));
            assert!(embed(Some(&asked), &events, &mut facts).await.is_empty());
        }
        assert_eq!(facts, before);
        let silent = event_of_nobody();
        let asked = Asked(Mutex::default(), None);
        assert!(embed(Some(&asked), &[Arc::new(silent)], &mut []).await.is_empty() && asked.0.lock().unwrap().is_empty());
    }

    fn event_of_nobody() -> ConversationEvent {
        event(&[(Role::Assistant, "Hello."), (Role::User, "")])
    }

    #[test]
    fn words_are_counted_in_every_script() {
        for (text, count, head) in [
            ("one, two; three four", 3, "one, two; three"),
            ("  one two", 5, "one two"),
            ("", 5, ""),
            ("我住在北京，喜欢打球", 1, "我"),
            ("foo\n\nbar  baz", 2, "foo\n\nbar"),
        ] {
            assert_eq!(first_words(text, count), head, "{text}");
        }
        assert_eq!(first_words(&"word ".repeat(100_000), 50), ["word"; 50].join(" "));
        assert!(first_words(&"長".repeat(100_000), 50).len() <= HEAD_BYTES);
    }
}
