//! Whose events a worker takes, which of them it carries over, and how urgent what came of them is.

use std::sync::{Arc, PoisonError, RwLock};

use memori_schemas::{ConversationEvent, Lane};
use memori_service::generations::{FIRST, Followed, Generation};
use tokio::time::Instant;

use super::Generations;
use super::turns::{Present, Turns};

/// What the workers of a process go by together: which generations there are now, and whether live events come.
#[derive(Clone, Debug, Default)]
pub struct Followers {
    followed: Arc<RwLock<Arc<Followed>>>,
    present: Present,
}

impl Followers {
    /// As it was last heard.
    #[must_use]
    pub fn get(&self) -> Arc<Followed> {
        Arc::clone(&self.followed.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says how it is now.
    pub fn hear(&self, followed: Followed) {
        *self.followed.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(followed);
    }
}

/// What one generation's worker takes.
#[derive(Clone)]
pub struct Scope {
    number: i32,
    replay: Option<Arc<Replay>>,
    followers: Followers,
}

struct Replay {
    generation: Generation,
    generations: Arc<dyn Generations>,
    turns: Turns,
}

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Default for Scope {
    fn default() -> Self {
        Self::everything(FIRST, Followers::default())
    }
}

impl Scope {
    /// All tenants', but of those for which it is dropped.
    #[must_use]
    pub fn everything(number: i32, followers: Followers) -> Self {
        Self { number, replay: None, followers }
    }

    /// A replay's, which takes so many events a second beside live ones; 0: as many as it can.
    #[must_use]
    pub fn of(generation: Generation, followers: Followers, generations: Arc<dyn Generations>, beside_live: u32) -> Self {
        let turns = Turns::new(followers.present.clone(), beside_live);
        Self { number: generation.generation, replay: Some(Arc::new(Replay { generation, generations, turns })), followers }
    }

    /// Events of a tenant have come by this lane: the turns that they must wait for, where nobody reads what is made of them.
    pub(crate) fn came(&self, tenant: &str, lane: Option<Lane>) -> Option<&Turns> {
        match &self.replay {
            Some(replay) => (self.followers.get().active_of(tenant) != self.number).then_some(&replay.turns),
            None => {
                if lane == Some(Lane::Live) {
                    self.followers.present.came(Instant::now());
                }
                None
            }
        }
    }

    /// Whether it is a replay's.
    pub(crate) fn is_replay(&self) -> bool {
        self.replay.is_some()
    }

    /// Whether a tenant's events are its own.
    pub(crate) fn takes(&self, tenant: &str) -> bool {
        self.replay.as_ref().is_none_or(|replay| replay.generation.is_of(tenant))
            && !self.followers.get().is_dropped(tenant, self.number)
    }

    /// By which lane what came of a tenant's events goes: as they came, where the tenant reads this generation.
    pub(crate) fn lane(&self, tenant: &str, lane: Lane) -> Lane {
        match self.replay {
            Some(_) if self.followers.get().active_of(tenant) != self.number => Lane::Backfill,
            _ => lane,
        }
    }

    /// Whether an event is carried over rather than extracted.
    pub(crate) fn carries(&self, event: &ConversationEvent) -> bool {
        let Some(replay) = &self.replay else { return false };
        let generation = &replay.generation;
        !generation.extracts(&event.entity_id, event.accepted_at.0, event.occurred_at.0)
            // What was dropped meanwhile is made anew.
            && !self.followers.get().is_dropped(&event.tenant, generation.base)
    }

    /// Who tells what came of events in the base, and its number.
    pub(crate) fn base(&self) -> Option<(&Arc<dyn Generations>, i32)> {
        self.replay.as_ref().map(|replay| (&replay.generations, replay.generation.base))
    }
}
