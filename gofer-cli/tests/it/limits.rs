//! What the server does about its own limits: of open files, and of connections.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;

use crate::harness::{eventually, gofer, run_with_stdin, text};
use crate::serving::Serving;

/// A server that a shell started with this soft limit of open files; it ends with the test.
struct Limited {
    child: Child,
    addr: String,
    _dir: tempfile::TempDir,
}

impl Limited {
    fn start(files: u64) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let script = format!("ulimit -Sn {files}; exec \"$0\" \"$@\"");
        let data_dir = dir.path().join("data");
        let server = gofer(&["server", "--listen", "127.0.0.1:0", "--data-dir", text(&data_dir)]);
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(server.get_program()).args(server.get_args());
        command.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a shell");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        stdout.read_line(&mut line).expect("the first line");
        let addr = line.trim_end().strip_prefix("listening on ").expect("an address").to_owned();
        Self { child, addr, _dir: dir }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn tasks_have_the_limit_of_files_that_the_server_was_started_with() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let soft = 777;
    assert!(
        maximum.is_none_or(|maximum| maximum > soft),
        "the tests' own limit is too low: {maximum:?}"
    );

    let server = Limited::start(soft);
    let own = std::fs::read_to_string(format!("/proc/{}/limits", server.child.id()))
        .expect("the server lives");
    let own =
        own.lines().find(|line| line.starts_with("Max open files")).expect("a limit").to_owned();
    let numbers: Vec<&str> = own.split_whitespace().skip(3).take(2).collect();

    assert_eq!(numbers[0], numbers[1], "the server has not raised its own limit: {own}");

    let command = ["sh", "-c", "ulimit -Sn"];
    let spec = json!({"name": "files", "tasks": [{"id": "t", "custom": {"command": command}}]});
    run_with_stdin(&["--addr", &server.addr, "up", "-"], spec.to_string().as_bytes()).expect(0);
    let followed = run_with_stdin(
        &["--addr", &server.addr, "run", "start", "files", "--follow", "--logs"],
        b"",
    )
    .expect(0);
    let all = format!("{}{}", followed.stdout, followed.stderr);
    assert!(all.contains("777"), "{all}");
}

#[test]
fn files_that_run_out_are_said_once_and_stop_nobody() {
    let server = Serving::start();
    let pid = server.pid();
    let open =
        std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the server lives").count() as u64;
    let limit = Rlimit { current: Some(open + 30), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Pid::from_raw(pid), Resource::Nofile, limit).expect("a limit");

    let addr = server.addr.trim_start_matches("http://").to_owned();
    let held: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(&addr).expect("a connection")).collect();
    eventually("the log says it", || {
        let log = server.log();
        if log.contains("no connection can be accepted") { Ok(()) } else { Err(log) }
    });

    let before = ticks(pid);
    server.run(&["namespace", "list"]).expect(0);
    server.run(&["namespace", "list"]).expect(0);
    let spent = ticks(pid) - before;
    assert!(spent < 100, "the server spins: {spent} ticks of cpu for two calls");
    assert_eq!(server.log().matches("no connection can be accepted").count(), 1);
    drop(held);
}

/// What a process has used of the cpu, in hundredths of a second.
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the server lives");
    let (_, rest) = stat.rsplit_once(") ").expect("a name in brackets");
    rest.split(' ').skip(11).take(2).map(|number| number.parse::<u64>().expect("a number")).sum()
}
