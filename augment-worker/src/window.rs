//! What a window holds, and how records come together in one: decisions without I/O.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use memori_event_log::LogRecord;
use memori_event_log::driver::{Held, Windowing};
use memori_schemas::ConversationEvent;

use crate::policy::Incoming;

/// How a record goes with its neighbours: events with those of their session, whose prompt and record they can share. What will never
/// be extracted stays alone, so that it costs nobody else.
pub(crate) fn windowing(incoming: &Incoming) -> Windowing {
    match incoming {
        Incoming::Event(event) => {
            Windowing::With { group: group(event), messages: u32::try_from(event.messages.len()).unwrap_or(u32::MAX) }
        }
        Incoming::Flush => Windowing::Closes,
        Incoming::Hopeless { .. } | Incoming::Elsewhere => Windowing::Alone,
    }
}

/// The same for events of one process and session, named or not. It lives no longer than the process.
fn group(event: &ConversationEvent) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&event.process_id, &event.session_id).hash(&mut hasher);
    hasher.finish()
}

/// An event of a window, with its record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) record: &'a LogRecord,
    pub(crate) event: &'a Arc<ConversationEvent>,
}

/// The events of a window, in log order.
pub(crate) fn turns(window: &[Arc<Held<Incoming>>]) -> Vec<Turn<'_>> {
    let turns = window.iter().filter_map(|held| match &held.item {
        Incoming::Event(event) => Some(Turn { record: &held.record, event }),
        Incoming::Flush | Incoming::Elsewhere | Incoming::Hopeless { .. } => None,
    });
    turns.collect()
}

/// Whether all can be one record: of one process and session. Their groups only say so nearly always.
pub(crate) fn belong_together(turns: &[Turn<'_>]) -> bool {
    turns.windows(2).all(|pair| {
        let (a, b) = (pair[0].event, pair[1].event);
        a.process_id == b.process_id && a.session_id == b.session_id && a.tenant == b.tenant && a.entity_id == b.entity_id
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use memori_event_log::driver::Windowing;
    use memori_schemas::{ConversationEvent, DeadLetterClass, Role};

    use super::windowing;
    use crate::llm::prompt_tests::event;
    use crate::policy::Incoming;

    fn of(change: impl FnOnce(&mut ConversationEvent)) -> Windowing {
        let mut event = (*event("e", &[(Role::User, "Hello."), (Role::Assistant, "Yes?")])).clone();
        change(&mut event);
        windowing(&Incoming::Event(Arc::new(event)))
    }

    #[test]
    fn events_of_one_process_and_session_go_together() {
        let first = of(|_| {});
        let Windowing::With { messages: 2, .. } = first else { panic!("{first:?}") };
        assert_eq!(of(|event| event.event_id = "another".into()), first);
        assert_ne!(of(|event| event.session_id = Some("another".into())), first);
        assert_ne!(of(|event| event.session_id = None), first);
        assert_ne!(of(|event| event.process_id = Some("another".into())), first);
        let unnamed = of(|event| (event.process_id, event.session_id) = (None, Some("secret-process".into())));
        assert_ne!(unnamed, of(|event| (event.process_id, event.session_id) = (Some("secret-process".into()), None)));
    }

    #[test]
    fn a_flush_closes_and_what_is_hopeless_stays_alone() {
        assert_eq!(windowing(&Incoming::Flush), Windowing::Closes);
        let hopeless = Incoming::Hopeless { class: DeadLetterClass::Poison, reason: "r".into(), event: None };
        assert_eq!(windowing(&hopeless), Windowing::Alone);
    }
}
