//! Tokens: got, renewed, lost and got again.

use std::time::Duration;

use futures::future::join_all;
use gofer_conformance::eventually;
use gofer_core::ErrorKind;
use gofer_core::secret_store::SecretStore;
use gofer_secrets_vault::{AuthConfig, AuthMethod, VaultConfig, VaultSecretStore};

use crate::fake::{Fake, Fault, ROLE_ID, Token};
use crate::support::{failed, get, open, path, put};

/// Long enough that a busy machine renews in time, short enough to wait for.
const SHORT: u64 = 4;

#[tokio::test]
async fn every_method_logs_in() {
    let fake = Fake::start().await;
    let dir = tempfile::tempdir().unwrap();
    let jwt_file = dir.path().join("jwt");
    std::fs::write(&jwt_file, "header.claims.signature\n").unwrap();
    fake.state().auth.jwts.push("header.claims.signature".into());

    let with = |auth: AuthConfig| VaultConfig {
        address: fake.address.clone(),
        auth,
        ..VaultConfig::default()
    };

    let jwt =
        AuthConfig { method: AuthMethod::Jwt, jwt_file: Some(jwt_file), ..AuthConfig::default() };
    let (role, mount) = (Some("gofer".to_owned()), Some("jwt-nomad".to_owned()));

    for (auth, line) in [
        (fake.root().auth, "GET /v1/auth/token/lookup-self"),
        (fake.approle().auth, "POST /v1/auth/approle/login"),
        (jwt.clone(), "POST /v1/auth/jwt/login"),
        (AuthConfig { role: role.clone(), mount, ..jwt.clone() }, "POST /v1/auth/jwt-nomad/login"),
        (
            AuthConfig { method: AuthMethod::Kubernetes, role, ..jwt },
            "POST /v1/auth/kubernetes/login",
        ),
    ] {
        fake.take_lines();
        let store = open(with(auth.clone())).await;
        assert_eq!(fake.take_lines(), [line]);
        put(&store, "a", "1").await.unwrap();
        assert_eq!(get(&store, "a").await.unwrap(), "1");

        let found = store.check().await.unwrap();
        let method = auth.method.as_str();
        let login =
            if method == "token" { "with a token".to_owned() } else { format!("by {method}") };
        let expected = format!(
            "OpenBao 2.4.1 at `{}`, secrets under `secret/gofer` (KV version 2), logged in {login}",
            fake.address
        );
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_login_that_is_refused_says_what_to_check() {
    let fake = Fake::start().await;
    let mut config = fake.approle();
    config.auth.secret_id = Some("hunter2-wrong".into());
    let error = VaultSecretStore::connect(config).await.unwrap_err();
    let shown = format!("{error:?}");
    assert!(!shown.contains("hunter2"), "{shown}");

    let text = failed(Err::<(), _>(error), ErrorKind::Denied);
    assert!(
        text.contains("refuses the login at `auth/approle`: invalid role or secret ID; check"),
        "{text}"
    );

    // Nobody hammers a login that is refused.
    assert_eq!(fake.state().auth.logins, 1);

    let mut config = fake.root();
    config.auth.token = Some("hunter2-wrong".into());
    let text = failed(VaultSecretStore::connect(config).await, ErrorKind::Denied);
    assert!(
        text.contains("refuses the token: permission denied; give it one that is alive"),
        "{text}"
    );

    let mut config = fake.approle();
    config.auth.mount = Some("nowhere".into());
    let text = failed(VaultSecretStore::connect(config).await, ErrorKind::Denied);
    assert!(text.contains("refuses the login at `auth/nowhere`: no handler for route"), "{text}");

    fake.fault("login", Fault::Echo);
    let text = failed(VaultSecretStore::connect(fake.approle()).await, ErrorKind::Denied);
    assert!(
        !text.contains("secret-id-1") && text.contains("a message that quotes the secret"),
        "{text}"
    );
}

#[tokio::test]
async fn a_login_waits_for_a_server_that_cannot_answer_now() {
    let fake = Fake::start().await;
    for fault in
        [Fault::Status(503, "Vault is sealed"), Fault::RateLimited(0), Fault::BrokenAfterwards]
    {
        fake.fault("login", fault);
    }

    let store = open(fake.approle()).await;
    put(&store, "a", "1").await.unwrap();
    fake.state().sealed = true;
    let sealed = VaultConfig { attempts: 2, ..fake.approle() };
    let text = failed(VaultSecretStore::connect(sealed).await, ErrorKind::Unavailable);
    assert!(
        text.contains("is sealed, so it cannot log in by `approle`; run `vault operator unseal`"),
        "{text}"
    );
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let fake = Fake::start().await;
    fake.state().auth.fresh = Token::living(SHORT);
    let store = open(fake.approle()).await;
    eventually("two renewals", || async {
        let renewals = fake.count("renew-self");
        if renewals >= 2 { Ok(()) } else { Err(format!("{renewals} renewals")) }
    })
    .await;
    put(&store, "a", "1").await.unwrap();
    assert_eq!(fake.state().auth.logins, 1);
}

#[tokio::test]
async fn a_token_that_gets_little_or_nothing_is_replaced() {
    // Half of a lease and less: it is near the end of what it may live at all.
    let fading = Fake::start().await;
    fading.state().auth.fresh = Token { next_leases: vec![1], ..Token::living(SHORT) };

    // Revoked, or older than it may get.
    let (refused, denied) = (Fake::start().await, Fake::start().await);
    refused.state().auth.fresh = Token::living(SHORT);
    refused.fault("renew-self", Fault::Status(400, "lease expired"));
    denied.state().auth.fresh = Token::living(SHORT);
    denied.fault("renew-self", Fault::Status(403, "permission denied"));

    let max_ttl = Fake::start().await;
    max_ttl.state().auth.fresh =
        Token { max: Some(Duration::from_secs(SHORT)), ..Token::living(SHORT) };
    join_all([&fading, &refused, &denied, &max_ttl].map(|fake| async move {
        let store = open(fake.approle()).await;
        // By itself, without any call that might be refused.
        eventually("a second login", || async {
            let logins = fake.state().auth.logins;
            if logins >= 2 { Ok(()) } else { Err(format!("{logins} logins")) }
        })
        .await;
        eventually("calls with another token", || async {
            put(&store, "a", "1").await.unwrap();
            let seen = fake.state().seen.clone();
            let put = seen.iter().rfind(|seen| seen.line.starts_with("POST /v1/secret")).unwrap();
            if put.token.as_deref() == Some("token-1") { Err(format!("{seen:?}")) } else { Ok(()) }
        })
        .await;
    }))
    .await;
}

#[tokio::test]
async fn a_renewal_that_cannot_be_answered_is_tried_again() {
    let fake = Fake::start().await;
    fake.state().auth.fresh = Token::living(SHORT);
    for _ in 0..4 {
        fake.fault("renew-self", Fault::Status(503, "Vault is sealed"));
    }

    let store = open(VaultConfig { attempts: 4, ..fake.approle() }).await;
    eventually("a renewal", || async {
        let renewals: usize = fake.state().auth.tokens.values().map(|token| token.renewals).sum();
        if renewals >= 1 || fake.state().auth.logins > 1 {
            Ok(())
        } else {
            Err(format!("{:?}", fake.state().seen))
        }
    })
    .await;
    put(&store, "a", "1").await.unwrap();
}

#[tokio::test]
async fn renewal_ends_with_the_last_clone_of_the_store() {
    let fake = Fake::start().await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();

    // The fake's, which waits for connections.
    let before = tasks();
    fake.state().auth.fresh = Token::living(SHORT);
    let store = open(fake.approle()).await;
    let clone = store.clone();
    drop(store);
    eventually("the clone's token is renewed", || async {
        let renewals = fake.count("renew-self");
        if renewals >= 1 { Ok(()) } else { Err(format!("{renewals} renewals")) }
    })
    .await;
    drop(clone);
    eventually("no connection is left, and nobody to make one", || async {
        let now = tasks();
        if now <= before { Ok(()) } else { Err(format!("{now} tasks, {before} before")) }
    })
    .await;
}

#[tokio::test]
async fn a_revoked_token_is_replaced_once_for_all_who_noticed() {
    let fake = Fake::start().await;
    let store = open(fake.approle()).await;
    put(&store, "a", "1").await.unwrap();
    fake.state().auth.tokens.clear();
    let all = join_all((0..32).map(|_| get(&store, "a"))).await;
    assert!(all.into_iter().all(|value| value.unwrap() == "1"));
    assert_eq!(fake.state().auth.logins, 2);
}

#[tokio::test]
async fn a_login_that_fails_fails_for_all_who_waited() {
    let fake = Fake::start().await;
    let store = open(fake.approle()).await;
    fake.state().auth.tokens.clear();
    fake.state().auth.secret_ids.clear();
    let all = join_all((0..32).map(|_| get(&store, "a"))).await;
    for result in all {
        let text = failed(result, ErrorKind::Denied);
        assert!(text.contains("invalid role or secret ID"), "{text}");
    }
    let logins = fake.state().auth.logins;
    assert!((2..32).contains(&logins), "{logins} logins");
    // And it heals by itself.
    fake.state().auth.secret_ids.push("secret-id-1".into());
    failed(get(&store, "a").await, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_policy_that_forbids_something_does_not_cause_logins() {
    let fake = Fake::start().await;
    let store = open(fake.approle()).await;
    put(&store, "a", "1").await.unwrap();
    fake.state().denied = vec!["DELETE /v1/secret/metadata/gofer/a".into()];
    for _ in 0..5 {
        let text = failed(store.delete(&path("a")).await, ErrorKind::Denied);
        let expected = "does not let gofer delete secret `a`: 1 error occurred: * permission \
                        denied; the token needs `delete` on `secret/metadata/gofer/*`; see \
                        config/vault/gofer-policy.hcl";
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(fake.state().auth.logins, 1);
    assert_eq!(get(&store, "a").await.unwrap(), "1");
}

#[tokio::test]
async fn files_are_read_again_at_every_login() {
    let fake = Fake::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret-id");
    fake.state().auth.secret_ids_are_used_up = true;

    let renew = |secret: &str| {
        std::fs::write(&file, format!("{secret}\n")).unwrap();
        fake.state().auth.secret_ids.push(secret.to_owned());
        fake.state().auth.tokens.clear();
    };

    renew("once-1");
    let auth = AuthConfig {
        method: AuthMethod::AppRole,
        role_id: Some(ROLE_ID.into()),
        secret_id_file: Some(file.clone()),
        ..AuthConfig::default()
    };

    let store =
        open(VaultConfig { address: fake.address.clone(), auth, ..VaultConfig::default() }).await;
    put(&store, "a", "1").await.unwrap();

    for secret in ["once-2", "once-3"] {
        renew(secret);
        assert_eq!(get(&store, "a").await.unwrap(), "1");
    }

    fake.state().auth.tokens.clear();
    failed(get(&store, "a").await, ErrorKind::Denied);
    std::fs::remove_file(&file).unwrap();
    let text = failed(get(&store, "a").await, ErrorKind::Unavailable);
    assert!(text.contains("auth.secret_id_file: `") && text.contains("cannot be read"), "{text}");
    renew("once-4");
    assert_eq!(get(&store, "a").await.unwrap(), "1");
}

#[tokio::test]
async fn a_token_file_may_be_replaced() {
    let fake = Fake::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let exchange = |token: &str| {
        std::fs::write(file.path(), token).unwrap();
        fake.state().auth.tokens.clear();
        fake.state().auth.tokens.insert(token.to_owned(), Token::living(3_600));
    };

    exchange("first");
    let auth = AuthConfig { token_file: Some(file.path().into()), ..AuthConfig::default() };
    let store =
        open(VaultConfig { address: fake.address.clone(), auth, ..VaultConfig::default() }).await;
    put(&store, "a", "1").await.unwrap();
    exchange("second");
    assert_eq!(get(&store, "a").await.unwrap(), "1");
    assert_eq!(fake.state().seen.last().unwrap().token.as_deref(), Some("second"));
    fake.state().auth.tokens.clear();

    let text = failed(get(&store, "a").await, ErrorKind::Denied);
    assert!(text.contains("refuses the token"), "{text}");
}
