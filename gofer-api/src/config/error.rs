//! What is wrong with a configuration, key by key.

use std::fmt;
use std::path::Path;

use figment::error::Kind;

/// What is wrong with a configuration; `Display` has one line per key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is not valid{}", Lines(.problems))]
pub struct ConfigError {
    /// One per key: `server.listen: …`, with the value and the rule in the text.
    pub problems: Vec<String>,
}

struct Lines<'a>(&'a [String]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl ConfigError {
    pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Self { problems: vec![format!("cannot read the file `{}`: {error}", path.display())] }
    }

    pub(super) fn from_figment(path: Option<&Path>, error: figment::Error) -> Self {
        Self { problems: error.into_iter().map(|one| describe(path, &one)).collect() }
    }
}

/// Says which key of which source is wrong and why. Values are not repeated beyond what serde says
/// of scalars: a wrong type names the value, and no key that holds a secret is a scalar of another
/// type than text.
fn describe(path: Option<&Path>, error: &figment::Error) -> String {
    let key = error.path.join(".");
    let source = match (&error.metadata, path) {
        (Some(metadata), _) if metadata.name.contains("environment") => {
            " (from the environment)".to_owned()
        }
        (Some(metadata), Some(path)) if metadata.name.contains("TOML") => {
            format!(" (in `{}`)", path.display())
        }
        _ => String::new(),
    };

    match &error.kind {
        Kind::UnknownField(name, known) => {
            let full = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            let full = if key.ends_with(name.as_str()) { key } else { full };
            format!("{full}: there is no such key; known here: {}{source}", known.join(", "))
        }
        kind if key.is_empty() => format!("{kind}{source}"),
        kind => format!("{key}: {kind}{source}"),
    }
}
