//! Where a secret lies in Vault.
//!
//! HashiCorp's Vault refuses a path with `..` anywhere in it, also within a name, and Gofer's keys
//! may have that (OpenBao refuses whole segments only). So a `.` after another `.` is written `~`,
//! which no key of Gofer's contains: `a..b` lies at `a.~b`. Everything else is written as it is.

use gofer_core::SecretPath;

/// The mount and the folder that is Gofer's.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) mount: String,
    prefix: String,
}

impl Layout {
    pub(crate) fn new(mount: &str, prefix: &str) -> Self {
        Self { mount: mount.to_owned(), prefix: encode(prefix) }
    }

    /// The secret's path below the mount.
    pub(crate) fn path(&self, key: &SecretPath) -> String {
        self.below(&encode(key.as_str()))
    }

    /// A folder's path below the mount. `folder` is the beginning of keys, empty or with a `/` at
    /// its end.
    pub(crate) fn folder(&self, folder: &str) -> String {
        self.below(&encode(folder))
    }

    fn below(&self, path: &str) -> String {
        if self.prefix.is_empty() { path.to_owned() } else { format!("{}/{path}", self.prefix) }
    }

    /// For messages: everything of Gofer's in one of the engine's two trees, `data` or `metadata`.
    pub(crate) fn everything(&self, tree: &str) -> String {
        format!("{}/{tree}/{}", self.mount, self.below("*"))
    }
}

fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    let mut previous = ' ';
    for character in text.chars() {
        encoded.push(if character == '.' && previous == '.' { '~' } else { character });
        previous = character;
    }
    encoded
}

/// The name that a segment stands for; `None` for one that Gofer would never write, which is
/// somebody else's.
pub(crate) fn decode(segment: &str) -> Option<String> {
    let decoded = segment.replace('~', ".");
    (encode(&decoded) == segment && SecretPath::new(&decoded).is_ok()).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_has_two_dots_in_a_row_in_vault() {
        let layout = Layout::new("secret", "gofer");
        for (key, expected) in [
            ("a/b", "gofer/a/b"),
            (".hidden", "gofer/.hidden"),
            ("a.b.c", "gofer/a.b.c"),
            ("...", "gofer/.~~"),
            ("a..b/..c..", "gofer/a.~b/.~c.~"),
            ("a./.b", "gofer/a./.b"),
            ("._-=+@:,", "gofer/._-=+@:,"),
        ] {
            let path = layout.path(&SecretPath::new(key).unwrap());
            assert_eq!(path, expected);
            assert!(!path.contains(".."), "{path}");
            let back: Vec<String> =
                path.split('/').skip(1).map(|segment| decode(segment).unwrap()).collect();
            assert_eq!(back.join("/"), key);
        }
    }

    #[test]
    fn names_of_others_are_not_keys() {
        for name in ["a~b", "~", "has space", "umlaut-ü", "", "."] {
            assert_eq!(decode(name), None, "{name:?}");
        }
    }

    #[test]
    fn the_whole_mount_may_be_gofers() {
        let layout = Layout::new("kv/team", "");
        assert_eq!(layout.path(&SecretPath::new("a/b").unwrap()), "a/b");
        assert_eq!(layout.folder(""), "");
        assert_eq!(layout.everything("data"), "kv/team/data/*");
        assert_eq!(Layout::new("kv", "gofer").folder("x/"), "gofer/x/");
    }
}
