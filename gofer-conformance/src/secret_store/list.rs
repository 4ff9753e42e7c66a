//! Paths and lists of them.

use gofer_core::id::{MAX_SECRET_PATH_BYTES, MAX_SEGMENT_BYTES};
use gofer_core::object_store::ListPage;
use gofer_core::secret_store::{SecretList, SecretStore};

use super::{SecretHarness, path, put, value};

/// Names that a walk through folders would sort wrongly: `-` and `.` come before `/`.
const TRICKY: [&str; 9] = ["a", "a-b", "a.b", "a/b", "a/b-c", "a/b/c", "a0", "ab", "b"];

/// Whatever [`SecretPath`](gofer_core::SecretPath) allows can be put, got and listed.
pub async fn every_legal_path_works(harness: &SecretHarness) {
    let store = harness.backend();
    let segment = "s".repeat(MAX_SEGMENT_BYTES);
    let longest = format!("{segment}/{segment}/{}", "t".repeat(MAX_SECRET_PATH_BYTES - 402));
    let mut names = vec![
        ".hidden",
        "...",
        "-",
        "._-=+@:,",
        "UPPER",
        "upper",
        "a=b:c@d,e+f",
        &segment,
        &longest,
    ];

    for name in &names {
        put(&*store, name, name).await;
    }

    for name in &names {
        assert_eq!(value(&*store, name).await, *name);
    }

    names.sort_unstable();
    assert_eq!(listed(&list(&*store, "", None, 1_000).await), names);
}

/// One path may be the beginning of another, also at a `/`.
pub async fn a_path_may_extend_another(harness: &SecretHarness) {
    let store = harness.backend();
    for name in ["a/b/c", "a/b", "a"] {
        put(&*store, name, name).await;
    }
    store.delete(&path("a/b")).await.expect("delete");
    for name in ["a", "a/b/c"] {
        assert_eq!(value(&*store, name).await, name);
    }
    assert_eq!(listed(&list(&*store, "", None, 1_000).await), ["a", "a/b/c"]);
}

/// `list` is in the order of the paths' bytes.
pub async fn list_is_in_order(harness: &SecretHarness) {
    let store = harness.backend();
    for name in TRICKY.iter().rev() {
        put(&*store, name, name).await;
    }
    let all = list(&*store, "", None, 1_000).await;
    assert_eq!(listed(&all), TRICKY);
    assert!(!all.more, "there is no more");
}

/// A prefix is any text: part of a segment, several segments, a whole path, with a `/` at its end
/// or not.
pub async fn list_prefix_is_any_text(harness: &SecretHarness) {
    let store = harness.backend();
    for name in TRICKY {
        put(&*store, name, name).await;
    }

    for prefix in [
        "", "a", "a/", "a/b", "a/b/", "a/b/c", "a/b/c/", "a-", "a.", "ab", "c", "/", "..", "A",
        "%", "_",
    ] {
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
pub async fn list_pages_join_without_gap_or_repeat(harness: &SecretHarness) {
    let store = harness.backend();
    let mut names: Vec<String> = (0..25).map(|index| format!("p/{}/{index}", index % 4)).collect();
    for name in &names {
        put(&*store, name, name).await;
    }

    put(&*store, "q", "not under the prefix").await;
    names.sort_unstable();
    for limit in [1, 7, 24, 25, 26] {
        let mut seen: Vec<String> = Vec::new();
        loop {
            let page = list(&*store, "p/", seen.last().cloned(), limit).await;
            assert!(page.paths.len() <= limit, "{} paths in a page of {limit}", page.paths.len());
            assert!(
                !page.paths.is_empty(),
                "an empty page after {} of {} paths",
                seen.len(),
                names.len()
            );
            seen.extend(listed(&page));
            if !page.more {
                break;
            }

            assert!(seen.len() < names.len(), "`more` after the last path, pages of {limit}");
        }

        assert_eq!(seen, names, "pages of {limit}");
    }

    assert_eq!(listed(&list(&*store, "p/", Some("p/3/5".to_owned()), 3).await), ["p/3/7"]);
}

/// A list of nothing is empty, not an error.
pub async fn list_of_nothing_is_empty(harness: &SecretHarness) {
    let store = harness.backend();
    let nothing = SecretList { paths: Vec::new(), more: false };
    assert_eq!(list(&*store, "", None, 10).await, nothing);
    put(&*store, "k", "x").await;
    assert_eq!(list(&*store, "no/such/", None, 10).await, nothing);
}

async fn list(
    store: &dyn SecretStore,
    prefix: &str,
    after: Option<String>,
    limit: usize,
) -> SecretList {
    store.list(prefix, ListPage { after, limit }).await.expect("list")
}

fn listed(list: &SecretList) -> Vec<String> {
    list.paths.iter().map(ToString::to_string).collect()
}
