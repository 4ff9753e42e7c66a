//! The key file: made private, refused when it is not, missed when it is gone; and what the rows
//! give away.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use gofer_core::object_store::{ListPage, PutOptions};
use gofer_core::secret_store::SecretStore;
use gofer_core::{BackendError, ErrorKind};
use gofer_db::LocalSecret;
use gofer_secrets_local::LocalSecretsConfig;

use crate::support::{Place, corrupt, get, path, put};

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn it_is_made_once_and_private() {
    let place = Place::new().await;
    put(&place.open().await, "a", "1").await;
    assert_eq!(mode(&place.key_file()), 0o600);
    assert_eq!(mode(place.key_file().parent().unwrap()), 0o700);
    let (before, others) =
        (place.key_lines(), fs::read_dir(place.key_file().parent().unwrap()).unwrap().count());
    assert_eq!((before.len(), others), (1, 1));
    assert_eq!(get(&place.open().await, "a").await, "1");
    assert_eq!(place.key_lines(), before);
}

#[tokio::test]
async fn one_that_others_can_read_is_refused() {
    let place = Place::new().await;
    let store = place.open().await;
    for bad in [0o640, 0o604, 0o620, 0o644, 0o666] {
        fs::set_permissions(place.key_file(), Permissions::from_mode(bad)).unwrap();
        let refused: [BackendError; 2] =
            [place.connect().await.unwrap_err(), store.check().await.unwrap_err()];

        for error in refused {
            assert_eq!(error.kind, ErrorKind::Denied);
            let file = place.key_file();
            let expected = format!(
                "key file `{0}` is open to other users (mode {bad:04o}); run `chmod 600 {0}`",
                file.display()
            );
            assert_eq!(error.message, expected);
        }
    }

    fs::set_permissions(place.key_file(), Permissions::from_mode(0o400)).unwrap();
    place.connect().await.unwrap();
}

#[tokio::test]
async fn a_wrong_one_is_noticed_at_the_start() {
    let (place, other) = (Place::new().await, Place::new().await);
    let store = place.open().await;
    put(&store, "a", "hunter2").await;
    other.open().await;
    let needed = place.key_ids().remove(0);
    fs::copy(other.key_file(), place.key_file()).unwrap();

    let text = corrupt(place.connect().await);
    assert!(
        text.starts_with(&format!("this database needs key `{needed}`, and key file `")),
        "{text}"
    );
    assert!(text.contains(&format!("has only `{}`; restore", other.key_ids()[0])), "{text}");
    assert!(corrupt(store.check().await).contains(&needed));
}

#[tokio::test]
async fn a_row_of_a_lost_key_is_named() {
    let place = Place::new().await;
    let store = place.open().await;
    put(&store, "a/b", "hunter2").await;
    let row = place.db.local_secret_get(&path("a/b")).await.unwrap();
    let foreign = LocalSecret { key_id: "0123456789abcdef".into(), ..row };
    place.db.local_secret_put(&path("a/b"), &foreign, false).await.unwrap();
    for text in [corrupt(store.get(&path("a/b")).await), corrupt(store.check().await)] {
        assert!(text.starts_with("secret `a/b` needs key `0123456789abcdef`"), "{text}");
    }
}

#[tokio::test]
async fn a_lost_one_is_not_made_anew() {
    let place = Place::new().await;
    let store = place.open().await;
    let needed = place.key_ids().remove(0);
    fs::remove_file(place.key_file()).unwrap();
    for text in [corrupt(place.connect().await), corrupt(store.check().await)] {
        assert!(
            text.contains("does not exist") && text.contains(&needed) && text.contains("backup"),
            "{text}"
        );
    }
    assert!(!place.key_file().exists());
}

#[tokio::test]
async fn a_damaged_one_is_refused_without_showing_it() {
    let place = Place::new().await;
    place.open().await;
    let lines = place.key_lines();
    let (id, secret) = lines[0].split_once(':').unwrap();
    let damaged = [
        String::new(),
        "# nothing".into(),
        format!("{id}:{}", &secret[4..]),
        format!("x{id}:{secret}"),
    ];

    for text in
        damaged.into_iter().map(String::into_bytes).chain([vec![0xff; 100], vec![b'#'; 70_000]])
    {
        fs::write(place.key_file(), text).unwrap();
        let error = corrupt(place.connect().await);
        assert!(error.contains("cannot be used") && !error.contains(&secret[8..]), "{error}");
    }
}

#[tokio::test]
async fn two_first_starts_agree_on_one_key() {
    let place = Place::new().await;
    let (one, other) = tokio::join!(place.connect(), place.connect());
    let (one, other) = (one.unwrap(), other.unwrap());
    put(&one, "a", "1").await;
    put(&other, "b", "2").await;
    assert_eq!((get(&other, "a").await, get(&one, "b").await), ("1".into(), "2".into()));
    assert_eq!(place.key_ids().len(), 1);
}

#[tokio::test]
async fn a_changed_or_moved_row_is_corrupt() {
    let place = Place::new().await;
    let store = place.open().await;
    put(&store, "a", "hunter2").await;
    put(&store, "b", "other").await;

    let row = place.db.local_secret_get(&path("a")).await.unwrap();

    place.db.local_secret_put(&path("b"), &row, false).await.unwrap();
    let text = corrupt(store.get(&path("b")).await);
    assert!(text.starts_with("row `b` does not decrypt") && !text.contains("hunter2"), "{text}");

    let mut changed = row.clone();
    changed.ciphertext[30] ^= 1;
    place.db.local_secret_put(&path("a"), &changed, false).await.unwrap();
    corrupt(store.get(&path("a")).await);
    place
        .db
        .local_secret_put(&path("a"), &LocalSecret { ciphertext: Vec::new(), ..row }, false)
        .await
        .unwrap();
    corrupt(store.get(&path("a")).await);

    put(&store, "a", "again").await;
    assert_eq!(get(&store, "a").await, "again");
}

#[tokio::test]
async fn nothing_in_clear_reaches_the_database_or_debug() {
    const MARK: &str = "hunter2-plaintext-marker";

    let place = Place::new().await;
    let store = place.open().await;
    put(&store, "a", &MARK.repeat(20)).await;
    let line = place.key_lines().remove(0);
    let (_, key) = line.split_once(':').unwrap();
    let shown = format!("{store:?}");

    assert!(!shown.contains(MARK) && !shown.contains(key), "{shown}");

    for looked in ["open", "closed"] {
        let mut files = 0;
        for entry in fs::read_dir(place.dir.path()).unwrap() {
            let file = entry.unwrap().path();
            let Ok(bytes) = fs::read(&file) else { continue };
            files += 1;
            for secret in [MARK, key] {
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "{} shows it while {looked}", file.display());
            }
        }

        assert!(files > 0);
        place.db.close().await;
    }
}

#[tokio::test]
async fn the_row_of_the_store_itself_is_out_of_sight() {
    let place = Place::new().await;
    let store = place.open().await;
    let list = |prefix: &'static str, after: Option<&str>| {
        let page = ListPage { after: after.map(str::to_owned), limit: 1 };
        let store = store.clone();
        async move { store.list(prefix, page).await.unwrap() }
    };

    for prefix in ["", "+"] {
        let found = list(prefix, None).await;
        assert_eq!((found.paths, found.more), (vec![], false));
    }

    put(&store, "++", "1").await;
    put(&store, "a", "2").await;
    assert_eq!(list("", None).await.paths, [path("++")]);
    assert_eq!(list("", Some("!")).await.paths, [path("++")]);
    assert_eq!(list("", Some("++")).await.paths, [path("a")]);
    assert!(!list("", Some("++")).await.more);

    assert_eq!(store.get(&path("+")).await.unwrap_err().kind, ErrorKind::NotFound);
    let taken = store.put(&path("+"), &"x".into(), PutOptions::default()).await.unwrap_err();
    assert_eq!(
        (taken.kind, taken.message.as_str()),
        (ErrorKind::Invalid, "secret key `+` is taken by the store itself; use another")
    );
    store.delete(&path("+")).await.unwrap();
    store.check().await.unwrap();
    place.connect().await.unwrap();
}

#[tokio::test]
async fn settings_are_checked() {
    let config: LocalSecretsConfig = serde_json::from_str(r#"{"key_file": "/x"}"#).unwrap();
    assert_eq!(config, LocalSecretsConfig::new("/x"));
    let error =
        serde_json::from_str::<LocalSecretsConfig>(r#"{"key_file": "/x", "key": 1}"#).unwrap_err();
    assert!(error.to_string().contains("`key`"), "{error}");

    let place = Place::new().await;
    let config = LocalSecretsConfig::new("");
    let error =
        gofer_secrets_local::LocalSecretStore::connect(config, place.db.clone()).await.unwrap_err();
    assert_eq!(error.message, "key_file: `` is no path; name the file for the keys");
}
