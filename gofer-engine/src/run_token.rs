//! Run tokens. A run's token is derived from the run's nonce with a key of the secret store: every
//! server can make it again after a restart, and the database, which has nonce and hash, cannot.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use gofer_core::object_store::PutOptions;
use gofer_core::secret_store::SecretStore;
use gofer_core::{BackendError, ErrorKind, RunKey};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::layout::run_token_key_path;

/// What a run's token starts with, so that leaked ones can be recognised.
const PREFIX: &str = "gofer_r_";

/// SHA-256 of a token's text: all the database knows of any token. Tokens have 256 bits of their
/// own; they need no slow hash.
#[must_use]
pub fn run_token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Makes run tokens.
pub(crate) struct RunTokens {
    key: SecretString,
}

impl std::fmt::Debug for RunTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RunTokens")
    }
}

impl RunTokens {
    /// Reads the key, or makes it the first time. Of two servers that make it at once, one wins and
    /// both read that.
    pub(crate) async fn open(secrets: &dyn SecretStore) -> Result<Self, BackendError> {
        let path = run_token_key_path();
        match secrets.get(&path).await {
            Ok(key) => return Ok(Self { key }),
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let fresh = SecretString::from(STANDARD.encode(rand::random::<[u8; 32]>()));
        match secrets.put(&path, &fresh, PutOptions { if_absent: true }).await {
            Ok(()) => Ok(Self { key: fresh }),
            Err(error) if error.kind == ErrorKind::AlreadyExists => {
                Ok(Self { key: secrets.get(&path).await? })
            }
            Err(error) => Err(error),
        }
    }

    /// The token of the run with this nonce.
    pub(crate) fn token(&self, nonce: &[u8; 16]) -> SecretString {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.expose_secret().as_bytes())
            .expect("hmac takes any key length");
        mac.update(nonce);
        SecretString::from(format!(
            "{PREFIX}{}",
            URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
        ))
    }

    /// Names a value of a run, the same one each time. Values cannot be tried
    /// against it without the key.
    pub(crate) fn fingerprint(&self, run: &RunKey, value: &SecretString) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.expose_secret().as_bytes())
            .expect("hmac takes any key length");
        // Longer than any nonce, so that no token is told by it.
        mac.update(format!("value to mask of run {run}\0").as_bytes());
        mac.update(value.expose_secret().as_bytes());
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
