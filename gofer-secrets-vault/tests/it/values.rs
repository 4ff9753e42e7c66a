//! What lies in Vault, and what others may have done to it.

use gofer_core::ErrorKind;
use gofer_core::secret_store::SecretStore;
use gofer_secrets_vault::VaultConfig;
use serde_json::json;

use crate::fake::{Fake, Fault};
use crate::support::{failed, get, listed, open, path, put, put_if_absent};

#[tokio::test]
async fn a_value_lies_in_one_field_where_an_operator_looks_for_it() {
    let fake = Fake::start().await;
    let store = open(fake.root()).await;
    put(&store, "team/ci/token", "hunter2").await.unwrap();
    assert_eq!(
        fake.state().kv.current("gofer/team/ci/token"),
        Some((1, json!({ "value": "hunter2" })))
    );
    // And the other way round.
    fake.state().kv.write("gofer/by/hand", json!({ "value": "typed" }));
    assert_eq!(get(&store, "by/hand").await.unwrap(), "typed");
}

#[tokio::test]
async fn two_prefixes_do_not_see_each_other() {
    let fake = Fake::start().await;
    let config = |prefix: &str| VaultConfig { prefix: prefix.into(), ..fake.root() };
    let (one, other, all) =
        (open(config("one")).await, open(config("other")).await, open(config("")).await);
    put(&one, "a", "1").await.unwrap();
    failed(get(&other, "a").await, ErrorKind::NotFound);
    assert_eq!(listed(&other, "").await.unwrap(), Vec::<String>::new());
    assert_eq!(get(&all, "one/a").await.unwrap(), "1");
    assert_eq!(listed(&all, "o").await.unwrap(), ["one/a"]);
}

#[tokio::test]
async fn what_is_deleted_or_destroyed_is_gone_and_free() {
    let fake = Fake::start().await;
    let store = open(fake.root()).await;
    for name in ["deleted", "destroyed"] {
        put(&store, name, "1").await.unwrap();
        put(&store, name, "2").await.unwrap();
        failed(put_if_absent(&store, name, "x").await, ErrorKind::AlreadyExists);
    }

    fake.state().kv.soft_delete("gofer/deleted");
    fake.state().kv.destroy("gofer/destroyed");
    for name in ["deleted", "destroyed"] {
        let text = failed(get(&store, name).await, ErrorKind::NotFound);
        assert_eq!(text, format!("secret `{name}` does not exist"));
        put_if_absent(&store, name, "3").await.unwrap();
        assert_eq!(
            fake.state().kv.current(&format!("gofer/{name}")),
            Some((3, json!({ "value": "3" })))
        );
        failed(put_if_absent(&store, name, "4").await, ErrorKind::AlreadyExists);
        store.delete(&path(name)).await.unwrap();
        put(&store, name, "5").await.unwrap();

        // A version of 1: nothing was left.
        assert_eq!(
            fake.state().kv.current(&format!("gofer/{name}")),
            Some((1, json!({ "value": "5" })))
        );
    }
}

#[tokio::test]
async fn a_mount_that_wants_versions_gets_them() {
    let fake = Fake::start().await;
    fake.state().kv.cas_required = true;
    let store = open(fake.root()).await;
    for value in ["1", "2", "3"] {
        put(&store, "a", value).await.unwrap();
        assert_eq!(get(&store, "a").await.unwrap(), value);
    }
    failed(put_if_absent(&store, "a", "4").await, ErrorKind::AlreadyExists);
    put_if_absent(&store, "b", "1").await.unwrap();
    fake.state().kv.soft_delete("gofer/a");
    put(&store, "a", "5").await.unwrap();
    assert_eq!(get(&store, "a").await.unwrap(), "5");
}

#[tokio::test]
async fn what_others_wrote_differently_is_corrupt_and_not_shown() {
    let fake = Fake::start().await;
    let store = open(fake.root()).await;
    for fields in [
        json!({ "password": "hunter2" }),
        json!({ "value": 4_711_815 }),
        json!({ "value": ["hunter2"] }),
    ] {
        fake.state().kv.write("gofer/a", fields);
        let error = store.get(&path("a")).await.unwrap_err();
        let shown = format!("{error:?} {}", error.chain());
        assert!(!shown.contains("hunter2") && !shown.contains("4711815"), "{shown}");

        let text = failed(Err::<(), _>(error), ErrorKind::Corrupt);
        assert!(
            text.contains("`secret/gofer/a` in vault")
                && text.contains("a field `value` with text"),
            "{text}"
        );
    }

    put(&store, "a", "mended").await.unwrap();
    assert_eq!(get(&store, "a").await.unwrap(), "mended");
}

#[tokio::test]
async fn names_that_gofer_would_not_write_are_not_listed() {
    let fake = Fake::start().await;
    let store = open(fake.root()).await;
    for name in ["gofer/has space", "gofer/a~b", "gofer/dir with space/x", "elsewhere/x"] {
        fake.state().kv.write(name, json!({ "value": "x" }));
    }
    for name in ["...", "a..b/..c", "plain"] {
        put(&store, name, name).await.unwrap();
    }
    assert_eq!(listed(&store, "").await.unwrap(), ["...", "a..b/..c", "plain"]);
    assert_eq!(listed(&store, "a..").await.unwrap(), ["a..b/..c"]);
    assert!(fake.state().kv.current("gofer/a.~b/.~c").is_some());
}

/// Each of these is done and answered wrongly; the repetition must not mistake its own work for
/// another's.
#[tokio::test]
async fn an_answer_that_is_lost_loses_nothing() {
    let fake = Fake::start().await;
    let store =
        open(VaultConfig { request_timeout: std::time::Duration::from_millis(700), ..fake.root() })
            .await;

    for (name, fault) in [
        ("a", Fault::ErrorAfterwards),
        ("b", Fault::BrokenAfterwards),
        ("c", Fault::SilentAfterwards),
    ] {
        fake.fault("POST /v1/secret/data", fault.clone());
        put_if_absent(&store, name, "mine").await.unwrap();
        assert_eq!(
            fake.state().kv.current(&format!("gofer/{name}")),
            Some((1, json!({ "value": "mine" })))
        );

        fake.fault("GET /v1/secret/data", fault.clone());
        assert_eq!(get(&store, name).await.unwrap(), "mine");
        fake.fault("POST /v1/secret/data", fault.clone());
        put(&store, name, "next").await.unwrap();
        assert_eq!(get(&store, name).await.unwrap(), "next");
        fake.fault("DELETE /v1/secret/metadata", fault);
        store.delete(&path(name)).await.unwrap();
        failed(get(&store, name).await, ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn a_lost_answer_does_not_make_another_writers_value_ours() {
    let fake = Fake::start().await;
    let store = open(fake.root()).await;
    // Nothing was done, and before the repetition somebody else was there.
    fake.fault("POST /v1/secret/data", Fault::Status(500, "nothing was done"));
    fake.state().kv.write("gofer/a", json!({ "value": "theirs" }));
    failed(put_if_absent(&store, "a", "mine").await, ErrorKind::AlreadyExists);
    // The same value, but written twice: not by us alone.
    fake.fault("POST /v1/secret/data", Fault::Status(500, "nothing was done"));
    fake.state().kv.write("gofer/b", json!({ "value": "x" }));
    fake.state().kv.write("gofer/b", json!({ "value": "mine" }));
    failed(put_if_absent(&store, "b", "mine").await, ErrorKind::AlreadyExists);
    // The same value, and no doubt about who wrote it.
    fake.state().kv.write("gofer/c", json!({ "value": "mine" }));
    failed(put_if_absent(&store, "c", "mine").await, ErrorKind::AlreadyExists);
}
