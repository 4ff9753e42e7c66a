//! The parts of Nomad's answers that matter here. Go writes `null` for an empty list or map, hence
//! the `Option`s.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// A job, or an entry of a list of jobs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Job {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    /// An operator or Gofer stopped it.
    #[serde(deserialize_with = "nullable")]
    pub(crate) stop: bool,
    #[serde(deserialize_with = "nullable")]
    pub(crate) status: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) meta: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) task_groups: Vec<TaskGroup>,
    pub(crate) modify_index: u64,
}

/// A group of a job, as far as messages need it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TaskGroup {
    #[serde(deserialize_with = "nullable")]
    pub(crate) tasks: Vec<Task>,
}

/// A task of a group.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) driver: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) resources: TaskResources,
}

/// What a task asks for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TaskResources {
    #[serde(rename = "CPU", deserialize_with = "nullable")]
    pub(crate) cpu: i64,
    #[serde(rename = "MemoryMB", deserialize_with = "nullable")]
    pub(crate) memory_mb: i64,
}

/// An allocation, whole or as an entry of a list.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Alloc {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(rename = "JobID")]
    pub(crate) job_id: String,
    #[serde(rename = "NodeID")]
    pub(crate) node_id: String,
    pub(crate) node_name: String,
    pub(crate) desired_status: String,
    pub(crate) client_status: String,
    pub(crate) client_description: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) desired_transition: DesiredTransition,
    pub(crate) preempted_by_allocation: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) task_states: BTreeMap<String, TaskState>,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
    /// Nanoseconds since 1970, by the server's clock.
    pub(crate) modify_time: i64,
}

/// What Nomad's own doings want of an allocation.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct DesiredTransition {
    /// Its node is drained, or somebody stopped the allocation and not the job.
    #[serde(deserialize_with = "nullable")]
    pub(crate) migrate: bool,
}

/// What became of a task of an allocation.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TaskState {
    /// When it was started last, by the node's clock.
    pub(crate) started_at: Option<String>,
    /// When it ended for good, by the node's clock.
    pub(crate) finished_at: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) events: Vec<TaskEvent>,
}

/// One of the last ten things that happened to a task.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TaskEvent {
    #[serde(rename = "Type")]
    pub(crate) kind: String,
    /// Nanoseconds since 1970, by the node's clock.
    pub(crate) time: i64,
    #[serde(deserialize_with = "nullable")]
    pub(crate) display_message: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) details: BTreeMap<String, String>,
}

/// An evaluation: one attempt of Nomad's to place a job.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Evaluation {
    #[serde(rename = "JobID")]
    pub(crate) job_id: String,
    pub(crate) status: String,
    pub(crate) status_description: String,
    #[serde(rename = "FailedTGAllocs", deserialize_with = "nullable")]
    pub(crate) failed: BTreeMap<String, Metric>,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

/// Why a group could not be placed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Metric {
    pub(crate) nodes_evaluated: u64,
    #[serde(deserialize_with = "nullable")]
    pub(crate) nodes_available: BTreeMap<String, u64>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) class_filtered: BTreeMap<String, u64>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) constraint_filtered: BTreeMap<String, u64>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) dimension_exhausted: BTreeMap<String, u64>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) quota_exhausted: Vec<String>,
}

/// One line of the event stream.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct EventBatch {
    pub(crate) index: u64,
    #[serde(deserialize_with = "nullable")]
    pub(crate) events: Vec<Event>,
}

/// One change.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Event {
    #[serde(rename = "Type")]
    pub(crate) kind: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) payload: Payload,
}

/// What changed; one of them is there.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Payload {
    pub(crate) job: Option<Job>,
    pub(crate) allocation: Option<Alloc>,
    pub(crate) evaluation: Option<Evaluation>,
}

/// A file of an allocation.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct FileInfo {
    pub(crate) name: String,
    pub(crate) size: u64,
}

/// An entry of a list of variables.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct VariableMeta {
    pub(crate) path: String,
    /// Nanoseconds since 1970, by the server's clock.
    pub(crate) modify_time: i64,
}

/// A node of the cluster.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Node {
    pub(crate) status: String,
    /// Seconds since 1970, by the server's clock: since when it has this status.
    pub(crate) status_updated_at: i64,
    #[serde(deserialize_with = "nullable")]
    pub(crate) drivers: BTreeMap<String, Driver>,
}

/// A driver on a node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Driver {
    pub(crate) healthy: bool,
}

fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
