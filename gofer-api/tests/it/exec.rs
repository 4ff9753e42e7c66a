//! A command in a running task, over the wire.

use bytes::Bytes;
use gofer_proto::v1;
use gofer_proto::v1::event::Details;
use gofer_proto::v1::exec_request::Input;
use gofer_proto::v1::exec_response::Output;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::harness::{
    Clients, TestServer, assert_invalid, assert_refused, eventually, pipeline, refusal, shell,
};

/// The caller's two sides of a session.
pub(crate) struct Session {
    pub(crate) input: mpsc::Sender<v1::ExecRequest>,
    pub(crate) output: Streaming<v1::ExecResponse>,
}

pub(crate) fn header(command: &[&str]) -> v1::ExecHeader {
    v1::ExecHeader {
        namespace: "default".into(),
        pipeline: "ci".into(),
        run: 1,
        task: "t".into(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        terminal: None,
    }
}

async fn open(clients: &Clients, header: v1::ExecHeader) -> Result<Session, Status> {
    let (input, inputs) = mpsc::channel(4);
    input.send(v1::ExecRequest { input: Some(Input::Header(header)) }).await.unwrap();
    let output = clients.task_runs().exec(ReceiverStream::new(inputs)).await?.into_inner();
    let mut session = Session { input, output };
    let started = session.output.message().await?.unwrap().output;
    assert_eq!(started, Some(Output::Started(v1::ExecStarted { attempt: 1 })));
    Ok(session)
}

impl Session {
    async fn send(&self, input: Input) {
        self.input.send(v1::ExecRequest { input: Some(input) }).await.unwrap();
    }

    /// Reads the output until it holds the text.
    async fn reads(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            match self.output.message().await.unwrap().and_then(|message| message.output) {
                Some(Output::Stdout(data)) => seen.push_str(&String::from_utf8_lossy(&data)),
                other => panic!("{other:?} after {seen:?}"),
            }
        }
        seen
    }

    /// Everything that is left, and the exit code.
    async fn rest(mut self) -> (String, String, i32) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            match self.output.message().await.unwrap().and_then(|message| message.output) {
                Some(Output::Stdout(data)) => out.extend_from_slice(&data),
                Some(Output::Stderr(data)) => err.extend_from_slice(&data),
                Some(Output::Exited(exited)) => {
                    assert_eq!(self.output.message().await.unwrap(), None);
                    return (
                        String::from_utf8(out).unwrap(),
                        String::from_utf8(err).unwrap(),
                        exited.exit_code,
                    );
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A server whose run `ci/1` runs its task `t`, with a secret in its environment.
pub(crate) async fn running() -> TestServer {
    let server = TestServer::start().await;
    let clients = server.anybody();
    let mut task = shell("t", "exec sleep 600");
    task.variables.insert("PASSWORD".into(), "secret{{password}}".into());
    clients.register(pipeline("ci", vec![task, after_t()])).await;

    let scope = v1::SecretScope {
        scope: Some(v1::secret_scope::Scope::PipelineScope(v1::PipelineScope {
            namespace: "default".into(),
            pipeline: "ci".into(),
        })),
    };

    let request = v1::PutSecretRequest {
        scope: Some(scope),
        key: "password".into(),
        value: "hunter22".into(),
        ..Default::default()
    };

    clients.secrets().put_secret(request).await.unwrap();
    clients.start("ci").await;
    eventually("the task runs", || async {
        let found = clients.get_run("ci", 1).await;
        let runs = found
            .task_runs
            .iter()
            .any(|task| task.task == "t" && task.state() == v1::TaskRunState::Running);
        if runs { Ok(()) } else { Err(found) }
    })
    .await;

    server
}

fn after_t() -> v1::TaskSpec {
    crate::harness::after(shell("later", "true"), &["t"])
}

pub(crate) async fn end(server: &TestServer) {
    server.anybody().kill("ci", 1).await;
    server.anybody().finished("ci", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_sees_the_tasks_environment_and_is_an_event_without_its_secrets() {
    let server = running().await;
    let clients = server.anybody();
    let script = "cat; printf %s \"$PASSWORD\"; echo hunter22 >&2; exit 9";
    let session = open(&clients, header(&["sh", "-c", script])).await.unwrap();
    session.send(Input::Stdin(Bytes::from_static(b"typed "))).await;
    session.send(Input::StdinEnd(v1::ExecStdinEnd {})).await;
    assert_eq!(session.rest().await, ("typed hunter22".into(), "hunter22\n".into(), 9));

    let request = v1::ListEventsRequest {
        types: vec!["task_run_exec_requested".into()],
        ..Default::default()
    };

    let events = clients.events().list_events(request).await.unwrap().into_inner().events;
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!(
        (event.actor.as_str(), event.task.as_str(), event.run, event.attempt),
        ("dev", "t", 1, 1)
    );

    let Some(Details::TaskRunExecRequested(details)) = &event.details else { panic!("{event:?}") };
    assert_eq!(details.command, format!("sh -c {}", script.replace("hunter22", "***")));
    assert!(!details.terminal);
    end(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_given_typed_at_and_resized() {
    let server = running().await;
    let clients = server.anybody();
    let terminal = Some(v1::TerminalSize { rows: 33, columns: 99 });
    let command = ["sh", "-c", "stty size; until read line; do :; done; stty size"];
    let mut session =
        open(&clients, v1::ExecHeader { terminal, ..header(&command) }).await.unwrap();
    session.reads("33 99").await;
    session.send(Input::Resize(v1::TerminalSize { rows: 44, columns: 111 })).await;
    session.send(Input::Stdin(Bytes::from_static(b"\n"))).await;
    let (out, _, code) = session.rest().await;
    assert!(out.contains("44 111") && code == 0, "{out:?}, exit code {code}");
    end(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_a_reason() {
    let server = running().await;
    let clients = server.anybody();
    let waits = v1::ExecHeader { task: "later".into(), ..header(&["sh"]) };
    let (code, reason, text) = refusal(open(&clients, waits).await.map(|_| ()));
    assert_eq!((code, reason.as_str()), (Code::FailedPrecondition, "TASK_RUN_NOT_RUNNING"));
    assert!(text.contains("is pending") && text.contains("gofer task get"), "{text}");

    let absent = v1::ExecHeader { task: "absent".into(), ..header(&["sh"]) };
    assert_refused(open(&clients, absent).await.map(|_| ()), Code::NotFound, "TASK_RUN_NOT_FOUND");
    let (_, reason, text) = refusal(open(&clients, header(&["gofer-no-such"])).await.map(|_| ()));
    assert_eq!(reason, "EXEC_REFUSED");
    assert!(text.contains("`gofer-no-such` was not found"), "{text}");
    assert_invalid(open(&clients, header(&[])).await.map(|_| ()), &["header.command", "a program"]);
    assert_invalid(open(&clients, header(&["sh", "a\0b"])).await.map(|_| ()), &["NUL"]);

    let flat = v1::ExecHeader {
        terminal: Some(v1::TerminalSize { rows: 0, columns: 80 }),
        ..header(&["sh"])
    };

    assert_invalid(open(&clients, flat).await.map(|_| ()), &["header.terminal.rows"]);
    end(&server).await;
    let (_, reason, text) = refusal(open(&clients, header(&["sh"])).await.map(|_| ()));
    assert_eq!(reason, "TASK_RUN_NOT_RUNNING");
    assert!(text.contains("complete (cancelled)"), "{text}");
}

/// A command that says its process id and ignores every wish to end.
pub(crate) async fn stubborn(clients: &Clients) -> (Session, String) {
    let command = ["sh", "-c", "trap '' TERM HUP; echo $$ ready; while :; do sleep 0.1; done"];
    let mut session = open(clients, header(&command)).await.unwrap();
    let line = session.reads("ready").await;
    let pid = line.split(' ').next().unwrap().to_owned();
    (session, pid)
}

pub(crate) async fn is_gone(pid: &str) {
    eventually("the command is gone", || async {
        match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) if !stat.contains(") Z ") => Err(stat),
            _ => Ok(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_ends_the_command() {
    let server = running().await;
    let (session, pid) = stubborn(&server.anybody()).await;
    drop(session);
    is_gone(&pid).await;
    end(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_task_ends_the_command() {
    let server = running().await;
    let (mut session, pid) = stubborn(&server.anybody()).await;
    end(&server).await;
    let status = session.output.message().await.unwrap_err();
    assert_refused(Err::<(), _>(status), Code::FailedPrecondition, "EXECUTION_ENDED");
    is_gone(&pid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_server_ends_the_command_and_not_the_task() {
    let server = running().await;
    let (mut session, pid) = stubborn(&server.anybody()).await;
    let dir = server.stop().await;
    let status = session.output.message().await.unwrap_err();
    assert_refused(Err::<(), _>(status), Code::Unavailable, "SHUTTING_DOWN");
    is_gone(&pid).await;
    let server = TestServer::restart(dir).await;
    let session =
        open(&server.anybody(), header(&["sh", "-c", "printf %s \"$PASSWORD\""])).await.unwrap();
    assert_eq!(session.rest().await.0, "hunter22", "the task went on, and can be looked at again");
    end(&server).await;
}

/// As many as may are let in, whatever connections they come from; the next is refused with words
/// until one has ended.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_beyond_those_of_a_task_are_refused() {
    let server = running().await;
    let clients = server.anybody();
    let mut open_ones = Vec::new();

    for _ in 0..8 {
        open_ones.push(open(&clients, header(&["cat"])).await.unwrap());
    }

    for _ in 0..20 {
        let refused = open(&clients, header(&["cat"])).await.map(drop).unwrap_err();
        assert_refused::<()>(Err(refused.clone()), Code::ResourceExhausted, "QUOTA_EXCEEDED");
        assert!(refused.message().contains("`exec_sessions_per_task`"), "{refused:?}");
    }

    drop(open_ones.pop());
    let again =
        eventually("one has ended", || async { open(&clients, header(&["cat"])).await }).await;
    drop((open_ones, again));
    end(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_beyond_those_of_the_server_are_refused() {
    let server = TestServer::start_with(|config| config.limits.exec_sessions = 1).await;
    let clients = server.anybody();
    clients.register(pipeline("ci", vec![shell("t", "exec sleep 600")])).await;
    clients.start("ci").await;
    let first =
        eventually("the task runs", || async { open(&clients, header(&["cat"])).await }).await;
    let refused = open(&clients, header(&["cat"])).await.map(drop).unwrap_err();
    assert_refused::<()>(Err(refused), Code::Unavailable, "EXEC_SESSIONS_FULL");
    drop(first);
    end(&server).await;
}
