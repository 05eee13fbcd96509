//! What is known of an entity, for the extractor: recall in this process.

use std::sync::Arc;

use async_trait::async_trait;
use memori_augment_worker::llm::known::{KNOWN_FACTS, KNOWN_INSTRUCTIONS};
use memori_augment_worker::{KnownFact, KnownFacts, KnownFactsError};
use memori_schemas::{FactKind, Micros};
use memori_writer::recall::{Recall, RecallQuery, RecalledFact};

/// Recall as the extractor asks it.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) recall: Recall,
    /// Absent: whichever is read.
    pub(super) generation: Option<i32>,
}

#[async_trait]
impl KnownFacts for Known {
    fn of_generation(&self, generation: i32) -> Arc<dyn KnownFacts> {
        Arc::new(Self { generation: Some(generation), ..self.clone() })
    }

    async fn known(
        &self,
        tenant: &str,
        entity_id: &str,
        query: &str,
        token_budget: usize,
    ) -> Result<Vec<KnownFact>, KnownFactsError> {
        let query = RecallQuery {
            limit: KNOWN_FACTS,
            instruction_limit: KNOWN_INSTRUCTIONS,
            token_budget: Some(token_budget),
            ..RecallQuery::new(entity_id, query)
        };
        let recalled = match self.generation {
            Some(generation) => self.recall.recall_of(tenant, &query, generation, "worker").await,
            None => self.recall.recall(tenant, &query, "worker").await,
        };
        let recalled = recalled.map_err(|e| KnownFactsError(e.to_string()))?;
        let known = |fact: RecalledFact| {
            Some(KnownFact {
                kind: FactKind::parse(fact.kind)?,
                text: fact.content,
                subject: fact.subject,
                predicate: fact.predicate,
                object: fact.object,
                since: Some(Micros(fact.valid_from.0)),
                first_mentioned_at: Some(Micros(fact.first_mentioned_at.0)),
                last_mentioned_at: Some(Micros(fact.last_mentioned_at.0)),
            })
        };
        Ok(recalled.instructions.into_iter().chain(recalled.facts).filter_map(known).collect())
    }
}
