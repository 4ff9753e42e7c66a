//! One execution's conversation with the scheduler, on behalf of its run's driver.
//!
//! ```text
//!  driver ──Start──► start ──acquire──► slots
//!                      │ ──resolve──► journal, secret store, object store
//!                      └──start──► scheduler          within the lease's deadline
//!  driver ──Observe, Stop──► observe ──state, stop──► scheduler
//!     ▲                         │
//!     └── Inbox: Answered, StartFinished, Waiting, SlotAcquired
//!  API ──exec_target──► exec ──masked command──► API ──exec──► scheduler
//!  a task ──its own end──► end_reports ──report──► scheduler, or a hint to the other servers
//! ```

pub(crate) mod end_reports;
pub(crate) mod exec;
pub(crate) mod observe;
pub(crate) mod resolve;
pub(crate) mod start;
