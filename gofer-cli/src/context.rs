//! What every command is given: the options that all share, and the way to the server.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::Args;
use secrecy::SecretString;

use crate::client::{self, Client, Target, TokenSource};
use crate::errors::Failure;
use crate::output::{Format, Out};
use crate::own_file::{self, Kind};

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Address of the server
    #[arg(
        long,
        global = true,
        env = "GOFER_API_ADDR",
        default_value = "http://127.0.0.1:8469",
        value_name = "URL"
    )]
    addr: String,
    /// File that holds the token on its first line; without it the environment's GOFER_API_TOKEN is
    /// used, and without that what a development server on this machine has left for you
    #[arg(long, global = true, env = "GOFER_API_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file with the certificates to trust instead of the system's
    #[arg(long, global = true, env = "GOFER_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// PEM file with this client's own certificate, for a server that asks for one
    #[arg(
        long,
        global = true,
        env = "GOFER_CLIENT_CERT_FILE",
        value_name = "FILE",
        requires = "client_key"
    )]
    client_cert: Option<PathBuf>,
    /// PEM file with the private key of `--client-cert`
    #[arg(
        long,
        global = true,
        env = "GOFER_CLIENT_KEY_FILE",
        value_name = "FILE",
        requires = "client_cert"
    )]
    client_key: Option<PathBuf>,
    /// Send the token to another machine also without TLS
    #[arg(long, global = true, env = "GOFER_INSECURE", value_parser = clap::builder::FalseyValueParser::new())]
    insecure: bool,
    /// Namespace to work in [default: default]
    #[arg(short, long, global = true, env = "GOFER_NAMESPACE", value_name = "NS")]
    namespace: Option<String>,
    /// Tables for people, or JSON for programs
    #[arg(
        short,
        long,
        global = true,
        env = "GOFER_OUTPUT",
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    output: Format,
    /// Say less
    #[arg(short, long, global = true, env = "GOFER_QUIET", value_parser = clap::builder::FalseyValueParser::new())]
    quiet: bool,
}

/// What a command is given besides its own arguments.
#[derive(Debug)]
pub(crate) struct Context {
    global: Global,
    pub(crate) out: Out,
    /// Where a token was looked for in vain.
    sought: OnceLock<String>,
    #[cfg(feature = "server")]
    scratch: OnceLock<(tempfile::TempDir, gofer_api::Owner)>,
}

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        let out = Out::new(global.output, global.quiet);
        Self {
            global,
            out,
            sought: OnceLock::new(),
            #[cfg(feature = "server")]
            scratch: OnceLock::new(),
        }
    }

    /// Where a token was looked for in vain, if that was done.
    pub(crate) fn sought_token(&self) -> Option<&str> {
        self.sought.get().map(String::as_str)
    }

    /// Removes the folder when the command is over and nothing of it can write there any more.
    #[cfg(feature = "server")]
    pub(crate) fn remove_at_the_end(&self, dir: tempfile::TempDir, owner: gofer_api::Owner) {
        // In this order: others look after the folder once the owner is gone.
        // One command has one such folder; a second one would be removed at once.
        let _ = self.scratch.set((dir, owner));
    }

    /// Connects to the server that was named, with the token that was, or else with the one that a
    /// server on this machine has left for its own user.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        let Global { addr, ca_file, client_cert, client_key, insecure, .. } = &self.global;
        let mut addr = addr.clone();
        let mut token = client::token(self.global.token_file.as_deref())?;
        let mut token_source = self.global.token_file.clone().map(TokenSource::File);

        if token.is_none() {
            let uri = client::parse_addr(&addr)?;
            match own_file::find(&uri, Kind::Token) {
                Ok(found) => {
                    token = Some(found.secret);
                    token_source = Some(TokenSource::Server(uri));
                    // A name may lead to another server on the same port. A certificate, however,
                    // is for the name.
                    if found.addr.starts_with("http://") {
                        addr = found.addr;
                    }
                }
                // A command connects once, and again only in the same way.
                Err(why) => drop(self.sought.set(why)),
            }
        }

        let client_files = client_cert.clone().zip(client_key.clone());
        let ca_file = ca_file.clone();
        let target =
            Target { addr, ca_file, client_files, insecure: *insecure, token, token_source };

        Client::connect(&target).await
    }

    /// The code for the first management token that the server has left on this machine; or why
    /// there is none.
    ///
    /// # Errors
    /// Wrong use for an address that cannot be.
    pub(crate) fn bootstrap_code(&self) -> Result<Result<SecretString, String>, Failure> {
        let uri = client::parse_addr(&self.global.addr)?;
        Ok(own_file::find(&uri, Kind::Bootstrap).map(|found| found.secret))
    }

    /// Authorities that are trusted besides the system's, if they were named.
    pub(crate) fn ca_file(&self) -> Option<&Path> {
        self.global.ca_file.as_deref()
    }

    /// The namespace that was named, or the default one.
    pub(crate) fn namespace(&self) -> String {
        self.named_namespace().unwrap_or_else(|| "default".to_owned())
    }

    /// The namespace, if one was named.
    pub(crate) fn named_namespace(&self) -> Option<String> {
        self.global.namespace.clone().filter(|namespace| !namespace.is_empty())
    }
}
