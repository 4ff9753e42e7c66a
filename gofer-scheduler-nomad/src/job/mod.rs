//! What the job of an execution looks like. Pure.
//!
//! ```text
//! ExecutionSpec ──> spec::prepare ──> the job (JSON), and the variables to write before it
//!                     ├── template   the operator's own job, checked once at `connect`
//!                     ├── secrets    values cut into Nomad Variables, and how they come back
//!                     ├── container  the shell before a container's program
//!                     ├── guard      what that shell does: once, supervise, find
//!                     └── names      ids, metadata, the group and the task
//! ```

pub(crate) mod container;
pub(crate) mod guard;
pub(crate) mod names;
pub(crate) mod secrets;
pub(crate) mod spec;
pub(crate) mod template;
