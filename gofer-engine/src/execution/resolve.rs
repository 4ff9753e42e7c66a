//! From a task's spec to what the scheduler executes: the environment with every interpolation
//! replaced.

use std::collections::{BTreeMap, HashMap};

use futures::TryStreamExt;
use gofer_core::entity::{ObjectScope, SecretScope};
use gofer_core::journal::JournalError;
use gofer_core::pipeline::{CustomTask, PipelineSpec, TaskKind, TaskSpec};
use gofer_core::run::{Reason, ReasonKind, Run};
use gofer_core::scheduler::{EnvValue, ExecutionKind, ExecutionSpec, RegistryLogin};
use gofer_core::template::{self, Piece, Source};
use gofer_core::validate::MAX_VARIABLE_BYTES;
use gofer_core::{Attempt, BackendError, ErrorKind, ObjectKey};
use secrecy::{ExposeSecret, SecretString};

use crate::error::of_journal;
use crate::ports::Ports;
use crate::rules::variables::{Written, variables};

/// How often a read begins anew because the secret was put again between looking it up and reading
/// its value.
const READ_ATTEMPTS: usize = 5;
/// Most bytes of all secrets of a task: what masks them in its log is held in memory by each of its
/// readers.
const MAX_SECRETS_BYTES: usize = 512 * 1024;

/// What came of resolving.
pub(crate) struct Resolved {
    pub(crate) spec: ExecutionSpec,
    /// Every secret value in it but the run's token.
    pub(crate) secrets: Vec<SecretString>,
}

/// Why a task cannot be started.
pub(crate) enum Unresolved {
    /// For good; a person has to do something.
    Refused(Reason),
    /// A store is unavailable; try again.
    Later(BackendError),
}

/// Reads every secret and object the task names and builds its execution. What is missing is told
/// with the task's name.
pub(crate) async fn execution(
    ports: &Ports,
    spec: &PipelineSpec,
    task: &TaskSpec,
    run: &Run,
    attempt: Attempt,
) -> Result<Resolved, Unresolved> {
    build(ports, spec, task, run, attempt).await.map_err(|unresolved| match unresolved {
        Unresolved::Refused(Reason { kind, message }) if kind == ReasonKind::MissingValue => {
            Unresolved::Refused(Reason::new(kind, format!("task `{}`: {message}", task.id)))
        }
        other => other,
    })
}

async fn build(
    ports: &Ports,
    spec: &PipelineSpec,
    task: &TaskSpec,
    run: &Run,
    attempt: Attempt,
) -> Result<Resolved, Unresolved> {
    let TaskKind::Custom(custom) = &task.kind else {
        let message = "common tasks cannot be run by this version of gofer";
        return Err(Unresolved::Refused(Reason::new(ReasonKind::Unsupported, message)));
    };

    let mut resolver = Resolver { ports, run, secrets: Vec::new(), known: HashMap::new() };
    let mut env = system_variables(ports, task, run, attempt);
    for (name, value) in variables(spec, task, run) {
        let value = match value {
            Written::Template(template) => resolver.value(name, template).await?,
            Written::Plain(text) => EnvValue::Plain(text.to_owned()),
        };
        env.insert(name.to_owned(), value);
    }

    let registry_auth = resolver.registry_login(custom).await?;
    let execution = ExecutionSpec {
        kind: ExecutionKind::Task,
        image: custom.image.clone(),
        entrypoint: custom.entrypoint.clone(),
        command: custom.command.clone(),
        working_dir: custom.working_dir.clone(),
        env,
        resources: task.resources,
        registry_auth,
        timeout: task.timeout,
        separate_output: custom.separate_output,
    };

    Ok(Resolved { spec: execution, secrets: resolver.secrets })
}

fn system_variables(
    ports: &Ports,
    task: &TaskSpec,
    run: &Run,
    attempt: Attempt,
) -> BTreeMap<String, EnvValue> {
    let plain = [
        ("GOFER_NAMESPACE", run.key.namespace.to_string()),
        ("GOFER_PIPELINE", run.key.pipeline.to_string()),
        ("GOFER_RUN", run.key.run.to_string()),
        ("GOFER_TASK", task.id.to_string()),
        ("GOFER_ATTEMPT", attempt.to_string()),
    ];
    let mut env: BTreeMap<String, EnvValue> =
        plain.into_iter().map(|(name, value)| (name.to_owned(), EnvValue::Plain(value))).collect();

    if let Some(addr) = &ports.config.api_addr {
        env.insert("GOFER_API_ADDR".to_owned(), EnvValue::Plain(addr.clone()));
    }

    if ports.scheduler.identities().is_none() {
        env.insert(
            "GOFER_API_TOKEN".to_owned(),
            EnvValue::Secret(ports.tokens.token(&run.token_nonce)),
        );
    }

    env
}

struct Resolver<'a> {
    ports: &'a Ports,
    run: &'a Run,
    /// Each once.
    secrets: Vec<SecretString>,
    /// What was read before: a template may name one key thousands of times.
    known: HashMap<(Source, String), SecretString>,
}

impl Resolver<'_> {
    async fn value(&mut self, name: &str, template: &str) -> Result<EnvValue, Unresolved> {
        let mut text = String::new();
        let mut secret = false;
        for piece in template::parse(template) {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Value(source, key) => {
                    secret |= source.is_secret();
                    text.push_str(self.lookup(source, key).await?.expose_secret());
                }
            }
            // Here, and not only of the whole: a short template may stand for hundreds of
            // megabytes.
            if text.len() > MAX_VARIABLE_BYTES || text.contains('\0') {
                let rule = format!(
                    "a variable's value has at most {MAX_VARIABLE_BYTES} bytes and no NUL \
                     character"
                );
                return Err(missing(&format!("variable `{name}` cannot be passed: {rule}")));
            }
        }

        Ok(if secret { EnvValue::Secret(SecretString::from(text)) } else { EnvValue::Plain(text) })
    }

    async fn lookup(&mut self, source: Source, key: &str) -> Result<SecretString, Unresolved> {
        let place = (source, key.to_owned());
        if let Some(known) = self.known.get(&place) {
            return Ok(known.clone());
        }
        let value = match source {
            Source::Secret | Source::GlobalSecret => self.secret(source, key).await?,
            Source::PipelineObject | Source::RunObject => {
                SecretString::from(self.object(source, key).await?)
            }
        };
        self.known.insert(place, value.clone());
        Ok(value)
    }

    /// Takes a secret's value for the task, as far as all of them can be masked.
    fn take(&mut self, value: &SecretString) -> Result<(), Unresolved> {
        self.secrets.push(value.clone());
        let total: usize = self.secrets.iter().map(|secret| secret.expose_secret().len()).sum();
        if total > MAX_SECRETS_BYTES {
            let rule = format!(
                "at most {MAX_SECRETS_BYTES} bytes together; put large ones into an object"
            );
            return Err(missing(&format!("the task has secrets of {total} bytes: {rule}")));
        }
        Ok(())
    }

    /// The value that the record names. The same record says which namespaces may read it, so that
    /// both are of one put.
    async fn secret(&mut self, source: Source, key: &str) -> Result<SecretString, Unresolved> {
        let (scope, name) = if source == Source::Secret {
            (
                SecretScope::Pipeline(
                    self.run.key.namespace.clone(),
                    self.run.key.pipeline.clone(),
                ),
                "secret",
            )
        } else {
            (SecretScope::Global, "global secret")
        };

        for _ in 0..READ_ATTEMPTS {
            let Some(record) = self.ports.journal.secret(&scope, key).await.map_err(later)? else {
                return Err(missing(&format!(
                    "{name} `{key}` does not exist; put it with `gofer secret put`"
                )));
            };

            if scope == SecretScope::Global
                && !record.allowed_namespaces.contains(&self.run.key.namespace)
            {
                return Err(missing(&format!(
                    "global secret `{key}` may not be read by namespace `{}`; allow it with `gofer \
                     secret put --global --allow`",
                    self.run.key.namespace
                )));
            }

            match self.ports.secrets.get(&record.location).await {
                Ok(value) => {
                    self.take(&value)?;
                    return Ok(value);
                }
                // Put again since its record was read: the old value is deleted, and a newer record
                // names the new one.
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(self.failed(error)),
            }
        }

        Err(missing(&format!(
            "the value of {name} `{key}` is not in the secret store; put it again with `gofer \
             secret put`"
        )))
    }

    /// A run's objects, or those of the run it repeats: the tasks that made them may have been
    /// reused.
    async fn object(&self, source: Source, key: &str) -> Result<String, Unresolved> {
        let key = ObjectKey::new(key).map_err(|error| missing(&error.to_string()))?;
        let runs = match source {
            Source::RunObject => vec![Some(self.run.key.run), self.run.retry_of],
            _ => vec![None],
        };

        let wants_run = source == Source::RunObject;
        for run in runs.into_iter().filter(|run| run.is_some() || !wants_run) {
            let (namespace, pipeline) =
                (self.run.key.namespace.clone(), self.run.key.pipeline.clone());
            let scope = ObjectScope { namespace, pipeline, run };
            if let Some(record) = self.ports.journal.object(&scope, &key).await.map_err(later)? {
                return self.object_text(&key, &record.location).await;
            }
        }

        let what = if wants_run { "run object" } else { "pipeline object" };
        Err(missing(&format!("{what} `{key}` does not exist")))
    }

    async fn object_text(
        &self,
        key: &ObjectKey,
        location: &ObjectKey,
    ) -> Result<String, Unresolved> {
        let body = self.ports.objects.get(location).await.map_err(|error| self.failed(error))?;
        let too_long = |size: usize| {
            missing(&format!(
                "object `{key}` has {size} bytes, and a variable at most {MAX_VARIABLE_BYTES}; \
                 read it with `gofer object get`"
            ))
        };

        let size = usize::try_from(body.meta.size_bytes).unwrap_or(usize::MAX);
        if size > MAX_VARIABLE_BYTES {
            return Err(too_long(size));
        }

        // Whatever size the store has told before.
        let mut text = Vec::with_capacity(size);
        let mut stream = body.stream;
        while let Some(piece) = stream.try_next().await.map_err(|error| self.failed(error))? {
            if text.len() + piece.len() > MAX_VARIABLE_BYTES {
                return Err(too_long(text.len() + piece.len()));
            }
            text.extend_from_slice(&piece);
        }

        String::from_utf8(text).map_err(|_| {
            missing(&format!("object `{key}` is not UTF-8 text; read it with `gofer object get`"))
        })
    }

    async fn registry_login(
        &mut self,
        custom: &CustomTask,
    ) -> Result<Option<RegistryLogin>, Unresolved> {
        let Some(auth) = &custom.registry_auth else { return Ok(None) };
        let password = self.lookup(Source::Secret, &auth.password_secret_key).await?;
        Ok(Some(RegistryLogin { username: auth.username.clone(), password }))
    }

    /// A store's error: wait if it may pass, else say what it says.
    fn failed(&self, error: BackendError) -> Unresolved {
        if error.is_retryable() { Unresolved::Later(error) } else { missing(&error.chain()) }
    }
}

fn missing(message: &str) -> Unresolved {
    Unresolved::Refused(Reason::new(ReasonKind::MissingValue, message))
}

fn later(error: JournalError) -> Unresolved {
    Unresolved::Later(of_journal(error))
}
