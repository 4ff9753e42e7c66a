//! A text that is read as a pipeline is written and read the same.

use gofer_proto::json::{from_json, from_json_slice, to_json};
use gofer_proto::v1::PipelineSpec;

pub(crate) fn run(data: &[u8]) {
    let Ok(spec) = from_json_slice::<PipelineSpec>(data) else { return };
    let written = to_json(&spec);
    let read: PipelineSpec = from_json(written.clone()).expect("what was written can be read");
    assert_eq!(read, spec);
    assert_eq!(to_json(&read), written);
}
