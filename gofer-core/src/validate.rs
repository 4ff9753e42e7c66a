//! What is wrong with a pipeline, all of it at once. The SDK and the server run the same rules.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use crate::id::{ObjectKey, SecretPath, TaskId};
use crate::pipeline::{CustomTask, Overlap, PipelineSpec, TaskKind, TaskSpec};
use crate::run_variables;
use crate::template::{self, Source};

/// Most tasks of one pipeline: a run's snapshot lives in memory while it is active.
pub const MAX_TASKS: usize = 10_000;
/// Most variables on one level (pipeline, task, run).
pub const MAX_VARIABLES: usize = 256;
/// Longest variable name.
pub const MAX_VARIABLE_NAME_BYTES: usize = 128;
/// Longest variable value: Linux takes at most 128 KiB for one `NAME=value` of a process
/// environment.
pub const MAX_VARIABLE_BYTES: usize = 64 * 1024;
/// All variables of one level together: all of an environment and the arguments must fit into about
/// 2 MiB.
pub const MAX_VARIABLES_TOTAL_BYTES: usize = 512 * 1024;
/// Longest description.
pub const MAX_DESCRIPTION_BYTES: usize = 4 * 1024;
/// Most words of a command, and the longest word.
pub const MAX_COMMAND_WORDS: usize = 1_000;
/// Longest word of a command, for the same reason as [`MAX_VARIABLE_BYTES`].
pub const MAX_COMMAND_WORD_BYTES: usize = 64 * 1024;
/// Most retries of one task.
pub const MAX_RETRIES: u32 = 100;
/// Longest timeout or backoff: runs are short-lived; a year is a typing error.
pub const MAX_DURATION: Duration = Duration::from_secs(30 * 24 * 3600);
/// Longest image reference.
pub const MAX_IMAGE_BYTES: usize = 512;
/// Longest name of a user at a registry.
pub const MAX_USERNAME_BYTES: usize = 256;
/// Longest name of an SDK.
pub const MAX_SDK_BYTES: usize = 64;
/// Most subscriptions of one pipeline.
pub const MAX_SUBSCRIPTIONS: usize = 100;
/// Most broken rules that are told at once. What is wrong more often than that is wrong in the same
/// way, and a request that is refused costs no more than one that is not.
pub const MAX_VIOLATIONS: usize = 100;
/// Tasks that are named at each end of a circle of dependencies: enough to find it, and short
/// enough for an error.
const CIRCLE_END_TASKS: usize = 5;
/// Highest `parallelism`.
pub const MAX_PARALLELISM: u32 = 10_000;

/// One broken rule. `Display` is `field: rule (value)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, such as `tasks[build].depends_on[0].task`.
    pub field: String,
    /// The value as given, shortened; empty where there is none to show.
    pub value: String,
    /// The rule it breaks, with the next step where that helps.
    pub rule: String,
}

impl Violation {
    /// A violation, its value shortened to 100 characters.
    pub fn new(field: impl Into<String>, value: impl AsRef<str>, rule: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            value: value.as_ref().chars().take(100).collect(),
            rule: rule.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value.is_empty() {
            write!(f, "{}: {}", self.field, self.rule)
        } else {
            write!(f, "{}: {} (got `{}`)", self.field, self.rule, self.value)
        }
    }
}

/// The violations in one line.
#[must_use]
pub fn joined(violations: &[Violation]) -> String {
    violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Whether enough is known to be wrong.
#[must_use]
pub fn is_enough(found: &[Violation]) -> bool {
    found.len() >= MAX_VIOLATIONS
}

/// The rules a pipeline breaks, at most [`MAX_VIOLATIONS`]; empty when it can be registered.
#[must_use]
pub fn pipeline(spec: &PipelineSpec) -> Vec<Violation> {
    let mut found = Vec::new();
    let count = spec.tasks.len();
    if count == 0 {
        found.push(Violation::new("tasks", "", "a pipeline has at least one task"));
    }

    if count > MAX_TASKS {
        found.push(Violation::new(
            "tasks",
            count.to_string(),
            format!("at most {MAX_TASKS} tasks"),
        ));
        return found;
    }

    description("description", &spec.description, &mut found);
    variables("variables", &spec.variables, &mut found);
    run_variables::check_list(&spec.run_variables, &mut found);
    free_text("sdk", &spec.sdk, MAX_SDK_BYTES, &mut found);
    parallelism(spec, &mut found);
    subscriptions(spec, &mut found);

    for task in &spec.tasks {
        if is_enough(&found) {
            break;
        }
        check_task(task, &mut found);
    }

    if !is_enough(&found) {
        edges(spec, &mut found);
    }

    found.truncate(MAX_VIOLATIONS);
    found
}

/// The rules a set of variables breaks, whose values are templates; `field` names the set in the
/// messages. Of too many variables only that is told.
pub fn variables(field: &str, variables: &BTreeMap<String, String>, found: &mut Vec<Violation>) {
    plain_variables(field, variables, found);
    for (name, value) in variables.iter().take(MAX_VARIABLES) {
        if is_enough(found) {
            return;
        }
        references(&format!("{field}[{}]", shorten(name)), value, found);
    }
}

/// Every rule a set of variables breaks, whose values are plain text.
pub fn plain_variables(
    field: &str,
    variables: &BTreeMap<String, String>,
    found: &mut Vec<Violation>,
) {
    if variables.len() > MAX_VARIABLES {
        found.push(Violation::new(
            field,
            variables.len().to_string(),
            format!("at most {MAX_VARIABLES} variables"),
        ));
        return;
    }

    let total: usize = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
    if total > MAX_VARIABLES_TOTAL_BYTES {
        let rule = format!(
            "at most {MAX_VARIABLES_TOTAL_BYTES} bytes of names and values together; put large \
             values into an object"
        );
        found.push(Violation::new(field, format!("{total} bytes"), rule));
    }

    for (name, value) in variables {
        if is_enough(found) {
            return;
        }
        variable(&format!("{field}[{}]", shorten(name)), name, value, found);
    }
}

/// Every rule that the name of a variable breaks.
pub(crate) fn variable_name(field: &str, name: &str, found: &mut Vec<Violation>) {
    let first_ok =
        name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let all_ok = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !first_ok || !all_ok || name.len() > MAX_VARIABLE_NAME_BYTES {
        let rule = "a variable's name is 1 to 128 letters, digits and `_`, and does not start with \
                    a digit";
        found.push(Violation::new(field, name, rule));
    }
    if name.to_ascii_uppercase().starts_with("GOFER_") {
        found.push(Violation::new(field, name, "names that start with `GOFER_` are set by Gofer"));
    }
}

fn variable(field: &str, name: &str, value: &str, found: &mut Vec<Violation>) {
    variable_name(field, name, found);
    if value.len() > MAX_VARIABLE_BYTES {
        let rule = format!(
            "a value has at most {MAX_VARIABLE_BYTES} bytes; put large values into an object"
        );
        found.push(Violation::new(field, format!("{} bytes", value.len()), rule));
    } else if value.contains('\0') {
        found.push(Violation::new(field, "", "a value has no NUL character"));
    }
}

/// Every rule that the references of a template break.
pub(crate) fn references(field: &str, value: &str, found: &mut Vec<Violation>) {
    if value.len() <= MAX_VARIABLE_BYTES {
        for (source, key) in template::references(value) {
            if is_enough(found) {
                return;
            }
            reference(field, source, key, found);
        }
    }
}

fn reference(field: &str, source: Source, key: &str, found: &mut Vec<Violation>) {
    let invalid = match source {
        Source::Secret | Source::GlobalSecret => SecretPath::new(key).err(),
        Source::PipelineObject | Source::RunObject => ObjectKey::new(key).err(),
    };
    if let Some(invalid) = invalid {
        found.push(Violation::new(field, format!("{source}{{{{{key}}}}}"), invalid.rule));
    }
}

/// Every rule that a text for people breaks.
pub fn free_text(field: &str, text: &str, max_bytes: usize, found: &mut Vec<Violation>) {
    if text.len() > max_bytes {
        found.push(Violation::new(
            field,
            format!("{} bytes", text.len()),
            format!("at most {max_bytes} bytes"),
        ));
    } else if let Some(control) = text.chars().find(|character| is_control(*character)) {
        let rule =
            "no control characters but line breaks and tabs: they change what a terminal shows";
        found.push(Violation::new(field, format!("U+{:04X}", u32::from(control)), rule));
    }
}

/// Whether a character moves the cursor, colours, rings, or turns the direction of what follows.
/// ESC begins the terminal's own commands; the marks for direction make a text look like another
/// one.
fn is_control(character: char) -> bool {
    let turns = matches!(character, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    turns || (character.is_control() && !matches!(character, '\n' | '\t'))
}

fn description(field: &str, text: &str, found: &mut Vec<Violation>) {
    free_text(field, text, MAX_DESCRIPTION_BYTES, found);
}

fn parallelism(spec: &PipelineSpec, found: &mut Vec<Violation>) {
    match spec.parallelism {
        Some(limit) if limit == 0 || limit > MAX_PARALLELISM => {
            let rule = format!("1 to {MAX_PARALLELISM}, or left out for no limit");
            found.push(Violation::new("parallelism", limit.to_string(), rule));
        }
        None if spec.overlap != Overlap::Queue => {
            let rule =
                "`overlap` says what happens when `parallelism` is reached: set `parallelism`, too";
            found.push(Violation::new("overlap", format!("{:?}", spec.overlap), rule));
        }
        _ => {}
    }
}

fn subscriptions(spec: &PipelineSpec, found: &mut Vec<Violation>) {
    if spec.subscriptions.len() > MAX_SUBSCRIPTIONS {
        let rule = format!("at most {MAX_SUBSCRIPTIONS} subscriptions");
        found.push(Violation::new("subscriptions", spec.subscriptions.len().to_string(), rule));
        return;
    }

    let mut names = HashSet::new();
    for (at, subscription) in spec.subscriptions.iter().enumerate() {
        let field = format!("subscriptions[{at}]");
        if let Err(invalid) = TaskId::new(&subscription.trigger) {
            found.push(Violation::new(
                format!("{field}.trigger"),
                &subscription.trigger,
                invalid.rule,
            ));
        }

        if let Err(invalid) = TaskId::new(&subscription.name) {
            found.push(Violation::new(format!("{field}.name"), &subscription.name, invalid.rule));
        }

        if !names.insert(&subscription.name) {
            found.push(Violation::new(
                format!("{field}.name"),
                &subscription.name,
                "unique in the pipeline",
            ));
        }

        variables(&format!("{field}.variables"), &subscription.variables, found);
    }
}

fn check_task(task: &TaskSpec, found: &mut Vec<Violation>) {
    let field = format!("tasks[{}]", task.id);
    description(&format!("{field}.description"), &task.description, found);
    variables(&format!("{field}.variables"), &task.variables, found);

    match &task.kind {
        TaskKind::Custom(custom) => check_custom(&field, custom, found),
        TaskKind::Common(common) => {
            if let Err(invalid) = TaskId::new(&common.name) {
                found.push(Violation::new(
                    format!("{field}.common.name"),
                    &common.name,
                    invalid.rule,
                ));
            }
            variables(&format!("{field}.common.settings"), &common.settings, found);
        }
    }

    if task.retries.attempts > MAX_RETRIES {
        let rule = format!("at most {MAX_RETRIES} retries");
        found.push(Violation::new(
            format!("{field}.retries.attempts"),
            task.retries.attempts.to_string(),
            rule,
        ));
    }

    let durations = [
        ("timeout", task.timeout, true),
        ("start_timeout", task.start_timeout, true),
        ("retries.backoff", task.retries.backoff, false),
        ("retries.max_backoff", task.retries.max_backoff, false),
    ];

    for (name, value, positive) in durations {
        let Some(value) = value else { continue };
        if value > MAX_DURATION || (positive && value.is_zero()) {
            let rule = if positive { "more than 0 and at most 30 days" } else { "at most 30 days" };
            found.push(Violation::new(format!("{field}.{name}"), format!("{value:?}"), rule));
        }
    }

    if task.resources.cpu_millis == Some(0) {
        found.push(Violation::new(
            format!("{field}.resources.cpu_millis"),
            "0",
            "more than 0, or left out",
        ));
    }

    if task.resources.memory_bytes.is_some_and(|bytes| bytes < 1024 * 1024) {
        found.push(Violation::new(
            format!("{field}.resources.memory_bytes"),
            task.resources.memory_bytes.unwrap_or_default().to_string(),
            "at least 1 MiB (1048576), or left out",
        ));
    }
}

fn check_custom(field: &str, custom: &CustomTask, found: &mut Vec<Violation>) {
    let words = custom.entrypoint.iter().chain(&custom.command);
    if custom.image.is_none() && words.clone().next().is_none_or(String::is_empty) {
        let rule = "a task without an image has a command: its program and arguments";
        found.push(Violation::new(format!("{field}.custom.command"), "", rule));
    }

    if words.clone().count() > MAX_COMMAND_WORDS {
        let rule = format!("at most {MAX_COMMAND_WORDS} words");
        found.push(Violation::new(
            format!("{field}.custom.command"),
            words.clone().count().to_string(),
            rule,
        ));
        return;
    }

    for word in words {
        if is_enough(found) {
            return;
        }
        if word.len() > MAX_COMMAND_WORD_BYTES || word.contains('\0') {
            let rule = format!(
                "each word has at most {MAX_COMMAND_WORD_BYTES} bytes and no NUL character"
            );
            found.push(Violation::new(format!("{field}.custom.command"), word, rule));
        }
    }

    let bad = |image: &String| {
        image.is_empty() || image.len() > MAX_IMAGE_BYTES || image.contains(char::is_whitespace)
    };

    if custom.image.as_ref().is_some_and(bad) {
        let rule = "an image reference without spaces and of at most 512 bytes, such as \
                    `registry.example.com/app:3`";
        found.push(Violation::new(
            format!("{field}.custom.image"),
            custom.image.as_deref().unwrap_or(""),
            rule,
        ));
    }

    if let Some(auth) = &custom.registry_auth {
        if custom.image.is_none() {
            let rule = "only tasks with an image pull from a registry; set `image`, too";
            found.push(Violation::new(
                format!("{field}.custom.registry_auth"),
                &auth.username,
                rule,
            ));
        }

        free_text(
            &format!("{field}.custom.registry_auth.username"),
            &auth.username,
            MAX_USERNAME_BYTES,
            found,
        );

        if let Err(invalid) = SecretPath::new(&auth.password_secret_key) {
            let field = format!("{field}.custom.registry_auth.password_secret_key");
            found.push(Violation::new(field, &auth.password_secret_key, invalid.rule));
        }
    }

    if let Some(dir) = &custom.working_dir
        && (custom.image.is_some() || !dir.starts_with('/') || dir.contains('\0'))
    {
        let rule = "an absolute path, and only for tasks without an image";
        found.push(Violation::new(format!("{field}.custom.working_dir"), dir, rule));
    }
}

fn edges(spec: &PipelineSpec, found: &mut Vec<Violation>) {
    let mut ids = HashSet::new();
    for task in &spec.tasks {
        if is_enough(found) {
            return;
        }
        if !ids.insert(&task.id) {
            found.push(Violation::new(
                format!("tasks[{}].id", task.id),
                &task.id,
                "task ids are unique in the pipeline",
            ));
        }
    }

    let before = found.len();
    for task in &spec.tasks {
        let mut parents = HashSet::new();
        for (at, dependency) in task.depends_on.iter().enumerate() {
            if is_enough(found) {
                return;
            }

            let field = format!("tasks[{}].depends_on[{at}].task", task.id);
            if !ids.contains(&dependency.task) {
                let rule = "names no task of this pipeline; add the task or remove the dependency";
                found.push(Violation::new(field, &dependency.task, rule));
            } else if !parents.insert(&dependency.task) {
                found.push(Violation::new(
                    field,
                    &dependency.task,
                    "a parent is named once per task",
                ));
            }
        }
    }

    if found.len() == before
        && let Some(cycle) = find_cycle(spec)
    {
        let path = circle(&cycle);
        let rule = format!("tasks must not wait for each other in a circle: {path}");
        found.push(Violation::new(format!("tasks[{}].depends_on", cycle[0]), "", rule));
    }
}

/// The circle in words; of a long one its beginning and its end.
fn circle(cycle: &[TaskId]) -> String {
    let join = |tasks: &[TaskId]| tasks.iter().map(TaskId::as_str).collect::<Vec<_>>().join(" -> ");
    let left_out = cycle.len().saturating_sub(2 * CIRCLE_END_TASKS);
    // One name is no longer than what stands for it.
    if left_out <= 1 {
        return join(cycle);
    }
    let (first, rest) = cycle.split_at(CIRCLE_END_TASKS);
    format!("{} -> … ({left_out} more) … -> {}", join(first), join(&rest[left_out..]))
}

/// A circle of dependencies, its first task repeated at its end; iterative, since a chain may be
/// 10,000 long.
fn find_cycle(spec: &PipelineSpec) -> Option<Vec<TaskId>> {
    let parents: HashMap<&TaskId, Vec<&TaskId>> = spec
        .tasks
        .iter()
        .map(|task| (&task.id, task.depends_on.iter().map(|edge| &edge.task).collect()))
        .collect();
    let mut finished: HashSet<&TaskId> = HashSet::new();

    for task in &spec.tasks {
        let mut path: Vec<(&TaskId, usize)> = vec![(&task.id, 0)];
        let mut on_path: HashSet<&TaskId> = HashSet::from([&task.id]);
        while let Some((id, next)) = path.last_mut() {
            let parent =
                if finished.contains(*id) { None } else { parents[*id].get(*next).copied() };
            *next += 1;

            match parent {
                None => {
                    finished.insert(*id);
                    on_path.remove(*id);
                    path.pop();
                }
                Some(parent) if on_path.contains(parent) => {
                    let start = path.iter().position(|(id, _)| *id == parent)?;
                    let mut cycle: Vec<TaskId> =
                        path[start..].iter().map(|(id, _)| (*id).clone()).collect();
                    cycle.push(parent.clone());
                    return Some(cycle);
                }
                Some(parent) => {
                    on_path.insert(parent);
                    path.push((parent, 0));
                }
            }
        }
    }

    None
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_for_people_commands_no_terminal() {
        let rules = |text: &str| {
            let mut found = Vec::new();
            free_text("description", text, 100, &mut found);
            found
        };

        for text in ["", "two\nlines\tand a tab", "ünï çødé 👩\u{200d}🚀", &"x".repeat(100)]
        {
            assert_eq!(rules(text), [], "{text}");
        }

        for (text, shown) in [
            ("\x1b[2J", "U+001B"),
            ("a\rb", "U+000D"),
            ("\u{9b}31m", "U+009B"),
            ("\u{202e}x", "U+202E"),
        ] {
            let found = rules(text);
            assert!(
                found.len() == 1 && found[0].value == shown && found[0].rule.contains("control"),
                "{found:?}"
            );
        }

        assert_eq!(rules(&"x".repeat(101))[0].rule, "at most 100 bytes");
    }

    #[test]
    fn a_long_circle_is_told_by_its_ends() {
        let tasks = |count: usize| -> Vec<TaskId> {
            (0..count).chain([0]).map(|at| TaskId::new(format!("t{at}")).unwrap()).collect()
        };
        assert_eq!(circle(&tasks(2)), "t0 -> t1 -> t0");
        let ten = "t0 -> t1 -> t2 -> t3 -> t4 -> t5 -> t6 -> t7 -> t8 -> t9 -> t0";
        assert_eq!(circle(&tasks(10)), ten);
        let thousand =
            "t0 -> t1 -> t2 -> t3 -> t4 -> … (991 more) … -> t996 -> t997 -> t998 -> t999 -> t0";
        assert_eq!(circle(&tasks(1000)), thousand);
    }
}
