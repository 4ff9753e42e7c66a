//! HTTP towards the agents.
//!
//! ```text
//! Client ── get, pages, put, delete ──> rounds ──> failover over the agents ──> one request
//!    │                                                                           │
//!    └── open, open_websocket ──────────────────> failover                       ├── token (and its file)
//!                                                                                └── tls (rustls, ring)
//! answers are `types`; what is no answer is a `Failure` (`error`), which says how to act on it
//! ```

pub(crate) mod client;
pub(crate) mod error;
mod tls;
mod token;
pub(crate) mod types;
