//! Values, one at a time.

use futures::future::join_all;
use gofer_core::error::ErrorKind;
use gofer_core::object_store::{ListPage, PutOptions};
use gofer_core::secret_store::MAX_SECRET_BYTES;
use secrecy::SecretString;

use super::{SecretHarness, assert_missing, path, put, value};

const IF_ABSENT: PutOptions = PutOptions { if_absent: true };

/// `check` proves that the store can be used, and says in one line what was found.
pub async fn check_says_what_was_found_in_one_line(harness: &SecretHarness) {
    let found = harness.backend().check().await.expect("check");
    assert!(!found.is_empty() && !found.contains('\n'), "not one line: {found:?}");
}

/// UTF-8 text of 0 to 64 KiB survives unchanged.
pub async fn any_text_survives_unchanged(harness: &SecretHarness) {
    let store = harness.backend();
    let longest = "x".repeat(MAX_SECRET_BYTES);
    let longest_wide = "ü".repeat(MAX_SECRET_BYTES / 2);
    let texts = [
        "",
        " ",
        "\n",
        "plain",
        "  spaces around\t\n",
        "-----BEGIN KEY-----\r\nline\n\nline\n-----END KEY-----\n",
        "naïve 🔑 密码 \u{feff}\u{202e}e\u{301}",
        "quotes \" ' ` \\ \\n ${HOME} {{x}} secret{{y}} %s",
        "nul \0 and other \u{1}\u{7f} control characters",
        "{\"json\": [true, null]}",
        longest.as_str(),
        longest_wide.as_str(),
    ];

    for (index, text) in texts.into_iter().enumerate() {
        let name = format!("texts/{index}");
        put(&*store, &name, text).await;
        assert!(value(&*store, &name).await == text, "text {index} changed");
    }
}

/// A longer value is `Invalid` and changes nothing.
pub async fn too_long_a_value_is_refused(harness: &SecretHarness) {
    let store = harness.backend();
    put(&*store, "k", "old").await;
    let long = SecretString::from("x".repeat(MAX_SECRET_BYTES + 1));
    for name in ["k", "fresh"] {
        let error = store
            .put(&path(name), &long, PutOptions::default())
            .await
            .expect_err("one byte too long");
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    }
    assert_eq!(value(&*store, "k").await, "old");
    assert_missing(&*store, "fresh").await;
}

/// `put` replaces what was there.
pub async fn put_replaces_what_was_there(harness: &SecretHarness) {
    let store = harness.backend();
    for next in ["first", "second, and longer", "3", ""] {
        put(&*store, "k", next).await;
        assert_eq!(value(&*store, "k").await, next);
    }
}

/// With `if_absent` a taken path is `AlreadyExists` and keeps its value; a deleted one is free.
pub async fn put_if_absent_refuses_a_taken_path_and_changes_nothing(harness: &SecretHarness) {
    let store = harness.backend();
    store.put(&path("k"), &SecretString::from("old"), IF_ABSENT).await.expect("the path is free");
    let error = store
        .put(&path("k"), &SecretString::from("new"), IF_ABSENT)
        .await
        .expect_err("the path is taken");
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    assert_eq!(value(&*store, "k").await, "old");
    store.delete(&path("k")).await.expect("delete");
    store
        .put(&path("k"), &SecretString::from("newer"), IF_ABSENT)
        .await
        .expect("the path is free again");
    assert_eq!(value(&*store, "k").await, "newer");
}

/// Of concurrent puts with `if_absent` one wins, and its value is what is kept.
pub async fn of_concurrent_puts_if_absent_one_wins(harness: &SecretHarness) {
    let store = harness.backend();
    for round in 0..8 {
        let name = format!("race/{round}");
        let racers = (0..8).map(|racer| {
            let (store, path) = (store.clone(), path(&name));
            tokio::spawn(async move {
                store.put(&path, &SecretString::from(format!("racer {racer}")), IF_ABSENT).await
            })
        });

        let mut winners = Vec::new();
        for (racer, joined) in join_all(racers).await.into_iter().enumerate() {
            match joined.expect("no panic") {
                Ok(()) => winners.push(format!("racer {racer}")),
                Err(error) => assert_eq!(error.kind, ErrorKind::AlreadyExists, "{error}"),
            }
        }

        assert_eq!(winners, [value(&*store, &name).await]);
    }
}

/// After concurrent puts of one path, it holds the value of one of them.
pub async fn concurrent_puts_leave_one_of_them_whole(harness: &SecretHarness) {
    let store = harness.backend();
    let written: Vec<String> = (0..8).map(|writer| writer.to_string().repeat(10_000)).collect();
    let writers = written.iter().cloned().map(|text| {
        let store = store.clone();
        tokio::spawn(async move { put(&*store, "k", &text).await })
    });
    for joined in join_all(writers).await {
        joined.expect("no panic");
    }
    assert!(written.contains(&value(&*store, "k").await), "a value that nobody wrote");
}

/// `get` of what does not exist is `NotFound`.
pub async fn missing_secret_is_not_found(harness: &SecretHarness) {
    let store = harness.backend();
    assert_missing(&*store, "nothing/here").await;
    put(&*store, "some/thing", "x").await;
    for near in ["some", "some/thing/more", "some/thin", "some/thing2"] {
        assert_missing(&*store, near).await;
    }
}

/// `delete` makes a secret `NotFound`, all versions of it; deleting what does not exist succeeds.
pub async fn delete_is_idempotent(harness: &SecretHarness) {
    let store = harness.backend();
    store.delete(&path("never/was")).await.expect("deleting nothing");
    put(&*store, "k", "version 1").await;
    put(&*store, "k", "version 2").await;
    put(&*store, "k2", "another").await;
    for _ in 0..2 {
        store.delete(&path("k")).await.expect("delete");
        assert_missing(&*store, "k").await;
    }
    assert_eq!(value(&*store, "k2").await, "another");
    put(&*store, "k", "version 3").await;
    assert_eq!(value(&*store, "k").await, "version 3");
}

/// No value appears in an error or a `Debug`, nor in a list.
pub async fn no_value_appears_in_debug_or_errors(harness: &SecretHarness) {
    const CANARY: &str = "canary-5e0c1f";

    let store = harness.backend();
    put(&*store, "k", CANARY).await;
    let taken = store
        .put(&path("k"), &SecretString::from(CANARY), IF_ABSENT)
        .await
        .expect_err("the path is taken");
    let long = SecretString::from(CANARY.repeat(MAX_SECRET_BYTES / CANARY.len() + 1));
    let too_long = store.put(&path("k"), &long, PutOptions::default()).await.expect_err("too long");
    let list = store.list("", ListPage { after: None, limit: 10 }).await.expect("list");
    let read = store.get(&path("k")).await.expect("get");
    let shown = format!(
        "{store:?} {taken:?} {} {too_long:?} {} {list:?} {read:?}",
        taken.chain(),
        too_long.chain()
    );
    assert!(!shown.contains(CANARY), "the value shows");
}

/// When `put` returns `Ok`, the value is durable; so is a deletion.
pub async fn a_secret_is_durable(harness: &mut SecretHarness) {
    let store = harness.backend();
    put(&*store, "kept", "old").await;
    put(&*store, "kept", "new").await;
    put(&*store, "deleted", "x").await;
    store.delete(&path("deleted")).await.expect("delete");
    drop(store);
    harness.restart().await;
    let store = harness.backend();
    assert_eq!(value(&*store, "kept").await, "new");
    assert_missing(&*store, "deleted").await;
}
