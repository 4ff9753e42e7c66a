//! Decisions become true: one writer commits for all runs of this server.
//!
//! ```text
//!  driver of run 1 ──decision──► split ──pieces──┐
//!  driver of run 2 ──decision──► split ──pieces──┤ queue
//!                                                ▼
//!                                             Writer ──one transaction──► journal
//!                                                │
//!  drivers ◄──done / conflict / fenced───────────┤
//!  readers of logs ◄──CommitNews─────────────────┘◄── run/events: another server committed
//! ```

pub(crate) mod news;
pub(crate) mod split;
pub(crate) mod writer;
