//! Where things lie in the object store and the secret store.

use gofer_core::entity::{ObjectScope, SecretScope};
use gofer_core::id::{ExecutionId, InvalidId, ObjectKey, RunKey, SecretPath};

/// Every key below is made of validated ids and hexadecimal digits.
const VALID: &str = "made of validated ids";

/// A fresh place for a secret's value, never used before:
/// `pipeline/<namespace>/<pipeline>/<key>/<random>` or `global/<key>/<random>`. Replacing a secret
/// never touches the value that its record names. Secrets that were put before version 5 of the
/// schema lie at the same path without the last segment, until they are put again.
///
/// # Errors
/// When the user's key is not a valid path.
pub fn secret_location(scope: &SecretScope, key: &str) -> Result<SecretPath, InvalidId> {
    SecretPath::new(key)?;
    let unique = u128::from_be_bytes(rand::random());
    match scope {
        SecretScope::Pipeline(namespace, pipeline) => {
            SecretPath::new(format!("pipeline/{namespace}/{pipeline}/{key}/{unique:032x}"))
        }
        SecretScope::Global => SecretPath::new(format!("global/{key}/{unique:032x}")),
    }
}

/// A fresh place for an object's bytes, never used before: replacing an object never touches the
/// bytes being read.
///
/// # Panics
/// Never: the location is made of validated ids.
#[must_use]
pub fn object_location(scope: &ObjectScope) -> ObjectKey {
    let unique = u128::from_be_bytes(rand::random());
    let owner = match scope.run {
        Some(run) => format!("run/{run}"),
        None => "pipeline".to_owned(),
    };
    ObjectKey::new(format!("objects/{}/{}/{owner}/{unique:032x}", scope.namespace, scope.pipeline))
        .expect(VALID)
}

/// Where an attempt's archived log lies.
///
/// # Panics
/// Never: the location is made of validated ids.
#[must_use]
pub fn log_location(id: &ExecutionId) -> ObjectKey {
    ObjectKey::new(format!("logs/{id}")).expect(VALID)
}

/// Where the values to mask in an execution's log lie, from before its start until its log is
/// archived.
pub(crate) fn mask_path(id: &ExecutionId) -> SecretPath {
    SecretPath::new(format!("internal/masks/{id}")).expect(VALID)
}

/// Where a value lies that a run has added to what is masked.
pub(crate) fn run_mask_path(run: &RunKey, fingerprint: &str) -> SecretPath {
    SecretPath::new(format!("internal/run-masks/{run}/{fingerprint}")).expect(VALID)
}

/// Where the key that run tokens are derived with lies.
pub(crate) fn run_token_key_path() -> SecretPath {
    SecretPath::new("internal/run-token-key").expect(VALID)
}
