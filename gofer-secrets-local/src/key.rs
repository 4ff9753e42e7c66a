//! One key: its id, and sealing and opening values with it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, Generate, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use gofer_core::{BackendError, ErrorKind, SecretPath};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::{Digest, Sha256};

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// First byte of everything sealed, so that another format can be told apart one day.
const FORMAT: u8 = 1;
/// Bytes of the digest in an id: enough that ids of one file differ, too few to be of use to
/// anybody.
const ID_BYTES: usize = 8;

/// A key of 256 bits. Wiped when dropped.
#[derive(Debug)]
pub(crate) struct Key {
    id: String,
    bytes: SecretBox<[u8; KEY_BYTES]>,
}

impl Key {
    /// A new key from the operating system's random numbers.
    pub(crate) fn generate() -> Result<Self, BackendError> {
        let bytes = <[u8; KEY_BYTES]>::try_generate().map(Zeroizing::new).map_err(no_randomness)?;
        Ok(Self::from_bytes(&bytes))
    }

    fn from_bytes(from: &[u8; KEY_BYTES]) -> Self {
        let bytes =
            SecretBox::init_with_mut(|bytes: &mut [u8; KEY_BYTES]| bytes.copy_from_slice(from));
        let digest =
            Sha256::new().chain_update(b"gofer secret key id\0").chain_update(from).finalize();
        let id = digest[..ID_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { id, bytes }
    }

    /// The key of a line `id:base64`; `None` when it is no such line, or the id is another key's.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (id, text) = line.split_once(':')?;
        let decoded = Zeroizing::new(STANDARD.decode(text).ok()?);
        let key = Self::from_bytes(decoded.as_slice().try_into().ok()?);
        (key.id == id).then_some(key)
    }

    /// The line of the key file.
    pub(crate) fn line(&self) -> Zeroizing<String> {
        let text = Zeroizing::new(STANDARD.encode(self.bytes.expose_secret()));
        Zeroizing::new(format!("{}:{}", self.id, *text))
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Encrypts a value for a path; with another path it will not open.
    pub(crate) fn seal(
        &self,
        path: &SecretPath,
        value: &SecretString,
    ) -> Result<Vec<u8>, BackendError> {
        let nonce = XNonce::try_generate().map_err(no_randomness)?;
        let message =
            Payload { msg: value.expose_secret().as_bytes(), aad: path.as_str().as_bytes() };
        let ciphertext = self.cipher().encrypt(&nonce, message).map_err(|_| {
            BackendError::new(
                ErrorKind::Invalid,
                format!("the value of secret `{path}` is too long to encrypt"),
            )
        })?;
        let mut sealed = Vec::with_capacity(1 + NONCE_BYTES + ciphertext.len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&ciphertext);
        Ok(sealed)
    }

    /// Decrypts; `None` when these are not the bytes that this key sealed for this path.
    pub(crate) fn open(&self, path: &SecretPath, sealed: &[u8]) -> Option<SecretString> {
        let sealed = sealed.strip_prefix(&[FORMAT])?;
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_BYTES)?;
        let nonce = XNonce::try_from(nonce).ok()?;
        let message = Payload { msg: ciphertext, aad: path.as_str().as_bytes() };
        let value = Zeroizing::new(self.cipher().decrypt(&nonce, message).ok()?);
        std::str::from_utf8(&value).ok().map(SecretString::from)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.bytes.expose_secret().into())
    }
}

fn no_randomness(error: impl std::error::Error + Send + Sync + 'static) -> BackendError {
    BackendError::new(ErrorKind::Unavailable, "the operating system gives no random numbers")
        .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> SecretPath {
        SecretPath::new(text).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_and_path_only() {
        let (key, other) = (Key::generate().unwrap(), Key::generate().unwrap());
        let sealed = key.seal(&path("a/b"), &"välue\n".into()).unwrap();
        assert_eq!(key.open(&path("a/b"), &sealed).unwrap().expose_secret(), "välue\n");
        assert!(other.open(&path("a/b"), &sealed).is_none());
        assert!(key.open(&path("a/c"), &sealed).is_none());

        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(
                key.open(&path("a/b"), &changed).is_none(),
                "a changed byte {at} went unnoticed"
            );
            assert!(
                key.open(&path("a/b"), &sealed[..at]).is_none(),
                "cut to {at} bytes went unnoticed"
            );
        }
    }

    #[test]
    fn nothing_is_sealed_twice_alike() {
        let key = Key::generate().unwrap();
        let seal = || key.seal(&path("p"), &"v".into()).unwrap();
        assert_ne!(seal(), seal());
    }

    #[test]
    fn a_line_whose_id_is_not_the_keys_is_refused() {
        let (key, other) = (Key::generate().unwrap(), Key::generate().unwrap());
        let line = key.line();
        assert_eq!(Key::parse(&line).unwrap().id(), key.id());
        let swapped = line.replace(key.id(), other.id());
        for bad in
            [swapped.as_str(), "", "x", ":", &line[..line.len() - 4], &format!("{}AAAA", *line)]
        {
            assert!(Key::parse(bad).is_none());
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let key = Key::generate().unwrap();
        let line = key.line();
        let (_, text) = line.split_once(':').unwrap();
        let shown = format!("{key:?}");
        assert!(!shown.contains(text) && shown.contains("REDACTED"), "{shown}");
    }
}
