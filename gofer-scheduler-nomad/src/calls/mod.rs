//! The calls about one job. Everything above asks Nomad through these.
//!
//! ```text
//! start ──> register   variables, then the job itself, create-only
//! state ──> inspect    job + allocations (+ evaluations)  ──> state::view ──> Inspected
//!              ├── min_index   what is read is as new as what the event stream told
//!              ├── reported    an end that the execution reported itself
//!              ├── exit_file   what was left beside the log
//!              └── the fence   a lost job is stopped before anybody hears that it is lost
//! stop  ──> stop_job, and kill after a grace shorter than the job's own
//! remove ─> purge: variables first, then the job
//! ```

mod exit_file;
mod inspect;
mod job_calls;
mod key;
pub(crate) mod kill;
mod min_index;
mod register;
mod reported;
mod variables;

pub(crate) use inspect::Inspected;
pub(crate) use job_calls::JobCalls;
pub(crate) use key::JobKey;
pub(crate) use reported::contradicted;
