//! What requests may consist of: for each method its request's fields, how often each may repeat,
//! and what an entry costs in memory. Made once from the contract's descriptors.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

/// Entries of all repeated and map fields of one request together. A spec with 10,000 tasks of 20
/// edges just fits.
pub(super) const ELEMENTS_MAX: u32 = 200_000;
/// Fields whose entries are large in memory, and how many of them a request may have. The rules of
/// `gofer_core::validate` are at or below; the room above lets a caller hear which rule it was.
/// Each with the bytes that an entry costs.
const FIELD_LIMITS: [(&str, u32, u32); 2] = [
    ("gofer.v1.PipelineSpec.tasks", 10_000, 2048),
    ("gofer.v1.PipelineSpec.subscriptions", 1_000, 512),
];
/// Number of fields with a limit of their own.
pub(super) const LIMITED_FIELDS: usize = FIELD_LIMITS.len();
/// Bytes that an entry takes besides what it has on the wire, decoded and converted: a message, …
const MESSAGE_COST: u32 = 256;
/// … two texts in a tree, …
const MAP_ENTRY_COST: u32 = 192;
/// … a text or bytes, …
const TEXT_COST: u32 = 96;
/// … or a number.
const NUMBER_COST: u32 = 16;

/// One field of a message.
#[derive(Debug)]
pub(super) struct Field {
    number: u32,
    /// Such as `PipelineSpec.tasks`.
    pub(super) name: String,
    pub(super) content: Content,
    pub(super) repeated: bool,
    pub(super) entry_cost: u32,
    /// Which of the fields with a limit of their own, and the limit.
    pub(super) limit: Option<(usize, u32)>,
}

/// What is in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// A message of this index in [`Shapes`].
    Message(usize),
    /// A text or bytes.
    Bytes,
    /// Numbers of variable length, which may be packed.
    Varint,
    /// Numbers of this many bytes, which may be packed.
    Fixed(u64),
}

/// The fields of one message, by number.
#[derive(Debug, Default)]
pub(super) struct Shape(Vec<Field>);

impl Shape {
    /// The field of this number and its index.
    pub(super) fn find(&self, number: u32) -> Option<usize> {
        self.0.binary_search_by_key(&number, |field| field.number).ok()
    }

    /// The field of this index.
    pub(super) fn field(&self, index: usize) -> &Field {
        &self.0[index]
    }
}

/// What is known of a method before its body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Method {
    /// Index of the request's shape.
    pub(super) request: usize,
    pub(super) streams_requests: bool,
    pub(super) streams_answers: bool,
}

/// All requests of the contract.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    messages: Vec<Shape>,
    indexes: HashMap<String, usize>,
    methods: HashMap<String, Method>,
}

/// The contract's requests.
pub(super) static SHAPES: LazyLock<Shapes> = LazyLock::new(Shapes::of_the_contract);

impl Shapes {
    fn of_the_contract() -> Self {
        let mut shapes = Self::default();
        for service in gofer_proto::json::descriptor_pool().services() {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                let method = Method {
                    request: shapes.add(&method.input()),
                    streams_requests: method.is_client_streaming(),
                    streams_answers: method.is_server_streaming(),
                };
                shapes.methods.insert(path, method);
            }
        }
        shapes
    }

    /// The index of a message's shape, which is made with all it contains when it is new.
    fn add(&mut self, message: &MessageDescriptor) -> usize {
        if let Some(index) = self.indexes.get(message.full_name()) {
            return *index;
        }
        // The message is listed before its fields, because it may contain itself.
        let index = self.messages.len();
        self.messages.push(Shape::default());
        self.indexes.insert(message.full_name().to_owned(), index);
        let mut fields: Vec<Field> =
            message.fields().map(|field| self.field(message, &field)).collect();
        fields.sort_by_key(|field| field.number);
        self.messages[index] = Shape(fields);
        index
    }

    fn field(&mut self, message: &MessageDescriptor, field: &FieldDescriptor) -> Field {
        let content = match field.kind() {
            Kind::Message(inner) => Content::Message(self.add(&inner)),
            Kind::String | Kind::Bytes => Content::Bytes,
            Kind::Fixed32 | Kind::Sfixed32 | Kind::Float => Content::Fixed(4),
            Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => Content::Fixed(8),
            _ => Content::Varint,
        };

        let limited = FIELD_LIMITS.iter().position(|(name, ..)| *name == field.full_name());
        let entry_cost = match content {
            _ if field.is_map() => MAP_ENTRY_COST,
            Content::Message(_) => MESSAGE_COST,
            Content::Bytes => TEXT_COST,
            Content::Varint | Content::Fixed(_) => NUMBER_COST,
        };

        Field {
            number: field.number(),
            name: format!("{}.{}", message.name(), field.name()),
            content,
            repeated: field.is_list() || field.is_map(),
            entry_cost: limited.map_or(entry_cost, |at| FIELD_LIMITS[at].2),
            limit: limited.map(|at| (at, FIELD_LIMITS[at].1)),
        }
    }

    /// A message's shape.
    pub(super) fn message(&self, index: usize) -> &Shape {
        &self.messages[index]
    }

    /// The method of a path; services of others (health, reflection) are not the contract's.
    pub(super) fn method(&self, path: &str) -> Option<Method> {
        self.methods.get(path).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_with_a_limit_exists_and_every_repeated_message_is_cheap_or_limited() {
        let limited: Vec<usize> = SHAPES
            .messages
            .iter()
            .flat_map(|shape| &shape.0)
            .filter_map(|field| field.limit.map(|(slot, _)| slot))
            .collect();
        for (slot, (name, ..)) in FIELD_LIMITS.iter().enumerate() {
            assert!(limited.contains(&slot), "`{name}` is in no request");
        }
        // A whole request stays within a few times its length and this.
        let most = u64::from(ELEMENTS_MAX) * u64::from(MESSAGE_COST);
        assert!(most <= 64 * 1024 * 1024);
    }

    #[test]
    fn every_method_of_the_contract_is_known() {
        let register = SHAPES.method("/gofer.v1.PipelineService/RegisterPipeline").unwrap();
        assert!(!register.streams_requests && !register.streams_answers);
        assert!(SHAPES.method("/gofer.v1.ObjectService/PutObject").unwrap().streams_requests);
        assert!(SHAPES.method("/gofer.v1.ObjectService/GetObject").unwrap().streams_answers);
        assert_eq!(SHAPES.method("/grpc.health.v1.Health/Check"), None);
    }
}
