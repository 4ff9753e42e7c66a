//! Shorthands.

use gofer_core::object_store::{ListPage, PutOptions};
use gofer_core::secret_store::SecretStore;
use gofer_core::{BackendError, ErrorKind, SecretPath};
use gofer_secrets_vault::{VaultConfig, VaultSecretStore};
use secrecy::ExposeSecret;

pub(crate) const IF_ABSENT: PutOptions = PutOptions { if_absent: true };

pub(crate) fn path(text: &str) -> SecretPath {
    SecretPath::new(text).unwrap()
}

pub(crate) async fn open(config: VaultConfig) -> VaultSecretStore {
    VaultSecretStore::connect(config).await.unwrap()
}

pub(crate) async fn put(
    store: &VaultSecretStore,
    name: &str,
    value: &str,
) -> Result<(), BackendError> {
    store.put(&path(name), &value.into(), PutOptions::default()).await
}

pub(crate) async fn put_if_absent(
    store: &VaultSecretStore,
    name: &str,
    value: &str,
) -> Result<(), BackendError> {
    store.put(&path(name), &value.into(), IF_ABSENT).await
}

pub(crate) async fn get(store: &VaultSecretStore, name: &str) -> Result<String, BackendError> {
    store.get(&path(name)).await.map(|value| value.expose_secret().to_owned())
}

pub(crate) async fn listed(
    store: &VaultSecretStore,
    prefix: &str,
) -> Result<Vec<String>, BackendError> {
    let found = store.list(prefix, ListPage { after: None, limit: 1_000 }).await?;
    Ok(found.paths.iter().map(ToString::to_string).collect())
}

/// Asserts the kind of an error, and gives its whole text.
#[track_caller]
pub(crate) fn failed<T: std::fmt::Debug>(
    result: Result<T, BackendError>,
    kind: ErrorKind,
) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind, kind, "{}", error.chain());
    error.chain()
}
