//! Tokens: the first one against the operator's proof, the others within the boundary that the
//! scheduler keeps. That one management token that works stays is held by the database, under a
//! lock of the transaction that ends one: servers may share it.

use std::time::Duration;

use gofer_core::Timestamp;
use gofer_core::entity::{Token, TokenKind};
use gofer_core::id::NamespaceId;
use gofer_db::{BootstrapProof, Db};
use gofer_engine::run_token_hash;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use super::boundary::Boundary;
use crate::auth::token::new_token;
use crate::error::ApiError;
use crate::files::CredentialFile;

/// Longest code for the first management token that is worth hashing.
pub(crate) const BOOTSTRAP_CODE_MAX_BYTES: usize = 256;

/// What operations on tokens work with, for one call.
#[derive(Debug)]
pub(crate) struct Tokens<'a> {
    pub(crate) db: &'a Db,
    pub(crate) boundary: Boundary,
    /// Held from the boundary's answer until the token counts. A scheduler without a boundary has
    /// one server, so this is the only one that asks.
    pub(crate) turn: &'a Mutex<()>,
    /// The file with the code for the first management token, if this server has written one.
    pub(crate) bootstrap_file: Option<&'a CredentialFile>,
    /// The actor of events.
    pub(crate) actor: String,
}

/// A token that somebody asks for.
#[derive(Debug, Clone)]
pub(crate) struct WantedToken {
    pub(crate) kind: TokenKind,
    pub(crate) namespaces: Vec<NamespaceId>,
    pub(crate) description: String,
    /// How long it is good; `None` is for ever.
    pub(crate) life: Option<Duration>,
}

impl Tokens<'_> {
    /// Makes the first management token; `None` for a code that is not the operator's. Its file is
    /// worth nothing afterwards.
    pub(crate) async fn bootstrap(
        &self,
        proof: BootstrapProof,
    ) -> Result<Option<(Token, SecretString)>, ApiError> {
        let (token, secret) =
            new_token(TokenKind::Management, "the first management token", "bootstrap");
        let hash = run_token_hash(secret.expose_secret());
        if !self.db.token_bootstrap(&token, &hash, proof).await? {
            return Ok(None);
        }

        if let Some(file) = self.bootstrap_file {
            file.remove();
        }
        Ok(Some((token, secret)))
    }

    /// Makes a token.
    pub(crate) async fn create(
        &self,
        wanted: WantedToken,
    ) -> Result<(Token, SecretString), ApiError> {
        let WantedToken { kind, namespaces, description, life } = wanted;
        let (mut token, secret) = new_token(kind, &description, &self.actor);
        token.namespaces = namespaces;
        token.expires_at = life.map(|life| token.created_at.after(life));

        // Without this, two calls could each find no client of another namespace, and make one.
        let _turn = self.turn.lock().await;
        self.boundary.admit(self.db, &token).await?;
        self.db.token_insert(&token, &run_token_hash(secret.expose_secret())).await?;
        Ok((token, secret))
    }

    /// Makes a token work again.
    pub(crate) async fn enable(&self, id: &str) -> Result<Token, ApiError> {
        let _turn = self.turn.lock().await;
        let known = self.db.token_get(id).await?;
        if known.disabled {
            self.boundary.admit(self.db, &known).await?;
        }
        Ok(self.db.token_set_disabled(id, false, &self.actor, Timestamp::now()).await?)
    }

    /// Makes a token work no more.
    pub(crate) async fn disable(&self, id: &str) -> Result<Token, ApiError> {
        Ok(self.db.token_set_disabled(id, true, &self.actor, Timestamp::now()).await?)
    }

    /// Removes a token.
    pub(crate) async fn delete(&self, id: &str) -> Result<(), ApiError> {
        Ok(self.db.token_delete(id, &self.actor, Timestamp::now()).await?)
    }
}
