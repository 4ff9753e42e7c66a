//! What a Nomad server keeps in Raft: every change has an index, and is published to the event
//! stream.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

/// Namespace and ID, or namespace and path.
pub(crate) type Name = (String, String);

/// Everything the fake server knows. JSON as on the wire, so that nothing is lost between here and
/// there.
pub(crate) struct State {
    pub(crate) index: u64,
    pub(crate) jobs: BTreeMap<Name, Job>,
    pub(crate) evals: BTreeMap<String, Value>,
    pub(crate) allocs: BTreeMap<String, Alloc>,
    pub(crate) variables: BTreeMap<Name, Value>,
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) tokens: BTreeMap<String, Token>,
    pub(crate) events: EventBuffer,
    pub(crate) max_kill_timeout_ms: u64,
}

/// A registered job and what it was before.
pub(crate) struct Job {
    pub(crate) spec: Value,
    pub(crate) versions: Vec<Value>,
}

/// An allocation; the job it was placed for is kept apart, because lists and events leave it out.
pub(crate) struct Alloc {
    pub(crate) value: Value,
    pub(crate) job: Value,
    /// As it was before its last change.
    pub(crate) before: Value,
    /// What the client knows and could not tell the server while the node was away.
    pub(crate) unsent: Option<Value>,
}

/// A client agent.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) drivers: Vec<String>,
    pub(crate) memory_mb: u64,
    pub(crate) cpu_mhz: u64,
    /// Whether heartbeats reach the server.
    pub(crate) connected: bool,
    /// Since when, in nanoseconds since 1970.
    pub(crate) since: i64,
    pub(crate) eligible: bool,
}

/// What a secret ID allows.
#[derive(Clone)]
pub(crate) enum Token {
    Management,
    /// Namespace capabilities, and `node:read`, `agent:read`, `variables:write` and the like.
    Client(Vec<String>),
}

/// The last changes, one item per Raft index.
pub(crate) struct EventBuffer {
    pub(crate) items: VecDeque<(u64, Value)>,
    /// How many items were ever put in; the newest item's number.
    pub(crate) written: u64,
    pub(crate) capacity: usize,
}

impl EventBuffer {
    fn push(&mut self, index: u64, item: Value) {
        self.written += 1;
        self.items.push_back((index, item));
        while self.items.len() > self.capacity {
            self.items.pop_front();
        }
    }

    /// The number of the oldest item that is still there.
    pub(crate) fn oldest(&self) -> u64 {
        self.written + 1 - self.items.len() as u64
    }

    /// The number of the item a subscription from this index begins with: the item at the index or
    /// the closest after it, and the newest when all are older.
    pub(crate) fn closest(&self, index: u64) -> u64 {
        let offset = self
            .items
            .iter()
            .position(|(at, _)| *at >= index)
            .unwrap_or(self.items.len().saturating_sub(1));
        self.oldest() + offset as u64
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Value> {
        let offset = usize::try_from(number.checked_sub(self.oldest())?).ok()?;
        self.items.get(offset).map(|(_, item)| item)
    }
}

impl State {
    pub(crate) fn new(event_capacity: usize) -> Self {
        Self {
            // High enough that it can go backwards.
            index: 1_000_000,
            jobs: BTreeMap::new(),
            evals: BTreeMap::new(),
            allocs: BTreeMap::new(),
            variables: BTreeMap::new(),
            nodes: BTreeMap::new(),
            tokens: BTreeMap::new(),
            events: EventBuffer { items: VecDeque::new(), written: 0, capacity: event_capacity },
            max_kill_timeout_ms: 3_600_000,
        }
    }

    /// Takes the next Raft index.
    pub(crate) fn next_index(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    /// Publishes what changed at an index.
    pub(crate) fn publish(&mut self, index: u64, events: Vec<Value>) {
        if !events.is_empty() {
            self.events.push(index, json!({"Index": index, "Events": events}));
        }
    }

    /// Stores an evaluation at an index, and returns its event.
    pub(crate) fn put_eval(&mut self, index: u64, mut eval: Value) -> Value {
        let id = text(&eval["ID"]);
        if !self.evals.contains_key(&id) {
            eval["CreateIndex"] = json!(index);
        }
        eval["ModifyIndex"] = json!(index);
        let event = json!({
            "Topic": "Evaluation", "Type": "EvaluationUpdated", "Key": id, "Namespace": eval["Namespace"],
            "FilterKeys": [eval["JobID"]], "Index": index, "Payload": {"Evaluation": eval},
        });
        self.evals.insert(id, eval);
        event
    }

    /// Changes an allocation at an index, and returns its event.
    pub(crate) fn put_alloc(
        &mut self,
        index: u64,
        kind: &str,
        id: &str,
        change: impl FnOnce(&mut Value),
    ) -> Value {
        let alloc = self.allocs.get_mut(id).expect("a known allocation");
        alloc.before = alloc.value.clone();
        change(&mut alloc.value);
        alloc.value["ModifyIndex"] = json!(index);
        alloc.value["ModifyTime"] = json!(now());
        if kind != "AllocationUpdated" {
            alloc.value["AllocModifyIndex"] = json!(index);
        }
        json!({
            "Topic": "Allocation", "Type": kind, "Key": id, "Namespace": alloc.value["Namespace"],
            "FilterKeys": [alloc.value["JobID"]], "Index": index, "Payload": {"Allocation": alloc.value},
        })
    }

    /// The allocations of a job, oldest first.
    pub(crate) fn allocs_of(&self, name: &Name) -> Vec<String> {
        let mine =
            |alloc: &&Alloc| alloc.value["JobID"] == name.1 && alloc.value["Namespace"] == name.0;
        let mut allocs: Vec<&Alloc> = self.allocs.values().filter(mine).collect();
        allocs.sort_by_key(|alloc| alloc.value["CreateIndex"].as_u64());
        allocs.into_iter().map(|alloc| text(&alloc.value["ID"])).collect()
    }

    /// A job as the server shows it, with the status that follows from its evaluations and
    /// allocations.
    pub(crate) fn job(&self, name: &Name) -> Option<Value> {
        let mut spec = self.jobs.get(name)?.spec.clone();
        let allocs = self.allocs_of(name);
        let live = allocs.iter().any(|id| !is_terminal(&self.allocs[id].value));
        let open = |eval: &&Value| eval["Status"] == "pending" || eval["Status"] == "blocked";
        let evals: Vec<&Value> = self.evals_of(name);
        let status = if live {
            "running"
        } else if spec["Stop"] == true
            || (!evals.is_empty() && !evals.iter().any(open) && spec["Type"] == "batch")
        {
            "dead"
        } else {
            "pending"
        };

        spec["Status"] = json!(status);
        Some(spec)
    }

    pub(crate) fn evals_of(&self, name: &Name) -> Vec<&Value> {
        self.evals
            .values()
            .filter(|eval| eval["JobID"] == name.1 && eval["Namespace"] == name.0)
            .collect()
    }

    /// Whether the node that an allocation is on can be reached.
    pub(crate) fn reaches(&self, alloc: &Value) -> bool {
        self.nodes
            .get(alloc["NodeID"].as_str().unwrap_or_default())
            .is_some_and(|node| node.connected)
    }
}

/// Whether the client says that an allocation is over.
pub(crate) fn is_terminal(alloc: &Value) -> bool {
    matches!(alloc["ClientStatus"].as_str(), Some("complete" | "failed" | "lost"))
}

/// A JSON text; empty if it is none.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Nanoseconds since 1970, as Nomad has them.
pub(crate) fn now() -> i64 {
    gofer_core::Timestamp::now().0 * 1_000
}

/// A random UUID.
pub(crate) fn uuid() -> String {
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").expect("a random UUID");
    random.trim().to_owned()
}
