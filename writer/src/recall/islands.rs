//! Sessions that the client did not name: islands in time.
//!
//! The messages of one (entity, process) without a session, sorted by (`occurred_at`, event_id), are cut wherever more than 30
//! minutes pass; an island's id is made from its first event. One pure function of the whole set: the id may change when older
//! messages arrive, and is the same whatever the order of arrival. All messages of an event have its time, so events are enough.

use memori_schemas::EntityKey;
use memori_schemas::ids::island_session_id;
use uuid::Uuid;

/// A longer silence begins a new session, in microseconds.
pub const GAP_US: i64 = 30 * 60 * 1_000_000;

/// One event whose client named no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unnamed {
    /// Its process.
    pub process_id: Option<String>,
    /// When it happened.
    pub occurred_at_us: i64,
    /// Its id.
    pub event_id: String,
}

/// The session of each of `events`, in their order.
#[must_use]
pub fn islands(entity_key: &EntityKey, events: &[Unnamed]) -> Vec<Uuid> {
    let mut order: Vec<usize> = (0..events.len()).collect();
    let key = |i: &usize| {
        let event = &events[*i];
        (event.process_id.as_deref(), event.occurred_at_us, event.event_id.as_str())
    };
    order.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
    let mut out = vec![Uuid::nil(); events.len()];
    let mut previous: Option<(&Unnamed, Uuid)> = None;
    for i in order {
        let event = &events[i];
        let id = match previous {
            Some((before, id))
                if before.process_id == event.process_id
                    && event.occurred_at_us.saturating_sub(before.occurred_at_us) <= GAP_US =>
            {
                id
            }
            _ => island_session_id(entity_key, event.process_id.as_deref(), &event.event_id),
        };
        out[i] = id;
        previous = Some((event, id));
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: EntityKey = EntityKey([7; 16]);

    fn event(process: Option<&str>, minutes: i64, id: &str) -> Unnamed {
        Unnamed { process_id: process.map(str::to_owned), occurred_at_us: minutes * 60_000_000, event_id: id.into() }
    }

    #[test]
    fn a_gap_of_exactly_thirty_minutes_does_not_cut() {
        let events = [event(None, 0, "a"), event(None, 30, "b"), event(None, 61, "c"), event(Some("p"), 0, "d")];
        let ids = islands(&KEY, &events);
        assert_eq!(ids[0], ids[1]);
        assert_eq!(ids[0], island_session_id(&KEY, None, "a"));
        assert_eq!(ids[2], island_session_id(&KEY, None, "c"));
        assert_eq!(ids[3], island_session_id(&KEY, Some("p"), "d"));
    }

    /// By definition: an event's island begins at the last earlier-or-equal event that has no other within the gap before it.
    fn naive(events: &[Unnamed], of: &Unnamed) -> Uuid {
        let place = |e: &Unnamed| (e.occurred_at_us, e.event_id.clone());
        let mut same: Vec<&Unnamed> = events.iter().filter(|e| e.process_id == of.process_id).collect();
        same.sort_by_key(|e| place(e));
        let starts = same.iter().enumerate().filter(|(i, e)| *i == 0 || e.occurred_at_us - same[i - 1].occurred_at_us > GAP_US);
        let start = starts.map(|(_, e)| *e).rfind(|e| place(e) <= place(of)).expect("the first event starts an island");
        island_session_id(&KEY, start.process_id.as_deref(), &start.event_id)
    }

    proptest! {
        #[test]
        fn islands_are_those_of_the_definition_in_any_order(
            spec in prop::collection::vec((0..3_u8, 0..400_i64, 0..50_u8), 0..40), seed in any::<u64>(),
        ) {
            let events: Vec<Unnamed> = spec.iter().map(|(p, minutes, id)| {
                event([None, Some("p"), Some("q")][usize::from(*p)], *minutes, &format!("e{id}"))
            }).collect();
            let ids = islands(&KEY, &events);
            for (event, id) in events.iter().zip(&ids) {
                prop_assert_eq!(*id, naive(&events, event));
            }
            let mut shuffled: Vec<(usize, Unnamed)> = events.iter().cloned().enumerate().collect();
            shuffled.sort_by_key(|(i, _)| (*i as u64 + 1).wrapping_mul(seed | 1));
            let again = islands(&KEY, &shuffled.iter().map(|(_, e)| e.clone()).collect::<Vec<_>>());
            for ((i, _), id) in shuffled.iter().zip(again) {
                prop_assert_eq!(ids[*i], id);
            }
        }
    }
}
