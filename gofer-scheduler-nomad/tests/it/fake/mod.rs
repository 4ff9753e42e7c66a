//! A Nomad agent that is a few hundred lines long: server and clients in one, over HTTP, with
//! switches for what goes wrong.
//!
//! It really runs what it places: raw_exec, exec and docker alike are child processes of this test,
//! each in a process group of its own. What it answers was compared with agent 2.0.5: every test
//! that can, runs against that one, too.

mod acl;
mod events;
mod exec;
mod faults;
mod files;
mod http;
mod identity;
mod jobs;
mod nodes;
mod placement;
mod reads;
mod routes;
mod runner;
mod state;
mod tasks;
mod template;
mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gofer_conformance::eventually;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use faults::Faults;
pub(crate) use faults::{Action, Image, When};
pub(crate) use identity::Signer;
pub(crate) use state::Token;
use state::{Node, State, now, text, uuid};

/// A running fake agent; when it is dropped, so is everything it runs.
pub(crate) struct FakeNomad {
    inner: Arc<Inner>,
    address: SocketAddr,
    server: Mutex<Option<AbortHandle>>,
    _dir: TempDir,
}

/// What its connections and its tasks share.
struct Inner {
    state: Mutex<State>,
    /// Counts up with every change of the state or of a switch.
    changed: watch::Sender<u64>,
    /// Counts up when open connections are to be cut.
    cut: watch::Sender<u64>,
    /// Counts up when open event streams are to be cut.
    cut_streams: watch::Sender<u64>,
    faults: Mutex<Faults>,
    requests: Mutex<Vec<String>>,
    processes: Mutex<BTreeMap<String, i32>>,
    /// Allocations whose processes went down with their node.
    rebooted: Mutex<BTreeSet<String>>,
    dir: PathBuf,
    signer: Signer,
}

impl FakeNomad {
    /// An agent with one node that fits everything, and no ACLs.
    pub(crate) async fn start() -> Self {
        Self::start_with_events(100).await
    }

    /// The same with an event buffer of this many items.
    pub(crate) async fn start_with_events(capacity: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let inner = Arc::new(Inner {
            state: Mutex::new(State::new(capacity)),
            changed: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            cut_streams: watch::Sender::new(0),
            faults: Mutex::new(Faults::default()),
            requests: Mutex::new(Vec::new()),
            processes: Mutex::new(BTreeMap::new()),
            rebooted: Mutex::new(BTreeSet::new()),
            dir: dir.path().to_owned(),
            signer: Signer::new(),
        });

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(http::serve(listener, inner.clone())).abort_handle();
        let fake = Self { inner, address, server: Mutex::new(Some(server)), _dir: dir };
        fake.add_node("node-1", &["raw_exec", "exec", "docker"], 64 * 1024);

        fake
    }

    /// `http://127.0.0.1:…`.
    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The key that signs identities.
    pub(crate) fn signer(&self) -> &Signer {
        &self.inner.signer
    }

    /// What the token of an allocation's main task says, by the task's first identity.
    pub(crate) fn claims(&self, alloc: &str) -> Value {
        let (job, alloc) = self.inner.read(|state| {
            let alloc = state.allocs.get(alloc).expect("an allocation");
            (alloc.job.clone(), alloc.value.clone())
        });
        let task = &job["TaskGroups"][0]["Tasks"][0];
        identity::claims(&job, &alloc, task, &task["Identities"][0])
    }

    /// Adds a client agent with these drivers and this much memory.
    pub(crate) fn add_node(&self, name: &str, drivers: &[&str], memory_mb: u64) -> String {
        let drivers = drivers.iter().map(|&driver| driver.to_owned()).collect();
        let id = uuid();
        let node = Node {
            name: name.to_owned(),
            drivers,
            memory_mb,
            cpu_mhz: 100_000,
            connected: true,
            eligible: true,
            since: now(),
        };
        self.inner.change(|state| state.nodes.insert(id.clone(), node));
        nodes::changed(&self.inner, &id);
        id
    }

    /// Turns ACLs on: from now on only tokens given this way are good.
    pub(crate) fn set_token(&self, secret: &str, token: Token) {
        self.inner.change(|state| state.tokens.insert(secret.to_owned(), token));
    }

    /// Revokes a token; streams that were opened with it are closed.
    pub(crate) fn revoke_token(&self, secret: &str) {
        self.inner.change(|state| state.tokens.remove(secret));
        self.cut_streams();
    }

    /// Closes every open connection, and with them the event streams.
    pub(crate) fn cut_connections(&self) {
        self.inner.cut.send_modify(|times| *times += 1);
    }

    /// Closes every open event stream.
    pub(crate) fn cut_streams(&self) {
        self.inner.cut_streams.send_modify(|times| *times += 1);
    }

    /// Empties the event buffer, as when the server is started again.
    pub(crate) fn lose_events(&self) {
        self.inner.change(|state| state.events.items.clear());
        self.cut_streams();
    }

    /// Stops listening, as when the agent is being restarted. What runs goes on.
    pub(crate) fn stop_listening(&self) {
        if let Some(server) = self.server.lock().unwrap_or_else(PoisonError::into_inner).take() {
            server.abort();
        }
        self.cut_connections();
    }

    /// Listens again, on the same port.
    pub(crate) async fn listen_again(&self) {
        let listener = eventually("the port is free again", async || {
            TcpListener::bind(self.address).await.map_err(|error| error.to_string())
        })
        .await;
        let server = tokio::spawn(http::serve(listener, self.inner.clone())).abort_handle();
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
    }

    /// Whether there is a leader. Without one, writes and consistent reads fail; event streams go
    /// on.
    pub(crate) fn set_leader(&self, leader: bool) {
        self.faults(|faults| faults.no_leader = !leader);
    }

    /// What goes wrong with requests from now on.
    pub(crate) fn on(&self, when: When, times: usize, action: Action) {
        self.faults(|faults| faults.rules.push((when, times, action)));
    }

    /// Changes a switch.
    pub(crate) fn faults<T>(&self, change: impl FnOnce(&mut Faults) -> T) -> T {
        let result = change(&mut self.inner.faults.lock().unwrap_or_else(PoisonError::into_inner));
        self.inner.changed.send_modify(|times| *times += 1);
        result
    }

    /// Every request up to now, as `POST /v1/jobs`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.inner.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests began with this text.
    pub(crate) fn count(&self, prefix: &str) -> usize {
        self.requests().iter().filter(|request| request.starts_with(prefix)).count()
    }

    /// Jobs as the server shows them.
    pub(crate) fn jobs(&self) -> Vec<Value> {
        self.inner.read(|state| state.jobs.keys().filter_map(|name| state.job(name)).collect())
    }

    /// Allocations, oldest first, with the job inside.
    pub(crate) fn allocations(&self) -> Vec<Value> {
        let mut all = self.inner.read(|state| {
            let with_job = |alloc: &state::Alloc| {
                let mut value = alloc.value.clone();
                value["Job"] = alloc.job.clone();
                value
            };
            state.allocs.values().map(with_job).collect::<Vec<_>>()
        });
        all.sort_by_key(|alloc| alloc["CreateIndex"].as_u64());
        all
    }

    /// The paths of the variables that exist.
    pub(crate) fn variables(&self) -> Vec<String> {
        self.inner.read(|state| state.variables.keys().map(|(_, path)| path.clone()).collect())
    }

    /// What a server would write to disk in clear: everything but the variables.
    pub(crate) fn dump(&self) -> String {
        self.inner.read(|state| {
            let jobs = state.jobs.values().map(|job| format!("{} {:?}", job.spec, job.versions));
            let evals = state.evals.values().map(ToString::to_string);
            let allocs =
                state.allocs.values().map(|alloc| format!("{} {}", alloc.value, alloc.job));
            let events = state.events.items.iter().map(|(_, item)| item.to_string());
            jobs.chain(evals).chain(allocs).chain(events).collect::<Vec<_>>().join("\n")
        })
    }

    /// The node stops to be heard of. What runs there runs on.
    pub(crate) fn node_down(&self, node: &str) {
        nodes::set_connected(&self.inner, node, false);
    }

    /// The node is heard of again.
    pub(crate) fn node_up(&self, node: &str) {
        nodes::set_connected(&self.inner, node, true);
    }

    /// Every node's power fails and is there again before anybody misses them.
    pub(crate) fn reboot(&self) {
        let processes = self.inner.processes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut rebooted = self.inner.rebooted.lock().unwrap_or_else(PoisonError::into_inner);
        for (alloc, pid) in processes {
            rebooted.insert(alloc);
            tasks::kill_group(pid);
        }
    }

    /// The node is removed from the cluster's state.
    pub(crate) fn forget_node(&self, node: &str) {
        self.inner.change(|state| state.nodes.remove(node));
    }

    /// The time to wait for a disconnected node is over.
    pub(crate) fn expire_disconnect(&self, node: &str) {
        nodes::expire(&self.inner, node);
    }

    /// Drains a node, with its deadline over at once.
    pub(crate) fn drain(&self, node: &str) {
        nodes::drain(&self.inner, node);
    }

    /// Takes an allocation's place for something more important.
    pub(crate) fn preempt(&self, alloc: &str) {
        nodes::preempt(&self.inner, alloc);
    }

    /// Collects whatever is finished, as `PUT /v1/system/gc` does.
    pub(crate) fn gc(&self) {
        jobs::gc(&self.inner);
    }

    /// Restores a snapshot whose Raft index is lower: all indexes go back.
    pub(crate) fn restore_older_snapshot(&self) {
        const BACK: u64 = 900_000;

        self.inner.change(|state| {
            state.index -= BACK;
            let values = state
                .jobs
                .values_mut()
                .map(|job| &mut job.spec)
                .chain(state.evals.values_mut())
                .chain(state.allocs.values_mut().map(|alloc| &mut alloc.value))
                .chain(state.variables.values_mut());

            for value in values {
                for field in ["CreateIndex", "ModifyIndex", "AllocModifyIndex", "JobModifyIndex"] {
                    if let Some(index) = value[field].as_u64() {
                        value[field] = (index - BACK).into();
                    }
                }
            }

            state.events.items.clear();
        });

        self.cut_streams();
    }

    /// Waits until an allocation is as wanted, and returns it.
    pub(crate) async fn allocation(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || {
            let all = self.allocations();
            let found = all.iter().find(|alloc| wanted(alloc)).cloned();
            found.ok_or_else(|| {
                let short = |alloc: &Value| {
                    format!("{} {}", text(&alloc["JobID"]), text(&alloc["ClientStatus"]))
                };
                all.iter().map(short).collect::<Vec<_>>().join(", ")
            })
        })
        .await
    }
}

impl Drop for FakeNomad {
    fn drop(&mut self) {
        self.stop_listening();
        for pid in self.inner.processes.lock().unwrap_or_else(PoisonError::into_inner).values() {
            tasks::kill_group(*pid);
        }
    }
}

impl Inner {
    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|times| *times += 1);
        result
    }

    fn fault<T>(&self, read: impl FnOnce(&Faults) -> T) -> T {
        read(&self.faults.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a fault that is counted down happens this time.
    fn happens(&self, left: impl FnOnce(&mut Faults) -> &mut usize) -> bool {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let left = left(&mut faults);
        let happens = *left > 0;
        *left = left.saturating_sub(1);
        happens
    }

    /// Waits until the state is as wanted.
    async fn wait_for<T>(&self, mut wanted: impl FnMut(&State) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(result) = self.read(&mut wanted) {
                return result;
            }
            // The sender is part of `self`.
            let _ = tokio::time::timeout(Duration::from_secs(3_600), changed.changed()).await;
        }
    }
}
