//! The door's memory: which events were accepted lately, and with what content.
//!
//! A pure table, bounded in events and bytes; the oldest goes first. It holds no lock and asks for no time. What a request for an
//! id means (new, duplicate, other content) is decided here and nowhere else (decision 4).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use memori_schemas::{ContentHash, ConversationEvent, EntityKey, Lane, Micros};

use crate::new_event::NewEvent;

/// What names an event at the door: tenant and event id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventName {
    /// The owner.
    pub tenant: Arc<str>,
    /// The caller's id.
    pub event_id: Arc<str>,
}

impl EventName {
    /// Of these.
    #[must_use]
    pub fn new(tenant: &str, event_id: &str) -> Self {
        Self { tenant: tenant.into(), event_id: event_id.into() }
    }
}

/// What decides whether two requests under one name say the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whom it is about.
    pub entity_key: EntityKey,
    /// What it says.
    pub content_hash: ContentHash,
    /// Where the client gave it.
    pub occurred_at: Option<Micros>,
    /// Where the client gave it.
    pub session_id: Option<String>,
    /// Where the client gave them, by message. Shorter than the messages where unknown.
    pub message_ids: Vec<Option<String>>,
    /// Where the client gave them, by message. Shorter than the messages where unknown.
    pub created_at: Vec<Option<Micros>>,
}

impl Claim {
    /// What a request claims.
    #[must_use]
    pub fn of_new(event: &NewEvent, tenant: &str, content_hash: ContentHash) -> Self {
        Self {
            entity_key: event.entity_key(tenant),
            content_hash,
            occurred_at: event.occurred_at,
            session_id: event.session_id.clone(),
            message_ids: trimmed(event.messages.iter().map(|m| m.message_id.clone()).collect()),
            created_at: trimmed(event.messages.iter().map(|m| m.created_at).collect()),
        }
    }

    /// What a record on the log or in the spool says.
    #[must_use]
    pub fn of_record(event: &ConversationEvent) -> Self {
        Self {
            entity_key: event.entity_key(),
            content_hash: event.content_hash,
            occurred_at: event.supplied.occurred_at.then_some(event.occurred_at),
            session_id: event.session_id.clone(),
            message_ids: trimmed(event.messages.iter().map(|m| m.message_id.clone()).collect()),
            created_at: trimmed(event.messages.iter().map(|m| m.created_at).collect()),
        }
    }

    /// Without what a client gave beside the content: it agrees with every claim of the same content.
    #[must_use]
    pub fn of_content_alone(self) -> Self {
        Self { occurred_at: None, session_id: None, message_ids: Vec::new(), created_at: Vec::new(), ..self }
    }

    /// The same content, and the same times, session and message ids wherever both gave one.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        fn agree<T: PartialEq>(a: &Option<T>, b: &Option<T>) -> bool {
            a.is_none() || b.is_none() || a == b
        }
        self.entity_key == other.entity_key
            && self.content_hash == other.content_hash
            && agree(&self.occurred_at, &other.occurred_at)
            && agree(&self.session_id, &other.session_id)
            && self.message_ids.iter().zip(&other.message_ids).all(|(a, b)| agree(a, b))
            && self.created_at.iter().zip(&other.created_at).all(|(a, b)| agree(a, b))
    }

    /// What it takes in memory, in bytes, about.
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.session_id.as_ref().map_or(0, String::len)
            + self.message_ids.iter().map(|id| size_of::<Option<String>>() + id.as_ref().map_or(0, String::len)).sum::<usize>()
            + self.created_at.len() * size_of::<Option<Micros>>()
    }
}

/// Nothing given after the last given one is worth remembering.
fn trimmed<T>(mut list: Vec<Option<T>>) -> Vec<Option<T>> {
    while list.last().is_some_and(Option::is_none) {
        list.pop();
    }
    list.shrink_to_fit();
    list
}

/// What the door says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing is known under its name.
    Unknown,
    /// It was accepted before.
    Duplicate,
    /// Something else was accepted under its name.
    Conflict,
}

/// Judges a claim against all that is known under its name.
#[must_use]
pub fn judge<'a>(claim: &Claim, known: impl IntoIterator<Item = &'a Claim>) -> Judgement {
    let mut judgement = Judgement::Unknown;
    for other in known {
        if claim.says_the_same(other) {
            return Judgement::Duplicate;
        }
        judgement = Judgement::Conflict;
    }
    judgement
}

/// One accepted event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What it says.
    pub claim: Claim,
    /// Whom it is about.
    pub entity_id: Arc<str>,
    /// Where it went.
    pub lane: Lane,
    /// When.
    pub accepted_at: Micros,
}

impl Accepted {
    /// As a record of a lane or in the spool says.
    #[must_use]
    pub fn of_record(event: &ConversationEvent, lane: Lane) -> Self {
        let entity_id = event.entity_id.as_str().into();
        Self { claim: Claim::of_record(event), entity_id, lane, accepted_at: event.accepted_at }
    }
}

/// The bounded table of recent events.
#[derive(Debug)]
pub struct RecentEvents {
    /// Nearly always one under a name; more where replicas raced.
    by_name: HashMap<EventName, Vec<Accepted>>,
    oldest_first: VecDeque<EventName>,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
}

impl RecentEvents {
    /// Empty, with its bounds.
    #[must_use]
    pub fn new(max_events: usize, max_bytes: usize) -> Self {
        Self { by_name: HashMap::new(), oldest_first: VecDeque::new(), bytes: 0, max_events, max_bytes }
    }

    /// What is known under a name.
    #[must_use]
    pub fn get(&self, name: &EventName) -> &[Accepted] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// Judges a claim by this table alone.
    #[must_use]
    pub fn judge(&self, name: &EventName, claim: &Claim) -> Judgement {
        judge(claim, self.get(name).iter().map(|accepted| &accepted.claim))
    }

    /// Remembers an accepted event as the newest one; one that is there already changes nothing.
    pub fn remember(&mut self, name: EventName, accepted: Accepted) {
        let cost = cost(&name, &accepted);
        let list = self.by_name.entry(name.clone()).or_default();
        if list.iter().any(|known| known.claim == accepted.claim) {
            return;
        }
        list.push(accepted);
        self.oldest_first.push_back(name);
        self.bytes += cost;
    }

    /// Remembers what another table holds as older than everything here.
    pub fn remember_older(&mut self, older: Self) {
        let mut newer = std::mem::replace(self, older);
        for name in std::mem::take(&mut newer.oldest_first) {
            if let Some(list) = newer.by_name.get_mut(&name) {
                self.remember(name, list.remove(0));
            }
        }
        self.forget_surplus();
    }

    /// Whether it is over a bound.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.oldest_first.len() > self.max_events || self.bytes > self.max_bytes
    }

    /// Whether it is at twice a bound: no more can be taken, even of what must not be forgotten.
    #[must_use]
    pub fn is_far_over(&self) -> bool {
        self.oldest_first.len() > self.max_events.saturating_mul(2) || self.bytes > self.max_bytes.saturating_mul(2)
    }

    /// The names of the `count` oldest events, oldest first.
    pub fn oldest(&self, count: usize) -> impl Iterator<Item = &EventName> {
        self.oldest_first.iter().take(count)
    }

    /// Forgets the oldest event.
    pub fn forget_oldest(&mut self) {
        let Some(name) = self.oldest_first.pop_front() else { return };
        if let Some(list) = self.by_name.get_mut(&name) {
            let gone = list.remove(0);
            self.bytes -= cost(&name, &gone);
            if list.is_empty() {
                self.by_name.remove(&name);
            }
        }
    }

    /// Forgets the oldest events until it is within its bounds.
    pub fn forget_surplus(&mut self) {
        while self.is_over() {
            self.forget_oldest();
        }
    }

    /// How many events it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.oldest_first.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.oldest_first.is_empty()
    }
}

/// What an entry takes in memory, in bytes, about: twice the name's handle, its text, the claim, the map's own.
fn cost(name: &EventName, accepted: &Accepted) -> usize {
    let texts = name.tenant.len() + name.event_id.len() + accepted.entity_id.len();
    2 * size_of::<EventName>() + size_of::<Arc<str>>() + texts + accepted.claim.bytes() + 64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(content: u8) -> Claim {
        Claim {
            entity_key: EntityKey([1; 16]),
            content_hash: ContentHash([content; 32]),
            occurred_at: None,
            session_id: None,
            message_ids: vec![],
            created_at: vec![],
        }
    }

    fn accepted(claim: Claim) -> Accepted {
        Accepted { claim, entity_id: "a".into(), lane: Lane::Live, accepted_at: Micros(0) }
    }

    #[test]
    fn the_same_is_what_agrees_wherever_both_spoke() {
        let bare = claim(1);
        let full = Claim {
            occurred_at: Some(Micros(5)),
            session_id: Some("s".into()),
            message_ids: vec![None, Some("m".into())],
            created_at: vec![Some(Micros(1))],
            ..claim(1)
        };
        assert!(bare.says_the_same(&full) && full.says_the_same(&bare) && full.says_the_same(&full));
        let others = [
            claim(2),
            Claim { entity_key: EntityKey([2; 16]), ..full.clone() },
            Claim { occurred_at: Some(Micros(6)), ..full.clone() },
            Claim { session_id: Some("t".into()), ..full.clone() },
            Claim { message_ids: vec![None, Some("n".into())], ..full.clone() },
            Claim { created_at: vec![Some(Micros(2))], ..full.clone() },
        ];
        for other in others {
            assert!(!full.says_the_same(&other) && !other.says_the_same(&full), "{other:?}");
        }
        assert!(full.says_the_same(&Claim { message_ids: vec![Some("first".into())], ..full.clone() }));
    }

    #[test]
    fn a_name_with_two_contents_knows_both() {
        let mut table = RecentEvents::new(10, 1 << 20);
        let name = EventName::new("t", "e");
        assert_eq!(table.judge(&name, &claim(1)), Judgement::Unknown);
        table.remember(name.clone(), accepted(claim(1)));
        assert_eq!(table.judge(&name, &claim(1)), Judgement::Duplicate);
        assert_eq!(table.judge(&name, &claim(2)), Judgement::Conflict);
        table.remember(name.clone(), accepted(claim(2)));
        assert_eq!(table.judge(&name, &claim(2)), Judgement::Duplicate);
        assert_eq!(table.judge(&EventName::new("u", "e"), &claim(1)), Judgement::Unknown);
        table.forget_oldest();
        assert_eq!(table.judge(&name, &claim(1)), Judgement::Conflict);
        table.forget_oldest();
        assert_eq!((table.judge(&name, &claim(1)), table.bytes, table.by_name.len()), (Judgement::Unknown, 0, 0));
    }

    #[test]
    fn what_is_older_is_forgotten_first() {
        let name = |id: &str| EventName::new("t", id);
        let (mut table, mut older) = (RecentEvents::new(3, 1 << 20), RecentEvents::new(3, 1 << 20));
        for (id, content) in [("x", 1), ("y", 1)] {
            table.remember(name(id), accepted(claim(content)));
        }
        for (id, content) in [("a", 1), ("x", 1), ("b", 1)] {
            older.remember(name(id), accepted(claim(content)));
        }
        table.remember_older(older);
        assert_eq!(table.len(), 3);
        assert_eq!(table.judge(&name("a"), &claim(1)), Judgement::Unknown);
        for id in ["x", "b", "y"] {
            assert_eq!(table.judge(&name(id), &claim(1)), Judgement::Duplicate, "{id}");
        }
    }

    proptest! {
        #[test]
        fn as_a_plain_list_that_keeps_the_last(
            steps in proptest::collection::vec((0_u8..8, 0_u8..3, 0_usize..40), 0..200), max_events in 1_usize..12, max_kib in 1_usize..4,
        ) {
            let mut table = RecentEvents::new(max_events, max_kib * 1024);
            let mut model: Vec<(u8, u8, usize)> = Vec::new();
            for (id, content, session) in steps {
                let name = EventName::new("t", &id.to_string());
                let wanted = Claim { session_id: Some("s".repeat(session)), ..claim(content) };
                let known: Vec<_> = model.iter().filter(|m| m.0 == id).collect();
                let expected = if known.iter().any(|m| (m.1, m.2) == (content, session)) {
                    Judgement::Duplicate
                } else if known.is_empty() {
                    Judgement::Unknown
                } else {
                    Judgement::Conflict
                };
                prop_assert_eq!(table.judge(&name, &wanted), expected);
                if expected != Judgement::Duplicate {
                    model.push((id, content, session));
                }
                table.remember(name, accepted(wanted));
                table.forget_surplus();
                prop_assert!(!table.is_over());
                let kept = table.len();
                prop_assert!(kept <= model.len());
                model.drain(..model.len() - kept);
                let bytes: usize = table.by_name.iter().flat_map(|(name, list)| list.iter().map(move |a| cost(name, a))).sum();
                prop_assert_eq!(bytes, table.bytes);
            }
        }
    }
}
