//! The contract of schedulers, and tests of this one that the contract cannot ask for.

mod conformance;
mod own;
