//! Specs of pipeline versions that were read lately, parsed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use gofer_core::TaskId;
use gofer_core::pipeline::PipelineSpec;

/// Most tasks, over all specs, that are kept: about 1 KiB each.
const MAX_CACHED_TASKS: usize = 20_000;

/// A spec, and its tasks by id.
#[derive(Debug)]
pub(crate) struct KnownSpec {
    pub(crate) spec: Arc<PipelineSpec>,
    tasks: HashSet<TaskId>,
}

impl KnownSpec {
    pub(crate) fn has(&self, task: &TaskId) -> bool {
        self.tasks.contains(task)
    }
}

/// A version never changes and its number is never used twice, so what was read once stays true.
#[derive(Debug, Default)]
pub(crate) struct SpecCache {
    specs: Mutex<Cached>,
}

#[derive(Debug, Default)]
struct Cached {
    by_version: HashMap<(i64, i64), Arc<KnownSpec>>,
    tasks: usize,
}

impl SpecCache {
    pub(crate) fn get(&self, pipeline_id: i64, version: i64) -> Option<Arc<KnownSpec>> {
        let cached = self.specs.lock().unwrap_or_else(PoisonError::into_inner);
        cached.by_version.get(&(pipeline_id, version)).cloned()
    }

    pub(crate) fn put(&self, pipeline_id: i64, version: i64, spec: PipelineSpec) -> Arc<KnownSpec> {
        let tasks: HashSet<TaskId> = spec.tasks.iter().map(|task| task.id.clone()).collect();
        let known = Arc::new(KnownSpec { spec: Arc::new(spec), tasks });
        let mut cached = self.specs.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.tasks + known.tasks.len() > MAX_CACHED_TASKS {
            // Simpler than keeping order, and as good: what is still in use comes back with one
            // read.
            *cached = Cached::default();
        }
        if cached.by_version.insert((pipeline_id, version), Arc::clone(&known)).is_none() {
            cached.tasks += known.tasks.len();
        }
        known
    }
}
