//! What every provider of the log is held to. A provider implements [`Provider`] in a test and names it once:
//!
//! ```ignore
//! memori_event_log::conformance_suite!(MyProvider);
//! ```
//!
//! Cases wait for events, never for times; a wait that takes longer than [`PATIENCE`] is a failure.

mod batches;
mod commits;
mod frozen;
mod groups;
mod seam;
pub mod storm;
mod tools;
mod works;

pub use batches::{
    batches_are_written_once_over_crashes, fenced_batches_go_on_where_the_store_says, held_partitions_wait,
    retried_batches_stay_the_same,
};
pub use commits::{
    what_is_finished_above_the_frontier_is_not_worked_on_again, what_stands_beside_an_offset_comes_back,
    what_stands_beside_an_offset_goes_to_the_next_owner,
};
pub use frozen::woken_from_sigstop;
pub use groups::{late_completions_of_an_old_epoch_are_dropped, rebalance_while_work_is_in_flight, redelivery_after_a_crash};
pub use seam::{
    an_offset_below_the_logs_start_halts, assigning_again_moves, identity_and_watermarks, order_per_key, paused_partitions_rest,
    records_of_one_byte_and_of_one_mebibyte,
};
pub use works::{
    a_driver_halts_below_the_logs_start, a_tenants_backlog_is_read_past, budget_full_and_reopened,
    commit_never_past_an_unfinished_event, poison_records_halt_their_partition_only,
};

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::seam::{Consumer, Log};
use crate::topic::TopicPartition;

/// How long a case waits for one event.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the suite needs of a provider.
#[async_trait]
pub trait Provider: Send + Sync + Sized + 'static {
    /// Whether a fenced append of a member that lost its lease fails. Where it does not (Kafka), its records are duplicates.
    const FENCES_APPENDS: bool;

    /// A new, empty log of its own with all topics, of this many partitions each.
    async fn fresh(partitions: i32) -> Self;

    /// What [`Provider::reach`] needs to find this log from another process.
    fn address(&self) -> String;

    /// The log at an address, as another process finds it.
    async fn reach(address: &str) -> Self;

    /// A connection of its own, as another process would have.
    async fn connect(&self) -> Arc<dyn Log>;

    /// Deletes the records of a partition below `offset`.
    async fn delete_before(&self, partition: TopicPartition, offset: i64);

    /// Makes a member vanish without a word.
    async fn crash(consumer: Box<dyn Consumer>) {
        drop(consumer);
    }
}

/// One test per case, for one provider: all of them, or those that are named.
#[macro_export]
macro_rules! conformance_suite {
    ($provider:ty) => {
        $crate::conformance_suite!(
            $provider: identity_and_watermarks, order_per_key, records_of_one_byte_and_of_one_mebibyte, assigning_again_moves,
            paused_partitions_rest, an_offset_below_the_logs_start_halts, redelivery_after_a_crash, rebalance_while_work_is_in_flight,
            late_completions_of_an_old_epoch_are_dropped, budget_full_and_reopened, commit_never_past_an_unfinished_event,
            poison_records_halt_their_partition_only, a_driver_halts_below_the_logs_start, batches_are_written_once_over_crashes,
            fenced_batches_go_on_where_the_store_says, retried_batches_stay_the_same, held_partitions_wait,
            what_stands_beside_an_offset_comes_back, what_stands_beside_an_offset_goes_to_the_next_owner,
            what_is_finished_above_the_frontier_is_not_worked_on_again, a_tenants_backlog_is_read_past
        );

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn woken_from_sigstop() {
            $crate::conformance::woken_from_sigstop::<$provider>(concat!(module_path!(), "::woken_from_sigstop")).await;
        }
    };
    ($provider:ty: $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::conformance::$case::<$provider>().await;
            }
        )+
    };
}
