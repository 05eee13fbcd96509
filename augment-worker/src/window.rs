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
        Incoming::Hopeless { .. } => Windowing::Alone,
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
        Incoming::Flush | Incoming::Hopeless { .. } => None,
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
