//! Lists against a model: a sorted set of keys.

use std::collections::BTreeSet;

use gofer_core::ErrorKind;
use gofer_core::object_store::{ListPage, ObjectStore};
use gofer_store_local::LocalObjectStore;
use proptest::prelude::*;

use crate::support::{key, open, put};

async fn names(
    store: &LocalObjectStore,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> (Vec<String>, bool) {
    let page = ListPage { after: after.map(str::to_owned), limit };
    let list = store.list(prefix, page).await.unwrap();
    (list.objects.iter().map(|meta| meta.key.to_string()).collect(), list.more)
}

fn expected(
    keys: &BTreeSet<String>,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> (Vec<String>, bool) {
    let fits =
        |key: &&String| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after);
    let mut found: Vec<String> = keys.iter().filter(fits).take(limit + 1).cloned().collect();
    let more = found.len() > limit;
    found.truncate(limit);
    (found, more)
}

/// Few letters, so that prefixes and siblings meet; `-`, `.` sort before `/`, the rest after it.
fn keys() -> impl Strategy<Value = BTreeSet<String>> {
    prop::collection::btree_set("[a-b.0=-][a-b-]{0,2}(/[a-b.0-]{1,2}x){0,3}", 0..25).prop_map(
        |keys| keys.into_iter().filter(|key| gofer_core::ObjectKey::new(key).is_ok()).collect(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn pages_are_what_a_sorted_set_gives(
        keys in keys(),
        prefix in "[a-b.0-]{0,2}(/[a-b.]{0,2}){0,2}",
        after in prop::option::of("[a-b.0-]{0,2}(/[a-b.]{0,2}x?){0,2}"),
        limit in 1_usize..6,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path()).await;
            for key in &keys {
                put(&store, key, b"").await;
            }
            for (prefix, after) in [("", None), (prefix.as_str(), None), ("", after.as_deref()), (&prefix, after.as_deref())] {
                let got = names(&store, prefix, after, limit).await;
                assert_eq!(got, expected(&keys, prefix, after, limit), "prefix {prefix:?} after {after:?} limit {limit}");
            }
        });
    }
}

#[tokio::test]
async fn paging_meets_every_key_once_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut keys = BTreeSet::new();

    for n in 0..60 {
        for name in
            [format!("d{n}"), format!("d{}/f{n}", n % 7), format!("d-/{n}"), format!("d/e/{n}")]
        {
            put(&store, &name, b"").await;
            keys.insert(name);
        }
    }

    let mut seen = Vec::new();
    loop {
        let (mut page, more) = names(&store, "", seen.last().map(String::as_str), 7).await;
        assert!(page.len() == 7 || !more);
        seen.append(&mut page);
        if !more {
            break;
        }
    }

    assert_eq!(seen, keys.into_iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn no_prefix_leaves_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store")).await;
    std::fs::create_dir_all(dir.path().join("store/objects/x%")).unwrap();
    std::fs::write(dir.path().join("outside"), "").unwrap();
    for prefix in ["../", "x/../../", "/", "//", "x//", "\0/", ".", "é/", "a b/"] {
        assert_eq!(names(&store, prefix, None, 10).await, (Vec::new(), false), "{prefix:?}");
    }
}

#[tokio::test]
async fn deleted_objects_leave_the_list_and_their_directories() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    for name in ["a", "a/b", "a/b/c"] {
        put(&store, name, b"").await;
    }
    store.delete(&key("a/b")).await.unwrap();
    store.delete(&key("a/b")).await.unwrap();
    assert_eq!(names(&store, "", None, 10).await.0, ["a", "a/b/c"]);
    store.delete(&key("a/b/c")).await.unwrap();
    assert!(!dir.path().join("objects/a%").exists());
}

#[tokio::test]
async fn a_page_has_1_to_1000_objects() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    for limit in [0, 1001] {
        let error = store.list("", ListPage { after: None, limit }).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert_eq!(error.message, format!("limit: a page has 1 to 1,000 objects, not `{limit}`"));
    }
}
