//! What happens in the cluster: one event stream per Nomad namespace, for everybody who watches.
//!
//! ```text
//! /v1/event/stream ──lines──> watch ──event──> tracker ──Action──> watch
//! lists of jobs and allocations ┘ │                │
//!   (after every connect)         │                ├─ Nothing
//! reported ends ──────────────────┘                ├─ Inspect ──> calls::inspect, and back
//!                                                  └─ Emit ──> changes ──> every watcher
//! ```
//!
//! `tracker` is pure. `sweep` deletes secrets that no event will ever lead to.

mod changes;
mod lines;
mod sweep;
mod tracker;
pub(crate) mod watch;

pub(crate) use changes::{Change, Changes};
