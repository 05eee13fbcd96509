//! Recall: which of the things known about an entity answer a query, ranked by words.
//!
//! Promises: exact over *all* items of the entity; the same query over the same tables gives the same answer (every order is
//! total); no item is tokenised twice, neither per query nor, while it does not change, per version of its entity; what is
//! cached is compared with the entity's version on each use, so that an answer is never older than the last commit.
//!
//! Pure, and given the time: [`text`] (words), [`bm25`], [`rank_facts`], [`rank_messages`], [`islands`], [`budget`], [`digests`],
//! [`image`], [`answer`]. [`service`] is the shell that reads the store and owns the [`cache`].

pub mod analyse;
pub mod answer;
pub mod asks;
pub mod bm25;
pub mod budget;
pub mod cache;
pub mod digests;
pub mod image;
pub mod islands;
pub mod language;
pub mod packed;
pub mod query;
pub mod rank_facts;
pub mod rank_messages;
pub mod service;
pub mod text;

pub use answer::{Recalled, RecalledFact, RecalledMessage};
pub use image::{EntityImage, FactItem, MessageItem};
pub use query::RecallQuery;
pub use service::{Recall, RecallConfig};
