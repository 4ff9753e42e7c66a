//! Whom tasks run as.

use std::collections::BTreeMap;
use std::fmt;

use gofer_core::id::NamespaceId;
use gofer_core::{BackendError, ErrorKind};
use serde::{Deserialize, Serialize};

/// `[scheduler.local.users]`: whom tasks run as.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UsersConfig {
    /// Numbers for namespaces that are not named, such as `70000-79999`.
    pub range: Option<UidRange>,
    /// The user of a namespace: a name in `/etc/passwd`, or `uid:gid`.
    pub namespaces: BTreeMap<String, String>,
}

/// Numbers of users, the last one included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UidRange {
    pub(crate) first: u32,
    pub(crate) last: u32,
}

impl TryFrom<String> for UidRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed = text
            .split_once('-')
            .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match parsed {
            // 4294967295 is nobody's number: the kernel reads it as `leave it`.
            Some((first, last)) if 0 < first && first <= last && last < u32::MAX => {
                Ok(Self { first, last })
            }
            _ => Err(format!(
                "`{text}` is not valid: must be two numbers above 0, such as `70000-79999`"
            )),
        }
    }
}

impl From<UidRange> for String {
    fn from(range: UidRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for UidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl UsersConfig {
    pub(crate) fn validate(&self) -> Result<(), BackendError> {
        if self.range.is_none() && self.namespaces.is_empty() {
            return invalid(
                "`users` is empty: must have a `range`, or name the user of at least one namespace"
                    .to_owned(),
            );
        }
        for name in self.namespaces.keys() {
            if let Err(error) = NamespaceId::new(name.as_str()) {
                return invalid(format!(
                    "`users.namespaces` names `{name}`: must be a namespace: {error}"
                ));
            }
        }
        Ok(())
    }
}

fn invalid<T>(message: String) -> Result<T, BackendError> {
    Err(BackendError::new(ErrorKind::Invalid, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["", "1", "0-5", "9-8", "a-b", "1-4294967295"] {
            assert!(UidRange::try_from(text.to_owned()).is_err(), "{text}");
        }
        assert!(UsersConfig::default().validate().unwrap_err().message.contains("is empty"));
    }
}
