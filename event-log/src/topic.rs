//! The topics, by their names without the prefix.

use std::fmt;

use memori_schemas::Lane;

/// One of the log's topics. All are keyed alike and have the same partition count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Deletions. First, because a rebuild reads it to its end before anything else.
    Controls,
    /// Conversation events of the present.
    ConversationsLive,
    /// Conversation events of history.
    ConversationsBackfill,
    /// Fact events of the present.
    FactsLive,
    /// Fact events of history and replays.
    FactsBackfill,
    /// What could not be processed.
    DeadLetters,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Self; 6] = [
        Self::Controls,
        Self::ConversationsLive,
        Self::ConversationsBackfill,
        Self::FactsLive,
        Self::FactsBackfill,
        Self::DeadLetters,
    ];

    /// The name without the prefix, as metrics and dead letters show it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Controls => "controls",
            Self::ConversationsLive => "conversations.live",
            Self::ConversationsBackfill => "conversations.backfill",
            Self::FactsLive => "facts.live",
            Self::FactsBackfill => "facts.backfill",
            Self::DeadLetters => "dead-letters",
        }
    }

    /// The topic of that name without the prefix.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.as_str() == name)
    }

    /// Where a lane's conversation events stand.
    #[must_use]
    pub fn conversations(lane: Lane) -> Self {
        match lane {
            Lane::Live => Self::ConversationsLive,
            Lane::Backfill => Self::ConversationsBackfill,
        }
    }

    /// Where a lane's fact events stand.
    #[must_use]
    pub fn facts(lane: Lane) -> Self {
        match lane {
            Lane::Live => Self::FactsLive,
            Lane::Backfill => Self::FactsBackfill,
        }
    }

    /// What it carries, whatever the lane: as its retention is named.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::ConversationsLive | Self::ConversationsBackfill => "conversations",
            Self::FactsLive | Self::FactsBackfill => "facts",
            Self::Controls => "controls",
            Self::DeadLetters => "dead-letters",
        }
    }

    /// The lane of a conversation or facts topic.
    #[must_use]
    pub fn lane(self) -> Option<Lane> {
        match self {
            Self::ConversationsLive | Self::FactsLive => Some(Lane::Live),
            Self::ConversationsBackfill | Self::FactsBackfill => Some(Lane::Backfill),
            Self::Controls | Self::DeadLetters => None,
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One partition of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Topic,
    /// From 0.
    pub partition: i32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}
