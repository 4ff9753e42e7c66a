//! Listing in key order, with memory bounded by the page and not by the directory.

use std::collections::BinaryHeap;
use std::fs;
use std::io;
use std::path::Path;

use gofer_core::object_store::{ListPage, ObjectList, ObjectMeta};
use gofer_core::{BackendError, ErrorKind, ObjectKey};

use crate::error::io_error;
use crate::layout::{directory_path, directory_segment};
use crate::read::object_meta;

/// The page of objects below `objects`. Blocks.
pub(crate) fn list(
    objects: &Path,
    prefix: &str,
    page: &ListPage,
) -> Result<ObjectList, BackendError> {
    if !(1..=1000).contains(&page.limit) {
        let message = format!("limit: a page has 1 to 1,000 objects, not `{}`", page.limit);
        return Err(BackendError::new(ErrorKind::Invalid, message));
    }

    let mut walk = Walk { prefix, page, found: Vec::new(), more: false };
    match prefix.rsplit_once('/') {
        None => walk.visit(objects, "")?,
        // No need to read the directories above the one that the prefix ends in.
        Some((parents, _)) if ObjectKey::new(parents).is_ok() => {
            walk.visit(&directory_path(objects, parents), &format!("{parents}/"))?;
        }
        // No key starts like this.
        Some(_) => {}
    }

    Ok(ObjectList { objects: walk.found, more: walk.more })
}

struct Walk<'a> {
    prefix: &'a str,
    page: &'a ListPage,
    found: Vec<ObjectMeta>,
    more: bool,
}

impl Walk<'_> {
    /// Goes through a directory whose keys all start with `base` (empty, or ending in `/`), in key
    /// order.
    ///
    /// An entry is written as its keys begin: a file `b` of `a/` is `a/b`, a directory is `a/b/`.
    /// Byte order of these is key order: keys below a directory are neighbours, and none lies
    /// between two of them.
    fn visit(&mut self, dir: &Path, base: &str) -> Result<(), BackendError> {
        let mut last: Option<String> = None;
        loop {
            let entries = self
                .next_entries(dir, base, last.as_deref())
                .map_err(|error| io_error("read", dir, error))?;
            let full = entries.len() > self.page.limit;

            for entry in &entries {
                match entry[base.len()..].strip_suffix('/') {
                    Some(segment) => self.visit(&directory_path(dir, segment), entry)?,
                    None => self.add(dir, &entry[base.len()..], entry)?,
                }
                if self.more {
                    return Ok(());
                }
            }

            if !full {
                return Ok(());
            }

            last = entries.into_iter().next_back();
        }
    }

    /// The first `limit + 1` entries after `last` that may hold a key of this page, in order.
    fn next_entries(&self, dir: &Path, base: &str, last: Option<&str>) -> io::Result<Vec<String>> {
        let mut smallest = BinaryHeap::new();
        let entries = match fs::read_dir(dir) {
            // A delete has just removed it, or nothing with this prefix was ever put.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result?,
        };

        for item in entries {
            let item = item?;
            let kind = item.file_type()?;
            let name = item.file_name();
            let Some(name) = name.to_str() else { continue };
            let entry = match directory_segment(name) {
                Some(segment) if kind.is_dir() => format!("{base}{segment}/"),
                None if kind.is_file() => format!("{base}{name}"),
                _ => continue,
            };

            if last.is_none_or(|last| entry.as_str() > last) && self.may_hold(&entry) {
                smallest.push(entry);
                if smallest.len() > self.page.limit + 1 {
                    smallest.pop();
                }
            }
        }

        Ok(smallest.into_sorted_vec())
    }

    fn may_hold(&self, entry: &str) -> bool {
        let is_dir = entry.ends_with('/');
        let in_prefix =
            entry.starts_with(self.prefix) || (is_dir && self.prefix.starts_with(entry));
        let after = self.page.after.as_deref();
        in_prefix && after.is_none_or(|after| entry > after || (is_dir && after.starts_with(entry)))
    }

    fn add(&mut self, dir: &Path, name: &str, key: &str) -> Result<(), BackendError> {
        // A file that somebody else put here.
        let Ok(key) = ObjectKey::new(key) else { return Ok(()) };
        let path = dir.join(name);
        match fs::symlink_metadata(&path) {
            Ok(_) if self.found.len() == self.page.limit => self.more = true,
            Ok(meta) => self.found.push(object_meta(key, &meta)),
            // Deleted since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("read", &path, error)),
        }
        Ok(())
    }
}
