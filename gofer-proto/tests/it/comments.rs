//! The contract explains itself: every message, field, rpc, service, enum and enum value has a comment.

use std::collections::HashSet;

use crate::contract;

/// The kinds of descriptor that stand alone in a source location path, by the numbers of descriptor.proto.
fn describe(path: &[i32]) -> Option<&'static str> {
    match path {
        [4, _] => Some("message"),
        [5, _] => Some("enum"),
        [6, _] => Some("service"),
        [4, _, 2, _] => Some("field"),
        [4, _, 8, _] => Some("oneof"),
        [5, _, 2, _] => Some("enum value"),
        [6, _, 2, _] => Some("rpc"),
        _ => None,
    }
}

#[test]
fn everything_has_a_comment() {
    let mut missing = Vec::new();
    let mut kinds = HashSet::new();
    for file in contract::compile().file_descriptor_set().file {
        if file.package() != "gofer.v1" {
            continue;
        }
        for message in &file.message_type {
            let nested =
                message.nested_type.iter().filter(|nested| !nested.options.as_ref().is_some_and(|o| o.map_entry()));
            assert_eq!(nested.count() + message.enum_type.len(), 0, "`{}` nests types; keep them flat", message.name());
        }
        for location in file.source_code_info.as_ref().expect("source info").location.iter() {
            let Some(kind) = describe(&location.path) else { continue };
            kinds.insert(kind);
            if location.leading_comments().trim().len() < 3 {
                missing.push(format!("{}:{} {kind}", file.name(), location.span[0] + 1));
            }
        }
    }
    assert_eq!(kinds.len(), 7, "the walk saw only {kinds:?}");
    assert!(missing.is_empty(), "no comment at:\n{}", missing.join("\n"));
}
