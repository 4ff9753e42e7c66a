//! Canonical proto3 JSON of any message of the contract, by reflection over
//! [`FILE_DESCRIPTOR_SET`].
//!
//! Field names are written in lowerCamelCase, and read in that form or in the form of the .proto
//! files. Enum values are their full names, and 64-bit integers are strings. Fields with their
//! default value are left out.

use std::sync::OnceLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

use crate::FILE_DESCRIPTOR_SET;
use crate::unique_keys::UniqueKeys;

/// Why a text or value is not the JSON of a message. `Display` names the field and, for texts, line
/// and column.
#[derive(Debug, thiserror::Error)]
#[error("the JSON is not a `{message}`: {source}{hint}")]
pub struct JsonError {
    message: String,
    source: serde_json::Error,
    hint: &'static str,
}

/// The parser's words for a bad duration, and the rule that they leave out.
const BAD_DURATION: &str = "failed to parse duration";
const DURATION_HINT: &str =
    "; a duration is a number of seconds with an `s`, such as \"300s\" or \"0.5s\"";

/// Every message, field, enum and service of the contract, for reflection.
///
/// # Panics
/// Never: the committed descriptors are decoded by a test.
#[must_use]
pub fn descriptor_pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the committed descriptors are valid")
    })
}

/// The message as JSON.
///
/// # Panics
/// When `M` is not a message of the contract.
#[must_use]
pub fn to_json<M: Message + Name>(message: &M) -> serde_json::Value {
    let mut dynamic = DynamicMessage::new(descriptor::<M>());
    dynamic.transcode_from(message).expect("a message and its committed descriptor agree");
    serde_json::to_value(&dynamic).expect("a decoded message can be written as JSON")
}

/// The message a JSON value stands for.
///
/// # Errors
/// [`JsonError`] for a field the message does not have (it names the field) and for a value of the
/// wrong type.
///
/// # Panics
/// When `M` is not a message of the contract.
pub fn from_json<M: Message + Name + Default>(value: serde_json::Value) -> Result<M, JsonError> {
    DynamicMessage::deserialize(descriptor::<M>(), value)
        .map_err(error::<M>)
        .map(|dynamic| typed(&dynamic))
}

/// The message a JSON text stands for; errors give line and column. Nothing but white space may
/// follow.
///
/// # Errors
/// [`JsonError`] as for [`from_json`], and for a text that is not JSON. An object that has a key
/// twice is an error too: its author does not know which one counts.
///
/// # Panics
/// When `M` is not a message of the contract.
pub fn from_json_slice<M: Message + Name + Default>(text: &[u8]) -> Result<M, JsonError> {
    serde_json::from_slice::<UniqueKeys>(text).map_err(error::<M>)?;
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let dynamic =
        DynamicMessage::deserialize(descriptor::<M>(), &mut deserializer).map_err(error::<M>)?;
    deserializer.end().map_err(error::<M>)?;
    Ok(typed(&dynamic))
}

fn descriptor<M: Name>() -> MessageDescriptor {
    let full_name = M::full_name();
    descriptor_pool()
        .get_message_by_name(&full_name)
        .unwrap_or_else(|| panic!("`{full_name}` is not in the committed descriptors"))
}

fn typed<M: Message + Default>(dynamic: &DynamicMessage) -> M {
    dynamic.transcode_to().expect("a message and its committed descriptor agree")
}

fn error<M: Name>(source: serde_json::Error) -> JsonError {
    let hint = if source.to_string().contains(BAD_DURATION) { DURATION_HINT } else { "" };
    JsonError { message: M::full_name(), source, hint }
}
