//! Generations beside the first: made, followed, compared, switched between, dropped. See decision 24.
//!
//! Promises: what a tenant reads is one row, so switching is one commit, and an entity of which something is on its way follows when that
//! is there, so that what is applied stays applied; nobody's active generation is dropped, paused or cancelled; a
//! number never comes again; what is freed is freed in bounded steps under the locks that the sink takes; every act is a line of the
//! audit log, in its own transaction.

pub mod diff;
pub mod dropped;
mod keeper;
mod made;
mod sql;

use async_trait::async_trait;
use memori_schemas::{EntityKey, FactKind, FactsExtracted, MessageKey};
pub use memori_service::generations::{Followed, Generation, Limits, OfTenant, Selection, Spec, State};
use serde::Serialize;

use crate::control::Act;
use crate::reads::ReadError;

pub use dropped::{DroppedGenerations, follow_dropped_until};
pub use keeper::{KEEPER_PAUSE, keep_generations_until};

/// Generations that are not dropped, at most.
pub const MAX_GENERATIONS: i64 = 100;
/// Events of one question of what was made of them.
pub const MAX_MADE: usize = 1_000;

/// A generation to make.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "as in Generation")]
pub struct NewGeneration {
    pub base: i32,
    pub tenants: Vec<String>,
    pub spec: Spec,
    pub selection: Selection,
    pub limits: Limits,
}

/// How a tenant stands to a generation. Times are microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantStanding {
    /// Whose.
    pub tenant: String,
    /// What it read before.
    pub before: Option<i32>,
    /// Since when it reads this one.
    pub cut_over_at_us: Option<i64>,
    /// Since when this one is dropped for it.
    pub dropped_at_us: Option<i64>,
    /// Since when nothing of it is left.
    pub freed_at_us: Option<i64>,
}

/// How far the history of one tenant is in a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Events of the history.
    pub events: i64,
    /// Of them those with an outcome.
    pub done: i64,
    /// Of those the dead-lettered ones.
    pub dead: i64,
    /// Outcomes of the last minute, of history or not.
    pub last_minute: i64,
}

impl Progress {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            events: self.events + other.events,
            done: self.done + other.done,
            dead: self.dead + other.dead,
            last_minute: self.last_minute + other.last_minute,
        }
    }
}

/// What calls to a model came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spent {
    /// Events that they were for.
    pub events: i64,
    /// Read.
    pub tokens_in: i64,
    /// Written.
    pub tokens_out: i64,
    /// In millionths of the configured currency.
    pub cost_micros: i64,
}

/// What a selection holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// Events.
    pub events: i64,
    /// Their messages.
    pub messages: i64,
    /// Their characters.
    pub characters: i64,
}

/// What came of one event in a generation.
#[derive(Clone, Debug, PartialEq)]
pub enum Made {
    /// Nothing yet.
    Pending,
    /// It was given up.
    Dead,
    /// This; its covers say which event and nothing else. The calls are not counted again: it cost nothing.
    Facts(Box<FactsExtracted>),
}

/// A fact as it is compared.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparedFact {
    /// What it is.
    pub kind: FactKind,
    /// Its wording.
    pub text: String,
    /// Whom it is about.
    pub subject: Option<String>,
    /// The single-valued slot that it fills.
    pub slot: Option<String>,
    /// From when to when it holds, in order.
    pub validity: Vec<(i64, Option<i64>)>,
    /// The messages that it rests on, in order, with each one's id for people.
    pub evidence: Vec<(MessageKey, String)>,
}

/// Events that a tenant reads of now and that have no outcome in a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// All.
    pub events: i64,
    /// Those that ended longer ago than live events are on their way.
    pub for_long: i64,
}

/// What came of asking for a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switched {
    /// The tenant reads this generation now, and read that before.
    From(i32),
    /// It read it already.
    Already,
    /// More entities than may trail have something that is not there yet.
    Behind,
    /// The generation is not running, not of this tenant, or dropped for it.
    Not,
}

/// What is kept of generations.
#[async_trait]
pub trait GenerationStore: Send + Sync + 'static {
    /// What workers and sinks follow.
    async fn followed(&self) -> Result<Followed, ReadError>;

    /// Makes a generation, which runs from now on; `None` where there are as many as there may be.
    async fn start(&self, new: &NewGeneration, act: &Act) -> Result<Option<Generation>, ReadError>;

    /// Generations, the latest first, before one.
    async fn generations(&self, before: i32, limit: usize) -> Result<Vec<Generation>, ReadError>;

    /// One of them.
    async fn generation(&self, generation: i32) -> Result<Option<Generation>, ReadError>;

    /// How tenants stand to one, by name; those to whom nothing has happened are not there.
    async fn standings(&self, generation: i32) -> Result<Vec<TenantStanding>, ReadError>;

    /// Changes its state where that is one of `from`, and nobody reads it or it is to run.
    async fn change(
        &self,
        generation: &Generation,
        from: &[State],
        to: State,
        reason: Option<&str>,
        act: &Act,
    ) -> Result<bool, ReadError>;

    /// Lets a tenant read it, where it is running. What is read now and not there yet may be what ended lately, as the caller has made
    /// sure ([`Self::behind`]): the entities of such events trail ([`Self::follow`]), unless it is `forced`.
    async fn cut_over(&self, tenant: &str, generation: &Generation, forced: bool, act: &Act) -> Result<Switched, ReadError>;

    /// Lets a tenant that reads `generation` read again what it read before, its entities trailing as in a cut-over; `None` where it
    /// reads another one, or the one before is dropped or does not run any more.
    async fn roll_back(&self, tenant: &str, generation: i32, act: &Act) -> Result<Option<i32>, ReadError>;

    /// Drops a generation of a tenant that does not read it; whether it was there.
    async fn drop_of(&self, tenant: &str, generation: i32, act: &Act) -> Result<bool, ReadError>;

    /// Drops a generation that nobody reads.
    async fn drop_whole(&self, generation: &Generation, act: &Act) -> Result<bool, ReadError>;

    /// What was dropped before then and is not freed: of a tenant, or of all.
    async fn to_free(&self, dropped_before_us: i64) -> Result<Vec<(i32, Option<String>)>, ReadError>;

    /// Frees some of it: the entities after one, in the order of their keys. How many rows went, and the last entity that was looked
    /// at; none where there are no more.
    async fn free(&self, tenant: &str, generation: i32, after: &EntityKey) -> Result<(u64, Option<EntityKey>), ReadError>;

    /// Nothing is left of it.
    async fn freed(&self, generation: i32, tenant: Option<&str>, at_us: i64) -> Result<(), ReadError>;

    /// How far a tenant's history is.
    async fn progress(&self, tenant: &str, generation: &Generation, now_us: i64) -> Result<Progress, ReadError>;

    /// What the tenant reads of now and what is not in it.
    async fn behind(&self, tenant: &str, generation: i32, now_us: i64) -> Result<Behind, ReadError>;

    /// Lets those entities of a tenant that trail behind its last switch follow, of which all is there now; how many still trail.
    async fn follow(&self, tenant: &str) -> Result<i64, ReadError>;

    /// Tenants with entities that trail.
    async fn tenants_trailing(&self) -> Result<Vec<String>, ReadError>;

    /// What was spent on it, for a tenant or for all.
    async fn spent(&self, tenant: Option<&str>, generation: i32) -> Result<Spent, ReadError>;

    /// What a selection of a tenant's history holds.
    async fn selected(&self, tenant: &str, selection: &Selection, accepted_before_us: i64) -> Result<Selected, ReadError>;

    /// Tenants that have something stored, by name, after one.
    async fn tenants_with_data(&self, after: &str, limit: usize) -> Result<Vec<String>, ReadError>;

    /// What came of events of an entity in a generation: of each, named by id and content. What was erased came to nothing.
    async fn made_of(
        &self,
        tenant: &str,
        entity_id: &str,
        generation: i32,
        events: &[(String, memori_schemas::ContentHash)],
    ) -> Result<Vec<Made>, ReadError>;

    /// The facts of an entity in two generations, at one instant.
    async fn sides(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        generations: (i32, i32),
    ) -> Result<(Vec<ComparedFact>, Vec<ComparedFact>), ReadError>;

    /// The words of a message of an entity.
    async fn said(&self, tenant: &str, entity_key: &EntityKey, message_key: &MessageKey) -> Result<Option<String>, ReadError>;
}
