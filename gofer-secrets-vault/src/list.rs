//! Lists of keys.
//!
//! Vault lists one folder at a time, names of folders with a `/` at their end. This sorts each
//! folder's names with their `/`, and goes down into a folder where its name stands. That gives all
//! keys in the order of their bytes. Folders that cannot be on the page are not listed.

use gofer_core::object_store::ListPage;
use gofer_core::secret_store::SecretList;
use gofer_core::{BackendError, SecretPath};

use crate::key;

/// The part of the keys that a page is to show.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    pub(crate) fn new(prefix: &'a str, page: &'a ListPage) -> Self {
        Self { prefix, after: page.after.as_deref() }
    }

    /// The lowest folder that has everything wanted in it, empty or with a `/` at its end; `None`
    /// when there is no such key.
    fn folder(&self) -> Option<&'a str> {
        match self.prefix.rsplit_once('/') {
            None => Some(""),
            Some((folder, _)) => {
                SecretPath::new(folder).is_ok().then(|| &self.prefix[..=folder.len()])
            }
        }
    }

    /// Whether a key is wanted, or anything in a folder may be.
    fn includes(&self, name: &str) -> bool {
        if name.ends_with('/') {
            let has_prefix = name.starts_with(self.prefix) || self.prefix.starts_with(name);
            has_prefix && self.after.is_none_or(|after| name > after || after.starts_with(name))
        } else {
            name.starts_with(self.prefix) && self.after.is_none_or(|after| name > after)
        }
    }

    /// The names in `folder` that are wanted, in full, the last of them first.
    fn pick(&self, folder: &str, names: Vec<String>) -> Vec<String> {
        let full = |name: String| {
            let (segment, slash) =
                name.strip_suffix('/').map_or((name.as_str(), ""), |segment| (segment, "/"));
            Some(format!("{folder}{}{slash}", key::decode(segment)?))
        };
        let mut picked: Vec<String> =
            names.into_iter().filter_map(full).filter(|name| self.includes(name)).collect();
        picked.sort_unstable_by(|a, b| b.cmp(a));
        picked
    }
}

/// One page; `names` gives the names in a folder.
pub(crate) async fn list<F>(
    wanted: &Wanted<'_>,
    limit: usize,
    names: impl Fn(String) -> F + Sync,
) -> Result<SecretList, BackendError>
where
    F: Future<Output = Result<Vec<String>, BackendError>> + Send,
{
    let mut paths = Vec::new();
    let Some(folder) = wanted.folder() else { return Ok(SecretList { paths, more: false }) };
    let mut open = wanted.pick(folder, names(folder.to_owned()).await?);

    while let Some(name) = open.pop() {
        if name.ends_with('/') {
            let inside = names(name.clone()).await?;
            open.extend(wanted.pick(&name, inside));
            continue;
        }

        // Somebody else's, in spite of its prefix.
        let Ok(path) = SecretPath::new(&name) else { continue };
        if paths.len() == limit {
            return Ok(SecretList { paths, more: true });
        }

        paths.push(path);
    }

    Ok(SecretList { paths, more: false })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use super::*;

    /// Lists like Vault, and notes which folders were asked for.
    async fn run(
        keys: &[&str],
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> (Vec<String>, bool, Vec<String>) {
        let asked = Mutex::new(Vec::new());
        let page = ListPage { after: after.map(str::to_owned), limit };
        let names = |folder: String| {
            let inside = keys.iter().filter_map(|key| key.strip_prefix(folder.as_str()));
            let names: BTreeSet<String> =
                inside.map(|rest| rest.split_inclusive('/').next().unwrap().to_owned()).collect();
            asked.lock().unwrap().push(folder);
            async move { Ok(names.into_iter().collect()) }
        };
        let found = list(&Wanted::new(prefix, &page), limit, names).await.unwrap();
        let paths = found.paths.iter().map(ToString::to_string).collect();
        (paths, found.more, asked.into_inner().unwrap())
    }

    #[tokio::test]
    async fn folders_stand_where_their_slash_puts_them() {
        let keys = ["a", "a-b", "a.b", "a/b", "a/b-c", "a/b/c", "a0", "ab", "b"];
        let (paths, more, asked) = run(&keys, "", None, 100).await;
        assert_eq!(paths, keys);
        assert!(!more);
        assert_eq!(asked, ["", "a/", "a/b/"]);
    }

    #[tokio::test]
    async fn only_folders_that_matter_are_asked_for() {
        let keys = ["a/1", "b/1", "b/c/1", "b/c/2", "b/d/1", "c/1"];
        let (paths, _, asked) = run(&keys, "b/c", None, 100).await;
        assert_eq!((paths.join(" "), asked.join(" ")), ("b/c/1 b/c/2".into(), "b/ b/c/".into()));

        let (paths, more, asked) = run(&keys, "", Some("b/c/1"), 1).await;
        assert_eq!((paths.join(" "), more), ("b/c/2".into(), true));
        assert_eq!(asked.join(" "), " b/ b/c/ b/d/");
    }

    #[tokio::test]
    async fn a_prefix_that_no_key_has_asks_for_nothing() {
        for prefix in ["/", "a//", "../", "a b/c"] {
            let (paths, more, asked) = run(&["a/1"], prefix, None, 10).await;
            assert!(paths.is_empty() && !more && asked.is_empty(), "{prefix}: {asked:?}");
        }
    }

    #[tokio::test]
    async fn what_others_put_there_is_left_out() {
        let keys = ["a~b", "has space", "dir with space/a", "ok", "x.~y"];
        let (paths, _, asked) = run(&keys, "", None, 10).await;
        assert_eq!(paths, ["ok", "x..y"]);
        assert_eq!(asked, [""]);
    }
}
