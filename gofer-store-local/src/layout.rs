//! Where an object lies: one directory per segment of its key, one file for the last.

use std::path::{Path, PathBuf};

use gofer_core::ObjectKey;

/// Ends the name of a directory. No key contains it, so a directory never has the name of an
/// object.
const DIRECTORY_SUFFIX: char = '%';

/// The object's file. A key has no empty, `.` or `..` segment, so the path stays below `objects`.
pub(crate) fn object_path(objects: &Path, key: &ObjectKey) -> PathBuf {
    match key.as_str().rsplit_once('/') {
        Some((parents, name)) => directory_path(objects, parents).join(name),
        None => objects.join(key.as_str()),
    }
}

/// The directory that holds the objects whose keys start with `parents` and `/`.
pub(crate) fn directory_path(objects: &Path, parents: &str) -> PathBuf {
    let mut path = objects.to_path_buf();
    for segment in parents.split('/') {
        path.push(format!("{segment}{DIRECTORY_SUFFIX}"));
    }
    path
}

/// The segment that a directory's name stands for; `None` when the store did not make it.
pub(crate) fn directory_segment(name: &str) -> Option<&str> {
    name.strip_suffix(DIRECTORY_SUFFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_and_its_children_do_not_collide() {
        let path = |key: &str| object_path(Path::new("/s"), &ObjectKey::new(key).unwrap());
        assert_eq!(path("a"), Path::new("/s/a"));
        assert_eq!(path("a/b"), Path::new("/s/a%/b"));
        assert_eq!(path("a/b/c.tar.gz"), Path::new("/s/a%/b%/c.tar.gz"));
        assert_eq!(directory_segment("b%"), Some("b"));
        assert_eq!(directory_segment("b"), None);
    }
}
