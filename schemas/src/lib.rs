//! Records on the log, their framing, and deterministic ids.
//!
//! Promises: bytes of every released version stay readable; ids never change; hostile bytes give an error, never a panic.
//! Nothing here does I/O or asks for the time.

pub mod framing;
pub mod ids;
pub mod normalise;
pub mod records;
pub mod time;

pub use ids::{ContentHash, EntityKey, EventIdentity, FactId, MessageKey, TextHash, TripleHash};
pub use records::{
    ContentFormat, ConversationEvent, Cover, CoverToWrite, DeadLetter, DeadLetterClass, EraseEntity, Evidence, ExtractorInfo,
    Fact, FactKind, FactsExtracted, FactsToWrite, Flush, ForgetFact, Lane, LogRecordBody, Message, MessageVector, MetadataEntry,
    Origin, Role, Supplied, Vector, WithdrawFacts,
};
pub use time::Micros;
