//! The ACL token, and its file.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use gofer_core::{BackendError, ErrorKind};
use secrecy::{ExposeSecret, SecretString};

use crate::config::NomadConfig;

/// Where the token comes from.
#[derive(Debug)]
pub(crate) enum TokenSource {
    None,
    Fixed(SecretString),
    File { path: PathBuf, read: Mutex<Option<Read>> },
}

/// What was in the file when it was last read.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    token: SecretString,
    modified: Option<SystemTime>,
}

impl TokenSource {
    pub(crate) fn new(config: &NomadConfig) -> Self {
        match (&config.token, &config.token_file) {
            (Some(token), _) => Self::Fixed(token.clone()),
            (None, Some(path)) => Self::File { path: path.clone(), read: Mutex::new(None) },
            (None, None) => Self::None,
        }
    }

    /// The token now. A file is read again when it was changed since.
    pub(crate) async fn current(&self) -> Result<Option<SecretString>, BackendError> {
        match self {
            Self::None => Ok(None),
            Self::Fixed(token) => Ok(Some(token.clone())),
            Self::File { path, read } => {
                let modified =
                    tokio::fs::metadata(path).await.ok().and_then(|data| data.modified().ok());
                let known = read.lock().unwrap_or_else(PoisonError::into_inner).clone();

                match known {
                    // A file that is gone for a moment, while it is replaced, does not take the
                    // token away.
                    Some(known) if modified.is_none() || known.modified == modified => {
                        Ok(Some(known.token))
                    }
                    _ => load(path, modified, read).await.map(Some),
                }
            }
        }
    }

    /// Reads the file whatever its time says; whether another token is in it than the one that
    /// Nomad refused.
    pub(crate) async fn renewed(&self, refused: &SecretString) -> Result<bool, BackendError> {
        let Self::File { path, read } = self else { return Ok(false) };
        let modified = tokio::fs::metadata(path).await.ok().and_then(|data| data.modified().ok());
        let token = load(path, modified, read).await?;
        Ok(token.expose_secret() != refused.expose_secret())
    }
}

async fn load(
    path: &Path,
    modified: Option<SystemTime>,
    read: &Mutex<Option<Read>>,
) -> Result<SecretString, BackendError> {
    let text = tokio::fs::read_to_string(path).await.map_err(|error| {
        let message = format!("`token_file` is `{}`, which cannot be read", path.display());
        BackendError::new(ErrorKind::Denied, message).with_source(error)
    })?;

    let token = SecretString::from(text.trim());
    if token.expose_secret().is_empty()
        || !token.expose_secret().bytes().all(|byte| byte.is_ascii_graphic())
    {
        let message =
            format!("`token_file` is `{}`, which does not hold one token", path.display());
        return Err(BackendError::new(ErrorKind::Denied, message));
    }

    *read.lock().unwrap_or_else(PoisonError::into_inner) =
        Some(Read { token: token.clone(), modified });
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_read_again_when_nomad_refuses_its_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "first\n").unwrap();
        let config = NomadConfig { token_file: Some(path.clone()), ..NomadConfig::default() };
        let source = TokenSource::new(&config);
        let first = source.current().await.unwrap().unwrap();
        assert_eq!(first.expose_secret(), "first");
        assert!(!source.renewed(&first).await.unwrap(), "the same token is no new one");
        std::fs::write(&path, "second").unwrap();
        assert!(source.renewed(&first).await.unwrap());
        assert_eq!(source.current().await.unwrap().unwrap().expose_secret(), "second");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(source.current().await.unwrap().unwrap().expose_secret(), "second");
        assert!(!format!("{source:?}").contains("second"));
    }

    #[tokio::test]
    async fn a_file_without_a_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let config = NomadConfig { token_file: Some(path.clone()), ..NomadConfig::default() };
        for text in [None, Some(""), Some("two words"), Some("two\nlines")] {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let error = TokenSource::new(&config).current().await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Denied);
            assert!(error.message.contains("token_file"), "{}", error.message);
        }
    }
}
