//! A server that cannot answer now, or answers strangely.

use std::time::Duration;

use gofer_conformance::within;
use gofer_core::ErrorKind;
use gofer_core::secret_store::SecretStore;
use gofer_secrets_vault::{VaultConfig, VaultSecretStore};

use crate::fake::{Fake, Fault};
use crate::support::{failed, get, listed, open, path, put};

#[tokio::test]
async fn what_passes_is_waited_for() {
    let fake = Fake::start().await;
    let store = open(fake.root()).await;
    put(&store, "a", "1").await.unwrap();

    for fault in [
        Fault::Status(503, "Vault is sealed"),
        Fault::Status(500, "local node not active but active cluster node not found"),
        Fault::Status(502, ""),
        Fault::Status(504, ""),
        Fault::Status(412, "required index state not present"),
        Fault::Status(472, ""),
        Fault::Status(473, ""),
        Fault::RateLimited(0),
        Fault::Status(
            400,
            "Upgrading from non-versioned to versioned data. This backend will be unavailable",
        ),
        Fault::BrokenAfterwards,
    ] {
        fake.take_lines();
        fake.fault("/data/gofer/a", fault.clone());
        fake.fault("/data/gofer/a", fault.clone());
        assert_eq!(get(&store, "a").await.unwrap(), "1", "{fault:?}");
        assert_eq!(fake.take_lines(), ["GET /v1/secret/data/gofer/a"; 3], "{fault:?}");
    }
}

#[tokio::test]
async fn what_does_not_pass_is_given_back_after_some_attempts() {
    let fake = Fake::start().await;
    let store = open(VaultConfig { attempts: 2, ..fake.root() }).await;
    put(&store, "a", "1").await.unwrap();

    for (fault, kind, expected) in [
        (
            Fault::Status(503, "Vault is sealed"),
            ErrorKind::Unavailable,
            "is sealed, so it cannot read secret `a`; run",
        ),
        (
            Fault::Status(500, "storage\n\tis away"),
            ErrorKind::Unavailable,
            "(status 500): storage is away",
        ),
        (
            Fault::RateLimited(0),
            ErrorKind::RateLimited,
            "has too much to do to read secret `a`: request path is rate",
        ),
        (
            Fault::BrokenAfterwards,
            ErrorKind::Unavailable,
            "broke off the connection when asked to read secret `a`",
        ),
    ] {
        fake.take_lines();
        for _ in 0..3 {
            fake.fault("/data/gofer/a", fault.clone());
        }

        let error = store.get(&path("a")).await.unwrap_err();
        assert!(error.is_retryable() && error.message.contains(&fake.address), "{error}");
        let text = failed(Err::<(), _>(error), kind);
        assert!(text.contains(expected), "{text}");
        assert_eq!(fake.take_lines().len(), 2, "{fault:?}");

        // The third fault is still there.
        assert_eq!(get(&store, "a").await.unwrap(), "1");
    }
}

#[tokio::test]
async fn a_server_that_wants_to_be_left_alone_for_long_gets_its_wish() {
    let fake = Fake::start().await;
    let store = open(fake.root()).await;
    fake.take_lines();
    fake.fault("GET", Fault::RateLimited(3_600));
    failed(get(&store, "a").await, ErrorKind::RateLimited);
    assert_eq!(fake.take_lines().len(), 1);
}

#[tokio::test]
async fn what_is_final_is_not_repeated() {
    let fake = Fake::start().await;
    let store = open(fake.root()).await;
    for (fault, kind) in [
        (Fault::Status(400, "no"), ErrorKind::Invalid),
        (Fault::Status(405, "unsupported operation"), ErrorKind::Invalid),
        (Fault::Status(413, "http: request body too large"), ErrorKind::Invalid),
        (Fault::Status(404, "no handler for route \"secret/data/gofer/a\""), ErrorKind::Invalid),
        (Fault::Body("<html>hunter2</html>"), ErrorKind::Corrupt),
    ] {
        fake.take_lines();
        fake.fault("GET", fault.clone());
        let text = failed(get(&store, "a").await, kind);
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(fake.take_lines().len(), 1, "{fault:?}");
    }

    fake.fault("LIST", Fault::Body("{\"data\": 3}"));
    failed(listed(&store, "").await, ErrorKind::Internal);
    fake.fault("DELETE", Fault::Status(404, "no handler for route"));
    failed(store.delete(&path("a")).await, ErrorKind::Invalid);
}

#[tokio::test]
async fn no_answer_in_time_is_a_timeout() {
    let fake = Fake::start().await;
    let short =
        VaultConfig { request_timeout: Duration::from_millis(300), attempts: 1, ..fake.root() };
    let store = open(short).await;
    fake.fault("GET", Fault::SilentAfterwards);
    let text =
        failed(within("a request ends by itself", get(&store, "a")).await, ErrorKind::Timeout);
    assert!(text.contains("did not answer in time when asked to read secret `a`"), "{text}");
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let fake = Fake::start().await;
    let config = VaultConfig { attempts: 2, ..fake.root() };
    let store = open(config.clone()).await;
    let address = fake.address.clone();
    drop(fake);

    let nowhere = VaultConfig { address: "http://127.0.0.1:1".into(), ..config };
    let error = VaultSecretStore::connect(nowhere).await.unwrap_err();
    assert!(error.is_retryable());
    let text = failed(Err::<(), _>(error), ErrorKind::Unavailable);
    assert!(
        text.contains("cannot reach vault at `http://127.0.0.1:1` to log in by `token`"),
        "{text}"
    );
    assert!(text.contains("Connection refused") && !text.contains("root-token"), "{text}");

    let error = get(&store, "a").await.unwrap_err();
    assert!(error.is_retryable() && error.message.contains(&address), "{}", error.chain());
}

#[tokio::test]
async fn a_standby_sends_the_caller_on_with_its_token() {
    let (active, standby) = (Fake::start().await, Fake::start().await);
    active.root();
    let store = open(standby.root()).await;

    for (part, act) in [("POST", "put"), ("GET", "get"), ("LIST", "list"), ("DELETE", "delete")] {
        standby.fault(part, Fault::Redirect(active.address.clone()));
        match act {
            "put" => put(&store, "a", "1").await.unwrap(),
            "get" => assert_eq!(get(&store, "a").await.unwrap(), "1"),
            "list" => assert_eq!(listed(&store, "").await.unwrap(), ["a"]),
            _ => store.delete(&path("a")).await.unwrap(),
        }
    }

    let seen = active.state().seen.clone();
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().all(|seen| seen.token.as_deref() == Some("root-token")), "{seen:?}");
    assert!(active.state().kv.current("gofer/a").is_none());
}

#[tokio::test]
async fn a_circle_of_standbys_is_left() {
    let fake = Fake::start().await;
    let store = open(fake.root()).await;
    fake.take_lines();
    for _ in 0..20 {
        fake.fault("GET", Fault::Redirect(fake.address.clone()));
    }
    let text = failed(get(&store, "a").await, ErrorKind::Unavailable);
    assert!(text.contains("points elsewhere when asked to read secret `a` (status 307)"), "{text}");
    assert!(fake.take_lines().len() <= 6);
}

#[tokio::test]
async fn a_path_in_the_address_and_a_namespace_go_along() {
    let fake = Fake::start().await;
    let config = VaultConfig { namespace: Some("team/ci".into()), ..fake.root() };
    let store = open(config.clone()).await;
    put(&store, "a", "1").await.unwrap();
    store.check().await.unwrap();
    for seen in &fake.state().seen {
        // This path exists outside all namespaces only.
        let expected = if seen.line.contains("/sys/health") { None } else { Some("team/ci") };
        assert_eq!(seen.namespace.as_deref(), expected, "{}", seen.line);
    }
    fake.take_lines();
    let address = format!("{}/proxy/vault/", fake.address);
    VaultSecretStore::connect(VaultConfig { address, ..config }).await.unwrap_err();
    assert_eq!(fake.take_lines(), ["GET /proxy/vault/v1/auth/token/lookup-self"]);
}

#[tokio::test]
async fn a_server_that_quotes_the_request_is_not_quoted() {
    let fake = Fake::start().await;
    let store = open(fake.root()).await;
    fake.fault("POST", Fault::Echo);
    let error = put(&store, "a", "hunter2 \"quoted\"\n").await.unwrap_err();
    let shown = format!("{error:?} {}", error.chain());
    assert!(
        !shown.contains("hunter2") && shown.contains("a message that quotes the secret"),
        "{shown}"
    );
}

/// A caller may give up at any moment: what it asked for is done or not done, and everything goes
/// on working.
#[tokio::test]
async fn a_caller_may_give_up() {
    let fake = Fake::start().await;
    let store = open(fake.approle()).await;
    for round in 0..20 {
        let name = format!("r/{round}");
        fake.state().auth.tokens.clear();
        let putting = put(&store, &name, "value");
        let gave_up =
            tokio::time::timeout(Duration::from_micros(round * 300), putting).await.is_err();

        match get(&store, &name).await {
            Ok(value) => assert_eq!(value, "value"),
            Err(error) => {
                assert!(gave_up && error.kind == ErrorKind::NotFound, "{}", error.chain())
            }
        }

        put(&store, &name, "again").await.unwrap();
        assert_eq!(get(&store, &name).await.unwrap(), "again");
    }
}
