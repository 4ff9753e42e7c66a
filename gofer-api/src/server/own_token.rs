//! The token that a server on loopback makes at each start, in place of none: no web page, no proxy
//! and no other user of the machine has it. It may do everything, and is known by its hash in
//! memory only.

use std::path::Path;

use gofer_core::entity::TokenKind;
use gofer_engine::run_token_hash;
use secrecy::{ExposeSecret, SecretString};

use super::error::ServerError;
use crate::auth::token::new_token;
use crate::files::CredentialFile;

/// The file's name in the data directory.
const TOKEN_FILE_NAME: &str = "token";

/// The token, in its file until this is dropped.
#[derive(Debug)]
pub(crate) struct OwnToken {
    secret: SecretString,
    file: CredentialFile,
}

impl OwnToken {
    /// Makes a token for the server at this address.
    ///
    /// # Errors
    /// [`ServerError::File`].
    pub(crate) fn make(
        data_dir: &Path,
        addr: &str,
        links: Option<&Path>,
    ) -> Result<Self, ServerError> {
        let (_, secret) = new_token(TokenKind::Management, "", "gofer");
        let file = CredentialFile::write((data_dir, TOKEN_FILE_NAME), &secret, addr, links)?;
        tracing::info!(path = %file.path().display(), "this server's own token is in a file");
        Ok(Self { secret, file })
    }

    pub(crate) fn secret(&self) -> &SecretString {
        &self.secret
    }

    pub(crate) fn hash(&self) -> [u8; 32] {
        run_token_hash(self.secret.expose_secret())
    }
}

impl Drop for OwnToken {
    fn drop(&mut self) {
        self.file.remove();
    }
}
