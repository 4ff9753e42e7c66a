//! The rules of a run: what may start, what an end means, when there is another attempt, and when
//! the run is over. The only code that knows the rules of design.md section 4. Pure: no clock, no
//! I/O, no randomness; time comes in with each input.
//!
//! ```text
//!                 start             running            ended
//!   Pending ───────────► Starting ──────────► Running ───────► Complete(status)
//!     │ ▲                 │    └───ended───────────│────────────► ▲
//!     │ └─ next attempt ──┴──────── ended ─────────┘              │
//!     └──────── skipped, or cancelled before it began ────────────┘
//!
//!   driver ──Input──► Step (Machine, now) ──► Decision{tasks, run, events} ──► committed, then
//!                                                      └── effects ──► scheduler, archiver
//! ```

mod completion;
mod deadlines;
mod decision;
mod input;
mod judgement;
mod machine;
mod outcome;
pub(crate) mod reasons;
mod retry;
mod step;
mod task_index;
mod transitions;
pub(crate) mod variables;
mod verdict;

pub use self::decision::{Decision, Effect};
pub use self::input::{Input, SchedulerFacts};
pub use self::machine::Machine;
pub use self::retry::MAX_LOSSES;
pub use self::transitions::DEFAULT_GRACE;
