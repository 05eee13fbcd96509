//! How fast providers may be asked: limits that adapt, breakers, budgets per minute, and the choice among endpoints.
//!
//! Promises: no more calls at a time than the bound, and so many that a provider is busy but neither refuses nor queues; a provider
//! that is down is asked by single probes with bounded waits, and by nobody else; what a provider says about its limits is obeyed;
//! a budget per minute is never exceeded, over whatever minute. Everything here is given the time and does no I/O.

mod allowance;
mod breaker;
mod bucket;
mod endpoint;
mod latency;
mod limit;
mod pool;
#[cfg(test)]
mod simulation;

pub(crate) use self::allowance::{Allowed, Remaining};
pub(crate) use self::breaker::{Position, Trouble};
pub(crate) use self::endpoint::{Call, Outcome, Terms, Wait};
pub(crate) use self::pool::Pool;
