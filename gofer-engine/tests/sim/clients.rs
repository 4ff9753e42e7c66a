//! Who asks things of the servers: each asks again until somebody answers, also another server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gofer_core::run::{CancelRequest, Initiator};
use gofer_core::{NamespaceId, RunKey, TaskId, Timestamp};
use gofer_engine::{Engine, EngineError, StartRun};

use crate::link::Link;
use crate::model::Model;
use crate::plan::{Action, Ask};
use crate::rng::Rng;
use crate::server::{Remains, Server};
use crate::world::lock;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Progress {
    Waiting,
    /// This life of a server was asked.
    Asked(String),
    Answered,
}

/// What a client asks, once it is known of which run.
#[derive(Debug, Clone)]
enum Request {
    Start(StartRun),
    CancelRun(RunKey, bool),
    CancelTask(RunKey, TaskId, bool),
    Retry(RunKey, bool),
}

pub(crate) struct Clients {
    actions: Vec<Action>,
    progress: Arc<Mutex<Vec<Progress>>>,
    rng: Rng,
}

pub(crate) fn namespace() -> NamespaceId {
    NamespaceId::new("n").expect("a valid name")
}

impl Clients {
    pub(crate) fn new(seed: u64, actions: Vec<Action>) -> Self {
        let progress = Arc::new(Mutex::new(vec![Progress::Waiting; actions.len()]));
        Self { actions, progress, rng: Rng::of(seed, "clients") }
    }

    pub(crate) fn are_content(&self) -> bool {
        lock(&self.progress).iter().all(|progress| *progress == Progress::Answered)
    }

    /// When the next of them wants something.
    pub(crate) fn next_at(&self) -> Option<i64> {
        let progress = lock(&self.progress);
        let waiting = self
            .actions
            .iter()
            .zip(&*progress)
            .filter(|(_, progress)| **progress == Progress::Waiting);
        waiting.map(|(action, _)| action.at).next()
    }

    /// A dead server answers nobody.
    pub(crate) fn mourn(&self, name: &str) {
        for progress in lock(&self.progress).iter_mut() {
            if *progress == Progress::Asked(name.to_owned()) {
                *progress = Progress::Waiting;
            }
        }
    }

    /// Whoever wants something by now asks one of these servers.
    pub(crate) fn ask(&mut self, now: i64, remains: &Remains, servers: &[&Server]) {
        for at in 0..self.actions.len() {
            let due = self.actions[at].at <= now && lock(&self.progress)[at] == Progress::Waiting;
            if !due {
                continue;
            }

            let Some(request) = self.request(at, remains) else {
                lock(&self.progress)[at] = Progress::Answered;
                continue;
            };

            // Through any server, or that which has the run.
            let holder = request
                .run()
                .filter(|_| self.rng.chance(500))
                .and_then(|run| lock(&remains.model).runs.get(run)?.holder.clone());
            let suited: Vec<&&Server> = servers
                .iter()
                .filter(|server| {
                    holder
                        .as_ref()
                        .is_none_or(|holder| server.link.name.starts_with(holder.as_str()))
                })
                .filter(|server| server.engine().is_some())
                .collect();

            if suited.is_empty() {
                continue;
            }

            let server = suited[self.rng.index(suited.len())];
            lock(&self.progress)[at] = Progress::Asked(server.link.name.clone());
            let engine = server.engine().expect("it was looked at");
            let (link, model, progress) =
                (server.link.clone(), remains.model.clone(), self.progress.clone());
            server.runtime.spawn(async move {
                until_answered(&engine, &link, &request, &model).await;
                lock(&progress)[at] = Progress::Answered;
            });
        }
    }

    fn request(&self, at: usize, remains: &Remains) -> Option<Request> {
        let runs = remains.journal.runs();
        let nth = |nth: u64| runs.get(usize::try_from(nth).ok()? % runs.len().max(1)).cloned();
        Some(match &self.actions[at].what {
            Ask::Start { pipeline } => Request::Start(StartRun {
                namespace: namespace(),
                pipeline: pipeline.clone(),
                version: None,
                variables: BTreeMap::new(),
                initiator: Initiator::Token("client".to_owned()),
                idempotency_key: Some(format!("action-{at}")),
            }),
            Ask::CancelRun { nth: run, force } => Request::CancelRun(nth(*run)?, *force),
            Ask::CancelTask { nth: run, task, force } => {
                let run = nth(*run)?;
                let model = lock(&remains.model);
                let tasks = &model.spec(&run)?.tasks;
                let task = tasks[usize::try_from(*task).ok()? % tasks.len()].id.clone();
                Request::CancelTask(run, task, *force)
            }
            Ask::Retry { nth: run, from_failed } => Request::Retry(nth(*run)?, *from_failed),
        })
    }
}

impl Request {
    fn run(&self) -> Option<&RunKey> {
        match self {
            Self::CancelRun(run, _) | Self::CancelTask(run, ..) => Some(run),
            Self::Start(_) | Self::Retry(..) => None,
        }
    }
}

async fn until_answered(engine: &Engine, link: &Link, request: &Request, model: &Mutex<Model>) {
    link.trace(|| format!("asked: {request:?}"));
    loop {
        let cancel = |force| CancelRequest {
            at: Timestamp(link.now()),
            by: "client".to_owned(),
            force,
            message: String::new(),
        };

        let answer = match request {
            Request::Start(start) => {
                engine.start_run(start.clone()).await.map(|run| run.key.to_string())
            }
            Request::CancelRun(run, force) => {
                engine.cancel_run(run, cancel(*force)).await.map(|changed| format!("{changed}"))
            }
            Request::CancelTask(run, task, force) => engine
                .cancel_task(run, task, cancel(*force))
                .await
                .map(|changed| format!("{changed}")),
            Request::Retry(run, from_failed) => {
                let initiator = Initiator::Token("client".to_owned());
                engine.retry_run(run, *from_failed, initiator).await.map(|run| run.key.to_string())
            }
        };

        link.trace(|| format!("answered: {answer:?}"));
        match answer {
            Ok(_) => return acknowledge(link, request, model),
            Err(EngineError::Backend(error)) if error.is_retryable() => {}
            Err(_) => return,
        }

        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn acknowledge(link: &Link, request: &Request, model: &Mutex<Model>) {
    let (mut model, now) = (lock(model), Timestamp(link.now()));
    match request {
        // Runs it superseded were cancelled with it.
        Request::Start(start) => {
            model.acknowledge_cancels(|run| run.pipeline == start.pipeline, now)
        }
        Request::Retry(of, _) => model.acknowledge_cancels(|run| run.pipeline == of.pipeline, now),
        Request::CancelRun(of, _) => model.acknowledge_cancels(|run| run == of, now),
        Request::CancelTask(run, task, _) => model.acknowledge_task_cancel(run, task, now),
    }
}
