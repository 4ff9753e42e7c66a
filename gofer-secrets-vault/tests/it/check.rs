//! What `check` finds, and what it tells an operator to do.

use gofer_core::ErrorKind;
use gofer_core::secret_store::SecretStore;
use gofer_secrets_vault::VaultConfig;

use crate::fake::{Fake, Fault};
use crate::support::{failed, open};

#[tokio::test]
async fn it_changes_nothing() {
    let fake = Fake::start().await;
    let store = open(fake.root()).await;
    fake.take_lines();
    store.check().await.unwrap();
    let expected = [
        "GET /v1/sys/health",
        "GET /v1/sys/internal/ui/mounts/secret",
        "POST /v1/sys/capabilities-self",
    ];
    assert_eq!(fake.take_lines(), expected);
}

#[tokio::test]
async fn a_server_that_is_not_ready_says_so() {
    let fake = Fake::start().await;
    let store = open(fake.root()).await;
    fake.state().sealed = true;
    let text = failed(store.check().await, ErrorKind::Unavailable);
    assert!(text.ends_with("is sealed; run `vault operator unseal`"), "{text}");
    fake.state().initialized = false;
    let text = failed(store.check().await, ErrorKind::Unavailable);
    assert!(text.ends_with("is not initialized; run `vault operator init`"), "{text}");
}

#[tokio::test]
async fn the_engine_must_be_the_right_one() {
    let fake = Fake::start().await;
    let store = open(fake.root()).await;
    for (engine, found) in [(("kv", "1"), "`kv version 1`"), (("transit", "2"), "`transit`")] {
        fake.state().engine = engine;
        let text = failed(store.check().await, ErrorKind::Invalid);
        let expected = format!(
            "mount: `secret` is an engine {found}, and gofer needs `kv` version 2; `vault secrets"
        );
        assert!(text.starts_with(&expected), "{text}");
    }

    let store = open(VaultConfig { mount: "other".into(), ..fake.root() }).await;
    let text = failed(store.check().await, ErrorKind::Denied);
    assert!(
        text.contains("there is no `other`") && text.contains("-path=other -version=2 kv`"),
        "{text}"
    );
}

#[tokio::test]
async fn what_the_token_lacks_is_listed() {
    let fake = Fake::start().await;
    let store = open(fake.root()).await;
    for (denied, lacks) in [
        ("GET /v1/secret/data", "`read` on `secret/data/gofer/*`"),
        (
            "POST /v1/secret/data",
            "`create` on `secret/data/gofer/*`, `update` on `secret/data/gofer/*`",
        ),
        ("DELETE /v1/secret/metadata", "`delete` on `secret/metadata/gofer/*`"),
        ("LIST /v1/secret/metadata", "`list` on `secret/metadata/gofer/*`"),
        ("POST /v1/auth/token/renew-self", "`update` on `auth/token/renew-self`"),
        ("GET /v1/auth/token/lookup-self", "`read` on `auth/token/lookup-self`"),
    ] {
        fake.state().denied = vec![denied.into()];
        let text = failed(store.check().await, ErrorKind::Denied);
        assert!(text.contains(&format!("lacks {lacks}; give its role")), "{text}");
    }

    fake.state().denied = vec!["capabilities-self".into()];
    let text = failed(store.check().await, ErrorKind::Denied);
    assert!(text.contains("the token needs `update` on `sys/capabilities-self`"), "{text}");
    fake.state().denied.clear();
    fake.fault("sys/health", Fault::Body("hello"));
    failed(store.check().await, ErrorKind::Internal);
    store.check().await.unwrap();
}
