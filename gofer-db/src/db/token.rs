use gofer_core::Timestamp;
use gofer_core::entity::{Token, TokenKind};
use gofer_core::object_store::ListPage;

use crate::db::{Db, query, transact};
use crate::error::DbError;
use crate::types::{BootstrapProof, ManagementEnd, Page};

impl Db {
    /// Records a token under the SHA-256 of its text. Who made it (`created_by`) is its event's
    /// actor.
    ///
    /// # Errors
    /// `AlreadyExists` for the id, or the database's.
    pub async fn token_insert(&self, token: &Token, hash: &[u8; 32]) -> Result<(), DbError> {
        let (token, hash) = (token.clone(), *hash);
        transact!(self, tokens::insert(&token, &hash))
    }

    /// Records the first management token; `false`, and nothing done, when the proof is none. Of
    /// concurrent calls one succeeds, and only if this database has not had a management token
    /// since it was made, or reset; deleted ones count.
    ///
    /// # Errors
    /// `Conflict`, or the database's.
    pub async fn token_bootstrap(
        &self,
        token: &Token,
        hash: &[u8; 32],
        proof: BootstrapProof,
    ) -> Result<bool, DbError> {
        let (token, hash) = (token.clone(), *hash);
        transact!(self, bootstrap::bootstrap(&token, &hash, &proof))
    }

    /// Lets the bearer of a code, given by its SHA-256, bootstrap; `false` when that has been done.
    /// Each server on the database accepts the codes of all.
    ///
    /// # Errors
    /// The database's.
    pub async fn bootstrap_accept(&self, code: &[u8; 32], at: Timestamp) -> Result<bool, DbError> {
        let code = *code;
        transact!(self, bootstrap::accept(&code, at))
    }

    /// Opens bootstrap again, for the bearer of this code alone; works beside other servers on the
    /// database.
    ///
    /// # Errors
    /// The database's.
    pub async fn bootstrap_reset(
        &self,
        code: &[u8; 32],
        actor: &str,
        at: Timestamp,
    ) -> Result<(), DbError> {
        let (code, actor) = (*code, actor.to_owned());
        transact!(self, bootstrap::reset(&code, &actor, at))
    }

    /// When nobody may manage any more, if nothing is done about it.
    ///
    /// # Errors
    /// The database's.
    pub async fn token_management_end(&self, at: Timestamp) -> Result<ManagementEnd, DbError> {
        query!(self, tokens::management_end(at))
    }

    /// Those of these tokens that there are, in no order.
    ///
    /// # Errors
    /// The database's.
    pub async fn token_some(&self, ids: Vec<String>) -> Result<Vec<Token>, DbError> {
        query!(self, tokens::some(&ids))
    }

    /// The token with this hash, disabled or expired ones included.
    ///
    /// # Errors
    /// The database's.
    pub async fn token_by_hash(&self, hash: &[u8; 32]) -> Result<Option<Token>, DbError> {
        let hash = *hash;
        query!(self, tokens::by_hash(&hash))
    }

    /// The token with this id.
    ///
    /// # Errors
    /// `NotFound`, or the database's.
    pub async fn token_get(&self, id: &str) -> Result<Token, DbError> {
        let id = id.to_owned();
        query!(self, tokens::get(&id))
    }

    /// Tokens, newest first; with kinds, only those.
    ///
    /// # Errors
    /// `Invalid` for an `after` that this list did not give out, or the database's.
    pub async fn token_list(
        &self,
        kinds: &[TokenKind],
        page: &ListPage,
    ) -> Result<Page<Token>, DbError> {
        let (kinds, page) = (kinds.to_vec(), page.clone());
        query!(self, tokens::list(&kinds, &page))
    }

    /// Refuses a token, or accepts it again. Setting what is set changes nothing and records
    /// nothing.
    ///
    /// # Errors
    /// `NotFound`; `LastManagementToken` instead of refusing the last one that works; or the
    /// database's.
    pub async fn token_set_disabled(
        &self,
        id: &str,
        disabled: bool,
        actor: &str,
        at: Timestamp,
    ) -> Result<Token, DbError> {
        let (id, actor) = (id.to_owned(), actor.to_owned());
        transact!(self, tokens::set_disabled(&id, disabled, &actor, at))
    }

    /// Removes a token.
    ///
    /// # Errors
    /// `NotFound`; `LastManagementToken` instead of removing the last one that works; or the
    /// database's.
    pub async fn token_delete(&self, id: &str, actor: &str, at: Timestamp) -> Result<(), DbError> {
        let (id, actor) = (id.to_owned(), actor.to_owned());
        transact!(self, tokens::delete(&id, &actor, at))
    }
}
