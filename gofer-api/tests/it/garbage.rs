//! Whatever bytes a caller sends are the caller's fault: no panic, no `INTERNAL`.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use prost::Message;
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, MethodDescriptor, Value};
use tonic::Code;

use crate::harness::TestServer;
use crate::raw;

/// Messages per method. The seed is fixed, so that a failure is found again.
const CASES: usize = 12;
/// Calls at once.
const AT_ONCE: usize = 32;

fn methods() -> Vec<MethodDescriptor> {
    let services = gofer_proto::json::descriptor_pool().services();
    services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// Every number at its end, every text of odd characters, every list with a few entries.
fn extreme(descriptor: &MessageDescriptor, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        let value = match field.kind() {
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(i32::MIN),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(i64::MIN),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(u32::MAX),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(u64::MAX),
            Kind::Enum(_) => Value::EnumNumber(i32::MAX),
            Kind::Bool => Value::Bool(true),
            Kind::Float => Value::F32(f32::NAN),
            Kind::Double => Value::F64(f64::NAN),
            Kind::String => Value::String("\u{0}ä`{{secret{{\n".repeat(50)),
            Kind::Bytes => Value::Bytes(vec![0xff; 300].into()),
            Kind::Message(inner) if depth < 6 && !field.is_map() => {
                Value::Message(extreme(&inner, depth + 1))
            }
            Kind::Message(_) => continue,
        };

        let value = if field.is_list() { Value::List(vec![value; 3]) } else { value };
        message.set_field(&field, value);
    }

    message
}

/// Random bytes, bytes that look like fields, and real messages that are cut, doubled or have a
/// byte changed.
fn garbage(real: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let fields = (1u8..16, 0u8..8, prop::collection::vec(any::<u8>(), 0..40)).prop_map(
        |(number, kind, content)| {
            let mut bytes = vec![number << 3 | kind];
            if kind == 2 {
                bytes.push(u8::try_from(content.len()).unwrap());
            }
            bytes.extend(content);
            bytes
        },
    );
    let fields = prop::collection::vec(fields, 0..20).prop_map(|fields| fields.concat());
    let changed = (any::<prop::sample::Index>(), any::<u8>(), any::<bool>()).prop_map(
        move |(at, byte, doubled)| {
            let mut bytes = if doubled { real.repeat(2) } else { real.clone() };
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
                bytes.truncate(bytes.len().min(at + usize::from(byte)));
            }
            bytes
        },
    );
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), fields, changed]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bytes_are_a_fault_of_the_server() {
    let server = TestServer::start().await;
    let (channel, own) = (server.channel(), server.own_token());
    let mut runner = TestRunner::deterministic();
    let mut calls = Vec::new();

    for method in methods() {
        let real = extreme(&method.input(), 0).encode_to_vec();
        let strategy = garbage(real.clone());
        calls.push((path(&method), real));
        for _ in 0..CASES {
            calls.push((path(&method), strategy.new_tree(&mut runner).unwrap().current()));
        }
    }

    assert!(calls.len() > 500);

    let outcomes = futures::stream::iter(calls.into_iter().map(|(path, bytes)| {
        let (channel, own) = (channel.clone(), own.clone());
        async move {
            let outcome = raw::call(&channel, &path, own.as_deref(), bytes.clone()).await;
            (path, bytes, outcome)
        }
    }));

    let outcomes: Vec<_> =
        futures::StreamExt::collect(futures::StreamExt::buffer_unordered(outcomes, AT_ONCE)).await;
    let faults: Vec<_> = outcomes
        .into_iter()
        .filter_map(|(path, bytes, outcome)| {
            let status = outcome
                .err()
                .filter(|status| matches!(status.code(), Code::Internal | Code::Unknown))?;
            Some(format!("{path} {bytes:?}: {status:?}"))
        })
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}
