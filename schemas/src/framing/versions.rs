//! Every schema that was ever released. A released file never changes; a new version is a new file and a new line here.

/// One released schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemaVersion {
    /// The record's name, without the namespace `memori`.
    pub record: &'static str,
    /// From 1.
    pub version: u16,
    /// The Avro schema as JSON.
    pub avsc: &'static str,
}

macro_rules! released {
    ($($record:literal, $version:literal, $file:literal;)+) => {
        /// Every released schema; of each record oldest first. The last one of a record is what is written.
        pub const RELEASED: &[SchemaVersion] = &[$(SchemaVersion {
            record: $record,
            version: $version,
            avsc: include_str!(concat!("../../avro/", $file)),
        }),+];
    };
}

released! {
    "ConversationEvent", 1, "conversation_event.v1.avsc";
    "Flush", 1, "flush.v1.avsc";
    "FactsExtracted", 1, "facts_extracted.v1.avsc";
    "FactsExtracted", 2, "facts_extracted.v2.avsc";
    "EraseEntity", 1, "erase_entity.v1.avsc";
    "ForgetFact", 1, "forget_fact.v1.avsc";
    "WithdrawFacts", 1, "withdraw_facts.v1.avsc";
    "DeadLetter", 1, "dead_letter.v1.avsc";
}
