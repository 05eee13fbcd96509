//! What a flush changes of what recall's images show: so few names that an image is brought up to date by reading those alone.
//!
//! Promises: an image of the version before, with every named fact and message read anew and the unnamed sessions' events of the
//! named messages added, is the image of the version after. Where something is taken away, where something changes that no name
//! stands for, or where too much changes, nothing is named and images are read whole.

use std::collections::BTreeSet;

use memori_schemas::{FactId, MessageKey};

use super::EntityWrites;

/// More names than these are not kept: reading the entity whole takes no longer.
const MAX_NAMES: usize = 4_096;

/// What a flush names of one entity: a row, where it is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangesRow {
    /// The entity's version by this flush.
    pub version: i64,
    /// Facts of whatever generation whose wording, counts, validity, mentions or vectors changed.
    pub facts: BTreeSet<FactId>,
    /// Messages that were added, and those whose vectors were.
    pub messages: BTreeSet<MessageKey>,
}

/// What a flush means for images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageChange {
    /// They show the version after as they are.
    Nothing,
    /// What is named is to be read.
    Named(ChangesRow),
    /// They are to be read whole.
    Rebased,
}

impl EntityWrites {
    /// What these writes, by a flush that makes `version`, mean for images.
    #[must_use]
    pub fn image_change(&self, version: i64) -> ImageChange {
        let removes = !self.messages_deleted.is_empty()
            || !self.mentions_deleted.is_empty()
            || !self.message_vectors_deleted.is_empty()
            || !self.facts_deleted.is_empty()
            // What is forgotten of a digest removes no row, and changes what images make of the rows.
            || !self.forgets.insert.is_empty()
            || !self.forgets.update.is_empty();
        if removes || self.has_silent_event() {
            return ImageChange::Rebased;
        }
        let mut row = ChangesRow { version, ..ChangesRow::default() };
        row.facts.extend(self.facts.insert.iter().chain(&self.facts.update).map(|fact| fact.fact_id));
        row.facts.extend(self.stats.insert.iter().chain(&self.stats.update).map(|stats| stats.fact_id));
        row.facts.extend(self.validity.iter().map(|interval| interval.fact_id));
        row.facts.extend(self.validity_deleted.iter().map(|fact| fact.1));
        row.facts.extend(self.mentions.iter().map(|mention| mention.key.fact_id));
        row.messages.extend(self.messages.iter().map(|message| message.message_key));
        row.messages.extend(self.message_vectors.iter().map(|vector| vector.key.message_key));
        match row.facts.len() + row.messages.len() {
            0 => ImageChange::Nothing,
            1..=MAX_NAMES => ImageChange::Named(row),
            _ => ImageChange::Rebased,
        }
    }

    /// A new event without session and messages: it may join two islands, and no message's name leads to it.
    fn has_silent_event(&self) -> bool {
        let spoken: BTreeSet<_> = self.messages.iter().map(|message| &message.event).collect();
        let new = self.events.insert.iter().filter(|event| !event.erased && event.session_id.is_none());
        new.into_iter().any(|event| !spoken.contains(&event.event))
    }
}
