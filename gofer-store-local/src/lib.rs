//! Keeps objects in a local directory.
