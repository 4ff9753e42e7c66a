//! Values a task gets when it starts, from a place other than the pipeline itself.

use std::fmt;

use gofer_core::template::Source;

/// Stands for a value that Gofer fills in when the task starts. `Display` is what the wire carries,
/// such as `secret{{db/password}}`, so it can be a variable's whole value or a part of one:
///
/// ```
/// use gofer_sdk::{Task, secret};
///
/// Task::new("migrate")
///     .variable("TOKEN", secret("token"))
///     .variable("DATABASE_URL", format!("postgres://app:{}@db/app", secret("db/password")));
/// ```
///
/// When there is nothing under the key, the task fails with a reason that names the key, before its
/// command starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    source: Source,
    key: String,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A `}}` inside a key would end the reference early and turn the rest into text that nobody
        // checks. Parted, the key reaches validation whole and is refused there.
        let key = self.key.replace('}', "} ");
        write!(f, "{}{{{{{key}}}}}", self.source)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

/// The secret of this pipeline under `key`. It never shows in logs, events or the pipeline's
/// versions.
pub fn secret(key: impl Into<String>) -> Reference {
    Reference { source: Source::Secret, key: key.into() }
}

/// The global secret under `key`; an administrator lists the namespaces that may read it.
pub fn global_secret(key: impl Into<String>) -> Reference {
    Reference { source: Source::GlobalSecret, key: key.into() }
}

/// The content of the object under `key` that is kept with the pipeline, across its runs.
pub fn pipeline_object(key: impl Into<String>) -> Reference {
    Reference { source: Source::PipelineObject, key: key.into() }
}

/// The content of the object under `key` that an earlier task of the same run has put.
pub fn run_object(key: impl Into<String>) -> Reference {
    Reference { source: Source::RunObject, key: key.into() }
}

#[cfg(test)]
mod tests {
    use gofer_core::template;

    use super::*;

    #[test]
    fn references_compose_into_text_the_server_understands() {
        let url = format!("postgres://app:{}@{}/app", secret("db/password"), run_object("host"));
        let found: Vec<_> = template::references(&url).collect();
        assert_eq!(found, [(Source::Secret, "db/password"), (Source::RunObject, "host")]);
        assert_eq!(global_secret("k").to_string(), "global_secret{{k}}");
        assert_eq!(String::from(pipeline_object("k")), "pipeline_object{{k}}");
    }

    #[test]
    fn a_key_cannot_end_its_reference_early() {
        let text = secret("a}}b").to_string();
        assert_eq!(template::references(&text).collect::<Vec<_>>(), [(Source::Secret, "a} } b")]);
    }
}
