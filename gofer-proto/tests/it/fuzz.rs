//! The bodies of the fuzz targets on random input; `fuzz/` runs them with a fuzzer.

use proptest::prelude::*;

#[path = "../../../fuzz/bodies/json.rs"]
mod json;
#[path = "../../../fuzz/bodies/requests.rs"]
mod requests;

/// Pieces of a pipeline's JSON, put together as it comes.
const WORDS: &str = r#"(\{|\}|\[|\]|,|:|"name"|"tasks"|"id"|"custom"|"command"|"variables"|"timeout"|"30s"|"a"|1|null|true|-0.5|"\\u00e9"| ){0,40}"#;

proptest! {
    #[test]
    fn any_text_is_a_pipeline_or_refused(text in WORDS, name in "\\PC{0,20}", value in any::<String>()) {
        json::run(text.as_bytes());
        let spec = serde_json::json!({ "name": name, "variables": { name.clone(): value }, "tasks": [{ "id": name }] });
        json::run(spec.to_string().as_bytes());
    }

    #[test]
    fn any_bytes_are_a_request_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        requests::run(&bytes);
    }

    /// Fields with plausible numbers and lengths get further than noise.
    #[test]
    fn any_fields_are_a_request_or_refused(
        chosen in any::<u8>(),
        fields in prop::collection::vec((1u8..16, prop::collection::vec(0u8..128, 0..12)), 0..12),
    ) {
        let mut bytes = vec![chosen];
        for (number, content) in fields {
            bytes.extend([number << 3 | 2, u8::try_from(content.len()).unwrap()]);
            bytes.extend(content);
        }
        requests::run(&bytes);
    }
}
