//! The local object store against real files: atomicity, crashes, memory, listing.

mod atomic;
mod child;
mod conformance;
mod connect;
mod disk;
mod listing;
mod support;
