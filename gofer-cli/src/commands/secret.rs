//! `gofer secret`: values that tasks get and logs never show.

use std::io::{IsTerminal as _, Read as _};

use clap::{Args, Subcommand};
use gofer_proto::v1::{
    DeleteSecretRequest, GetSecretRequest, GlobalScope, ListSecretsRequest, ListSecretsResponse,
    MaskValueRequest, PipelineScope, PutSecretRequest, SecretScope, secret_scope::Scope,
};
use secrecy::{ExposeSecret as _, SecretString};

use super::paging::{PageArgs, note_more};
use crate::client::{Client, unary};
use crate::context::Context;
use crate::errors::Failure;
use crate::{format, output};

/// The most bytes the contract allows for a value.
const MAX_VALUE_BYTES: u64 = 64 << 10;

/// Manages secrets: values that tasks get by `secret{{key}}` and `global_secret{{key}}`, and that
/// logs never show
#[derive(Debug, Args)]
pub(crate) struct SecretArgs {
    #[command(subcommand)]
    command: SecretCommand,
}

#[derive(Debug, Subcommand)]
enum SecretCommand {
    /// Stores a value, read from stdin or, on a terminal, asked for without showing it
    #[command(after_help = "\
Examples:
  gofer secret put deploy-key --pipeline ci < deploy.key
  gofer secret put registry-password --global --allow web --allow mobile")]
    Put(PutArgs),
    /// Prints a value
    #[command(after_help = "Examples:\n  gofer secret get deploy-key --pipeline ci > deploy.key")]
    Get {
        /// Its key
        key: String,
        #[command(flatten)]
        scope: ScopeArgs,
    },
    /// Lists keys, never values
    #[command(
        after_help = "Examples:\n  gofer secret list --pipeline ci\n  gofer secret list --global \
                      --prefix registry/"
    )]
    List {
        #[command(flatten)]
        scope: ScopeArgs,
        /// Only keys that begin with this
        #[arg(long, default_value = "", hide_default_value = true)]
        prefix: String,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Masks a value, read from stdin, in the logs of the run that this is called in
    ///
    /// For values that a task has not from Gofer: a token that it was given by a login, a password
    /// that it made. From now on they are `***` wherever the logs of the run are read, in their
    /// common encodings, too. Call it before the value is printed: what somebody has read cannot be
    /// taken back. It takes the run's own token, GOFER_API_TOKEN, which every task has; up to 100
    /// values a run.
    #[command(after_help = "\
Examples:
  gofer secret mask < token.txt
  printf %s \"$token\" | gofer secret mask
  aws ecr get-login-password | tee login | gofer secret mask")]
    Mask {
        /// Keep the newline at the end of what stdin gives; otherwise one is removed
        #[arg(long)]
        keep_newline: bool,
    },
    /// Removes a secret, all its versions
    #[command(after_help = "Examples:\n  gofer secret delete deploy-key --pipeline ci")]
    Delete {
        /// Its key
        key: String,
        #[command(flatten)]
        scope: ScopeArgs,
    },
}

#[derive(Debug, Args)]
struct PutArgs {
    /// Its key
    key: String,
    #[command(flatten)]
    scope: ScopeArgs,
    /// A namespace whose pipelines may read the global secret; may be repeated
    #[arg(long, value_name = "NS")]
    allow: Vec<String>,
    /// Keep an existing value, and fail
    #[arg(long)]
    if_absent: bool,
    /// Keep the newline at the end of what stdin gives; otherwise one is removed
    #[arg(long)]
    keep_newline: bool,
}

/// Which secrets are meant.
#[derive(Debug, Args)]
struct ScopeArgs {
    /// The secrets of this pipeline
    #[arg(long, value_name = "NAME", env = "GOFER_PIPELINE")]
    pipeline: Option<String>,
    /// The global secrets, also inside a task, where GOFER_PIPELINE is set
    #[arg(long)]
    global: bool,
}

impl ScopeArgs {
    fn scope(self, context: &Context) -> Result<SecretScope, Failure> {
        let scope = match (self.global, self.pipeline) {
            (true, _) => Scope::GlobalScope(GlobalScope {}),
            (false, Some(pipeline)) => {
                Scope::PipelineScope(PipelineScope { namespace: context.namespace(), pipeline })
            }
            (false, None) => {
                return Err(Failure::usage("it is not said whose secret is meant")
                    .hint("name a pipeline with `--pipeline NAME`, or use `--global`"));
            }
        };
        Ok(SecretScope { scope: Some(scope) })
    }
}

pub(crate) async fn run(args: SecretArgs, context: &Context) -> Result<(), Failure> {
    let out = &context.out;
    match args.command {
        SecretCommand::Put(args) => {
            if !args.allow.is_empty() && !args.scope.global {
                return Err(Failure::usage(
                    "`--allow` is for global secrets; a pipeline's secrets are its own",
                ));
            }

            let scope = args.scope.scope(context)?;
            let value = read_value(args.keep_newline)?;
            let client = context.client().await?;

            put(context, &client, scope, args.key, value, args.allow, args.if_absent).await
        }
        SecretCommand::Get { key, scope } => {
            let request = GetSecretRequest { scope: Some(scope.scope(context)?), key };
            let client = context.client().await?;
            let response = client.secrets().get_secret(unary(request)).await?.into_inner();
            let newline = if std::io::stdout().is_terminal() { "\n" } else { "" };
            out.show(&response, |response| format!("{}{newline}", response.value))
        }
        SecretCommand::List { scope, prefix, page } => {
            let scope = scope.scope(context)?;
            list(context, &context.client().await?, scope, prefix, &page).await
        }
        SecretCommand::Mask { keep_newline } => {
            let value = read_value(keep_newline)?.expose_secret().to_owned();
            let client = context.client().await?;
            let response =
                client.secrets().mask_value(unary(MaskValueRequest { value })).await?.into_inner();
            if !response.warning.is_empty() {
                out.note(&format!("warning: {}", response.warning));
            }
            out.done(&response, |_| "the value is masked from now on".to_owned())
        }
        SecretCommand::Delete { key, scope } => {
            let request =
                DeleteSecretRequest { scope: Some(scope.scope(context)?), key: key.clone() };
            let client = context.client().await?;
            let response = client.secrets().delete_secret(unary(request)).await?.into_inner();
            out.done(&response, |response| match response.existed {
                true => format!("secret `{key}` deleted"),
                false => format!("there was no secret `{key}`"),
            })
        }
    }
}

async fn put(
    context: &Context,
    client: &Client,
    scope: SecretScope,
    key: String,
    value: SecretString,
    allowed_namespaces: Vec<String>,
    if_absent: bool,
) -> Result<(), Failure> {
    let value = value.expose_secret().to_owned();
    let request = PutSecretRequest {
        scope: Some(scope),
        key: key.clone(),
        value,
        allowed_namespaces,
        if_absent,
    };
    let response = client.secrets().put_secret(unary(request)).await?.into_inner();
    if !response.warning.is_empty() {
        context.out.note(&format!("warning: secret `{key}`: {}", response.warning));
    }
    context.out.done(&response, |_| format!("secret `{key}` stored"))
}

async fn list(
    context: &Context,
    client: &Client,
    scope: SecretScope,
    prefix: String,
    page: &PageArgs,
) -> Result<(), Failure> {
    let (secrets, next_page_token) = page
        .collect(async |page_size, page_token| {
            let (scope, prefix) = (Some(scope.clone()), prefix.clone());
            let request = ListSecretsRequest { scope, prefix, page_size, page_token };
            let page = client.secrets().list_secrets(unary(request)).await?.into_inner();
            Ok((page.secrets, page.next_page_token))
        })
        .await?;

    note_more(&context.out, &next_page_token);
    context.out.show(&ListSecretsResponse { secrets, next_page_token }, |response| {
        output::table(
            &["KEY", "UPDATED", "BY", "ALLOWED NAMESPACES"],
            response.secrets.iter().map(|secret| {
                vec![
                    secret.key.clone(),
                    format::time(secret.updated_at.as_ref()),
                    secret.updated_by.clone(),
                    secret.allowed_namespaces.join(","),
                ]
            }),
        )
    })
}

/// From stdin, or asked for without showing it; never an argument, which every process of the
/// machine could see.
fn read_value(keep_newline: bool) -> Result<SecretString, Failure> {
    if std::io::stdin().is_terminal() {
        let value = rpassword::prompt_password("value: ");
        return value
            .map(SecretString::from)
            .map_err(|error| Failure::usage(format!("cannot read the value: {error}")));
    }
    let mut value = String::new();
    let read = std::io::stdin().lock().take(MAX_VALUE_BYTES + 3).read_to_string(&mut value);
    read.map_err(|error| Failure::usage(format!("cannot read the value from stdin: {error}")))?;
    Ok(SecretString::from(if keep_newline { value } else { without_newline(value) }))
}

/// Without the one newline that `echo` and editors add.
fn without_newline(mut value: String) -> String {
    if value.ends_with('\n') {
        value.pop();
        if value.ends_with('\r') {
            value.pop();
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_is_removed_and_no_more() {
        let cases = [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("\n", "")];
        for (given, expected) in cases {
            assert_eq!(without_newline(given.to_owned()), expected, "{given:?}");
        }
    }
}
