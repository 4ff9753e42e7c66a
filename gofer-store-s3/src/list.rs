//! Lists, in the order of the keys' bytes whatever the store's own order is.

use std::collections::BTreeMap;

use gofer_core::object_store::{ListPage, ObjectList, ObjectMeta};
use gofer_core::{BackendError, ErrorKind, ObjectKey};
use s3::serde_types::Object;

use crate::answer::parse_iso_date;
use crate::client::Client;
use crate::order::Order;
use crate::page::{self, MAX_PAGE_KEYS};

/// What sorts before `/` among the characters of a key: where the two orders differ.
const BEFORE_SLASH: [char; 4] = ['+', ',', '-', '.'];

/// Objects under `prefix`; `root` is what every key in the bucket begins with.
pub(crate) async fn list(
    client: &Client,
    root: &str,
    order: Order,
    prefix: &str,
    wanted: &ListPage,
) -> Result<ObjectList, BackendError> {
    let after = wanted.after.as_deref().unwrap_or_default();
    let all_before = after > prefix && !after.starts_with(prefix);

    // No key holds such a character, and XML could not carry some of them.
    let impossible = !prefix
        .bytes()
        .all(|byte| byte == b'/' || byte.is_ascii_alphanumeric() || b"._-=+@:,".contains(&byte));
    if all_before || impossible || wanted.limit == 0 {
        return Ok(ObjectList { objects: Vec::new(), more: false });
    }

    let mut page = Page { prefix, after, limit: wanted.limit, found: BTreeMap::new() };
    let start = page.start(order);
    let full_prefix = format!("{root}{prefix}");
    let (mut start, mut token) = (start.map(|key| format!("{root}{key}")), None);

    loop {
        let asked = if order == Order::Bytes { page.missing() } else { MAX_PAGE_KEYS };
        let part = page::page(client, &full_prefix, start.take(), token.take(), asked).await?;
        let last = part
            .contents
            .last()
            .map(|object| object.key.strip_prefix(root).unwrap_or_default().to_owned());

        for object in &part.contents {
            page.add(root, object)?;
        }

        let complete = last.is_some_and(|last| page.is_complete(order, &last));
        token = part.next_continuation_token;
        if complete || !part.is_truncated || token.is_none() {
            return Ok(page.finish());
        }
    }
}

/// The smallest keys seen so far: one more than wanted, to know whether there are more.
struct Page<'a> {
    prefix: &'a str,
    after: &'a str,
    limit: usize,
    found: BTreeMap<ObjectKey, ObjectMeta>,
}

impl Page<'_> {
    /// The key after which the store has to begin.
    fn start(&self, order: Order) -> Option<&str> {
        let start = match order {
            Order::Bytes => self.after,
            // In a tree, keys after `a-b` may come before it: all of `a/…`. Those come after `a`.
            Order::Tree => self.after.split(BEFORE_SLASH).next().unwrap_or_default(),
        };
        Some(start)
            .filter(|start| start.len() > self.prefix.len() && start.starts_with(self.prefix))
    }

    fn missing(&self) -> usize {
        self.limit + 1 - self.found.len().min(self.limit)
    }

    fn add(&mut self, root: &str, object: &Object) -> Result<(), BackendError> {
        let name = object.key.strip_prefix(root).unwrap_or_default();
        // What is no key is not Gofer's object, and left alone.
        let Ok(key) = ObjectKey::new(name) else { return Ok(()) };
        if name <= self.after || !name.starts_with(self.prefix) {
            return Ok(());
        }

        let modified_at = parse_iso_date(&object.last_modified).ok_or_else(|| {
            let message = format!(
                "the store lists `{name}` with the time `{}`, which is none",
                object.last_modified
            );
            BackendError::new(ErrorKind::Internal, message)
        })?;

        self.found.insert(
            key.clone(),
            ObjectMeta { key, size_bytes: object.size, modified_at, sha256: None },
        );
        if self.found.len() > self.limit + 1 {
            self.found.pop_last();
        }

        Ok(())
    }

    /// Whether no key that the store lists after `last` belongs to the page.
    fn is_complete(&self, order: Order, last: &str) -> bool {
        let Some((largest, _)) =
            self.found.last_key_value().filter(|_| self.found.len() > self.limit)
        else {
            return false;
        };

        let largest = largest.as_str();
        match order {
            Order::Bytes => true,
            // A smaller key that comes later differs first where the largest has a `/`: it lies
            // beside a directory that the largest is in. Those have all been seen once the list has
            // left the outermost of these names.
            Order::Tree => match largest[self.prefix.len()..].find('/') {
                Some(slash) => !last.starts_with(&largest[..self.prefix.len() + slash]),
                None => true,
            },
        }
    }

    fn finish(mut self) -> ObjectList {
        let more = self.found.len() > self.limit;
        if more {
            self.found.pop_last();
        }
        ObjectList { objects: self.found.into_values().collect(), more }
    }
}
