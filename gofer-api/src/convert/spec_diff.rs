//! What makes a spec the same as another, and what differs between two.

use std::collections::BTreeSet;

use gofer_core::pipeline::PipelineSpec;
use gofer_proto::v1;
use prost::Message;
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::{convert, hex};

/// Most differences of one answer.
const CHANGES_MAX: usize = 1_000;
/// Longest value of a difference.
const VALUE_MAX_BYTES: usize = 1024;
/// Lists whose entries have a name: they are compared entry by entry, and order means nothing.
const NAMED_LISTS: [(&str, &str); 4] =
    [("tasks", "id"), ("subscriptions", "name"), ("run_variables", "name"), ("depends_on", "task")];
/// Maps from names to values: an entry that is new or gone is a difference of its own.
const MAPS: [&str; 2] = ["variables", "settings"];

/// SHA-256 of the canonical encoded spec, in hex. Who wrote it with which SDK, and in which order
/// tasks were written, makes no other spec.
pub(crate) fn digest(spec: &PipelineSpec) -> String {
    hex::encode(&Sha256::digest(canonical(spec).encode_to_vec()))
}

fn canonical(spec: &PipelineSpec) -> v1::PipelineSpec {
    let mut spec = convert::pipeline_spec_to_wire(spec);
    spec.sdk.clear();
    spec.tasks.sort_by(|a, b| a.id.cmp(&b.id));
    spec.subscriptions.sort_by(|a, b| a.name.cmp(&b.name));
    spec.run_variables.sort_by(|a, b| a.name.cmp(&b.name));
    for task in &mut spec.tasks {
        task.depends_on.sort_by(|a, b| a.task.cmp(&b.task));
    }
    spec
}

/// What differs, by path; against no spec, everything is new.
pub(crate) fn changes(
    before: Option<&PipelineSpec>,
    after: &PipelineSpec,
) -> Vec<v1::PipelineChange> {
    let before = before.map_or_else(|| Value::Object(Map::new()), tree);
    let mut found = Vec::new();
    compare("", Some(&before), Some(&tree(after)), &mut found);
    found.truncate(CHANGES_MAX);
    found
}

/// The spec as JSON with the contract's field names, its named lists turned into maps.
fn tree(spec: &PipelineSpec) -> Value {
    let pool = gofer_proto::json::descriptor_pool();
    let descriptor =
        pool.get_message_by_name("gofer.v1.PipelineSpec").expect("the contract has specs");
    let mut message = DynamicMessage::new(descriptor);
    message.transcode_from(&canonical(spec)).expect("a message and its descriptor agree");
    let options = SerializeOptions::new().use_proto_field_name(true);
    let value = message.serialize_with_options(serde_json::value::Serializer, &options);
    by_name(value.expect("a message can be written as JSON"))
}

fn by_name(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(name, value)| (name.clone(), field_by_name(&name, value)))
                .collect(),
        ),
        other => other,
    }
}

fn field_by_name(field: &str, value: Value) -> Value {
    let name_field = NAMED_LISTS.iter().find(|(list, _)| *list == field).map(|(_, name)| *name);
    match (name_field, value) {
        (Some(name_field), Value::Array(entries)) => {
            let named = entries.into_iter().map(|mut entry| {
                let name = entry.as_object_mut().and_then(|fields| fields.remove(name_field));
                (
                    name.and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default(),
                    by_name(entry),
                )
            });
            Value::Object(named.collect())
        }
        (_, value) => by_name(value),
    }
}

fn compare(
    path: &str,
    before: Option<&Value>,
    after: Option<&Value>,
    found: &mut Vec<v1::PipelineChange>,
) {
    let empty = Map::new();
    let field = path.rsplit('.').next().unwrap_or_default();
    let is_collection = MAPS.contains(&field) || NAMED_LISTS.iter().any(|(list, _)| *list == field);
    let (old, new) = match (before, after) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => (old, new),
        (None, Some(Value::Object(new))) if is_collection => (&empty, new),
        (Some(Value::Object(old)), None) if is_collection => (old, &empty),
        _ => return leaf(path, before, after, found),
    };
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        compare(&inner, old.get(name), new.get(name), found);
    }
}

fn leaf(
    path: &str,
    before: Option<&Value>,
    after: Option<&Value>,
    found: &mut Vec<v1::PipelineChange>,
) {
    let kind = match (before, after) {
        (before, after) if before == after => return,
        (None, _) => v1::PipelineChangeKind::Added,
        (_, None) => v1::PipelineChangeKind::Removed,
        _ => v1::PipelineChangeKind::Modified,
    };
    found.push(v1::PipelineChange {
        kind: kind.into(),
        path: path.to_owned(),
        before: text(before),
        after: text(after),
    });
}

fn text(value: Option<&Value>) -> String {
    let mut text = value.map(Value::to_string).unwrap_or_default();
    if text.len() > VALUE_MAX_BYTES {
        text.truncate(text.floor_char_boundary(VALUE_MAX_BYTES - '…'.len_utf8()));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(change: impl FnOnce(&mut v1::PipelineSpec)) -> PipelineSpec {
        let task = |id: &str| v1::TaskSpec {
            id: id.into(),
            kind: Some(v1::task_spec::Kind::Custom(v1::CustomTask {
                command: vec!["true".into()],
                ..Default::default()
            })),
            ..Default::default()
        };

        let mut wire = v1::PipelineSpec {
            name: "ci".into(),
            tasks: vec![task("build"), task("test")],
            variables: [("A".to_owned(), "1".to_owned())].into(),
            sdk: "rust/0.1.0".into(),
            ..Default::default()
        };

        change(&mut wire);
        convert::pipeline_spec_from_wire(wire).unwrap()
    }

    fn paths(
        before: Option<&PipelineSpec>,
        after: &PipelineSpec,
    ) -> Vec<(v1::PipelineChangeKind, String)> {
        changes(before, after).into_iter().map(|change| (change.kind(), change.path)).collect()
    }

    #[test]
    fn order_and_sdk_make_no_other_spec() {
        let other = spec(|wire| {
            wire.tasks.reverse();
            wire.sdk = "go/9".into();
        });
        assert_eq!(digest(&spec(|_| {})), digest(&other));
        assert_eq!(paths(Some(&spec(|_| {})), &other), []);
        assert_ne!(digest(&spec(|_| {})), digest(&spec(|wire| wire.description = "x".into())));
    }

    #[test]
    fn differences_are_named_by_path() {
        use v1::PipelineChangeKind::{Added, Modified, Removed};

        let after = spec(|wire| {
            wire.tasks.remove(0);
            wire.tasks[0].timeout = Some(prost_types::Duration { seconds: 60, nanos: 0 });
            wire.tasks[0].continue_on_failure = true;
            wire.variables =
                [("A".to_owned(), "2".to_owned()), ("B".to_owned(), "x".to_owned())].into();
        });

        let found = paths(Some(&spec(|_| {})), &after);
        let expected = [
            (Removed, "tasks.build"),
            (Added, "tasks.test.continue_on_failure"),
            (Added, "tasks.test.timeout"),
            (Modified, "variables.A"),
            (Added, "variables.B"),
        ];

        assert_eq!(found, expected.map(|(kind, path)| (kind, path.to_owned())));
        let timeout = changes(Some(&spec(|_| {})), &after)
            .into_iter()
            .find(|change| change.path.ends_with("timeout"));
        assert_eq!(timeout.unwrap().after, "\"60s\"");
    }

    #[test]
    fn of_a_new_pipeline_everything_is_added() {
        let found = paths(None, &spec(|_| {}));
        assert!(found.iter().all(|(kind, _)| *kind == v1::PipelineChangeKind::Added));
        let names: Vec<_> = found.iter().map(|(_, path)| path.as_str()).collect();
        assert_eq!(names, ["name", "overlap", "tasks.build", "tasks.test", "variables.A"]);
    }

    #[test]
    fn values_are_cut_and_differences_bounded() {
        let after = spec(|wire| {
            wire.description = "ä".repeat(2_000);
            wire.variables = (0..250).map(|at| (format!("V{at}"), "x".to_owned())).collect();
        });
        let found = changes(None, &after);
        assert!(found.len() <= CHANGES_MAX);
        assert!(found.iter().all(|change| change.after.len() <= VALUE_MAX_BYTES));
    }
}
