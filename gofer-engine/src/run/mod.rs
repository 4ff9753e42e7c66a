//! Runs that this server drives: one driver each, fed through its inbox.
//!
//! ```text
//!  API ──new run──► insert ──┐                    ┌── lease/claim: a run was claimed
//!                            ▼ spawn_driver       ▼
//!                        RunDispatcher ──registers──► RunRegistry: inbox, deadline
//!                            │ spawns                      ▲ inbox of a run
//!                            ▼                             │
//!  Machine ◄──Input── driver ◄──Message── Inbox ◄──send── events ◄── scheduler's watch,
//!     └──Decision──► writer (commit/)                              hints of other servers
//!     └──Effect────► effects ──► execution/, slots/, archive queue
//! ```

pub(crate) mod dispatcher;
mod driver;
mod effects;
pub(crate) mod events;
mod first_step;
pub(crate) mod insert;
pub(crate) mod registry;
