//! The keyed driver's decisions, without its I/O: [`core::Core`] is told what happened, and says what to do.
//!
//! Promises:
//!
//! - *Frontier.* What is committed never passes a record that is not done. What is done above it stands beside it, and is not worked
//!   on again by whoever resumes there.
//! - *Order.* Of one key at most one window is being worked on, and the next one only after it, over retries, assignments and what
//!   was put off. A key that waits holds back no other.
//! - *Epochs.* Work whose partition has gone does not count, however late it ends.
//! - *Bounds.* What is held is at most twice the budget, and what was on its way when a partition came to rest; work in flight is at
//!   most the bound, which may be 0.
//! - *Turns.* Tenants and lanes take turns ([`crate::schedule`]). Once the budget is full, a tenant that holds its share of a
//!   partition is put off ([`deferred`]) and the partition flows on: its flood delays nobody else. Where only one tenant is seen, or
//!   the reading is too far ahead, the partition rests instead.
//! - *An end.* A drain has a deadline, and work that stands still for too long ends the driver with an error.

pub(crate) mod core;
mod deferred;
pub(crate) mod effect;
mod flow;
mod group;
mod part;
mod reread;
#[cfg(test)]
mod simulation;
mod tenants;
#[cfg(test)]
mod tests;
mod watchdog;
