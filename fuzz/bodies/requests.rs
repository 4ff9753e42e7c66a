//! Bytes that decode as a request survive the wire format once more. The first byte chooses which
//! request.

use gofer_proto::json::descriptor_pool;
use prost::Message;
use prost_reflect::DynamicMessage;

pub(crate) fn run(data: &[u8]) {
    let requests: Vec<_> = descriptor_pool()
        .services()
        .flat_map(|service| service.methods().map(|method| method.input()).collect::<Vec<_>>())
        .collect();
    let Some((chosen, bytes)) = data.split_first() else { return };
    let descriptor = requests[usize::from(*chosen) % requests.len()].clone();
    let Ok(message) = DynamicMessage::decode(descriptor.clone(), bytes) else { return };
    let again = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("what was encoded");
    // Not the messages: what has its default value is there once, and left out when written.
    assert_eq!(again.encoded_len(), message.encoded_len());
    // Times and durations have values on the wire that no JSON has.
    drop(serde_json::to_value(&message));
}
