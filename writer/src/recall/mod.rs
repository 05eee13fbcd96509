//! Recall: which of the things known about an entity answer a query, ranked by words and by vectors.
//!
//! Promises: exact over *all* items of the entity; the same query over the same tables gives the same answer (every order is
//! total), whether from the cache, from packed chunks or from rows; no item is tokenised twice, neither per query nor, while it does
//! not change, per version of its entity; what is cached is compared with the entity's version on each use, so that an answer is
//! never older than the last commit; vectors of unlike models are never compared.
//!
//! Pure, and given the time: [`text`] (words), [`asks`] (kinds of questions), [`packed`] (chunks of items as bytes), [`image`] and
//! [`messages`] (what is known, over chunks), [`outline`] (what ranks it, alone), [`recipe`], [`rank_facts`], [`rank_messages`], [`islands`], [`budget`], [`digests`],
//! [`answer`]. [`service`] is the shell that reads the store and owns the [`cache`]; [`query_vectors`] is the one that asks the
//! embedder.

pub mod analyse;
pub mod answer;
pub mod asks;
mod bm25;
pub mod budget;
pub mod cache;
mod digest_items;
pub mod digests;
pub mod image;
pub mod islands;
mod items;
pub mod language;
mod loading;
pub mod messages;
pub mod outline;
pub mod packed;
pub mod query;
pub mod query_vectors;
pub mod rank_facts;
pub mod rank_messages;
pub mod recipe;
pub mod service;
#[cfg(test)]
mod tests;
pub mod text;
mod traits;

pub use answer::{Recalled, RecalledFact, RecalledMessage};
pub use image::EntityImage;
pub use items::Model;
pub use messages::MessageImage;
pub use query::RecallQuery;
pub use service::{Recall, RecallConfig};
