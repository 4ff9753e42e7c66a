//! The least work to run tasks on Nomad: register a job, wait on the event stream for its end.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::http;
use crate::nomad::{CALLS, CPU_MHZ, DISK_MB, LOG_MB, MEMORY_MB};

/// How long all tasks of one round may take without any of them ending.
const PATIENCE: Duration = Duration::from_secs(60);
/// The prefix of the bare client's jobs.
const PREFIX: &str = "gofer-bench-bare-";
const SECOND: u64 = 1_000_000_000;

/// A client of one agent.
#[derive(Debug)]
pub(crate) struct Bare {
    http: Client,
    address: String,
    token: Option<String>,
    driver: String,
}

impl Bare {
    /// Finds out whether the agent answers.
    pub(crate) async fn connect(
        address: &str,
        token: Option<String>,
        driver: &str,
    ) -> Result<Self> {
        let address = address.trim_end_matches('/').to_owned();
        let bare = Self { http: http::client()?, address, token, driver: driver.to_owned() };
        bare.call(bare.request(Method::GET, "/v1/jobs?per_page=1"))
            .await
            .context("the agent does not answer")?;
        Ok(bare)
    }

    /// Runs so many jobs, at most `at_once` at a time, until the last has ended well; their ids.
    pub(crate) async fn run(
        &self,
        name: &str,
        tasks: usize,
        at_once: usize,
    ) -> Result<Vec<String>> {
        let jobs: Vec<String> = (0..tasks)
            .map(|index| format!("{PREFIX}{}-{name}-{index}", std::process::id()))
            .collect();
        let events = self.request(Method::GET, "/v1/event/stream?topic=Allocation").send().await?;
        let mut ends =
            Ends { events: events.error_for_status()?, text: Vec::new(), jobs: VecDeque::new() };

        for group in jobs.chunks(at_once) {
            let registered =
                stream::iter(group).map(|job| self.register(job)).buffer_unordered(CALLS);
            let mut open: HashSet<&str> = group.iter().map(String::as_str).collect();
            let mut registered = std::pin::pin!(registered.try_collect::<Vec<()>>());
            let mut all_registered = false;

            while !open.is_empty() {
                tokio::select! {
                    done = &mut registered, if !all_registered => { done?; all_registered = true }
                    ended = timeout(PATIENCE, ends.next()) => { open.remove(&*ended.context("no job ended")??); }
                }
            }
        }

        Ok(jobs)
    }

    /// Purges the jobs, as Gofer does after their logs.
    pub(crate) async fn remove(&self, jobs: &[String]) -> Result<()> {
        let one = |job: &String| {
            self.call(self.request(Method::DELETE, &format!("/v1/job/{job}?purge=true")))
        };
        stream::iter(jobs.iter().map(one))
            .buffer_unordered(CALLS)
            .try_for_each(async |_| Ok(()))
            .await
    }

    async fn register(&self, id: &str) -> Result<()> {
        let task = json!({
            "Name": "main", "Driver": self.driver, "Config": {"command": "true"},
            "Resources": {"CPU": CPU_MHZ, "MemoryMB": MEMORY_MB},
            "LogConfig": {"MaxFiles": 1, "MaxFileSizeMB": LOG_MB}, "KillTimeout": 30 * SECOND, "KillSignal": "SIGTERM",
        });
        let group = json!({
            "Name": "g", "Count": 1, "Tasks": [task], "EphemeralDisk": {"SizeMB": DISK_MB},
            "RestartPolicy": {"Attempts": 0, "Mode": "fail", "Interval": 5 * SECOND, "Delay": SECOND},
            "ReschedulePolicy": {"Attempts": 0, "Unlimited": false},
        });
        let job = json!({"ID": id, "Name": id, "Type": "batch", "Datacenters": ["*"], "TaskGroups": [group]});
        let body = json!({"Job": job, "EnforceIndex": true, "JobModifyIndex": 0});
        self.call(self.request(Method::PUT, "/v1/jobs").json(&body)).await.map(drop)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.address));
        match &self.token {
            Some(token) => request.header("X-Nomad-Token", token),
            None => request,
        }
    }

    async fn call(&self, request: RequestBuilder) -> Result<Value> {
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status.is_success(), "nomad answered {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }
}

/// The ends of allocations on an event stream: JSON objects, one a line, each with any number of
/// events.
struct Ends {
    events: Response,
    text: Vec<u8>,
    /// Read, and not asked for yet.
    jobs: VecDeque<String>,
}

impl Ends {
    /// The job of the next allocation that ended well. Nothing is lost when the wait is given up.
    async fn next(&mut self) -> Result<String> {
        loop {
            if let Some(job) = self.jobs.pop_front() {
                return Ok(job);
            }
            let Some(end) = self.text.iter().position(|byte| *byte == b'\n') else {
                let chunk = self.events.chunk().await?.context("the event stream ended")?;
                self.text.extend_from_slice(&chunk);
                continue;
            };
            let line: Vec<u8> = self.text.drain(..=end).collect();
            self.jobs.extend(ends_in(&line)?);
        }
    }
}

/// The jobs whose allocations ended well, by one line of the stream; an error when one did not.
fn ends_in(line: &[u8]) -> Result<Vec<String>> {
    let message: Value = serde_json::from_slice(line)?;
    let mut ended = Vec::new();
    for event in message["Events"].as_array().into_iter().flatten() {
        let allocation = &event["Payload"]["Allocation"];
        let job = allocation["JobID"].as_str().unwrap_or_default();
        match allocation["ClientStatus"].as_str() {
            _ if !job.starts_with(PREFIX) => {}
            Some("complete") => ended.push(job.to_owned()),
            Some("failed" | "lost") => bail!("job `{job}` failed: {allocation}"),
            _ => {}
        }
    }
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_stream_may_tell_of_several_ends() {
        let line = |ends: &[(&str, &str)]| {
            let event = |(job, status): &(&str, &str)| json!({"Payload": {"Allocation": {"JobID": format!("{PREFIX}{job}"), "ClientStatus": status}}});
            json!({"Events": ends.iter().map(event).collect::<Vec<_>>()}).to_string()
        };
        let ends =
            ends_in(line(&[("a", "complete"), ("b", "running"), ("c", "complete")]).as_bytes())
                .unwrap();
        assert_eq!(ends, [format!("{PREFIX}a"), format!("{PREFIX}c")]);
        assert!(ends_in(line(&[("a", "complete"), ("b", "failed")]).as_bytes()).is_err());
        assert_eq!(ends_in(b"{}").unwrap(), Vec::<String>::new());
    }
}
