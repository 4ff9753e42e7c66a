//! One call, from the moment a service gets it.
//!
//! ```text
//! tonic ─▶ call: authorize ─▶ a task of its own ─▶ handler(Call, request) ─▶ answer
//!            │                     │ limits.call_timeout
//!            │                     └▶ streams: a producer ─▶ ReplySender ─▶ queue ─▶ GrpcStream
//!            └▶ context: what every handler works with; the operations for its caller
//! ApiError ─▶ status: the only maker of a `tonic::Status`
//! page: sizes, and tokens that carry on a list
//! ```

pub(crate) mod call;
pub(crate) mod context;
pub(crate) mod page;
mod status;
pub(crate) mod streams;
