//! Opening a store, and what it says when that fails.

use std::os::unix::fs::PermissionsExt;

use gofer_core::object_store::ObjectStore;
use gofer_core::{BackendError, ErrorKind};
use gofer_store_local::{LocalObjectStore, LocalStoreConfig};

use crate::support::{open, put, read};

async fn refused(dir: &str) -> BackendError {
    LocalObjectStore::connect(LocalStoreConfig::new(dir)).await.unwrap_err()
}

#[tokio::test]
async fn objects_are_there_after_a_restart_and_private() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("made/by/gofer");
    put(&open(&root).await, "a/b.txt", b"kept").await;
    assert_eq!(read(&open(&root).await, "a/b.txt").await, b"kept");
    for (path, mode) in
        [("", 0o700), ("objects", 0o700), ("objects/a%", 0o700), ("objects/a%/b.txt", 0o600)]
    {
        let found = std::fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{path} has {found:o}");
    }
}

#[tokio::test]
async fn check_says_where_it_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let found = store.check().await.unwrap();
    assert_eq!(found, format!("directory `{}` is writable", dir.path().display()));
    std::fs::remove_dir_all(dir.path()).unwrap();
    let error = store.check().await.unwrap_err();
    assert!(error.message.contains("staging"), "{}", error.chain());
}

#[tokio::test]
async fn a_path_that_is_none_is_refused_with_the_field() {
    let error = refused("").await;
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert_eq!(error.message, "dir: `` is no path; name the directory for objects");
}

#[tokio::test]
async fn a_file_in_the_way_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = refused(file.to_str().unwrap()).await;
    assert!(error.message.contains(&format!("`{}", file.display())), "{}", error.chain());
}

#[test]
fn unknown_settings_are_refused() {
    let config: LocalStoreConfig = serde_json::from_str(r#"{"dir": "/x"}"#).unwrap();
    assert_eq!(config, LocalStoreConfig::new("/x"));
    let error =
        serde_json::from_str::<LocalStoreConfig>(r#"{"dir": "/x", "dirr": 1}"#).unwrap_err();
    assert!(error.to_string().contains("dirr"), "{error}");
    assert!(serde_json::from_str::<LocalStoreConfig>("{}").is_err());
}
