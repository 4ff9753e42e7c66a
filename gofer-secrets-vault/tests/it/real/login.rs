//! Tokens of a real server.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gofer_conformance::eventually;
use gofer_core::ErrorKind;
use gofer_core::secret_store::SecretStore;
use gofer_secrets_vault::{AuthConfig, AuthMethod, VaultConfig, VaultSecretStore};
use rcgen::{KeyPair, PKCS_ED25519, SigningKey};
use serde_json::{Value, json};

use super::Real;
use crate::support::{failed, get, open, put};

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let Some(real) = Real::find("renewal of a Vault token") else { return };
    let store = open(real.approle(&real.policy(), "6s", "1h").await).await;
    put(&store, "a", "1").await.unwrap();
    eventually("two renewals of the one token", || async {
        assert_eq!(get(&store, "a").await.unwrap(), "1");
        let tokens = real.tokens().await;
        let [token] = &tokens[..] else { return Err(format!("{tokens:?}")) };
        let (born, renewed) =
            (token["creation_time"].as_u64().unwrap(), token["last_renewal_time"].as_u64());

        // The first renewal comes about 4 s after the birth, and the second again.
        if renewed.is_some_and(|renewed| renewed >= born + 6) {
            Ok(())
        } else {
            Err(format!("{tokens:?}"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_token_that_may_not_live_longer_is_replaced() {
    let Some(real) = Real::find("a Vault token's greatest age") else { return };
    let store = open(real.approle(&real.policy(), "4s", "6s").await).await;
    put(&store, "a", "1").await.unwrap();
    let first = real.tokens().await.remove(0)["accessor"].clone();
    eventually("another token, and the first one gone", || async {
        assert_eq!(get(&store, "a").await.unwrap(), "1");
        let tokens = real.tokens().await;
        let is_gone = tokens.iter().all(|token| token["accessor"] != first);
        if is_gone && !tokens.is_empty() { Ok(()) } else { Err(format!("{tokens:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_revoked_token_is_replaced() {
    let Some(real) = Real::find("a revoked Vault token") else { return };
    let store = open(real.approle(&real.policy(), "1h", "2h").await).await;
    put(&store, "a", "1").await.unwrap();
    for _ in 0..3 {
        let accessor = real.tokens().await.remove(0)["accessor"].clone();
        real.administer("POST", "auth/token/revoke-accessor", json!({ "accessor": accessor }))
            .await;
        assert_eq!(get(&store, "a").await.unwrap(), "1");
        let tokens = real.tokens().await;
        assert!(tokens.len() == 1 && tokens[0]["accessor"] != accessor, "{tokens:?}");
    }
}

#[tokio::test]
async fn credentials_that_are_wrong_are_denied() {
    let Some(real) = Real::find("wrong Vault credentials") else { return };
    let mut config = real.approle(&real.policy(), "1h", "2h").await;
    config.auth.secret_id = Some("hunter2-wrong".into());
    let text = failed(VaultSecretStore::connect(config).await, ErrorKind::Denied);
    assert!(text.contains("refuses the login at") && !text.contains("hunter2"), "{text}");
    let mut config = real.config();
    config.auth.token = Some("hunter2-wrong".into());
    let text = failed(VaultSecretStore::connect(config).await, ErrorKind::Denied);
    assert!(text.contains("refuses the token") && !text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn an_existing_token_with_an_end_is_kept_alive() {
    let Some(real) = Real::find("renewal of a given Vault token") else { return };
    real.set_policy(&real.policy()).await;
    let wanted = json!({ "policies": [real.name], "no_default_policy": true, "period": "6s" });
    let made = real.administer("POST", "auth/token/create", wanted).await;
    let (token, accessor) =
        (made["auth"]["client_token"].as_str().unwrap(), &made["auth"]["accessor"]);
    let auth = AuthConfig { token: Some(token.into()), ..AuthConfig::default() };
    let store = open(VaultConfig { auth, ..real.config() }).await;

    put(&store, "a", "1").await.unwrap();
    eventually("two renewals", || async {
        assert_eq!(get(&store, "a").await.unwrap(), "1");
        let found = real
            .administer("POST", "auth/token/lookup-accessor", json!({ "accessor": accessor }))
            .await;
        let (born, renewed) =
            (found["data"]["creation_time"].as_u64(), found["data"]["last_renewal_time"].as_u64());
        if renewed >= born.map(|born| born + 6) { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
}

/// A JWT as a Nomad workload identity is one, signed with a key of the test's own.
fn signed(key: &KeyPair, role: &str) -> String {
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": "https://nomad.example.com", "aud": "vault.io", "sub": "global:default:gofer:g:main:vault",
        "nomad_job_id": role, "iat": now, "nbf": now - 60, "exp": now + 3_600,
    });
    let text = format!("{}.{}", encode(json!({ "alg": "EdDSA", "typ": "JWT" })), encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(text.as_bytes()).unwrap());
    format!("{text}.{signature}")
}

#[tokio::test]
async fn a_workload_identity_logs_in() {
    let Some(real) = Real::find("Vault login by JWT") else { return };
    let name = &real.name;
    let (key, stranger) = (
        KeyPair::generate_for(&PKCS_ED25519).unwrap(),
        KeyPair::generate_for(&PKCS_ED25519).unwrap(),
    );

    real.set_policy(&real.policy()).await;
    real.administer("POST", &format!("sys/auth/{name}"), json!({ "type": "jwt" })).await;
    let config = json!({
        "jwt_validation_pubkeys": [key.public_key_pem()], "jwt_supported_algs": ["EdDSA"], "default_role": "gofer",
    });

    real.administer("POST", &format!("auth/{name}/config"), config).await;
    let role = json!({
        "role_type": "jwt", "user_claim": "nomad_job_id", "bound_audiences": ["vault.io"],
        "bound_claims": { "nomad_job_id": "gofer" }, "token_policies": [name], "token_no_default_policy": true,
        "token_ttl": "1h",
    });

    real.administer("POST", &format!("auth/{name}/role/gofer"), role).await;

    let file = tempfile::NamedTempFile::new().unwrap();
    let login = |role: Option<&str>| VaultConfig {
        auth: AuthConfig {
            method: AuthMethod::Jwt,
            mount: Some(name.clone()),
            role: role.map(str::to_owned),
            jwt_file: Some(file.path().to_owned()),
            ..AuthConfig::default()
        },
        ..real.config()
    };

    std::fs::write(file.path(), signed(&key, "gofer")).unwrap();
    for role in [Some("gofer"), None] {
        let store = open(login(role)).await;
        put(&store, "a", "1").await.unwrap();
        assert!(store.check().await.unwrap().ends_with("logged in by jwt"));
    }

    for jwt in [signed(&stranger, "gofer"), signed(&key, "another-job")] {
        std::fs::write(file.path(), &jwt).unwrap();
        let text = failed(VaultSecretStore::connect(login(None)).await, ErrorKind::Denied);
        assert!(
            text.contains("check that `auth.role` exists there") && !text.contains(&jwt),
            "{text}"
        );
    }
}
