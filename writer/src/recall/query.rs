//! A recall query, validated.

use memori_schemas::{FactKind, Micros};

/// What is asked. The bounds are those of the HTTP contract and are checked where it is read.
#[derive(Clone, Debug, PartialEq)]
pub struct RecallQuery {
    /// Whose memory.
    pub entity_id: String,
    /// In words; may be empty.
    pub query: String,
    /// At most so many facts, and at most so many messages.
    pub limit: usize,
    /// Which facts; never instructions, which have their own channel.
    pub kinds: Vec<FactKind>,
    /// At most so many instructions.
    pub instruction_limit: usize,
    /// Only facts and messages of this process; instructions hold for all.
    pub process_id: Option<String>,
    /// Only facts and messages of this session; instructions hold for all.
    pub session_id: Option<String>,
    /// What held then; without it, what holds now.
    pub as_of: Option<Micros>,
    /// Also what no longer holds, or not yet.
    pub include_superseded: bool,
    /// Also what was said.
    pub include_messages: bool,
    /// At most so many estimated tokens; with messages, facts and messages take turns.
    pub token_budget: Option<usize>,
    /// Only facts and messages with at least this score.
    pub min_score: Option<f64>,
    /// Say what each score is made of.
    pub explain: bool,
    /// Compare vectors, where there are some.
    pub vectors: bool,
}

impl RecallQuery {
    /// The default limit of facts.
    pub const LIMIT: usize = 5;
    /// The default limit of instructions.
    pub const INSTRUCTION_LIMIT: usize = 3;
    /// The kinds that may be asked for, and are by default.
    pub const KINDS: [FactKind; 4] = [FactKind::Fact, FactKind::Attribute, FactKind::Summary, FactKind::Timeline];

    /// A query with the defaults of the contract.
    #[must_use]
    pub fn new(entity_id: impl Into<String>, query: impl Into<String>) -> Self {
        Self {
            entity_id: entity_id.into(),
            query: query.into(),
            limit: Self::LIMIT,
            kinds: Self::KINDS.to_vec(),
            instruction_limit: Self::INSTRUCTION_LIMIT,
            process_id: None,
            session_id: None,
            as_of: None,
            include_superseded: false,
            include_messages: false,
            token_budget: None,
            min_score: None,
            explain: false,
            vectors: true,
        }
    }
}
