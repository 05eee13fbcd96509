//! The sink (batches to the store, exactly once) and recall.

pub mod api;
pub mod control;
pub mod generations;
pub mod metrics;
pub mod notify;
pub mod pace;
pub mod packer;
pub mod plan;
pub mod postgres;
#[cfg(feature = "kafka")]
pub mod process;
pub mod reads;
pub mod rebuild;
pub mod recall;
pub mod run;
pub mod sink;
pub mod store;
