//! Real processes on this machine, under the scheduler as a server uses it.

mod conformance;
mod support;
