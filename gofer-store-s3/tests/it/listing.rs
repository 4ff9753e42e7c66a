//! Lists from stores of either order, against a sorted list of the same keys.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::join_all;
use gofer_core::object_store::{ListPage, ObjectStore};

use crate::fake::{Fake, Kind};
use crate::support::{PLAIN, config, fake, open, put};

#[tokio::test]
async fn every_page_is_in_key_order_whatever_the_order_of_the_store() {
    let names = names();
    for tree in [false, true] {
        let fake = Fake::start().await;
        if tree {
            fake.list_as_tree();
        }

        let store = open(config(&fake)).await;
        join_all(names.iter().map(|name| async {
            put(&store, name, &Bytes::from_static(b"x"), PLAIN).await.expect("put")
        }))
        .await;

        for prefix in ["", "d", "d/", "d-", "d/d", "d/d/", "d.d", "e"] {
            let expected: Vec<&String> =
                names.iter().filter(|name| name.starts_with(prefix)).collect();
            for limit in [1, 2, 3, 5, 100] {
                let seen = all(&store, prefix, limit).await;
                assert!(
                    seen.iter().eq(expected.iter().copied()),
                    "tree {tree}, prefix `{prefix}`, pages of {limit}: {seen:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn more_than_the_store_gives_at_once_is_asked_for_in_turns() {
    let (fake, store) = fake().await;
    let name = |index: usize| format!("many/{index:04}");
    let puts = (0..1_005).map(|index| {
        let store = store.clone();
        async move { put(&store, &name(index), &Bytes::new(), PLAIN).await.expect("put") }
    });

    join_all(puts).await;
    // One more than the page, to know whether there is more: S3 gives at most 1,000.
    let before = fake.count(Kind::List);
    let page = store.list("many/", ListPage { after: None, limit: 1_000 }).await.expect("list");
    assert_eq!((page.objects.len(), page.more), (1_000, true));

    let rest =
        store.list("many/", ListPage { after: Some(name(999)), limit: 1_000 }).await.expect("list");
    assert_eq!((rest.objects.len(), rest.more), (5, false));
    assert!(fake.count(Kind::List) > before, "the store was asked");
}

#[tokio::test]
async fn what_is_no_key_is_left_alone() {
    let (fake, store) = fake().await;
    let foreign =
        open(gofer_store_s3::S3Config { prefix: "two words/".to_owned(), ..config(&fake) }).await;
    put(&foreign, "theirs", &Bytes::new(), PLAIN).await.expect("put");
    put(&store, "ours", &Bytes::new(), PLAIN).await.expect("put");
    store.check().await.expect("check");
    assert_eq!(all(&store, "", 10).await, ["ours"]);
}

async fn all(store: &dyn ObjectStore, prefix: &str, limit: usize) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    loop {
        let page = ListPage { after: seen.last().cloned(), limit };
        let list = store.list(prefix, page).await.expect("list");
        assert!(list.objects.len() <= limit);
        seen.extend(list.objects.iter().map(|object| object.key.to_string()));
        if !list.more {
            return seen;
        }
        assert!(!list.objects.is_empty(), "an empty page with more to come");
    }
}

/// Names of up to three of these letters: `d`, and what comes before and after `/`.
fn names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for first in ["d", "e"] {
        for second in ["", "/", "-", ".", "0"] {
            for third in ["", "d", "d/d", "d-d", "d.d/d"] {
                names.insert(format!("{first}{second}{third}"));
            }
        }
    }
    names.retain(|name| gofer_core::ObjectKey::new(name).is_ok());
    names
}
