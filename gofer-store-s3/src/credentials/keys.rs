//! Credentials as they were found.

use gofer_core::time::Timestamp;
use s3::creds::Credentials;
use secrecy::{ExposeSecret, SecretString};

/// What signs, and until when.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) access_key: String,
    pub(crate) secret_key: SecretString,
    pub(crate) token: Option<SecretString>,
    pub(crate) ends_at: Option<Timestamp>,
}

impl Keys {
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        let token = |keys: &Self| keys.token.as_ref().map(|token| token.expose_secret().to_owned());
        self.access_key == other.access_key
            && self.secret_key.expose_secret() == other.secret_key.expose_secret()
            && token(self) == token(other)
    }
}

impl From<Credentials> for Keys {
    fn from(found: Credentials) -> Self {
        let token = found.session_token.or(found.security_token).filter(|token| !token.is_empty());
        Self {
            access_key: found.access_key.unwrap_or_default(),
            secret_key: found.secret_key.unwrap_or_default().into(),
            token: token.map(SecretString::from),
            ends_at: None,
        }
    }
}
