//! The least policy: it is enough, and nothing in it is too much.

use gofer_core::ErrorKind;
use gofer_core::secret_store::SecretStore;
use gofer_secrets_vault::VaultSecretStore;

use super::Real;
use crate::support::{failed, get, listed, open, path, put, put_if_absent};

/// What a policy is for, by path and capability.
const USES: [(&str, &str, &str); 8] = [
    ("/data/", "create", "put"),
    ("/data/", "update", "replace"),
    ("/data/", "read", "get"),
    ("/metadata/", "list", "list"),
    ("/metadata/", "delete", "delete"),
    ("lookup-self", "read", "check"),
    ("renew-self", "update", "check"),
    ("capabilities-self", "update", "check"),
];

/// What of these cannot be done.
async fn refused(store: &VaultSecretStore, round: usize) -> Vec<&'static str> {
    let fresh = format!("fresh/{round}");
    let done = [
        ("put", put(store, &fresh, "x").await),
        ("replace", put(store, "kept", "y").await),
        ("get", get(store, "kept").await.map(drop)),
        ("list", listed(store, "").await.map(drop)),
        ("delete", store.delete(&path("gone")).await),
        ("check", store.check().await.map(drop)),
    ];
    let mut refused = Vec::new();

    for (call, result) in done {
        if let Err(error) = result {
            assert_eq!(error.kind, ErrorKind::Denied, "{call}: {}", error.chain());
            refused.push(call);
        }
    }

    refused
}

/// `policy` without one capability on the path that has `part` in it.
fn without(policy: &str, part: &str, capability: &str) -> String {
    let mut found = 0;
    let lines = policy.lines().map(|line| {
        if !line.starts_with("path") || !line.contains(part) {
            return line.to_owned();
        }
        found += 1;
        // An empty list is no list for the parser of every version.
        let others = line.replace(&format!("\"{capability}\""), "\"sudo\"");
        assert_ne!(others, line, "`{capability}` is on this line");
        others
    });
    let lines: Vec<String> = lines.collect();
    assert_eq!(found, 1, "one line is about `{part}`");
    lines.join("\n")
}

#[tokio::test]
async fn it_is_enough_and_nothing_in_it_is_too_much() {
    let Some(real) = Real::find("the least policy of Vault") else { return };
    let whole = real.policy();
    let capabilities = whole
        .lines()
        .filter(|line| line.starts_with("path"))
        .map(|line| line.matches('"').count() / 2 - 1);

    assert_eq!(capabilities.sum::<usize>(), USES.len(), "every capability has its use in the list");

    let config = real.approle(&whole, "1h", "2h").await;
    let store = open(config).await;
    put_if_absent(&store, "kept", "x").await.unwrap();
    assert_eq!(refused(&store, 0).await, Vec::<&str>::new());

    let found = store.check().await.unwrap();
    assert!(
        found.contains("secrets under `secret/") && found.ends_with("logged in by approle"),
        "{found}"
    );

    for (round, (part, capability, use_)) in USES.into_iter().enumerate() {
        real.set_policy(&without(&whole, part, capability)).await;
        let mut expected = vec![use_, "check"];
        expected.dedup();
        assert_eq!(
            refused(&store, round + 1).await,
            expected,
            "without `{capability}` on `{part}`"
        );

        if use_ != "check" {
            let text = failed(store.check().await, ErrorKind::Denied);
            assert!(
                text.contains(&format!("lacks `{capability}` on `secret{part}{}/*`", real.name)),
                "{text}"
            );
        }
    }

    real.set_policy(&whole).await;
    assert_eq!(refused(&store, USES.len() + 1).await, Vec::<&str>::new());
}

#[tokio::test]
async fn it_lets_nobody_else_see_or_be_seen() {
    let (Some(real), Some(other)) =
        (Real::find("a prefix of Vault"), Real::find("another prefix of Vault"))
    else {
        return;
    };

    let mut config = real.approle(&real.policy(), "1h", "2h").await;
    let owner = open(other.config()).await;
    put(&owner, "a", "hunter2").await.unwrap();
    config.prefix.clone_from(&other.name);

    let store = open(config).await;
    failed(get(&store, "a").await, ErrorKind::Denied);
    failed(listed(&store, "").await, ErrorKind::Denied);
    failed(put(&store, "a", "x").await, ErrorKind::Denied);
    failed(store.delete(&path("a")).await, ErrorKind::Denied);
    assert_eq!(get(&owner, "a").await.unwrap(), "hunter2");
}
