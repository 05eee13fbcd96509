//! Carrying over: what the base generation made of events, said again for another.
//!
//! Promises: the same facts with the same evidence, lineage and, where the model is the same, vectors; nothing is spent. What the base has
//! given up is tried again; what it has not come to yet is waited for.

use std::sync::Arc;
use std::time::Duration;

use memori_schemas::{ConversationEvent, MessageVector};

use super::{Generations, Made};
use crate::extractor::{ExtractError, Extraction, RetryReason};

/// How long whoever keeps generations may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Before the base is asked again for what it has not come to.
const PENDING_PAUSE: Duration = Duration::from_millis(250);

/// What becomes of a window that is carried over.
#[derive(Debug)]
pub(crate) enum Carried {
    /// This, with its vectors; without, they are to be made.
    Over(Extraction, Option<Vec<MessageVector>>),
    /// The base gave it up: it is to be extracted.
    Anew,
    /// Its events fared unlike each other.
    Apart,
}

/// Asks for what the base made of a window's events.
///
/// # Errors
/// It cannot be had now.
pub(crate) async fn carry(
    (generations, base): (&Arc<dyn Generations>, i32),
    events: &[Arc<ConversationEvent>],
    model: Option<&str>,
) -> Result<Carried, ExtractError> {
    let Some(first) = events.first() else { return Ok(Carried::Anew) };
    let named: Vec<_> = events.iter().map(|event| (event.event_id.clone(), event.content_hash)).collect();
    let asked = tokio::time::timeout(DEADLINE, generations.made(&first.tenant, &first.entity_id, base, &named)).await;
    let made = match asked {
        Ok(Ok(made)) if made.len() == events.len() => made,
        Ok(Ok(_)) => return Err(not_now("the base's outcomes are not those of the events").await),
        Ok(Err(error)) => return Err(not_now(&error.0).await),
        Err(_) => return Err(not_now("the base's outcomes were not told in time").await),
    };
    if made.contains(&Made::Pending) {
        return Err(not_now("the base has not come to the event yet").await);
    }
    if made.iter().all(|one| *one == Made::Dead) {
        return Ok(Carried::Anew);
    }
    let mut over: Option<(Extraction, Vec<MessageVector>)> = None;
    for one in made {
        let Made::Facts(record) = one else { return Ok(Carried::Apart) };
        match &mut over {
            None => over = Some((Extraction { facts: record.facts, extractor: record.extractor }, record.message_vectors)),
            Some((extraction, _)) if extraction.extractor != record.extractor => return Ok(Carried::Apart),
            Some((extraction, vectors)) => {
                extraction.facts.extend(record.facts);
                vectors.extend(record.message_vectors);
            }
        }
    }
    let Some((extraction, vectors)) = over else { return Ok(Carried::Anew) };
    // Without a model of our own the old vectors are as good as there are.
    let whole = model.is_none_or(|model| {
        extraction.facts.iter().all(|fact| fact.vector.as_ref().is_some_and(|vector| vector.model == model))
            && vectors.iter().all(|vector| vector.vector.model == model)
            && !vectors.is_empty()
    });
    Ok(Carried::Over(extraction, whole.then_some(vectors)))
}

/// Nobody is to blame, and nothing is counted as a try.
async fn not_now(message: &str) -> ExtractError {
    tokio::time::sleep(PENDING_PAUSE).await;
    ExtractError::Transient { reason: RetryReason::NotAsked, message: message.to_owned(), retry_after: None }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use memori_schemas::{ContentHash, FactKind, FactsExtracted, Micros, Role, Vector};
    use memori_service::generations::Followed;

    use super::super::GenerationsError;
    use super::*;
    use crate::builtin;
    use crate::llm::prompt_tests::event;

    /// Answers with these, whatever is asked.
    struct Answers(Result<Vec<Made>, GenerationsError>);

    #[async_trait]
    impl Generations for Answers {
        async fn followed(&self) -> Result<Followed, GenerationsError> {
            Ok(Followed::default())
        }

        async fn made(&self, _: &str, _: &str, _: i32, _: &[(String, ContentHash)]) -> Result<Vec<Made>, GenerationsError> {
            self.0.clone()
        }
    }

    fn made(of: &ConversationEvent, version: &str, model: &str) -> Made {
        let vector = || Vector { model: model.to_owned(), scale: 0.5, values: vec![1, 2] };
        let mut facts = builtin::extract(of);
        facts.iter_mut().for_each(|fact| fact.vector = Some(vector()));
        Made::Facts(Box::new(FactsExtracted {
            tenant: of.tenant.clone(),
            entity_id: of.entity_id.clone(),
            process_id: None,
            session_id: None,
            generation: 1,
            covers: Vec::new(),
            facts,
            message_vectors: vec![MessageVector {
                event_id: of.event_id.clone(),
                content_hash: of.content_hash,
                message_key: of.message_key(0),
                message_index: 0,
                vector: vector(),
            }],
            extractor: memori_schemas::ExtractorInfo { version: version.to_owned(), ..builtin::info() },
            extracted_at: Micros(1),
            key_id: None,
        }))
    }

    async fn carried(answer: Result<Vec<Made>, GenerationsError>, model: Option<&str>) -> Result<Carried, ExtractError> {
        let events = [event("a", &[(Role::User, "I live in Rome.")]), event("b", &[(Role::User, "I like tea.")])];
        let generations: Arc<dyn Generations> = Arc::new(Answers(answer));
        carry((&generations, 1), &events, model).await
    }

    #[tokio::test]
    async fn what_the_base_made_is_said_again_and_nothing_else() {
        let (a, b) = (event("a", &[(Role::User, "I live in Rome.")]), event("b", &[(Role::User, "I like tea.")]));
        for (model, vectors) in [(None, true), (Some("m@1"), true), (Some("m@2"), false)] {
            let answer = carried(Ok(vec![made(&a, "1", "m@1"), made(&b, "1", "m@1")]), model).await;
            let Ok(Carried::Over(extraction, told)) = answer else { panic!("{answer:?}") };
            assert!(extraction.facts.iter().any(|fact| fact.kind == FactKind::Fact), "{extraction:?}");
            assert_eq!(extraction.facts.len(), builtin::extract(&a).len() + builtin::extract(&b).len());
            assert_eq!(told.is_some(), vectors, "{model:?}");
        }
        let unlike = carried(Ok(vec![made(&a, "1", "m"), made(&b, "2", "m")]), None).await;
        assert!(matches!(unlike, Ok(Carried::Apart)), "{unlike:?}");
        let one_dead = carried(Ok(vec![made(&a, "1", "m"), Made::Dead]), None).await;
        assert!(matches!(one_dead, Ok(Carried::Apart)), "{one_dead:?}");
        let dead = carried(Ok(vec![Made::Dead, Made::Dead]), None).await;
        assert!(matches!(dead, Ok(Carried::Anew)), "{dead:?}");
        for answer in
            [Ok(vec![Made::Pending, Made::Dead]), Ok(vec![Made::Dead]), Err(GenerationsError("nobody is there".to_owned()))]
        {
            let waits = carried(answer, None).await;
            assert!(
                matches!(waits, Err(ExtractError::Transient { reason: RetryReason::NotAsked, .. })),
                "it is waited for: {waits:?}"
            );
        }
    }
}
