//! The client: what becomes of one allocation.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::faults::Image;
use super::state::{now, text};
use super::tasks::{self, Ended, Running};
use super::{Inner, identity, placement, template};

/// Nomad keeps the last events of a task.
const KEPT_EVENTS: usize = 10;

/// Runs an allocation to its end.
pub(super) async fn run(inner: Arc<Inner>, id: String) {
    let Some((job, alloc)) =
        inner.read(|state| state.allocs.get(&id).map(|a| (a.job.clone(), a.value.clone())))
    else {
        return;
    };

    let group = job["TaskGroups"][0].clone();
    let tasks = group["Tasks"].as_array().cloned().unwrap_or_default();
    let Some(task) = tasks.into_iter().find(|task| task["Lifecycle"].is_null()) else { return };
    let mut view = View {
        inner,
        id,
        task: text(&task["Name"]),
        status: "pending",
        description: "",
        state: fresh(),
    };

    view.event("Received", "Task received by client", json!({}));
    view.event(
        "Task Setup",
        "Building Task Directory",
        json!({"message": "Building Task Directory"}),
    );
    std::fs::create_dir_all(view.inner.dir.join(&view.id).join("alloc/logs"))
        .expect("a directory of the allocation");
    view.send();

    let client = Client { job, group, alloc, task };
    client.live(&mut view).await;
    view.state["State"] = json!("dead");
    view.state["FinishedAt"] = json!(timestamp());

    let failed = view.state["Failed"] == true;
    view.status = if failed { "failed" } else { "complete" };
    if view.description.is_empty() {
        view.description = if failed { "Failed tasks" } else { "All tasks have completed" };
    }

    view.send();
    after_end(&view.inner, &view.id);
}

/// What follows from the end of an allocation: room for others, and a new allocation of a service.
pub(super) fn after_end(inner: &Arc<Inner>, id: &str) {
    let again = inner.read(|state| {
        let alloc = state.allocs.get(id)?;
        let name = (text(&alloc.value["Namespace"]), text(&alloc.value["JobID"]));
        let keep = alloc.job["Type"] == "service" && alloc.value["DesiredStatus"] == "run";
        keep.then_some(name)
    });
    if let Some(name) = again {
        placement::evaluate(inner, &name, "alloc-failure");
    }
    placement::unblock(inner);
    super::jobs::collect(inner);
}

fn fresh() -> Value {
    json!({"State": "pending", "Failed": false, "Restarts": 0, "LastRestart": null, "StartedAt": null,
           "FinishedAt": null, "Events": []})
}

fn timestamp() -> String {
    humantime::format_rfc3339_nanos(std::time::SystemTime::now()).to_string()
}

/// What the client knows of its allocation.
struct View {
    inner: Arc<Inner>,
    id: String,
    task: String,
    status: &'static str,
    description: &'static str,
    state: Value,
}

impl View {
    fn event(&mut self, kind: &str, message: &str, details: Value) {
        let fails = details["fails_task"] == "true";
        let event = json!({"Type": kind, "Time": now(), "DisplayMessage": message, "Message": "", "Details": details,
                           "FailsTask": fails});
        let events = self.state["Events"].as_array_mut().expect("a list");
        events.push(event);
        if events.len() > KEPT_EVENTS {
            events.remove(0);
        }
        if fails {
            self.state["Failed"] = json!(true);
        }
    }

    fn not_restarting(&mut self) {
        let reason = "Policy allows no restarts";
        self.event(
            "Not Restarting",
            reason,
            json!({"fails_task": "true", "restart_reason": reason}),
        );
    }

    /// Tells the server, or keeps it until the server can be reached.
    fn send(&self) {
        let update = json!({"ClientStatus": self.status, "ClientDescription": self.description,
                            "TaskStates": {self.task.as_str(): self.state}});
        self.inner.change(|state| {
            let Some(alloc) = state.allocs.get_mut(&self.id) else { return };
            let reachable = alloc.value["NodeID"]
                .as_str()
                .and_then(|id| state.nodes.get(id))
                .is_some_and(|n| n.connected);
            if reachable {
                apply(state, &self.id, &update);
            } else {
                alloc.unsent = Some(update);
            }
        });
    }

    /// Waits until the server wants the allocation to end, or does not know it any more.
    async fn stop_wanted(&self) {
        let (inner, id) = (self.inner.clone(), self.id.clone());
        let wanted = inner.wait_for(|state| match state.allocs.get(&id) {
            None => Some(()),
            Some(alloc) => {
                (state.reaches(&alloc.value) && alloc.value["DesiredStatus"] != "run").then_some(())
            }
        });
        wanted.await;
    }
}

/// Writes what a client told into the server's state.
pub(super) fn apply(state: &mut super::state::State, id: &str, update: &Value) {
    let index = state.next_index();
    let event = state.put_alloc(index, "AllocationUpdated", id, |alloc| {
        for field in ["ClientStatus", "ClientDescription", "TaskStates"] {
            alloc[field] = update[field].clone();
        }
    });
    state.publish(index, vec![event]);
}

struct Client {
    job: Value,
    group: Value,
    alloc: Value,
    task: Value,
}

impl Client {
    async fn live(&self, view: &mut View) {
        let env = template::environment(
            &view.inner,
            &self.job,
            &self.task,
            view.inner.dir.join(&view.id),
        );
        let rendered = tokio::select! {
            () = view.stop_wanted() => {
                view.event("Killed", "Task successfully killed", json!({}));
                return;
            }
            rendered = env => rendered,
        };

        let rendered = match rendered {
            Ok(rendered) => rendered,
            Err(message) => {
                let message = format!("Template failed: {message}");
                view.event(
                    "Killing",
                    &message,
                    json!({"fails_task": "true", "kill_reason": message}),
                );
                return;
            }
        };

        let mut restarts = Restarts::new(&self.group, &self.task, self.job["Type"] == "batch");
        loop {
            let Some(running) = self.start(view, &rendered) else { return };
            view.status = "running";
            view.state["State"] = json!("running");
            view.state["StartedAt"] = json!(timestamp());
            view.event("Started", "Task started by client", json!({}));
            view.send();

            let Some(end) = self.wait(view, running).await else { return };
            let succeeded = match end {
                End::Process { succeeded }
                    if !view.inner.happens(|faults| &mut faults.restarts_after_end) =>
                {
                    succeeded
                }
                _ => {
                    if !self.restored(view).await {
                        return;
                    }
                    continue;
                }
            };

            let Some(delay) = restarts.next(succeeded) else {
                if !succeeded {
                    let reason = restarts.reason();
                    view.event(
                        "Not Restarting",
                        &reason,
                        json!({"fails_task": "true", "restart_reason": reason}),
                    );
                }
                return;
            };

            view.state["State"] = json!("pending");
            view.state["Restarts"] = json!(view.state["Restarts"].as_u64().unwrap_or(0) + 1);
            let message = format!("Task restarting in {delay:?}");
            view.event("Restarting", &message, json!({"restart_reason": "Restart within policy"}));
            view.send();
            tokio::select! {
                () = view.stop_wanted() => {
                    view.event("Killed", "Task successfully killed", json!({}));
                    return;
                }
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// What an agent does that is started again and does not find its process; whether it is to
    /// start another.
    async fn restored(&self, view: &mut View) -> bool {
        if view.inner.fault(|faults| faults.forgets_starts) {
            view.state["Events"]
                .as_array_mut()
                .expect("a list")
                .retain(|event| event["Type"] != "Started");
        } else {
            let message = "failed to restore task; will not run until server is contacted";
            view.event("Failed Restoring Task", message, json!({}));
        }

        (view.status, view.state["State"]) = ("pending", json!("pending"));
        view.send();
        let inner = view.inner.clone();
        let let_go =
            inner.wait_for(|_| (!inner.fault(|faults| faults.holds_restarts)).then_some(()));
        tokio::select! {
            biased;
            () = view.stop_wanted() => {
                view.event("Killing", "Sent interrupt", json!({}));
                view.event("Killed", "Task successfully killed", json!({}));
                false
            }
            () = let_go => true,
        }
    }

    /// Starts the process, or says why it cannot be.
    fn start(&self, view: &mut View, rendered: &[(String, String)]) -> Option<Running> {
        let image = text(&self.task["Config"]["image"]);
        if let Some(Image::PullFails(words)) = self.image(view) {
            let error = format!("Failed to pull `{image}`: {words}");
            self.fail(view, &error);
            return None;
        }

        let late = view.inner.fault(|faults| faults.late_logs);
        let dir = view.inner.dir.join(&view.id);
        let mut tokens = Vec::new();

        for identity in self.task["Identities"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|one| one["Env"] == true)
        {
            let claims = identity::claims(&self.job, &self.alloc, &self.task, identity);
            tokens.push((
                format!("NOMAD_TOKEN_{}", text(&identity["Name"])),
                view.inner.signer.sign(&claims),
            ));
        }

        match tasks::start(&dir, &self.job, &self.alloc, &self.task, rendered, &tokens, late) {
            Ok(running) => {
                view.inner
                    .processes
                    .lock()
                    .expect("the processes")
                    .insert(view.id.clone(), running.pid);
                Some(running)
            }
            Err(tasks::Problem::Config(error)) => {
                view.event("Failed Validation", &error, json!({"validation_error": error}));
                view.not_restarting();
                None
            }
            Err(tasks::Problem::Driver(error)) => {
                self.fail(view, &error);
                None
            }
        }
    }

    fn fail(&self, view: &mut View, error: &str) {
        view.event("Driver Failure", error, json!({"driver_error": error}));
        view.not_restarting();
    }

    fn image(&self, view: &View) -> Option<Image> {
        let image = self.task["Config"]["image"].as_str()?;
        view.inner.fault(|faults| faults.images.get(image).cloned())
    }

    /// Waits for the end of the process; nothing when it was ended.
    async fn wait(&self, view: &mut View, mut running: Running) -> Option<End> {
        let limit = self.group["MaxRunDuration"]
            .as_u64()
            .filter(|&limit| limit > 0)
            .map(Duration::from_nanos);
        let ended = tokio::select! {
            ended = running.wait() => Some(ended),
            () = view.stop_wanted() => None,
            () = tokio::time::sleep(limit.unwrap_or(Duration::from_secs(86_400))), if limit.is_some() => {
                view.description = "allocation exceeded max_run_duration";
                None
            }
        };

        if let Some(ended) = ended {
            self.gone(view, running).await;
            if view.inner.rebooted.lock().expect("the rebooted").remove(&view.id) {
                return Some(End::WithItsNode);
            }
            self.terminated(view, ended);
            return Some(End::Process { succeeded: ended.code == 0 && ended.signal == 0 });
        }

        let timeout =
            self.task["KillTimeout"].as_u64().map_or(Duration::from_secs(5), Duration::from_nanos);
        let longest = Duration::from_millis(view.inner.read(|state| state.max_kill_timeout_ms));
        let timeout = timeout.min(longest);
        let message = format!("Sent interrupt. Waiting {timeout:?} before force killing");
        view.event("Killing", &message, json!({"kill_timeout": format!("{timeout:?}")}));
        view.send();
        tasks::signal(running.pid, self.task["KillSignal"].as_str().unwrap_or("SIGINT"));

        let ended = match tokio::time::timeout(timeout, running.wait()).await {
            Ok(ended) => ended,
            Err(_) => {
                tasks::kill_group(running.pid);
                running.wait().await
            }
        };

        self.gone(view, running).await;
        self.terminated(view, ended);
        view.event("Killed", "Task successfully killed", json!({}));

        None
    }

    async fn gone(&self, view: &View, running: Running) {
        view.inner.processes.lock().expect("the processes").remove(&view.id);
        running.flush().await;
    }

    fn terminated(&self, view: &mut View, ended: Ended) {
        let killed = ended.signal == 9;
        let (oom, exit_message) = match self.image(view) {
            Some(Image::OutOfMemory { told: true }) if killed => (true, "OOM Killed"),
            _ => (false, ""),
        };

        let code = if ended.signal == 0 { ended.code } else { 128 + ended.signal };
        let signal =
            if ended.signal == 0 { String::new() } else { format!(", Signal: {}", ended.signal) };
        let message = format!("Exit Code: {code}{signal}");
        let mut details = json!({"exit_code": code.to_string(), "signal": ended.signal.to_string(),
                                 "oom_killed": oom.to_string()});

        if !exit_message.is_empty() {
            details["exit_message"] = json!(exit_message);
        }

        view.event("Terminated", &message, details);
    }
}

/// How the process of a task ended.
enum End {
    Process {
        succeeded: bool,
    },
    /// It was not seen to end.
    WithItsNode,
}

/// The restart policy of a task.
struct Restarts {
    attempts: u64,
    delay: Duration,
    for_ever: bool,
    on_success: bool,
    used: u64,
}

impl Restarts {
    fn new(group: &Value, task: &Value, batch: bool) -> Self {
        let policy = if task["RestartPolicy"].is_object() {
            &task["RestartPolicy"]
        } else {
            &group["RestartPolicy"]
        };
        let default_attempts = if batch { 3 } else { 2 };
        Self {
            attempts: policy["Attempts"].as_u64().unwrap_or(default_attempts),
            delay: Duration::from_nanos(policy["Delay"].as_u64().unwrap_or(15_000_000_000)),
            for_ever: policy["Mode"] == "delay",
            on_success: !batch,
            used: 0,
        }
    }

    /// How long to wait before the next start, if there is to be one.
    fn next(&mut self, succeeded: bool) -> Option<Duration> {
        if succeeded && !self.on_success || self.attempts == 0 {
            return None;
        }
        self.used += 1;
        (self.used <= self.attempts || self.for_ever).then_some(self.delay)
    }

    fn reason(&self) -> String {
        if self.attempts == 0 {
            return "Policy allows no restarts".to_owned();
        }
        format!("Exceeded allowed attempts {} in interval and mode is \"fail\"", self.attempts)
    }
}
