//! What a server keeps to itself: from other users, by the modes of its files, and from its own
//! tasks.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::harness::{gofer, run, text, wait};
use crate::pipelines::script;
use crate::serving::Serving;

/// A server started by a shell that has no umask, and the client's commands for it.
struct Loose {
    child: Child,
    addr: String,
}

impl Loose {
    fn start(data_dir: &Path) -> Self {
        let server = gofer(&["server", "--listen", "127.0.0.1:0", "--data-dir", text(data_dir)]);
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", "umask 0; exec \"$@\"", "sh"])
            .arg(server.get_program())
            .args(server.get_args());
        shell.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));

        let mut child = shell
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));

        stdout.read_line(&mut line).expect("the first line");
        let addr = line.trim_end().strip_prefix("listening on ").expect("an address").to_owned();
        Self { child, addr }
    }

    fn call(&self, args: &[&str], stdin: &[u8]) {
        let mut command = gofer(&["--addr", &self.addr]);
        command.args(args);
        crate::harness::finish_with_stdin(command, stdin).expect(0);
    }
}

impl Drop for Loose {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything below a directory, itself included, with its mode.
fn modes(dir: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(path) = dirs.pop() {
        // What is gone again is nobody's.
        let Ok(metadata) = path.symlink_metadata() else { continue };
        found.push((path.clone(), metadata.permissions().mode() & 0o7777));
        if metadata.is_dir() {
            dirs.extend(
                std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()),
            );
        }
    }
    found
}

#[test]
fn what_a_server_makes_is_its_own_whatever_the_umask() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    let server = Loose::start(&data);
    let tasks = json!([
        script("short", "echo out", &[]),
        script("long", "echo ready; exec sleep 600", &[])
    ]);

    server.call(&["up", "-"], json!({"name": "ci", "tasks": tasks}).to_string().as_bytes());
    server.call(&["secret", "put", "key", "--pipeline", "ci"], b"s3cret");
    server.call(&["object", "put", "--pipeline", "ci", "k", "-"], b"content");
    server.call(&["run", "start", "ci"], b"");
    crate::harness::eventually("both tasks have run, and a log is archived", || {
        let logs = ["executions/x", "objects"].map(|name| modes(&data.join(name)));
        let live = logs[0].iter().any(|(path, _)| path.ends_with("log"));
        if live && logs[1].len() > 4 { Ok(()) } else { Err(format!("{logs:?}")) }
    });

    let found = modes(&data);
    let open: Vec<_> = found.iter().filter(|(_, mode)| mode & 0o077 != 0).collect();
    assert!(open.is_empty(), "{open:?}");

    for name in ["gofer.db", "gofer.db.lock", "secrets.key", "executions/server.lock"] {
        assert!(
            found.iter().any(|(path, _)| *path == data.join(name)),
            "`{name}` is not among {found:?}"
        );
    }

    server.call(&["run", "cancel", "ci", "1", "--force"], b"");
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o770)).expect("open it");
    let path = text(dir.path());
    let ended = run(&["server", "--listen", "127.0.0.1:0", "--data-dir", path]);
    ended.expect(2).says(&format!(
        "has mode 0770, so that others may replace the database and its keys: `chmod 700 {path}`"
    ));
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0);
}

#[test]
fn a_task_gets_at_nothing_of_a_server_that_requires_landlock() {
    let dir = tempfile::tempdir().expect("a folder");
    let elsewhere = tempfile::tempdir().expect("a folder");
    let url = elsewhere.path().join("database-url");
    std::fs::write(&url, format!("{}/own.db", text(elsewhere.path()))).expect("a file");

    let landlock = "[scheduler.local]\nlandlock = 'require'\n";
    let file = dir.path().join("gofer.toml");
    std::fs::write(&file, landlock).expect("a file");
    let data = dir.path().join("probe");
    let check = run(&["server", "--config", text(&file), "--data-dir", text(&data), "--check"]);
    if check.stdout.contains("Landlock ABI 6") {
        return gofer_core_skip("a_task_gets_at_nothing_of_a_server_that_requires_landlock");
    }

    let config = format!("[database]\nurl_file = '{}'\n{landlock}", text(&url));
    let server = Serving::start_configured(dir, &config);
    let data = server.data_dir().to_owned();
    let line = format!(
        "cd ../../../.. && echo moved; cat {data}/secrets.key && echo LEAK of the key; cat {db} && \
         echo LEAK of the database; cat {url} && echo LEAK of the URL; kill -9 $PPID; cat \
         /proc/$PPID/environ && echo LEAK of the environment; echo mine > $OLDPWD/file && cat \
         $OLDPWD/file",
        data = text(&data),
        db = text(&elsewhere.path().join("own.db")),
        url = text(&url),
    );

    server
        .run_with_stdin(&["secret", "put", "key", "--global", "--allow", "default"], b"s3cret")
        .expect(0);
    server.up(&json!({"name": "ci", "tasks": [script("attack", &line, &[])]}));

    let ended = server.run(&["run", "start", "ci", "--follow", "--logs"]).expect(0);
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains("moved") && said.contains("mine"), "{said}");
    assert!(!said.contains("LEAK"), "{said}");

    let info = server.run(&["system", "info", "--check"]).expect(0);
    assert!(
        info.stdout.contains("Landlock keeps from tasks: the data directory, signals"),
        "{}",
        info.stdout
    );
    assert!(info.stdout.contains("no boundary here"), "{}", info.stdout);
}

/// Says that a test does nothing.
fn gofer_core_skip(test: &str) {
    use std::io::Write as _;

    let _ = std::io::stderr()
        .write_all(format!("skipped: {test}: this kernel has no Landlock of ABI 6\n").as_bytes());
}

#[test]
fn whoever_makes_a_client_token_is_told_what_it_is_worth() {
    let mut server = Serving::start();
    server
        .run(&["token", "create", "--allow", "default"])
        .expect(0)
        .says("warning: this scheduler does not isolate namespaces");
    server.run(&["namespace", "create", "other"]).expect(0);
    server.run(&["token", "create", "--allow", "other"]).expect(4).says("scheduler.local.users");
    assert_eq!(server.terminate(), Some(0));

    let trusted = Serving::start_configured(
        tempfile::tempdir().expect("a folder"),
        "[scheduler.local]\ntrusted = true\n",
    );
    let made = trusted.run(&["token", "create", "--allow", "default"]).expect(0);
    assert!(!made.stderr.contains("warning"), "{}", made.stderr);
}

/// The limits and the protection of the processes of a real server.
#[test]
fn servers_and_their_helpers_leave_no_core() {
    let mut child = gofer(&["server", "--listen", "127.0.0.1:0", "--data-dir"]);
    let dir = tempfile::tempdir().expect("a folder");
    let mut child = child
        .arg(dir.path().join("data"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut line = String::new();

    BufReader::new(child.stdout.take().expect("stdout is piped"))
        .read_line(&mut line)
        .expect("the first line");
    assert!(line.starts_with("listening"), "{line}");

    let core = |pid: u32| {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("the limits");
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .expect("a line")
            .to_owned();
        line.split_whitespace().nth(4).expect("a number").to_owned()
    };

    let mut pids = vec![child.id()];
    for thread in
        std::fs::read_dir(format!("/proc/{}/task", child.id())).expect("its threads").flatten()
    {
        let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        pids.extend(children.split_whitespace().map(|pid| pid.parse::<u32>().expect("a number")));
    }

    assert_eq!(pids.len(), 2, "the server and the zygote");
    for pid in pids {
        assert_eq!(core(pid), "0", "of process {pid}");
    }

    crate::serving::signal(&child, rustix::process::Signal::TERM);
    wait(&mut child);
}
