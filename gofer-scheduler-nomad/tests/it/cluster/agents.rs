//! Three servers and two clients of a real Nomad on this machine, for tests that kill them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gofer_conformance::{eventually, say_skipped};
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use crate::agent::Agent;

/// One cluster at a time is enough for a machine.
static ONE: Mutex<()> = Mutex::const_new(());

/// A server or a client.
struct Member {
    name: String,
    http: u16,
    rpc: u16,
    serf: u16,
    process: Option<Child>,
}

/// A running cluster; when it is dropped, so is everything it runs.
pub(crate) struct Cluster {
    program: PathBuf,
    servers: Vec<Member>,
    clients: Vec<Member>,
    dir: TempDir,
    _one: MutexGuard<'static, ()>,
}

impl Cluster {
    /// With `GOFER_TEST_NOMAD_CLUSTER` set; without, says that the test is skipped.
    pub(crate) async fn start(test: &str) -> Option<Self> {
        if std::env::var("GOFER_TEST_NOMAD_CLUSTER").is_ok_and(|value| !value.is_empty()) {
            let one = ONE.lock().await;
            let program = std::env::var_os("GOFER_TEST_NOMAD_BIN")
                .map_or_else(|| PathBuf::from("nomad"), PathBuf::from);
            let dir = tempfile::tempdir().expect("a temporary directory");
            let member = |name: &str| {
                let [http, rpc, serf] = free_ports();
                Member { name: name.to_owned(), http, rpc, serf, process: None }
            };

            let servers = ["server-1", "server-2", "server-3"].map(member).into();
            let clients = ["client-1", "client-2"].map(member).into();
            let mut cluster = Self { program, servers, clients, dir, _one: one };

            for index in 0..3 {
                cluster.start_server(index);
            }

            for index in 0..2 {
                cluster.start_client(index);
            }

            cluster.ready().await;
            return Some(cluster);
        }

        // Minutes of killing agents are asked for by name: requiring nomad does not require them.
        say_skipped(test, "GOFER_TEST_NOMAD_CLUSTER is not set");
        None
    }

    /// The HTTP addresses of all servers.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(|server| format!("http://127.0.0.1:{}", server.http)).collect()
    }

    /// A server that answers.
    pub(crate) async fn agent(&self) -> Agent {
        eventually("a server knows the leader", async || {
            for address in self.addresses() {
                let agent = Agent::at(&address, "");
                if let Ok((200, leader)) = agent.call(Method::GET, "/v1/status/leader", None).await
                    && leader.len() > 2
                {
                    return Ok(agent);
                }
            }
            Err("none".to_owned())
        })
        .await
    }

    /// Kills the leader; which one it was.
    pub(crate) async fn kill_leader(&mut self) -> usize {
        let leader = self.agent().await.get("/v1/status/leader").await;
        let leader = leader.as_str().expect("an address").to_owned();
        let is_leader = |server: &Member| leader.ends_with(&format!(":{}", server.rpc));
        let index = self.servers.iter().position(is_leader).expect("one of the servers");
        kill(&mut self.servers[index]);
        index
    }

    pub(crate) fn start_server(&mut self, index: usize) {
        let join: Vec<String> =
            self.servers.iter().map(|server| format!("\"127.0.0.1:{}\"", server.serf)).collect();
        let server = format!(
            "server {{\n  enabled = true\n  bootstrap_expect = 3\n  raft_multiplier = 1\n  \
             heartbeat_grace = \"2s\"\n  min_heartbeat_ttl = \"2s\"\n  failover_heartbeat_ttl = \
             \"10s\"\n  event_buffer_size = 1000\n  server_join {{\n    retry_join = [{}]\n    \
             retry_interval = \"1s\"\n  }}\n}}\n",
            join.join(", ")
        );
        launch(&self.program, self.dir.path(), &mut self.servers[index], &server);
    }

    pub(crate) fn start_client(&mut self, index: usize) {
        let servers: Vec<String> =
            self.servers.iter().map(|server| format!("\"127.0.0.1:{}\"", server.rpc)).collect();
        let client = format!(
            "client {{\n  enabled = true\n  network_interface = \"lo\"\n  servers = [{}]\n  \
             cpu_total_compute = 100000\n  memory_total_mb = 65536\n  gc_disk_usage_threshold = \
             100\n  min_dynamic_port = {}\n  max_dynamic_port = {}\n  max_kill_timeout = \"1h\"\n  \
             options {{\n    \"fingerprint.denylist\" = \
             \"env_aws,env_gce,env_azure,env_digitalocean\"\n  }}\n}}\nplugin \"raw_exec\" {{\n  \
             config {{\n    enabled = true\n  }}\n}}\n",
            servers.join(", "),
            40_000 + index * 1_000,
            40_999 + index * 1_000,
        );
        launch(&self.program, self.dir.path(), &mut self.clients[index], &client);
    }

    /// The client whose node has this name, such as `client-1`.
    pub(crate) fn client(&self, node: &str) -> usize {
        self.clients.iter().position(|client| client.name == node).expect("one of the clients")
    }

    /// Kills a client's agent. What it runs goes on.
    pub(crate) fn kill_client(&mut self, index: usize) {
        kill(&mut self.clients[index]);
    }

    /// Kills a client's agent and all that it runs, as a power cut does.
    pub(crate) fn crash_client(&mut self, index: usize) {
        kill(&mut self.clients[index]);
        let data = format!("{}/data/", self.dir.path().join(&self.clients[index].name).display());
        kill_all(&["cmdline", "environ"], &data);
    }

    /// What a client has written to its disk to find its tasks again.
    pub(crate) fn state_of_client(&self, index: usize) -> Vec<u8> {
        let path = self.dir.path().join(&self.clients[index].name).join("data/client/state.db");
        std::fs::read(path).expect("the client's state")
    }

    /// Halts a client's agent, or lets it go on. What it runs goes on.
    pub(crate) fn halt_client(&self, index: usize, halt: bool) {
        let process = self.clients[index].process.as_ref().expect("it runs");
        signal(process.id(), if halt { Signal::STOP } else { Signal::CONT });
    }

    /// Stops what runs on a node, at once.
    pub(crate) async fn drain(&self, node: &str) {
        let agent = self.agent().await;
        let nodes = agent.get("/v1/nodes").await;
        let found = nodes
            .as_array()
            .expect("a list")
            .iter()
            .find(|one| one["Name"] == node)
            .expect("the node");
        let path = format!("/v1/node/{}/drain", found["ID"].as_str().expect("an ID"));
        agent.put(&path, &json!({"DrainSpec": {"Deadline": -1}, "MarkEligible": false})).await;
    }

    async fn ready(&self) {
        let agent = self.agent().await;
        eventually("both nodes are ready, and all servers know each other", async || {
            let (_, nodes) = agent.call(Method::GET, "/v1/nodes", None).await?;
            let (_, peers) = agent.call(Method::GET, "/v1/status/peers", None).await?;
            let ready = nodes.matches("\"Status\":\"ready\"").count();
            let peers: Value = serde_json::from_str(&peers).unwrap_or_default();
            let known = peers.as_array().map_or(0, Vec::len);
            if (ready, known) == (2, 3) {
                Ok(())
            } else {
                Err(format!("{ready} nodes, {known} servers"))
            }
        })
        .await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in self.clients.iter_mut().chain(&mut self.servers) {
            kill(member);
        }
        // What the agents started has their environment, and with it the name of this directory,
        // which nobody else has.
        kill_all(&["environ"], &format!("HOME={}\0", self.dir.path().display()));
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let inside = |line: &str| {
            line.split(' ').nth(1).map(PathBuf::from).filter(|at| at.starts_with(self.dir.path()))
        };
        for mount in mounts.lines().filter_map(inside).collect::<Vec<_>>().into_iter().rev() {
            let _ = Command::new("umount").arg(mount).stderr(Stdio::null()).status();
        }
    }
}

/// Kills every process that has this text in one of its files in `/proc`.
fn kill_all(files: &[&str], text: &str) {
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let has = |file: &&str| {
            let content = std::fs::read(entry.path().join(file)).unwrap_or_default();
            content.windows(text.len()).any(|window| window == text.as_bytes())
        };
        if files.iter().any(has) {
            signal(pid, Signal::KILL);
        }
    }
}

fn launch(program: &Path, dir: &Path, member: &mut Member, role: &str) {
    let Member { name, http, rpc, serf, .. } = member;
    let home = dir.join(&*name);
    std::fs::create_dir_all(&home).expect("a directory");
    let config = format!(
        "name = \"{name}\"\ndata_dir = \"{}\"\nbind_addr = \"127.0.0.1\"\ndisable_update_check = \
         true\nlog_level = \"WARN\"\nadvertise {{\n  http = \"127.0.0.1\"\n  rpc = \"127.0.0.1\"\n  \
         serf = \"127.0.0.1\"\n}}\nports {{\n  http = {http}\n  rpc = {rpc}\n  serf = \
         {serf}\n}}\nlimits {{\n  http_max_conns_per_client = 0\n}}\n{role}",
        home.join("data").display(),
    );

    std::fs::write(home.join("agent.hcl"), config).expect("write the configuration");
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(home.join("log"))
        .expect("a log");
    let process = Command::new(program)
        .args(["agent", "-config"])
        .arg(home.join("agent.hcl"))
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the log"))
        .stderr(log)
        .spawn()
        .expect("start nomad: set GOFER_TEST_NOMAD_BIN or put it on the PATH");
    member.process = Some(process);
}

fn kill(member: &mut Member) {
    if let Some(mut process) = member.process.take() {
        let _ = process.kill();
        let _ = process.wait();
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Three ports that nobody listens on now.
fn free_ports() -> [u16; 3] {
    let listeners =
        [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}
