//! The rules of a run.

mod deadlines;
mod judgement;
pub(crate) mod machine;
pub(crate) mod outcome;
pub(crate) mod reasons;
mod retry;
mod verdict;

pub use machine::{ACTOR, DEFAULT_GRACE, Decision, Effect, Input, Machine, SchedulerFacts};
pub use retry::MAX_LOSSES;
