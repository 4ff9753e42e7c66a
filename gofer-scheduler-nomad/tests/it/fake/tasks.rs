//! Processes: in a group of their own, their output in files that rotate, as Nomad's raw_exec
//! driver and log collector do it.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::state::text;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a task cannot be started.
pub(super) enum Problem {
    /// Its driver does not understand its configuration.
    Config(String),
    /// Its driver failed to start it.
    Driver(String),
}

/// How a process ended.
#[derive(Clone, Copy)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) signal: i32,
}

/// A process that runs.
pub(super) struct Running {
    pub(super) pid: i32,
    child: Child,
    pumps: Vec<JoinHandle<()>>,
    late: bool,
}

impl Running {
    /// Waits for the end of the process, and ends what it left behind.
    pub(super) async fn wait(&mut self) -> Ended {
        let status = self.child.wait().await.expect("wait for a child");
        kill_group(self.pid);
        end(status)
    }

    /// Waits until everything that was written is in the files, unless that is to be late.
    pub(super) async fn flush(self) {
        if !self.late {
            for pump in self.pumps {
                // A process that left the group may hold the pipe for ever.
                let _ = tokio::time::timeout(Duration::from_secs(5), pump).await;
            }
        }
    }
}

fn end(status: ExitStatus) -> Ended {
    Ended { code: status.code().unwrap_or(0), signal: status.signal().unwrap_or(0) }
}

/// Starts a task in its directory below the allocation's.
pub(super) fn start(
    dir: &Path,
    job: &Value,
    alloc: &Value,
    task: &Value,
    rendered: &[(String, String)],
    tokens: &[(String, String)],
    late: Option<Duration>,
) -> Result<Running, Problem> {
    let name = text(&task["Name"]);
    let task_dir = dir.join(&name);
    let logs = dir.join("alloc/logs");

    for path in [&logs, &task_dir.join("local"), &task_dir.join("secrets")] {
        std::fs::create_dir_all(path).expect("a directory of the allocation");
    }

    let env = environment(dir, &task_dir, job, alloc, task, rendered, tokens);
    let config = &task["Config"];
    let mut words: Vec<String> = Vec::new();

    for word in strings(&config["entrypoint"])
        .into_iter()
        .chain(config["command"].as_str())
        .chain(strings(&config["args"]))
    {
        words.push(hcl(word, &env)?);
    }

    let Some(program) = words.first() else {
        return Err(Problem::Config("missing required attribute `command`".to_owned()));
    };

    let program = look_up(program, &task_dir)?;
    let work_dir = match config["work_dir"].as_str().filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(hcl(dir, &env)?),
        None => task_dir,
    };

    let mut command = Command::new(&program);
    command.args(&words[1..]).env_clear().envs(&env).current_dir(&work_dir);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);

    let failed = |error| {
        Problem::Driver(format!(
            "failed to launch command with executor: rpc error: code = Unknown desc = {error}"
        ))
    };

    let mut child = command.spawn().map_err(failed)?;
    let pid = i32::try_from(child.id().expect("a process that was not waited for"))
        .expect("a process id");
    let limits = (
        task["LogConfig"]["MaxFiles"].as_u64().unwrap_or(10),
        task["LogConfig"]["MaxFileSizeMB"].as_u64().unwrap_or(10),
    );
    let (out, err) = (child.stdout.take().expect("a pipe"), child.stderr.take().expect("a pipe"));
    let pumps = vec![
        tokio::spawn(pump(out, Log::create(logs.join(format!("{name}.stdout")), limits), late)),
        tokio::spawn(pump(err, Log::create(logs.join(format!("{name}.stderr")), limits), late)),
    ];

    Ok(Running { pid, child, pumps, late: late.is_some() })
}

/// Sends a signal to a process.
pub(super) fn signal(pid: i32, name: &str) {
    let signal = match name {
        "SIGKILL" => Signal::KILL,
        "SIGTERM" => Signal::TERM,
        "SIGUSR1" => Signal::USR1,
        "SIGHUP" => Signal::HUP,
        _ => Signal::INT,
    };
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Ends a whole process group.
pub(super) fn kill_group(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().map_or(Vec::new(), |words| words.iter().filter_map(Value::as_str).collect())
}

fn look_up(program: &str, task_dir: &Path) -> Result<PathBuf, Problem> {
    let inside = [task_dir.join("local").join(program), task_dir.join(program)];
    let in_path = PATH.split(':').map(|dir| Path::new(dir).join(program));
    let mut found = inside
        .into_iter()
        .chain(in_path)
        .chain([PathBuf::from(program)].into_iter().filter(|p| p.is_absolute()));
    found.find(|path| path.is_file()).ok_or_else(|| {
        Problem::Driver(format!(
            "failed to launch command with executor: rpc error: code = Unknown desc = binary \
             {program:?} could not be found"
        ))
    })
}

fn environment(
    dir: &Path,
    task_dir: &Path,
    job: &Value,
    alloc: &Value,
    task: &Value,
    rendered: &[(String, String)],
    tokens: &[(String, String)],
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
    let mut set = |name: &str, value: String| env.insert(name.to_owned(), value);
    let shown = |path: PathBuf| path.to_str().expect("a path that is text").to_owned();
    set("NOMAD_ALLOC_ID", text(&alloc["ID"]));
    set("NOMAD_SHORT_ALLOC_ID", text(&alloc["ID"]).chars().take(8).collect());
    set("NOMAD_ALLOC_NAME", text(&alloc["Name"]));
    set("NOMAD_ALLOC_INDEX", "0".to_owned());
    set("NOMAD_TASK_NAME", text(&task["Name"]));
    set("NOMAD_GROUP_NAME", text(&alloc["TaskGroup"]));
    set("NOMAD_JOB_ID", text(&job["ID"]));
    set("NOMAD_JOB_NAME", text(&job["Name"]));
    set("NOMAD_NAMESPACE", text(&job["Namespace"]));
    set("NOMAD_REGION", "global".to_owned());
    set("NOMAD_DC", "dc1".to_owned());
    set("NOMAD_ALLOC_DIR", shown(dir.join("alloc")));
    set("NOMAD_TASK_DIR", shown(task_dir.join("local")));
    set("NOMAD_SECRETS_DIR", shown(task_dir.join("secrets")));

    for (name, token) in tokens {
        set(name, token.clone());
    }

    for meta in [&job["Meta"], &job["TaskGroups"][0]["Meta"], &task["Meta"]] {
        for (key, value) in meta.as_object().into_iter().flatten() {
            set(&format!("NOMAD_META_{key}"), text(value));
            set(&format!("NOMAD_META_{}", key.to_uppercase()), text(value));
        }
    }

    for (name, value) in task["Env"].as_object().into_iter().flatten() {
        let value = interpolate(&text(value), &env);
        env.insert(name.clone(), value);
    }

    env.extend(rendered.iter().cloned());
    env
}

/// Replaces `${name}` where the name is known; there is no escape.
fn interpolate(value: &str, env: &BTreeMap<String, String>) -> String {
    let mut result = String::new();
    let mut rest = value;
    while let Some(start) = rest.find("${") {
        result.push_str(&rest[..start]);
        rest = &rest[start..];
        let known = rest.find('}').and_then(|end| Some((end, env.get(&rest[2..end])?)));

        match known {
            Some((end, value)) => {
                result.push_str(value);
                rest = &rest[end + 1..];
            }
            None => {
                result.push_str("${");
                rest = &rest[2..];
            }
        }
    }

    result + rest
}

/// What HCL makes of a string in a driver's configuration: `${name}` is replaced, `$${` and `%%{`
/// are escapes.
fn hcl(value: &str, env: &BTreeMap<String, String>) -> Result<String, Problem> {
    let mut result = String::new();
    let mut rest = value;
    while let Some(at) = rest.find(['$', '%']) {
        result.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$${").or_else(|| rest.strip_prefix("%%{")) {
            result.push_str(&rest[1..3]);
            rest = after;
        } else if rest.starts_with("${") {
            let known = rest.find('}').and_then(|end| Some((end, env.get(&rest[2..end])?)));
            let Some((end, value)) = known else {
                return Err(Problem::Config(format!(
                    "invalid expression or unknown variable in `{value}`"
                )));
            };
            result.push_str(value);
            rest = &rest[end + 1..];
        } else if rest.starts_with("%{") {
            return Err(Problem::Config(format!("invalid template control keyword in `{value}`")));
        } else {
            result.push_str(&rest[..1]);
            rest = &rest[1..];
        }
    }

    Ok(result + rest)
}

/// One output of a task: `main.stdout.0`, `.1` and so on.
struct Log {
    path: PathBuf,
    max_files: u64,
    max_bytes: u64,
    index: u64,
    written: u64,
    file: std::fs::File,
}

impl Log {
    /// Opens the newest file, to write on; a task that is started again goes on in it.
    fn create(path: PathBuf, (max_files, max_mb): (u64, u64)) -> Self {
        let index = (0..).take_while(|index| numbered(&path, *index).exists()).last().unwrap_or(0);
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(numbered(&path, index))
            .expect("a log file");
        let written = file.metadata().expect("its size").len();
        Self { path, max_files, max_bytes: max_mb * 1024 * 1024, index, written, file }
    }

    /// Goes to the next file where a line ends, so a file is rarely filled to its last byte.
    fn write(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let room = usize::try_from(self.max_bytes - self.written).expect("megabytes");
            let line_end =
                |fits: &[u8]| fits.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
            let cut = if data.len() <= room {
                data.len()
            } else {
                line_end(&data[..room]).unwrap_or(room)
            };

            self.file.write_all(&data[..cut]).expect("write a log");
            self.written += cut as u64;
            data = &data[cut..];

            if !data.is_empty() {
                self.rotate();
            }
        }
    }

    fn rotate(&mut self) {
        self.index += 1;
        self.written = 0;
        self.file = std::fs::File::create(numbered(&self.path, self.index)).expect("a log file");
        if let Some(old) = self.index.checked_sub(self.max_files) {
            let _ = std::fs::remove_file(numbered(&self.path, old));
        }
    }
}

fn numbered(path: &Path, index: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{index}"));
    PathBuf::from(name)
}

async fn pump(mut pipe: impl AsyncRead + Unpin, mut log: Log, late: Option<Duration>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        if let Some(late) = late {
            tokio::time::sleep(late).await;
        }
        log.write(&buffer[..read]);
    }
}
