//! What others did to a secret, on a real server.

use gofer_core::ErrorKind;
use gofer_core::secret_store::SecretStore;
use gofer_secrets_vault::VaultConfig;
use serde_json::{Value, json};

use super::Real;
use crate::support::{failed, get, listed, open, path, put, put_if_absent};

#[tokio::test]
async fn what_is_deleted_or_destroyed_is_gone_and_free() {
    let Some(real) = Real::find("deleted versions in Vault") else { return };
    let store = open(real.config()).await;
    let at = |tree: &str, name: &str| format!("secret/{tree}/{}/{name}", real.name);

    for name in ["deleted", "destroyed"] {
        put(&store, name, "1").await.unwrap();
        put(&store, name, "2").await.unwrap();
    }

    real.administer("DELETE", &at("data", "deleted"), Value::Null).await;
    real.administer("POST", &at("destroy", "destroyed"), json!({ "versions": [1, 2] })).await;
    for name in ["deleted", "destroyed"] {
        failed(get(&store, name).await, ErrorKind::NotFound);
        put_if_absent(&store, name, "3").await.unwrap();
        failed(put_if_absent(&store, name, "4").await, ErrorKind::AlreadyExists);
        assert_eq!(get(&store, name).await.unwrap(), "3");

        let found = real.administer("GET", &at("data", name), Value::Null).await;
        assert_eq!(found["data"]["metadata"]["version"], 3);
        assert_eq!(found["data"]["data"], json!({ "value": "3" }));

        store.delete(&path(name)).await.unwrap();
        let (status, _) = real.ask("GET", &at("metadata", name), Value::Null).await;
        assert_eq!(status, 404, "all versions of `{name}` are gone");
    }

    // Metadata alone, without any version.
    real.administer("POST", &at("metadata", "empty"), json!({ "max_versions": 3 })).await;
    failed(get(&store, "empty").await, ErrorKind::NotFound);
    put_if_absent(&store, "empty", "1").await.unwrap();
    assert_eq!(get(&store, "empty").await.unwrap(), "1");
}

#[tokio::test]
async fn a_mount_that_wants_versions_gets_them() {
    let Some(real) = Real::find("a Vault mount with cas_required") else { return };
    let mount = format!("kv/{}", real.name);
    let engine = json!({ "type": "kv", "options": { "version": "2" } });
    real.administer("POST", &format!("sys/mounts/{mount}"), engine).await;

    let config = VaultConfig { mount: mount.clone(), prefix: String::new(), ..real.config() };
    let store = open(config).await;

    // Right after it was made, the engine asks for patience; and its own configuration call does,
    // too.
    put(&store, "a", "0").await.unwrap();
    real.administer("POST", &format!("{mount}/config"), json!({ "cas_required": true })).await;
    for value in ["1", "2"] {
        put(&store, "a", value).await.unwrap();
        put(&store, "b/c", value).await.unwrap();
        assert_eq!(get(&store, "a").await.unwrap(), value);
    }

    failed(put_if_absent(&store, "a", "3").await, ErrorKind::AlreadyExists);
    assert_eq!(listed(&store, "").await.unwrap(), ["a", "b/c"]);
    assert!(
        store.check().await.unwrap().contains(&format!("secrets under `{mount}` (KV version 2)"))
    );
}

#[tokio::test]
async fn a_rate_limit_is_waited_out() {
    let Some(real) = Real::find("a rate limit of Vault") else { return };
    let (mount, quota) =
        (format!("kv-{}", real.name), format!("sys/quotas/rate-limit/{}", real.name));
    real.administer(
        "POST",
        &format!("sys/mounts/{mount}"),
        json!({ "type": "kv", "options": { "version": "2" } }),
    )
    .await;

    let config = VaultConfig { mount: mount.clone(), ..real.config() };
    let (patient, hasty) = (
        open(VaultConfig { attempts: 20, ..config.clone() }).await,
        open(VaultConfig { attempts: 1, ..config }).await,
    );
    put(&patient, "a", "1").await.unwrap();

    // With the header that says how long to wait, and before that without.
    for with_header in [false, true] {
        let header = json!({ "enable_rate_limit_response_headers": with_header });
        real.administer("POST", "sys/quotas/config", header).await;
        real.administer(
            "POST",
            &quota,
            json!({ "path": format!("{mount}/"), "rate": 2, "interval": "2s" }),
        )
        .await;

        for _ in 0..5 {
            assert_eq!(get(&patient, "a").await.unwrap(), "1");
        }

        let results = futures::future::join_all((0..5).map(|_| get(&hasty, "a"))).await;
        let refused: Vec<_> = results.into_iter().filter(Result::is_err).collect();
        assert!(refused.len() >= 3, "{} of 5 refused", refused.len());

        for result in refused {
            let text = failed(result, ErrorKind::RateLimited);
            assert!(text.contains("has too much to do to read secret `a`: request path"), "{text}");
        }

        real.administer("DELETE", &quota, Value::Null).await;
    }
}

#[tokio::test]
async fn the_wrong_engine_is_found_out() {
    let Some(real) = Real::find("a Vault mount of the wrong kind") else { return };
    for (version, expected) in [("1", "is an engine `kv version 1`"), ("none", "there is no")] {
        let mount = format!("kv{version}-{}", real.name);
        if version == "1" {
            let engine = json!({ "type": "kv", "options": { "version": "1" } });
            real.administer("POST", &format!("sys/mounts/{mount}"), engine).await;
        }

        let store = open(VaultConfig { mount: mount.clone(), ..real.config() }).await;
        let error = store.check().await.unwrap_err();
        assert!(error.message.contains(expected) && error.message.contains(&mount), "{error}");
        assert!(!error.is_retryable());

        // A mount that is not there is no secret that is not there.
        if version == "none" {
            failed(get(&store, "a").await, ErrorKind::Invalid);
        }
    }
}
