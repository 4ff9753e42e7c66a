//! Every message, field, rpc, service, enum and enum value of the contract has a comment, and the
//! contract can be used from other languages.

use std::collections::HashSet;

use crate::contract;

/// The kinds of descriptor that stand alone in a source location path, by the numbers of
/// descriptor.proto.
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
            let nested = message
                .nested_type
                .iter()
                .filter(|nested| !nested.options.as_ref().is_some_and(|o| o.map_entry()));
            assert_eq!(
                nested.count() + message.enum_type.len(),
                0,
                "`{}` nests types; keep them flat",
                message.name()
            );
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

/// Python's generator leaves keywords as they are, so that a field of such a name can only be
/// reached by `getattr`.
const PYTHON_KEYWORDS: [&str; 35] = [
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue",
    "def", "del", "elif", "else", "except", "finally", "for", "from", "global", "if", "import",
    "in", "is", "lambda", "nonlocal", "not", "or", "pass", "raise", "return", "try", "while",
    "with", "yield",
];

#[test]
fn no_field_is_a_keyword_of_python() {
    let pool = contract::compile().descriptor_pool();
    for message in pool.all_messages().filter(|message| message.package_name() == "gofer.v1") {
        for field in message.fields() {
            assert!(
                !PYTHON_KEYWORDS.contains(&field.name()),
                "`{}` is a keyword of Python",
                field.full_name()
            );
        }
    }
}
