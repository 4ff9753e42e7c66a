//! Whether the store can be used, and if not, what an operator should do.

use std::collections::HashMap;
use std::sync::Arc;

use gofer_core::{BackendError, ErrorKind, SecretPath};
use serde::Deserialize;
use vaultrs::api::sys::requests::ReadHealthRequest;

use crate::endpoints::{Capabilities, MountInfo};
use crate::error::Failure;
use crate::key::Layout;
use crate::session::{CallFailure, Session};

/// Any key will do: policies that treat Gofer's secrets differently are not what this looks for.
const SOME_KEY: &str = "gofer-check";

/// The part of `sys/health` that matters.
#[derive(Deserialize)]
struct Health {
    initialized: bool,
    sealed: bool,
    version: String,
    /// OpenBao does not say it, nor does Vault before 1.16.
    enterprise: Option<bool>,
}

impl Health {
    /// The product's name, which neither says. OpenBao began at 2.0, and Vault tells its edition
    /// since long before its own 2.0.
    fn product(&self) -> &'static str {
        match self.enterprise {
            Some(true) => "Vault Enterprise",
            Some(false) => "Vault",
            None if self.version.starts_with("1.") || self.version.starts_with("0.") => "Vault",
            None => "OpenBao",
        }
    }
}

#[derive(Deserialize)]
struct Mount {
    #[serde(rename = "type")]
    engine: String,
    #[serde(default)]
    options: Option<HashMap<String, String>>,
}

pub(crate) async fn check(
    session: &Arc<Session>,
    layout: &Layout,
    method: &str,
) -> Result<String, BackendError> {
    let address = session.client.address();
    let health = health(session).await?;
    check_mount(session, layout).await?;
    check_capabilities(session, layout).await?;
    let (product, version, place) = (health.product(), &health.version, layout.folder(""));
    let (place, mount) = (place.trim_end_matches('/'), &layout.mount);
    let place = if place.is_empty() { mount.clone() } else { format!("{mount}/{place}") };
    let login = if method == "token" { "with a token".to_owned() } else { format!("by {method}") };
    Ok(format!(
        "{product} {version} at `{address}`, secrets under `{place}` (KV version 2), logged in \
         {login}"
    ))
}

/// Asked of the server that answers, not of the cluster: a standby is as good, since it forwards.
async fn health(session: &Session) -> Result<Health, BackendError> {
    let endpoint = ReadHealthRequest {
        standbyok: Some(true),
        perfstandbyok: Some(true),
        // The answer tells the fault better than the status does.
        sealedcode: Some(200),
        uninitcode: Some(200),
        ..ReadHealthRequest::default()
    };

    let address = session.client.address();
    let answer = session.ask(&endpoint).await.and_then(|answer| answer.parse());
    let health: Health =
        answer.map_err(|failure| failure.into_error(address, "say how it is", "nothing"))?;
    let unavailable = |message: String| Err(BackendError::new(ErrorKind::Unavailable, message));

    if !health.initialized {
        return unavailable(format!(
            "vault at `{address}` is not initialized; run `vault operator init`"
        ));
    }

    if health.sealed {
        return unavailable(format!("vault at `{address}` is sealed; run `vault operator unseal`"));
    }

    Ok(health)
}

async fn check_mount(session: &Arc<Session>, layout: &Layout) -> Result<(), BackendError> {
    let mount = &layout.mount;
    let next_step = format!("`vault secrets enable -path={mount} -version=2 kv` makes one");
    let info = match session.call(&MountInfo { mount: mount.clone() }, None).await {
        Ok(answer) => answer.data::<Mount>(),
        Err(CallFailure::Login(error)) => return Err(error),
        Err(CallFailure::Vault { failure, .. }) => Err(failure),
    };

    let found = match info {
        Ok(found) => found,
        // The server says the same of a mount that is not there and of one where the token may do
        // nothing at all.
        Err(failure) if failure.is_denied() => {
            let message = format!(
                "mount: there is no `{mount}` in vault, or the token may do nothing there; \
                 {next_step}, and config/vault/gofer-policy.hcl is the policy for it"
            );
            return Err(BackendError::new(ErrorKind::Denied, message));
        }
        Err(failure) => {
            return Err(unanswered(
                failure,
                session,
                &format!("look at mount `{mount}`"),
                "any right there",
            ));
        }
    };

    let version = found
        .options
        .as_ref()
        .and_then(|options| options.get("version"))
        .map_or("1", String::as_str);

    if found.engine != "kv" || version != "2" {
        let engine =
            if found.engine == "kv" { format!("kv version {version}") } else { found.engine };
        let message = format!(
            "mount: `{mount}` is an engine `{engine}`, and gofer needs `kv` version 2; {next_step}"
        );
        return Err(BackendError::new(ErrorKind::Invalid, message));
    }

    Ok(())
}

async fn check_capabilities(session: &Arc<Session>, layout: &Layout) -> Result<(), BackendError> {
    let (mount, key) = (&layout.mount, layout.path(&some_key()?));
    let (data, metadata) = (layout.everything("data"), layout.everything("metadata"));
    let needed = [
        (format!("{mount}/data/{key}"), data, &["create", "update", "read"][..]),
        (format!("{mount}/metadata/{key}"), metadata.clone(), &["delete"][..]),
        (format!("{mount}/metadata/{}", layout.folder("")), metadata, &["list"][..]),
        ("auth/token/lookup-self".to_owned(), "auth/token/lookup-self".to_owned(), &["read"][..]),
        ("auth/token/renew-self".to_owned(), "auth/token/renew-self".to_owned(), &["update"][..]),
    ];
    let paths = needed.iter().map(|(path, ..)| path.clone()).collect();
    let answer = match session.call(&Capabilities { paths }, None).await {
        Ok(answer) => answer.data::<HashMap<String, Vec<String>>>(),
        Err(CallFailure::Login(error)) => return Err(error),
        Err(CallFailure::Vault { failure, .. }) => Err(failure),
    };

    let capabilities = answer.map_err(|failure| {
        unanswered(
            failure,
            session,
            "say what the token may do",
            "`update` on `sys/capabilities-self`",
        )
    })?;

    let mut missing = Vec::new();
    for (path, shown, wanted) in &needed {
        let has = capabilities.get(path).map(Vec::as_slice).unwrap_or_default();
        let may = |capability: &str| has.iter().any(|has| has == capability || has == "root");
        missing.extend(
            wanted
                .iter()
                .filter(|wanted| !may(wanted))
                .map(|wanted| format!("`{wanted}` on `{shown}`")),
        );
    }

    if missing.is_empty() {
        return Ok(());
    }

    let (address, missing) = (session.client.address(), missing.join(", "));
    let message = format!(
        "the token at vault `{address}` lacks {missing}; give its role the policy \
         config/vault/gofer-policy.hcl"
    );

    Err(BackendError::new(ErrorKind::Denied, message))
}

fn some_key() -> Result<SecretPath, BackendError> {
    SecretPath::new(SOME_KEY).map_err(|error| {
        BackendError::new(ErrorKind::Internal, "cannot check a key").with_source(error)
    })
}

fn unanswered(failure: Failure, session: &Session, action: &str, needs: &str) -> BackendError {
    failure.into_error(session.client.address(), action, needs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_told_apart() {
        for (version, enterprise, product) in [
            ("1.14.8", None, "Vault"),
            ("1.17.2", Some(false), "Vault"),
            ("2.0.1+ent", Some(true), "Vault Enterprise"),
            ("2.0.1", Some(false), "Vault"),
            ("2.4.1", None, "OpenBao"),
        ] {
            let health =
                Health { initialized: true, sealed: false, version: version.into(), enterprise };
            assert_eq!(health.product(), product, "{version}");
        }
    }
}
