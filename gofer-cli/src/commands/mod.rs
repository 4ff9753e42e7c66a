//! One module per group of commands: its arguments, their help, and what they do.

pub(crate) mod completion;
pub(crate) mod event;
mod exec;
#[cfg(feature = "server")]
pub(crate) mod local;
#[cfg(feature = "server")]
mod local_secrets;
pub(crate) mod namespace;
pub(crate) mod object;
mod paging;
pub(crate) mod pipeline;
mod refs;
pub(crate) mod run;
mod run_logs;
pub(crate) mod secret;
#[cfg(feature = "server")]
pub(crate) mod server;
pub(crate) mod system;
pub(crate) mod task;
mod timeline;
pub(crate) mod token;
pub(crate) mod up;

use std::collections::BTreeMap;

use clap::Args;

use crate::errors::Failure;

/// Variables for one run.
#[derive(Debug, Args)]
pub(crate) struct Variables {
    /// A variable of this run, over the pipeline's own; may be repeated. Plain text, unless the
    /// pipeline takes a template
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = name_and_value)]
    variables: Vec<(String, String)>,
}

impl Variables {
    /// The variables by name.
    ///
    /// # Errors
    /// Wrong use when a name is given twice.
    pub(crate) fn into_map(self) -> Result<BTreeMap<String, String>, Failure> {
        let mut map = BTreeMap::new();
        for (name, value) in self.variables {
            if map.contains_key(&name) {
                return Err(Failure::usage(format!("`--var {name}=…` is given twice")));
            }
            map.insert(name, value);
        }
        Ok(map)
    }
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as `NAME=VALUE`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_equals_signs_and_be_empty() {
        assert_eq!(name_and_value("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(name_and_value("A="), Ok(("A".to_owned(), String::new())));
        assert!(name_and_value("A").is_err() && name_and_value("=b").is_err());
    }

    #[test]
    fn a_variable_given_twice_is_an_error() {
        let variables =
            Variables { variables: vec![("A".into(), "1".into()), ("A".into(), "2".into())] };
        assert!(variables.into_map().is_err());
    }
}
