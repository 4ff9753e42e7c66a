//! The contract of schedulers, and what it cannot ask of this one.

mod conformance;
mod own;
