//! Gofer's domain types, the three backend traits and the Journal port; no I/O.
