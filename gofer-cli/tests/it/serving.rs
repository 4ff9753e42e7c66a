//! A real server for one test.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::harness::{Ended, finish_with_stdin, gofer, text};
pub(crate) use crate::harness::{SOON, signal, wait};

/// A server and its folder; both go with the test.
pub(crate) struct Serving {
    child: Child,
    pub(crate) addr: String,
    data_dir: PathBuf,
    log: PathBuf,
    token_file: Option<PathBuf>,
    /// What the server is started with besides address and folder.
    args: Vec<String>,
    _dir: TempDir,
}

impl Serving {
    /// A development server.
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"), Vec::new())
    }

    /// A server that asks for tokens.
    pub(crate) fn start_with_tokens() -> Self {
        Self::start_configured(tempfile::tempdir().expect("a folder"), "[server]\nauth = \"on\"\n")
    }

    /// A server with this configuration.
    pub(crate) fn start_configured(dir: TempDir, config: &str) -> Self {
        let file = dir.path().join("gofer.toml");
        std::fs::write(&file, config).expect("a file");
        Self::start_in(dir, vec!["--config".to_owned(), text(&file).to_owned()])
    }

    fn start_in(dir: TempDir, args: Vec<String>) -> Self {
        let data_dir = dir.path().join("data");
        Self::begin(dir, &data_dir, args)
    }

    /// A development server of an existing data folder, in `dir` or elsewhere.
    pub(crate) fn start_on(dir: TempDir, data_dir: &Path) -> Self {
        Self::begin(dir, data_dir, Vec::new())
    }

    fn begin(dir: TempDir, data_dir: &Path, args: Vec<String>) -> Self {
        let log = dir.path().join("log");
        let (child, addr) = spawn(data_dir, &log, "127.0.0.1:0", &args);
        Self { child, addr, data_dir: data_dir.to_owned(), log, token_file: None, args, _dir: dir }
    }

    /// Kills the server as a power cut would, and starts it again at the same address.
    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// Kills the server as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server has ended");
    }

    /// Starts a server that has ended again at the same address.
    pub(crate) fn restart(&mut self) {
        let listen = self.addr.trim_start_matches("http://").to_owned();
        (self.child, self.addr) = spawn(&self.data_dir, &self.log, &listen, &self.args);
    }

    /// Does something while no thread of the server runs, nor is in the middle of a call of the
    /// kernel.
    pub(crate) fn while_stopped(&self, work: impl FnOnce()) {
        signal(&self.child, Signal::STOP);
        self.eventually_stopped();
        work();
        signal(&self.child, Signal::CONT);
    }

    fn eventually_stopped(&self) {
        let since = Instant::now();
        while let Some(state) =
            threads(&self.child).into_iter().find(|state| !state.starts_with('T'))
        {
            assert!(since.elapsed() < SOON, "a thread is not stopped within {SOON:?}: {state}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Asks the server to end, and says what it ended with.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        signal(&self.child, Signal::TERM);
        wait(&mut self.child).code()
    }

    /// Every further call is made with this token.
    pub(crate) fn use_token(&mut self, file: &Path) {
        self.token_file = Some(file.to_owned());
    }

    /// The server's process.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// Sends the server a signal.
    pub(crate) fn signal(&self, wanted: Signal) {
        signal(&self.child, wanted);
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A command of the client by another address that leads to the server: no token is found for
    /// that.
    pub(crate) fn command_by(&self, addr: &str, args: &[&str]) -> std::process::Command {
        let file = self.data_dir.join("token");
        gofer(&[&["--addr", addr, "--token-file", text(&file)], args].concat())
    }

    /// The token that the server has left, for calls past `gofer`.
    pub(crate) fn own_token(&self) -> OwnToken {
        OwnToken(self.data_dir.join("token"))
    }

    /// A command of the client that is not started yet.
    pub(crate) fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = gofer(&["--addr", &self.addr]);
        if let Some(file) = &self.token_file {
            command.args(["--token-file", text(file)]);
        }
        command.args(args);
        command
    }

    /// Runs a command of the client.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        self.run_with_stdin(args, b"")
    }

    /// Runs a command of the client with this on stdin.
    pub(crate) fn run_with_stdin(&self, args: &[&str], stdin: &[u8]) -> Ended {
        finish_with_stdin(self.command(args), stdin)
    }

    /// Registers a pipeline written as JSON.
    pub(crate) fn up(&self, spec: &serde_json::Value) {
        self.run_with_stdin(&["up", "-"], spec.to_string().as_bytes()).expect(0);
    }

    /// Runs a command that must succeed, and gives its JSON.
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        let ended = self.run(&[args, &["-o", "json"]].concat()).expect(0);
        serde_json::from_str(&ended.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", ended.stdout))
    }

    /// Asks again until the JSON is as wanted.
    pub(crate) fn eventually(
        &self,
        args: &[&str],
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let since = Instant::now();
        loop {
            let value = self.json(args);
            if wanted(&value) {
                return value;
            }
            assert!(
                since.elapsed() < SOON,
                "not within {SOON:?}; last: {value:#}\nlog:\n{}",
                self.log()
            );
        }
    }

    /// What the server, and those before it, said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Sends the token that the server has left, as it is at each call: a server that is started again
/// makes another.
#[derive(Debug, Clone)]
pub(crate) struct OwnToken(PathBuf);

impl Interceptor for OwnToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        if let Some(token) = text.lines().next() {
            request
                .metadata_mut()
                .insert("authorization", format!("Bearer {token}").parse().expect("a token"));
        }
        Ok(request)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "the server's log:\n{}", self.log());
        }
    }
}

fn spawn(data_dir: &Path, log: &Path, listen: &str, args: &[String]) -> (Child, String) {
    let log = std::fs::File::options().create(true).append(true).open(log).expect("a file");
    let mut command = gofer(&["server", "--listen", listen, "--data-dir", text(data_dir)]);
    let mut child =
        command.args(args).stdout(Stdio::piped()).stderr(log).spawn().expect("the binary starts");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    stdout.read_line(&mut line).expect("the first line");
    let Some(addr) = line.trim_end().strip_prefix("listening on ") else {
        let code = child.wait().expect("the server ends").code();
        panic!("the server did not start: {code:?} {line:?}");
    };
    (child, addr.to_owned())
}

/// The state of each thread, as `proc(5)` writes it.
fn threads(child: &Child) -> Vec<String> {
    let tasks =
        std::fs::read_dir(format!("/proc/{}/task", child.id())).expect("the process is there");
    let stats =
        tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    // After the name, which is in brackets and may hold anything.
    stats.filter_map(|stat| stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned())).collect()
}

/// Reads lines of a command's stdout until one is as wanted, which comes or the command ends.
pub(crate) fn wait_for_line(child: &mut Child, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut stdout = BufReader::new(child.stdout.as_mut().expect("stdout is piped"));
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stdout.read_line(&mut line).expect("lines") == 0 {
            panic!("the wanted line did not come: {lines:#?}");
        }
        let done = wanted(&line);
        lines.push(line);
        if done {
            return lines;
        }
    }
}

/// What is left of a command's stdout.
pub(crate) fn rest(child: &mut Child) -> String {
    let mut text = String::new();
    child.stdout.take().expect("stdout is piped").read_to_string(&mut text).expect("text");
    text
}
