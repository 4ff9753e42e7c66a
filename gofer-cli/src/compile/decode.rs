//! Bytes to a spec: protobuf or its JSON, told apart by the first byte.

use std::fmt::Write as _;

use gofer_proto::v1::PipelineSpec;
use prost::Message as _;

use crate::errors::Failure;

/// How much of something that is not a spec is shown.
const EXCERPT_BYTES: usize = 48;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Decodes a spec; `origin` says in errors where it came from.
///
/// A protobuf spec cannot look like JSON: it begins with a field's tag, which is never `{`, and
/// behind the newline that is the tag of `name` come its length and a letter or digit.
pub(super) fn spec(bytes: &[u8], origin: &str) -> Result<PipelineSpec, Failure> {
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => {
            Err(Failure::usage(format!("{origin} printed no pipeline: there is nothing in it"))
                .hint(EXPECTED))
        }
        Some(b'{') => gofer_proto::json::from_json_slice(text).map_err(|error| {
            Failure::usage(format!("{origin} is not a pipeline spec")).detail(error.to_string())
        }),
        Some(_) => protobuf(bytes).ok_or_else(|| garbage(bytes, origin)),
    }
}

/// Text often decodes as a message of fields nobody knows, so a spec without name and tasks is
/// none.
fn protobuf(bytes: &[u8]) -> Option<PipelineSpec> {
    PipelineSpec::decode(bytes).ok().filter(|spec| !spec.name.is_empty() || !spec.tasks.is_empty())
}

const EXPECTED: &str = "stdout must hold exactly one `gofer.v1.PipelineSpec`, as protobuf or its \
                        JSON; print messages for people to stderr";

fn garbage(bytes: &[u8], origin: &str) -> Failure {
    Failure::usage(format!("{origin} gave {} bytes that are not a pipeline spec", bytes.len()))
        .detail(format!("it begins with {}", excerpt(bytes)))
        .hint(EXPECTED)
}

/// The beginning as text when it is text, in hexadecimal otherwise.
fn excerpt(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(EXCERPT_BYTES)];
    let dots = if bytes.len() > head.len() { "…" } else { "" };
    let valid = match std::str::from_utf8(head) {
        Ok(text) => Some(text),
        // Cut inside the last character.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };

    match valid {
        Some(text) if !text.chars().any(|c| c.is_control() && !c.is_ascii_whitespace()) => {
            format!("{text:?}{dots}")
        }
        _ => {
            head.iter().fold("bytes".to_owned(), |mut hex, byte| {
                let _ = write!(hex, " {byte:02x}");
                hex
            }) + dots
        }
    }
}

#[cfg(test)]
mod tests {
    use gofer_proto::v1::TaskSpec;

    use super::*;

    fn sample() -> PipelineSpec {
        let task = TaskSpec { id: "build".into(), ..TaskSpec::default() };
        PipelineSpec { name: "ci".into(), tasks: vec![task], ..PipelineSpec::default() }
    }

    #[test]
    fn protobuf_and_json_give_the_same_spec() {
        let json = r#"{"name": "ci", "tasks": [{"id": "build"}]}"#;
        for bytes in [sample().encode_to_vec(), json.into(), format!("\u{feff} \n{json}\n").into()]
        {
            assert_eq!(spec(&bytes, "stdin").expect("a spec"), sample());
        }
    }

    #[test]
    fn every_length_of_name_survives() {
        for length in 1..=64 {
            let given = PipelineSpec { name: "a".repeat(length), ..sample() };
            assert_eq!(spec(&given.encode_to_vec(), "stdin").expect("a spec"), given);
        }
    }

    #[test]
    fn garbage_is_shown() {
        let said = |bytes: &[u8]| spec(bytes, "stdin").expect_err("garbage").render();
        assert!(
            said(b"hello, world\n").contains(r#"it begins with "hello, world\n""#),
            "{}",
            said(b"hello, world\n")
        );
        assert!(said(&[0xff, 0x00, 0x7f]).contains("bytes ff 00 7f"));
        assert!(said(" \n".as_bytes()).contains("nothing in it"));
        assert!(said("ä".repeat(40).as_bytes()).contains('…'));
        assert!(said(b"x").contains("hint: stdout must hold exactly one"));
    }

    #[test]
    fn wrong_json_names_the_place() {
        let text = spec(b"{\"name\": 7}", "stdin").expect_err("a number").render();
        assert!(text.contains("line 1 column 10"), "{text}");
        let text = spec(br#"{"nmae": "ci"}"#, "stdin").expect_err("unknown").render();
        assert!(text.contains("nmae"), "{text}");
    }
}
