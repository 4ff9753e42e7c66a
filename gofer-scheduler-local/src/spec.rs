//! From an [`ExecutionSpec`] to what `execve` takes.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use gofer_core::scheduler::{EnvValue, ExecutionKind, ExecutionSpec, ExecutionState, FailureKind};
use secrecy::ExposeSecret;
use secrecy::zeroize::Zeroizing;

use crate::config::LocalSchedulerConfig;

/// Where programs are looked for when neither the server nor the task has a `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What is the server's user's, and of no use to another.
const USERS: [&str; 4] = ["HOME", "TMPDIR", "USER", "LOGNAME"];

/// Where a task of another user is at home: directories of its execution alone.
pub(crate) struct Home {
    pub(crate) dir: PathBuf,
    pub(crate) tmp: PathBuf,
    /// The user's name.
    pub(crate) user: Option<String>,
}

impl Home {
    fn variables(&self) -> Vec<(&'static str, OsString)> {
        let user = self.user.as_ref().map(OsString::from);
        let all = [
            ("HOME", Some(self.dir.clone().into_os_string())),
            ("TMPDIR", Some(self.tmp.clone().into_os_string())),
            ("USER", user.clone()),
            ("LOGNAME", user),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// What every task gets of the server's environment.
#[derive(Debug, Clone)]
pub(crate) struct BaseEnv {
    passed: Vec<(String, OsString)>,
    path_prepend: Option<PathBuf>,
}

impl BaseEnv {
    /// Reads the server's environment, once.
    pub(crate) fn capture(config: &LocalSchedulerConfig) -> Self {
        let passed = config
            .pass_env
            .iter()
            .filter_map(|name| Some((name.clone(), std::env::var_os(name)?)))
            .collect();
        Self { passed, path_prepend: config.path_prepend.clone() }
    }

    fn path(&self, own: Option<OsString>) -> OsString {
        let path = own.unwrap_or_else(|| DEFAULT_PATH.into());
        match &self.path_prepend {
            Some(first) => {
                let mut joined = first.clone().into_os_string();
                joined.push(":");
                joined.push(path);
                joined
            }
            None => path,
        }
    }
}

/// A spec made ready; the environment may hold secrets and is wiped when dropped.
pub(crate) struct Prepared {
    pub(crate) argv: Vec<OsString>,
    pub(crate) env: Vec<Zeroizing<Vec<u8>>>,
    pub(crate) working_dir: Option<PathBuf>,
    pub(crate) service: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) separate_output: bool,
}

/// Checks the spec and joins it with the base environment. What cannot be run is a state, not an
/// error: the execution exists and has failed.
pub(crate) fn prepare(
    base: &BaseEnv,
    spec: &ExecutionSpec,
    home: Option<&Home>,
) -> Result<Prepared, ExecutionState> {
    if let Some(image) = &spec.image {
        return Err(refused(format!(
            "image `{image}` needs a scheduler that runs images; the local one runs programs of \
             this machine, so leave the image out"
        )));
    }

    let argv: Vec<OsString> =
        spec.entrypoint.iter().chain(&spec.command).map(OsString::from).collect();
    if argv.first().is_none_or(|program| program.is_empty()) {
        return Err(refused("there is no command: name a program in `command`".to_owned()));
    }

    if argv.iter().any(|argument| argument.as_bytes().contains(&0)) {
        return Err(refused(
            "the command holds a NUL byte, which no program can be given".to_owned(),
        ));
    }

    let working_dir = spec.working_dir.as_ref().map(PathBuf::from);
    if let Some(dir) = working_dir.as_ref().filter(|dir| !dir.is_absolute()) {
        return Err(refused(format!(
            "the working directory `{}` must be an absolute path",
            dir.display()
        )));
    }

    let env = environment(base, spec, home)?;
    let service = spec.kind == ExecutionKind::Service;
    let timeout = spec.timeout.filter(|_| !service);

    Ok(Prepared { argv, env, working_dir, service, timeout, separate_output: spec.separate_output })
}

fn environment(
    base: &BaseEnv,
    spec: &ExecutionSpec,
    home: Option<&Home>,
) -> Result<Vec<Zeroizing<Vec<u8>>>, ExecutionState> {
    let mut env = Vec::with_capacity(base.passed.len() + spec.env.len() + 5);
    let own = home.map_or(Vec::new(), Home::variables);
    for (name, value) in own.iter().filter(|(name, _)| !spec.env.contains_key(*name)) {
        env.push(assignment(name, value.as_bytes()));
    }

    let mut path = None;
    let is_users = |name: &str| home.is_some() && USERS.contains(&name);
    for (name, value) in &base.passed {
        if name == "PATH" {
            path = Some(value.clone());
        } else if !spec.env.contains_key(name) && !is_users(name) {
            env.push(assignment(name, value.as_bytes()));
        }
    }

    for (name, value) in &spec.env {
        let value = match value {
            EnvValue::Plain(text) => text.as_str(),
            EnvValue::Secret(secret) => secret.expose_secret(),
        };

        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(refused(format!(
                "variable `{name}` is not a name: it must not be empty or hold `=` or NUL"
            )));
        }

        if value.contains('\0') {
            return Err(refused(format!(
                "the value of variable `{name}` holds a NUL byte, which no program can be given"
            )));
        }

        if name == "PATH" {
            path = Some(OsString::from_vec(value.as_bytes().to_vec()));
        } else {
            env.push(assignment(name, value.as_bytes()));
        }
    }

    env.push(assignment("PATH", base.path(path).as_bytes()));
    Ok(env)
}

fn assignment(name: &str, value: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(name.len() + 1 + value.len()));
    text.extend_from_slice(name.as_bytes());
    text.push(b'=');
    text.extend_from_slice(value);
    text
}

/// A spec this scheduler does not take.
pub(crate) fn refused(message: String) -> ExecutionState {
    ExecutionState::Failed { kind: FailureKind::Refused, message }
}

/// A failure on the way to the first instruction.
pub(crate) fn setup(message: String) -> ExecutionState {
    ExecutionState::Failed { kind: FailureKind::Setup, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(command: &[&str]) -> ExecutionSpec {
        ExecutionSpec {
            kind: ExecutionKind::Task,
            image: None,
            entrypoint: Vec::new(),
            command: command.iter().map(|&text| text.to_owned()).collect(),
            working_dir: None,
            env: std::collections::BTreeMap::new(),
            resources: gofer_core::pipeline::Resources::default(),
            registry_auth: None,
            timeout: None,
            separate_output: false,
        }
    }

    fn base() -> BaseEnv {
        let passed =
            vec![("PATH".into(), "/usr/bin:/bin".into()), ("HOME".into(), "/home/a".into())];
        BaseEnv { passed, path_prepend: Some("/opt/gofer".into()) }
    }

    fn env_of(spec: &ExecutionSpec) -> Vec<String> {
        let prepared = prepare(&base(), spec, None).ok().unwrap();
        prepared.env.iter().map(|text| String::from_utf8(text.to_vec()).unwrap()).collect()
    }

    #[test]
    fn the_tasks_own_variables_win() {
        assert_eq!(env_of(&spec(&["true"])), ["HOME=/home/a", "PATH=/opt/gofer:/usr/bin:/bin"]);
        let mut own = spec(&["true"]);
        own.env.insert("HOME".into(), EnvValue::Secret("/h".into()));
        own.env.insert("PATH".into(), EnvValue::Plain("/p".into()));
        assert_eq!(env_of(&own), ["HOME=/h", "PATH=/opt/gofer:/p"]);
    }

    #[test]
    fn another_users_home_is_its_executions() {
        let home = Home { dir: "/x/work".into(), tmp: "/x/tmp".into(), user: Some("ci".into()) };
        let mut spec = spec(&["true"]);
        spec.env.insert("TMPDIR".into(), EnvValue::Plain("/own".into()));
        let prepared = prepare(&base(), &spec, Some(&home)).ok().unwrap();
        let env: Vec<_> =
            prepared.env.iter().map(|text| String::from_utf8(text.to_vec()).unwrap()).collect();
        assert_eq!(
            env,
            [
                "HOME=/x/work",
                "USER=ci",
                "LOGNAME=ci",
                "TMPDIR=/own",
                "PATH=/opt/gofer:/usr/bin:/bin"
            ]
        );
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_a_reason() {
        let mut image = spec(&["true"]);
        image.image = Some("alpine".into());
        let mut relative = spec(&["true"]);
        relative.working_dir = Some("here".into());

        let mut name = spec(&["true"]);
        name.env.insert("A=B".into(), EnvValue::Plain(String::new()));
        let mut nul = spec(&["true"]);
        nul.env.insert("A".into(), EnvValue::Secret("hidden\0value".into()));

        let cases = [
            (image, "needs a scheduler that runs images"),
            (spec(&[]), "no command"),
            (spec(&["a\0b"]), "NUL byte"),
            (relative, "`here` must be an absolute path"),
            (name, "`A=B` is not a name"),
            (nul, "variable `A` holds a NUL byte"),
        ];

        for (spec, expected) in cases {
            match prepare(&base(), &spec, None).err() {
                Some(ExecutionState::Failed { kind: FailureKind::Refused, message }) => {
                    assert!(message.contains(expected), "{message}");
                    assert!(!message.contains("hidden"), "{message}");
                }
                other => panic!("{expected}: {other:?}"),
            }
        }
    }
}
