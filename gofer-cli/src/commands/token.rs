//! `gofer token`: who may call.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use gofer_proto::v1::{
    BootstrapTokenRequest, CreateTokenRequest, DeleteTokenRequest, DisableTokenRequest,
    EnableTokenRequest, ListTokensRequest, ListTokensResponse, Token, TokenKind, WhoAmIRequest,
};
use prost::{Message, Name};
use secrecy::{ExposeSecret, SecretString};

use super::paging::{PageArgs, note_more};
use crate::client::{Client, unary};
use crate::context::Context;
use crate::errors::Failure;
use crate::{format, output};

/// Manages tokens, which say who may call
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Makes a new server's first management token; works once
    ///
    /// The server takes it from whoever knows a code, which it leaves in the file `bootstrap` of
    /// its data directory, or which its operator has given it (`server.bootstrap_token_file`). On
    /// the server's machine its user need not name the file.
    #[command(after_help = "\
Examples:
  gofer token bootstrap --out ~/.config/gofer/token
  gofer --addr https://gofer.example.com:8469 token bootstrap --code-file code --out admin.token
  export GOFER_API_TOKEN=$(gofer token bootstrap)

Lost every management token? `gofer server --reset-bootstrap` on the server's machine opens this again.")]
    Bootstrap(BootstrapArgs),
    /// Makes a token; its secret is shown this once
    #[command(after_help = "\
Examples:
  gofer token create --management --description 'the platform team'
  gofer token create --allow web --allow mobile --expires 90d --out ci.token")]
    Create(CreateArgs),
    /// Lists the tokens, newest first
    #[command(after_help = "Examples:\n  gofer token list\n  gofer token list --kind run")]
    List {
        /// Only tokens of this kind; may be repeated [default: management and client]
        #[arg(long, value_enum, value_name = "KIND")]
        kind: Vec<Kind>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Accepts a disabled token again
    #[command(after_help = "Examples:\n  gofer token enable 7d0c2b")]
    Enable {
        /// The token's id, as `gofer token list` shows it
        id: String,
    },
    /// Refuses a token until it is enabled again
    #[command(after_help = "Examples:\n  gofer token disable 7d0c2b")]
    Disable {
        /// The token's id, as `gofer token list` shows it
        id: String,
    },
    /// Removes a token for good
    #[command(after_help = "Examples:\n  gofer token delete 7d0c2b")]
    Delete {
        /// The token's id, as `gofer token list` shows it
        id: String,
    },
    /// Shows the token you call with
    #[command(after_help = "Examples:\n  gofer token whoami")]
    Whoami,
}

#[derive(Debug, Args)]
struct BootstrapArgs {
    /// File with the code on its first line; without it the environment's GOFER_BOOTSTRAP_CODE is
    /// used, and without that what the server has left on this machine
    #[arg(long, value_name = "FILE")]
    code_file: Option<PathBuf>,
    #[command(flatten)]
    to: SecretTo,
}

impl BootstrapArgs {
    /// The code; or, for a server that asks for none or wants to say itself why not, nothing and
    /// where it was looked for.
    fn code(&self, context: &Context) -> Result<(SecretString, Option<String>), Failure> {
        let text = match &self.code_file {
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                Failure::usage(format!("cannot read the code file `{}`: {error}", path.display()))
            })?,
            None => match std::env::var("GOFER_BOOTSTRAP_CODE") {
                Ok(code) => code,
                Err(_) => {
                    return Ok(match context.bootstrap_code()? {
                        Ok(code) => (code, None),
                        Err(why) => (SecretString::default(), Some(why)),
                    });
                }
            },
        };
        Ok((SecretString::from(text.trim().lines().next().unwrap_or_default().trim()), None))
    }
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// A token that may do everything
    #[arg(long, required_unless_present = "allow", conflicts_with = "allow")]
    management: bool,
    /// A token that may work with the pipelines of this namespace; may be repeated
    #[arg(long, value_name = "NS")]
    allow: Vec<String>,
    /// What it is for
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// How long it is accepted, for example `90d` [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    expires: Option<Duration>,
    #[command(flatten)]
    to: SecretTo,
}

/// Where a new token's secret goes.
#[derive(Debug, Args)]
struct SecretTo {
    /// Write the secret to this new file, which only you may read, instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Management,
    Client,
    Run,
    Trigger,
}

impl From<Kind> for TokenKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Management => Self::Management,
            Kind::Client => Self::Client,
            Kind::Run => Self::Run,
            Kind::Trigger => Self::Trigger,
        }
    }
}

pub(crate) async fn run(args: TokenArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client().await?;
    let mut service = client.tokens();
    let out = &context.out;

    match args.command {
        TokenCommand::Bootstrap(args) => {
            let (code, sought) = args.code(context)?;
            let sink = SecretSink::prepare(args.to)?;
            let request = BootstrapTokenRequest { code: code.expose_secret().to_owned() };
            let response = service.bootstrap_token(unary(request)).await.map_err(|status| {
                let is_about_the_code = status.code() == tonic::Code::PermissionDenied;
                let failure = Failure::from(status);
                match sought {
                    Some(why) if is_about_the_code => failure.detail(why),
                    _ => failure,
                }
            });

            let response = response?.into_inner();
            hand_over(context, &response, &response.secret, response.token.as_ref(), sink)
        }
        TokenCommand::Create(args) => create(context, &client, args).await,
        TokenCommand::List { kind, page } => list(context, &client, &kind, &page).await,
        TokenCommand::Enable { id } => {
            let response = service
                .enable_token(unary(EnableTokenRequest { id: id.clone() }))
                .await?
                .into_inner();
            out.done(&response, |_| format!("token `{id}` is enabled"))
        }
        TokenCommand::Disable { id } => {
            let response = service
                .disable_token(unary(DisableTokenRequest { id: id.clone() }))
                .await?
                .into_inner();
            out.done(&response, |_| format!("token `{id}` is disabled"))?;
            note_the_end(context, &client).await;
            Ok(())
        }
        TokenCommand::Delete { id } => {
            let response = service
                .delete_token(unary(DeleteTokenRequest { id: id.clone() }))
                .await?
                .into_inner();
            out.done(&response, |_| format!("token `{id}` is deleted"))?;
            note_the_end(context, &client).await;
            Ok(())
        }
        TokenCommand::Whoami => {
            let response = service.who_am_i(unary(WhoAmIRequest {})).await?.into_inner();
            out.show(&response, |response| match &response.token {
                Some(token) => describe(token),
                None => "nobody in particular: this server asks for no token \
                         (`server.allow_anonymous`)\n"
                    .to_owned(),
            })
        }
    }
}

async fn create(context: &Context, client: &Client, args: CreateArgs) -> Result<(), Failure> {
    let sink = SecretSink::prepare(args.to)?;
    let kind = if args.management { TokenKind::Management } else { TokenKind::Client };
    let expires_after = args.expires.map(prost_types::Duration::try_from).transpose();
    let request = CreateTokenRequest {
        kind: kind.into(),
        namespaces: args.allow,
        description: args.description,
        expires_after: expires_after
            .map_err(|error| Failure::usage(format!("`--expires` is too long: {error}")))?,
    };

    let expires = request.expires_after.is_some();
    let response = client.tokens().create_token(unary(request)).await?.into_inner();
    hand_over(context, &response, &response.secret, response.token.as_ref(), sink)?;

    for warning in &response.warnings {
        context.out.note(&format!("warning: {warning}"));
    }

    if args.management && expires {
        note_the_end(context, client).await;
    }

    Ok(())
}

/// When the last management token has expired, nobody can make another but the operator.
async fn note_the_end(context: &Context, client: &Client) {
    let request = ListTokensRequest {
        kinds: vec![TokenKind::Management.into()],
        page_size: 500,
        ..Default::default()
    };

    // What was asked for is done, whether this can be said or not.
    let Ok(page) =
        client.tokens().list_tokens(unary(request)).await.map(tonic::Response::into_inner)
    else {
        return;
    };

    let mut working = page.tokens.iter().filter(|token| !token.disabled);
    if !page.next_page_token.is_empty() || working.clone().any(|token| token.expires_at.is_none()) {
        return;
    }

    let end = working
        .clone()
        .filter_map(|token| token.expires_at)
        .max_by_key(|end| (end.seconds, end.nanos));

    if working.next().is_some() {
        let end = format::time(end.as_ref());
        let advice = "make one without an end, or another before that; afterwards only `gofer \
                      server --reset-bootstrap` helps";
        context.out.note(&format!("every management token expires, the last one {end}: {advice}"));
    }
}

async fn list(
    context: &Context,
    client: &Client,
    kinds: &[Kind],
    page: &PageArgs,
) -> Result<(), Failure> {
    let kinds: Vec<i32> = kinds.iter().map(|kind| TokenKind::from(*kind).into()).collect();
    let (tokens, next_page_token) = page
        .collect(async |page_size, page_token| {
            let request = ListTokensRequest { kinds: kinds.clone(), page_size, page_token };
            let page = client.tokens().list_tokens(unary(request)).await?.into_inner();
            Ok((page.tokens, page.next_page_token))
        })
        .await?;

    note_more(&context.out, &next_page_token);
    context.out.show(&ListTokensResponse { tokens, next_page_token }, |response| {
        output::table(
            &["ID", "KIND", "NAMESPACES", "STATE", "CREATED", "EXPIRES", "DESCRIPTION"],
            response.tokens.iter().map(|token| {
                vec![
                    token.id.clone(),
                    kind(token),
                    token.namespaces.join(","),
                    if token.disabled { "disabled" } else { "enabled" }.to_owned(),
                    format::time(token.created_at.as_ref()),
                    format::time(token.expires_at.as_ref()),
                    token.description.clone(),
                ]
            }),
        )
    })
}

/// Where a secret goes: stdout, or a file that is made before the token is, so that no secret is
/// lost for want of a place.
struct SecretSink {
    file: Option<(File, PathBuf)>,
    written: bool,
}

impl SecretSink {
    fn prepare(to: SecretTo) -> Result<Self, Failure> {
        let Some(path) = to.out else { return Ok(Self { file: None, written: false }) };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| {
            Failure::usage(format!("cannot make the file `{}`: {error}", path.display()))
        })?;
        Ok(Self { file: Some((file, path)), written: false })
    }
}

impl Drop for SecretSink {
    /// A file that holds nothing because there was no token.
    fn drop(&mut self) {
        if let (Some((_, path)), false) = (&self.file, self.written) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Gives the secret, alone on stdout or in the file, so that it can be redirected; everything else
/// goes to stderr.
fn hand_over<M: Message + Name>(
    context: &Context,
    response: &M,
    secret: &str,
    token: Option<&Token>,
    mut sink: SecretSink,
) -> Result<(), Failure> {
    let id = token.map(|token| token.id.as_str()).unwrap_or_default();
    if let Some((file, path)) = &mut sink.file {
        let written = writeln!(file, "{secret}").and_then(|()| file.sync_all());
        written.map_err(|error| {
            Failure::usage(format!("cannot write `{}`: {error}", path.display()))
        })?;
        context.out.note(&format!("token `{id}` is in `{}`", path.display()));
    } else if context.out.is_json() {
        context.out.json(response)?;
    } else {
        context.out.line(secret)?;
        context.out.note(&format!("token `{id}`: keep the secret above, it is not shown again"));
    }

    sink.written = true;
    Ok(())
}

fn describe(token: &Token) -> String {
    output::fields(&[
        ("id", token.id.clone()),
        ("kind", kind(token)),
        ("namespaces", token.namespaces.join(", ")),
        ("description", token.description.clone()),
        ("created", format!("{} by {}", format::time(token.created_at.as_ref()), token.created_by)),
        ("expires", format::time(token.expires_at.as_ref())),
        ("state", if token.disabled { "disabled" } else { "enabled" }.to_owned()),
    ])
}

fn kind(token: &Token) -> String {
    format::word(token.kind().as_str_name(), "TOKEN_KIND_")
}
