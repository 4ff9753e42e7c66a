//! Executions at the scheduler.

pub(crate) mod end_reports;
pub(crate) mod exec;
pub(crate) mod resolve;
pub(crate) mod start;
