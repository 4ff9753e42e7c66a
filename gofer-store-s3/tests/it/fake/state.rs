//! What the fake keeps.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Head,
    Get,
    Put,
    Delete,
    List,
    Begin,
    Part,
    Complete,
    Abort,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Refused with this status and code, and nothing is done.
    Refuse(u16, &'static str),
    /// Done, and answered with 500.
    DoneButFailed,
    /// Done, and never answered.
    DoneButSilent,
    /// A completion that begins with status 200 and ends with an error.
    FailedWithStatus200,
    /// Never answered, and nothing is done.
    Silent,
    /// The body breaks after so many bytes.
    CutAfter(usize),
    /// The body stands still after so many bytes.
    StallAfter(usize),
}

/// A request that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    pub(crate) key: String,
    /// The `Range` it asked for.
    pub(crate) range: Option<String>,
    pub(crate) body_bytes: usize,
}

/// The bucket's content.
pub(super) struct Bucket {
    pub(super) objects: BTreeMap<String, Object>,
    pub(super) uploads: HashMap<String, Upload>,
    pub(super) tree: bool,
    pub(super) conditions: bool,
    pub(super) serial: u64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            uploads: HashMap::new(),
            tree: false,
            conditions: true,
            serial: 0,
        }
    }
}

#[derive(Clone)]
pub(super) struct Object {
    pub(super) bytes: Bytes,
    pub(super) etag: String,
    pub(super) mark: Option<String>,
    /// In base64, when it was declared and found right.
    pub(super) sha256: Option<String>,
}

pub(super) struct Upload {
    pub(super) key: String,
    pub(super) mark: Option<String>,
    pub(super) parts: BTreeMap<u32, Object>,
}

impl Bucket {
    pub(super) fn object(&mut self, bytes: Bytes, mark: Option<String>) -> Object {
        self.serial += 1;
        Object { bytes, etag: format!("\"{:08x}\"", self.serial), mark, sha256: None }
    }
}

#[derive(Default)]
pub(super) struct Shared {
    bucket: Mutex<Bucket>,
    faults: Mutex<Vec<(Kind, usize, Fault)>>,
    seen: Mutex<Vec<Seen>>,
}

impl Shared {
    pub(super) fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn plan(&self, kind: Kind, times: usize, fault: Fault) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push((kind, times, fault));
    }

    pub(super) fn heal(&self) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The fault that a request of this kind has now.
    pub(super) fn fault(&self, kind: Kind) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, times, fault) =
            faults.iter_mut().find(|(planned, times, _)| *planned == kind && *times > 0)?;
        *times -= 1;
        Some(*fault)
    }

    pub(super) fn note(&self, seen: Seen) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
