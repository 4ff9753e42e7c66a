//! The secrets of a run without a server: from the environment or from files, never from arguments,
//! which every process of the machine could see.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use gofer_proto::v1::{
    GlobalScope, PipelineScope, PutSecretRequest, SecretScope, secret_scope::Scope,
};
use secrecy::{ExposeSecret as _, SecretString};

use crate::client::{Client, unary};
use crate::errors::Failure;

/// Where a local run's secrets come from.
#[derive(Debug, Args)]
pub(crate) struct SecretArgs {
    /// A secret of the pipeline, its value taken from the variable `GOFER_SECRET_<KEY>`, in upper
    /// case and with `_` for what a variable's name cannot hold; may be repeated
    #[arg(long = "secret", value_name = "KEY")]
    keys: Vec<String>,
    /// File with secrets of the pipeline, one `KEY=VALUE` per line; may be repeated
    #[arg(long = "secret-file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The same for global secrets
    #[arg(long = "global-secret-file", value_name = "FILE")]
    global_files: Vec<PathBuf>,
}

/// The values, by key.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    pipeline: BTreeMap<String, SecretString>,
    global: BTreeMap<String, SecretString>,
}

impl SecretArgs {
    /// Reads all values.
    ///
    /// # Errors
    /// Wrong use for a variable that is not set and a file that cannot be read.
    pub(crate) fn read(&self) -> Result<Secrets, Failure> {
        let mut secrets = Secrets::default();
        for file in &self.files {
            secrets.pipeline.extend(read_file(file)?);
        }

        for file in &self.global_files {
            secrets.global.extend(read_file(file)?);
        }

        for key in &self.keys {
            let name = variable(key);
            let value = std::env::var(&name).map_err(|_| {
                Failure::usage(format!(
                    "the secret `{key}` has no value: the variable `{name}` is not set"
                ))
                .hint("set it, or name a file with `--secret-file`")
            })?;
            secrets.pipeline.insert(key.clone(), value.into());
        }

        Ok(secrets)
    }
}

impl Secrets {
    /// Stores all values.
    pub(crate) async fn put(
        self,
        client: &Client,
        namespace: &str,
        pipeline: &str,
    ) -> Result<(), Failure> {
        let scope =
            PipelineScope { namespace: namespace.to_owned(), pipeline: pipeline.to_owned() };
        let pipeline = self
            .pipeline
            .into_iter()
            .map(|secret| (Scope::PipelineScope(scope.clone()), vec![], secret));
        let allowed = vec![namespace.to_owned()];
        let global = self
            .global
            .into_iter()
            .map(|secret| (Scope::GlobalScope(GlobalScope {}), allowed.clone(), secret));

        for (scope, allowed_namespaces, (key, value)) in pipeline.chain(global) {
            let scope = Some(SecretScope { scope: Some(scope) });
            let value = value.expose_secret().to_owned();
            let request =
                PutSecretRequest { scope, key, value, allowed_namespaces, if_absent: false };
            client.secrets().put_secret(unary(request)).await?;
        }

        Ok(())
    }
}

/// `deploy/key` is in `GOFER_SECRET_DEPLOY_KEY`.
fn variable(key: &str) -> String {
    let part = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("GOFER_SECRET_{}", key.chars().map(part).collect::<String>())
}

fn read_file(path: &Path) -> Result<Vec<(String, SecretString)>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!("cannot read the secrets in `{}`: {error}", path.display()))
    })?;
    parse(&text).map_err(|line| {
        Failure::usage(format!("line {line} of `{}` is not `KEY=VALUE`", path.display())).hint(
            "empty lines and lines that begin with `#` are left out; a value ends with its line",
        )
    })
}

/// The pairs, or the number of the first line that is none; never its text, which may be a secret.
fn parse(text: &str) -> Result<Vec<(String, SecretString)>, usize> {
    let mut pairs = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once('=') {
            Some((key, value)) if !key.is_empty() => pairs.push((key.to_owned(), value.into())),
            _ => return Err(number + 1),
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_hold_pairs_and_comments() {
        let pairs = parse("# tokens\n\nA=b=c\nD= e\n").expect("pairs");
        let shown: Vec<_> =
            pairs.iter().map(|(key, value)| (key.as_str(), value.expose_secret())).collect();
        assert_eq!(shown, [("A", "b=c"), ("D", " e")]);
    }

    #[test]
    fn a_wrong_line_is_named_by_its_number_alone() {
        assert_eq!(parse("A=1\nhunter2\n").expect_err("a line without `=`"), 2);
        assert_eq!(parse("=hunter2").expect_err("no key"), 1);
    }

    #[test]
    fn keys_become_variable_names() {
        assert_eq!(variable("deploy/api-key"), "GOFER_SECRET_DEPLOY_API_KEY");
    }

    #[test]
    fn values_are_not_in_debug() {
        let secrets = Secrets {
            pipeline: parse("A=hunter2").expect("a pair").into_iter().collect(),
            ..Secrets::default()
        };
        assert!(!format!("{secrets:?}").contains("hunter2"));
    }
}
