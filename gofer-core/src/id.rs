//! Identifiers: one newtype each, validated when made, cheap to clone.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest namespace, pipeline or task id. Backends build names from several of them (a Nomad job
/// id, a file name).
pub const MAX_ID_BYTES: usize = 64;
/// Longest object key: file systems allow 255 bytes per segment, S3 1,024 per key, and Gofer adds a
/// prefix.
pub const MAX_OBJECT_KEY_BYTES: usize = 512;
/// Longest secret path, prefix included.
pub const MAX_SECRET_PATH_BYTES: usize = 512;
/// Longest segment of an object key or secret path.
pub const MAX_SEGMENT_BYTES: usize = 200;

/// Why a text is not the identifier it was meant to be. `Display` names the kind, the value and the
/// rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{value}` is not valid: {rule}")]
pub struct InvalidId {
    /// What it was meant to be, such as `task id`.
    pub kind: &'static str,
    /// The value as given, shortened to 100 characters.
    pub value: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

impl InvalidId {
    fn new(kind: &'static str, value: &str, rule: &'static str) -> Self {
        Self { kind, value: value.chars().take(100).collect(), rule }
    }
}

const SLUG_RULE: &str = "1 to 64 characters: lower-case letters, digits, `-` and `_`, starting and \
                         ending with a letter or digit";

fn check_slug(kind: &'static str, value: &str) -> Result<(), InvalidId> {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = value.as_bytes();
    let ok = !bytes.is_empty()
        && bytes.len() <= MAX_ID_BYTES
        && bytes.iter().all(|&byte| edge(byte) || byte == b'-' || byte == b'_')
        && edge(bytes[0])
        && edge(bytes[bytes.len() - 1]);
    if ok { Ok(()) } else { Err(InvalidId::new(kind, value, SLUG_RULE)) }
}

const PATH_RULE: &str = "up to 512 bytes of segments separated by `/`, each 1 to 200 of letters, \
                         digits and `._-=+@:,`, none of them `.` or `..`";

fn check_path(kind: &'static str, value: &str, max_bytes: usize) -> Result<(), InvalidId> {
    let segment_ok = |segment: &str| {
        !segment.is_empty()
            && segment.len() <= MAX_SEGMENT_BYTES
            && segment != "."
            && segment != ".."
            && segment
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-=+@:,".contains(&byte))
    };
    if value.len() <= max_bytes && value.split('/').all(segment_ok) {
        Ok(())
    } else {
        Err(InvalidId::new(kind, value, PATH_RULE))
    }
}

macro_rules! text_id {
    ($(#[$meta:meta])* $name:ident, $kind:literal, $check:expr) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the text against the rule and keeps it.
            ///
            /// # Errors
            /// [`InvalidId`], which names the value and the rule.
            pub fn new(value: impl AsRef<str>) -> Result<Self, InvalidId> {
                let value = value.as_ref();
                let check: fn(&'static str, &str) -> Result<(), InvalidId> = $check;
                check($kind, value)?;
                Ok(Self(Arc::from(value)))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(value: &str) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = String::deserialize(deserializer)?;
                Self::new(&value).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(
    /// A namespace: owns pipelines; permissions are granted per namespace.
    NamespaceId, "namespace", check_slug
);
text_id!(
    /// A pipeline's name, unique in its namespace.
    PipelineId, "pipeline name", check_slug
);
text_id!(
    /// A task's id, unique in its pipeline.
    TaskId, "task id", check_slug
);
text_id!(
    /// The key of an object: segments separated by `/`. The same rule serves users' keys and the
    /// keys in the store.
    ObjectKey, "object key", |kind, value| check_path(kind, value, MAX_OBJECT_KEY_BYTES)
);
text_id!(
    /// Where a secret lies in the secret store: segments separated by `/`.
    SecretPath, "secret key", |kind, value| check_path(kind, value, MAX_SECRET_PATH_BYTES)
);

macro_rules! number_id {
    ($(#[$meta:meta])* $name:ident, $inner:ty) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number_id!(
    /// A run's number: counts up from 1 within its pipeline.
    RunNumber, u64
);
number_id!(
    /// A pipeline version: counts up from 1 within its pipeline.
    Version, u64
);
number_id!(
    /// An attempt of a task run: counts up from 1.
    Attempt, u32
);

impl Attempt {
    /// The attempt every task run starts with.
    pub const FIRST: Self = Self(1);

    /// The attempt after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Names one run everywhere. Displays as `namespace/pipeline/run`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunKey {
    /// The pipeline's namespace.
    pub namespace: NamespaceId,
    /// The pipeline.
    pub pipeline: PipelineId,
    /// The run's number in that pipeline.
    pub run: RunNumber,
}

impl fmt::Display for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.pipeline, self.run)
    }
}

/// One attempt of a task run as a scheduler sees it. The caller names it; Gofer never uses a name
/// twice. Displays as `namespace/pipeline/run/task/attempt`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExecutionId {
    /// The run it belongs to.
    #[serde(flatten)]
    pub run: RunKey,
    /// The task.
    pub task: TaskId,
    /// Which attempt of the task.
    pub attempt: Attempt,
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.run, self.task, self.attempt)
    }
}

impl FromStr for ExecutionId {
    type Err = InvalidId;

    fn from_str(value: &str) -> Result<Self, InvalidId> {
        let invalid =
            || InvalidId::new("execution id", value, "namespace/pipeline/run/task/attempt");
        let parts: Vec<&str> = value.split('/').collect();
        let [namespace, pipeline, run, task, attempt] = parts[..] else { return Err(invalid()) };
        Ok(Self {
            run: RunKey {
                namespace: NamespaceId::new(namespace)?,
                pipeline: PipelineId::new(pipeline)?,
                run: RunNumber(run.parse().map_err(|_| invalid())?),
            },
            task: TaskId::new(task)?,
            attempt: Attempt(attempt.parse().map_err(|_| invalid())?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_value_and_rule() {
        for bad in ["", "has space", "..", "Upper", "-edge", "edge-", "a/b", &"x".repeat(65)] {
            let error = TaskId::new(bad).unwrap_err();
            assert_eq!(error.kind, "task id");
            assert!(error.to_string().contains("lower-case letters"), "{error}");
        }
        for good in ["a", "build-linux_2", "0", &"x".repeat(64)] {
            assert_eq!(TaskId::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn paths_never_climb() {
        for bad in ["", "/a", "a/", "a//b", "../x", "a/../b", "a/./b", "a b", "a\\b", "a\0b"] {
            assert!(ObjectKey::new(bad).is_err(), "{bad:?} was taken");
        }
        assert!(ObjectKey::new("reports/2026-11-24/out.tar.gz").is_ok());
    }

    #[test]
    fn execution_ids_round_trip() {
        let id: ExecutionId = "default/ci/41/build/2".parse().unwrap();
        assert_eq!(id.to_string(), "default/ci/41/build/2");
        assert!("default/ci/x/build/2".parse::<ExecutionId>().is_err());
    }
}
