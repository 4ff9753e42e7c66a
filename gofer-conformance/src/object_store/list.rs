//! Keys and lists of them.

use futures::future::join_all;
use gofer_core::id::{MAX_OBJECT_KEY_BYTES, MAX_SEGMENT_BYTES};
use gofer_core::object_store::{ListPage, ObjectList, ObjectStore};

use super::{StoreHarness, content, key, put};

/// Names that a walk through directories would sort wrongly: `-` and `.` come before `/`.
const TRICKY: [&str; 9] = ["a", "a-b", "a.b", "a/b", "a/b-c", "a/b/c", "a0", "ab", "b"];

/// Whatever [`ObjectKey`](gofer_core::ObjectKey) allows can be put, got and listed.
pub async fn every_legal_key_works(harness: &StoreHarness) {
    let store = harness.backend();
    let longest_segment = "s".repeat(MAX_SEGMENT_BYTES);
    let longest =
        format!("{longest_segment}/{longest_segment}/{}", "t".repeat(MAX_OBJECT_KEY_BYTES - 402));
    let mut names =
        vec![".hidden", "...", "..a", "-", "--help", "tmp", ".tmp/x", "._-=+@:,", "UPPER", "upper"];

    names.extend([
        "a=b:c@d,e+f",
        "con",
        "x.part",
        "lock",
        longest_segment.as_str(),
        longest.as_str(),
    ]);

    for name in &names {
        put(&*store, name, name).await;
    }

    for name in &names {
        assert_eq!(content(&*store, name).await, *name);
    }

    names.sort_unstable();
    assert_eq!(listed(&list(&*store, "", None, 1_000).await), names);
}

/// One key may be the beginning of another, also at a `/`.
pub async fn a_key_may_extend_another(harness: &StoreHarness) {
    let store = harness.backend();
    for name in ["a/b/c", "a/b", "a", "x", "x/y", "x/y/z"] {
        put(&*store, name, name).await;
    }
    store.delete(&key("a/b")).await.expect("delete");
    store.delete(&key("x")).await.expect("delete");
    for name in ["a", "a/b/c", "x/y", "x/y/z"] {
        assert_eq!(content(&*store, name).await, name);
    }
    assert_eq!(listed(&list(&*store, "", None, 1_000).await), ["a", "a/b/c", "x/y", "x/y/z"]);
}

/// `list` is in the order of the keys' bytes, with each object's size.
pub async fn list_is_in_key_order(harness: &StoreHarness) {
    let store = harness.backend();
    for name in TRICKY.iter().rev() {
        put(&*store, name, name).await;
    }
    let all = list(&*store, "", None, 1_000).await;
    assert_eq!(listed(&all), TRICKY);
    assert!(!all.more, "there is no more");
    for object in &all.objects {
        assert_eq!(object.size_bytes, object.key.as_str().len() as u64, "size of `{}`", object.key);
    }
}

/// A prefix is any text: part of a segment, several segments, a whole key, with a `/` at its end or
/// not.
pub async fn list_prefix_is_any_text(harness: &StoreHarness) {
    let store = harness.backend();
    for name in TRICKY {
        put(&*store, name, name).await;
    }

    for prefix in
        ["", "a", "a/", "a/b", "a/b/", "a/b/c", "a/b/c/", "a-", "a.", "ab", "c", "/", "..", "A"]
    {
        let expected: Vec<&str> =
            TRICKY.into_iter().filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(
            listed(&list(&*store, prefix, None, 1_000).await),
            expected,
            "prefix `{prefix}`"
        );
    }
}

/// Pages follow each other without gap or repeat, whatever their size, and the last one says so.
pub async fn list_pages_join_without_gap_or_repeat(harness: &StoreHarness) {
    let store = harness.backend();
    let mut names: Vec<String> = (0..25).map(|index| format!("p/{}/{index}", index % 4)).collect();
    join_all(names.iter().map(|name| put(&*store, name, name))).await;
    put(&*store, "q", "not under the prefix").await;
    names.sort_unstable();

    for limit in [1, 7, 24, 25, 26] {
        let mut seen = Vec::new();
        loop {
            let after = seen.last().cloned();
            let page = list(&*store, "p/", after, limit).await;
            assert!(
                page.objects.len() <= limit,
                "{} objects in a page of {limit}",
                page.objects.len()
            );
            assert!(
                !page.objects.is_empty(),
                "an empty page after {} of {} objects",
                seen.len(),
                names.len()
            );
            seen.extend(listed(&page));
            if !page.more {
                break;
            }

            assert!(seen.len() < names.len(), "`more` after the last object, pages of {limit}");
        }

        assert_eq!(seen, names, "pages of {limit}");
    }
}

/// `after` need not exist, nor lie under the prefix.
pub async fn list_after_a_key_that_does_not_exist(harness: &StoreHarness) {
    let store = harness.backend();
    for name in ["m/a", "m/c", "m/e"] {
        put(&*store, name, name).await;
    }

    for (after, expected) in [
        ("m/b", &["m/c", "m/e"][..]),
        ("m/c", &["m/e"]),
        ("a", &["m/a", "m/c", "m/e"]),
        ("m/f", &[]),
        ("z", &[]),
    ] {
        let page = list(&*store, "m/", Some(after.to_owned()), 10).await;
        assert_eq!(listed(&page), expected, "after `{after}`");
        assert!(!page.more, "there is no more after `{after}`");
    }
}

/// A list of nothing is empty, not an error.
pub async fn list_of_nothing_is_empty(harness: &StoreHarness) {
    let store = harness.backend();
    let nothing = ObjectList { objects: Vec::new(), more: false };
    assert_eq!(list(&*store, "", None, 10).await, nothing);
    put(&*store, "k", "x").await;
    assert_eq!(list(&*store, "no/such/", None, 10).await, nothing);
}

async fn list(
    store: &dyn ObjectStore,
    prefix: &str,
    after: Option<String>,
    limit: usize,
) -> ObjectList {
    store.list(prefix, ListPage { after, limit }).await.expect("list")
}

fn listed(list: &ObjectList) -> Vec<String> {
    list.objects.iter().map(|object| object.key.to_string()).collect()
}
