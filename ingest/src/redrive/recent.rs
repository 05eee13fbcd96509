//! Which copies this process has put on the log lately: the same redrive again, before anything came of the first, costs nothing. That
//! it is remembered is a courtesy; two equal copies are harmless.

use std::collections::{HashSet, VecDeque};

use memori_schemas::{ContentHash, ConversationEvent, EntityKey};

/// What tells one copy of an event from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Copy {
    entity_key: EntityKey,
    event_id: String,
    content_hash: ContentHash,
    attempt: i32,
}

impl Copy {
    /// Of this one.
    pub(crate) fn of(event: &ConversationEvent) -> Self {
        Self {
            entity_key: event.entity_key(),
            event_id: event.event_id.clone(),
            content_hash: event.content_hash,
            attempt: event.attempt,
        }
    }
}

/// The latest copies, at most so many.
#[derive(Debug)]
pub(crate) struct RecentCopies {
    most: usize,
    copies: HashSet<Copy>,
    oldest_first: VecDeque<Copy>,
}

impl RecentCopies {
    pub(crate) fn new(most: usize) -> Self {
        Self { most: most.max(1), copies: HashSet::new(), oldest_first: VecDeque::new() }
    }

    /// Whether it was not there.
    pub(crate) fn remember(&mut self, copy: Copy) -> bool {
        if !self.copies.insert(copy.clone()) {
            return false;
        }
        self.oldest_first.push_back(copy);
        if self.oldest_first.len() > self.most
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.copies.remove(&oldest);
        }
        true
    }

    /// It did not get there.
    pub(crate) fn forget(&mut self, copy: &Copy) {
        if self.copies.remove(copy) {
            self.oldest_first.retain(|other| other != copy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered() {
        let copy =
            |attempt| Copy { entity_key: EntityKey([0; 16]), event_id: "e".into(), content_hash: ContentHash([0; 32]), attempt };
        let mut recent = RecentCopies::new(2);
        assert_eq!([1, 2, 2, 3].map(|attempt| recent.remember(copy(attempt))), [true, true, false, true]);
        assert!(!recent.remember(copy(3)), "the latest are there");
        recent.forget(&copy(3));
        assert!(recent.remember(copy(3)), "what did not get there may go again");
        assert!(recent.remember(copy(1)), "the oldest went");
    }
}
