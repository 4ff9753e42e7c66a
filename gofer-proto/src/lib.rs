#![doc = include_str!("../README.md")]

#[cfg(feature = "json")]
pub mod json;
#[cfg(feature = "json")]
mod unique_keys;

/// The messages of package `gofer.v1`, with the features `client` and `server` also its services.
pub mod v1 {
    // Generated code is judged by the drift test, not by lints.
    #![allow(
        clippy::all,
        clippy::allow_attributes,
        clippy::pedantic,
        missing_docs,
        unreachable_pub,
        rustdoc::all
    )]

    include!("gen/gofer.v1.rs");
    include!("gen/redacted.rs");
}

/// The encoded `google.protobuf.FileDescriptorSet` of the contract and its imports, without
/// comments. Server reflection serves it, and the feature `json` looks up names in it.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptor.bin");
