//! `VaultSecretStore`: the trait's calls as requests to the KV engine.

use std::sync::Arc;

use async_trait::async_trait;
use gofer_core::object_store::{ListPage, PutOptions};
use gofer_core::secret_store::{MAX_SECRET_BYTES, SecretList, SecretStore};
use gofer_core::{BackendError, ErrorKind, SecretPath};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use vaultrs::api::kv2::requests::{
    DeleteSecretMetadataRequest, ListSecretsRequest, ReadSecretRequest, SetSecretRequest,
    SetSecretRequestOptions,
};
use vaultrs::api::kv2::responses::ListSecretsResponse;

use crate::check;
use crate::config::VaultConfig;
use crate::key::Layout;
use crate::list::{self, Wanted};
use crate::session::{CallFailure, Keeper, Session};

/// How often a write looks again at the current version, when others keep changing it.
const MAX_CONFLICTS: usize = 8;

/// Keeps secrets in a KV engine of version 2. Cloning shares the store, its connections and its
/// token; the token's renewal ends with the last clone.
#[derive(Debug, Clone)]
pub struct VaultSecretStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    session: Arc<Session>,
    layout: Layout,
    method: &'static str,
    _keeper: Keeper,
}

/// The value at a path, or its absence.
enum Stored {
    Value {
        version: u64,
        value: SecretString,
    },
    /// Nothing, or nothing any more; the newest version is needed to write over it.
    Gone {
        version: u64,
    },
}

/// The part of an answer that matters.
#[derive(Deserialize)]
struct Version {
    data: Fields,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Fields {
    value: SecretString,
}

#[derive(Deserialize)]
struct Metadata {
    version: u64,
}

impl VaultSecretStore {
    /// Logs in, and keeps the token alive from then on.
    ///
    /// # Errors
    /// `Invalid` for a setting or file that breaks its rule. `Denied` when the login is refused.
    /// `Unavailable`, `RateLimited` or `Timeout` when the server cannot answer now.
    pub async fn connect(config: VaultConfig) -> Result<Self, BackendError> {
        config.validate()?;
        let layout = Layout::new(&config.mount, &config.prefix);
        let method = config.auth.method.as_str();
        // Reads certificates.
        let session = crate::error::blocking(move || Session::new(&config)).await?;
        session.token().await?;
        let keeper = Keeper::start(Arc::clone(&session));
        Ok(Self { shared: Arc::new(Shared { session, layout, method, _keeper: keeper }) })
    }

    async fn write(
        &self,
        path: &SecretPath,
        value: &SecretString,
        cas: Option<u32>,
    ) -> Result<(), CallFailure> {
        let endpoint = SetSecretRequest {
            mount: self.shared.layout.mount.clone(),
            path: self.shared.layout.path(path),
            data: serde_json::json!({ "value": value.expose_secret() }),
            options: cas.map(|cas| SetSecretRequestOptions { cas }),
        };
        self.shared.session.call(&endpoint, Some(value)).await.map(drop)
    }

    async fn read(&self, path: &SecretPath) -> Result<Stored, BackendError> {
        let layout = &self.shared.layout;
        let endpoint = ReadSecretRequest {
            mount: layout.mount.clone(),
            path: layout.path(path),
            version: None,
        };

        let answer = match self.shared.session.call(&endpoint, None).await {
            Ok(answer) => answer,
            Err(CallFailure::Vault { failure, .. }) if failure.nothing_there().is_some() => {
                return Ok(Stored::Gone {
                    version: failure.nothing_there().flatten().unwrap_or(0),
                });
            }
            Err(failure) => {
                return Err(self.error(failure, &format!("read secret `{path}`"), "data", "read"));
            }
        };

        let version: Version = answer.data().map_err(|_| {
            let place = format!("{}/{}", layout.mount, layout.path(path));
            let message = format!(
                "secret `{path}`, `{place}` in vault, is not what gofer writes: a field `value` \
                 with text; put it again"
            );
            BackendError::new(ErrorKind::Corrupt, message)
        })?;

        Ok(Stored::Value { version: version.metadata.version, value: version.data.value })
    }

    async fn names(&self, folder: String) -> Result<Vec<String>, BackendError> {
        let layout = &self.shared.layout;
        let endpoint =
            ListSecretsRequest { mount: layout.mount.clone(), path: layout.folder(&folder) };

        match self.shared.session.call(&endpoint, None).await {
            Ok(answer) => {
                let listed: Result<ListSecretsResponse, _> = answer.data();
                listed.map(|list| list.keys).map_err(|failure| {
                    self.error(
                        CallFailure::Vault { failure, unsure: false },
                        "list secrets",
                        "metadata",
                        "list",
                    )
                })
            }
            Err(CallFailure::Vault { failure, .. }) if failure.nothing_there().is_some() => {
                Ok(Vec::new())
            }
            Err(failure) => Err(self.error(failure, "list secrets", "metadata", "list")),
        }
    }

    /// `action` names the call, and `capability` the right that a policy must give for it in
    /// `tree`.
    fn error(
        &self,
        failure: CallFailure,
        action: &str,
        tree: &str,
        capability: &str,
    ) -> BackendError {
        match failure {
            CallFailure::Login(error) => error,
            CallFailure::Vault { failure, .. } => {
                let needs = format!("`{capability}` on `{}`", self.shared.layout.everything(tree));
                failure.into_error(self.shared.session.client.address(), action, &needs)
            }
        }
    }
}

#[async_trait]
impl SecretStore for VaultSecretStore {
    async fn check(&self) -> Result<String, BackendError> {
        check::check(&self.shared.session, &self.shared.layout, self.shared.method).await
    }

    /// Some writes have to name the current version: over a deleted one, or into a mount with
    /// `cas_required`. Such a write looks again if another writer was faster.
    async fn put(
        &self,
        path: &SecretPath,
        value: &SecretString,
        options: PutOptions,
    ) -> Result<(), BackendError> {
        let length = value.expose_secret().len();
        if length > MAX_SECRET_BYTES {
            let message = format!(
                "value of secret `{path}`: at most {MAX_SECRET_BYTES} bytes (got {length})"
            );
            return Err(BackendError::new(ErrorKind::Invalid, message));
        }

        let mut cas = options.if_absent.then_some(0);
        for _ in 0..MAX_CONFLICTS {
            let unsure = match self.write(path, value, cas).await {
                Ok(()) => return Ok(()),
                Err(CallFailure::Vault { failure, unsure }) if failure.is_conflict() => unsure,
                Err(failure) => {
                    return Err(self.error(
                        failure,
                        &format!("write secret `{path}`"),
                        "data",
                        "create` and `update",
                    ));
                }
            };

            let version = match self.read(path).await? {
                Stored::Value { version, value: stored } if options.if_absent => {
                    let follows = cas.is_some_and(|cas| u64::from(cas) + 1 == version);
                    // An attempt without an answer was carried out, and the next one found its
                    // work.
                    let is_ours =
                        unsure && follows && stored.expose_secret() == value.expose_secret();
                    return if is_ours { Ok(()) } else { Err(taken(path)) };
                }
                Stored::Value { version, .. } | Stored::Gone { version } => version,
            };

            cas = Some(u32::try_from(version).map_err(|_| {
                let message = format!(
                    "secret `{path}` has more versions than vault can be told; delete it first"
                );
                BackendError::new(ErrorKind::Exhausted, message)
            })?);
        }

        let message = format!(
            "secret `{path}` was changed by others {MAX_CONFLICTS} times while it was written"
        );

        Err(BackendError::new(ErrorKind::Unavailable, message))
    }

    async fn get(&self, path: &SecretPath) -> Result<SecretString, BackendError> {
        match self.read(path).await? {
            Stored::Value { value, .. } => Ok(value),
            Stored::Gone { .. } => Err(BackendError::new(
                ErrorKind::NotFound,
                format!("secret `{path}` does not exist"),
            )),
        }
    }

    /// A secret that somebody deleted in Vault, but not its metadata, is still listed.
    async fn list(&self, prefix: &str, page: ListPage) -> Result<SecretList, BackendError> {
        list::list(&Wanted::new(prefix, &page), page.limit, |folder| self.names(folder)).await
    }

    async fn delete(&self, path: &SecretPath) -> Result<(), BackendError> {
        let layout = &self.shared.layout;
        let endpoint =
            DeleteSecretMetadataRequest { mount: layout.mount.clone(), path: layout.path(path) };
        match self.shared.session.call(&endpoint, None).await {
            Ok(_) => Ok(()),
            Err(CallFailure::Vault { failure, .. }) if failure.nothing_there().is_some() => Ok(()),
            Err(failure) => {
                Err(self.error(failure, &format!("delete secret `{path}`"), "metadata", "delete"))
            }
        }
    }
}

fn taken(path: &SecretPath) -> BackendError {
    BackendError::new(ErrorKind::AlreadyExists, format!("secret `{path}` exists already"))
}
