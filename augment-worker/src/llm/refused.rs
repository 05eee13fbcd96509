//! Why one item of an answer is not kept. The others are.

/// A reason; its name is a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refusal {
    /// Not an item of the schema.
    Malformed,
    /// It says nothing.
    NoText,
    /// A text or list over its bound.
    TooLong,
    /// Beyond the items that a list may have.
    TooMany,
    /// It names no message.
    NoEvidence,
    /// It names a message that was not shown.
    EvidenceOutOfRange,
    /// It is about a person and names only messages that no person wrote.
    EvidenceNotUser,
    /// It claims to belong to a tenant, entity, session or event.
    NamesOwner,
    /// It repeats an injected block.
    RecalledContext,
    /// It names a known fact that was not shown with a number.
    NotKnown,
}

impl Refusal {
    pub(crate) const ALL: [Self; 10] = [
        Self::Malformed,
        Self::NoText,
        Self::TooLong,
        Self::TooMany,
        Self::NoEvidence,
        Self::EvidenceOutOfRange,
        Self::EvidenceNotUser,
        Self::NamesOwner,
        Self::RecalledContext,
        Self::NotKnown,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoText => "no_text",
            Self::TooLong => "too_long",
            Self::TooMany => "too_many",
            Self::NoEvidence => "no_evidence",
            Self::EvidenceOutOfRange => "evidence_out_of_range",
            Self::EvidenceNotUser => "evidence_not_user",
            Self::NamesOwner => "names_owner",
            Self::RecalledContext => "recalled_context",
            Self::NotKnown => "not_known",
        }
    }

    /// What the model is told.
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::Malformed => "is not an item of the schema",
            Self::NoText => "has no text",
            Self::TooLong => "is too long",
            Self::TooMany => "is more than a list may have",
            Self::NoEvidence => "names no message as evidence",
            Self::EvidenceOutOfRange => "names a message that is not in the data",
            Self::EvidenceNotUser => "names only messages that no user wrote",
            Self::NamesOwner => "has members that the schema does not have",
            Self::RecalledContext => "repeats a block of recalled memory",
            Self::NotKnown => "names a number that `known` in the data does not have",
        }
    }
}
