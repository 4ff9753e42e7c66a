//! Objects. Bytes lie in the object store, each put at a location of its own; a record in the
//! database names the ones that count.
//!
//! ```text
//! put:      bytes to a fresh location -> have the record name it -> delete the old bytes
//! by URL:   list a fresh location -> hand out the URL -> (the caller puts) -> look at the bytes
//!           -> have the record name them -> delete the old bytes
//! delete:   remove the record -> delete the bytes
//! ```
//!
//! A server may die after any step: what the record names is whole, and what nothing names is never
//! seen. An upload by URL that is not completed is deleted by retention.

mod presigned;
mod stored;
mod upload;

#[cfg(test)]
mod tests;

pub(crate) use presigned::{IssuedUpload, NewUpload};
pub(crate) use stored::Objects;
pub(crate) use upload::{NewObject, UploadRoom};
