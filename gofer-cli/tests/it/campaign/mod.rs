//! Runs under a load while the server crashes, or what it stands on is away; and what must hold
//! afterwards.
//!
//! | environment | meaning |
//! |---|---|
//! | `GOFER_CRASHES` | how often the server is killed |
//! | `GOFER_CRASH_SEED` | repeats the choices of an earlier time |

mod crashes;
pub(crate) mod dice;
mod disk;
pub(crate) mod load;
pub(crate) mod postgres;
mod proxy;
pub(crate) mod shapes;
pub(crate) mod volume;
pub(crate) mod whole;
