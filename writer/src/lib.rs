//! The sink (batches to the store, exactly once) and recall.

pub mod notify;
pub mod plan;
pub mod store;
