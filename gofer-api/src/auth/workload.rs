//! The executions behind tokens that the scheduler gave them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use gofer_core::ErrorKind;
use gofer_core::id::RunKey;
use gofer_core::scheduler::Scheduler;
use gofer_db::Db;

use super::identity::Identity;
use crate::error::{ApiError, TokenProblem};

/// How long the scheduler is not asked again about a token that it has identified. Whether the run
/// is complete is asked at every call.
const IDENTIFIED_TTL: Duration = Duration::from_secs(60);
/// Tokens that are remembered.
const IDENTIFIED_MAX: usize = 4_096;

/// Tokens that the scheduler has identified lately, by their hashes.
#[derive(Debug, Default)]
pub(crate) struct WorkloadTokens(Mutex<HashMap<[u8; 32], (RunKey, Instant)>>);

impl WorkloadTokens {
    /// The run whose execution holds this token, unless it is complete.
    pub(crate) async fn identify(
        &self,
        scheduler: &dyn Scheduler,
        db: &Db,
        hash: &[u8; 32],
        token: &str,
    ) -> Result<Identity, ApiError> {
        let run = match self.remembered(hash) {
            Some(run) => run,
            None => {
                let found = match scheduler.require_identities() {
                    Ok(identities) => identities.identify(&token.into()).await,
                    Err(error) => Err(error),
                };
                let id = found.map_err(|error| {
                    if error.kind != ErrorKind::NotFound {
                        return ApiError::Backend(error);
                    }
                    tracing::info!(error = %error.chain(), "a token of no execution is refused");
                    ApiError::Unauthenticated(TokenProblem::Unknown)
                })?;

                self.remember(hash, &id.run);
                id.run
            }
        };

        if db.run_is_unfinished(&run).await? {
            return Ok(Identity::Run(run));
        }

        Err(ApiError::Unauthenticated(TokenProblem::Unknown))
    }

    fn remembered(&self, hash: &[u8; 32]) -> Option<RunKey> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(hash).filter(|(_, at)| at.elapsed() < IDENTIFIED_TTL).map(|(run, _)| run.clone())
    }

    fn remember(&self, hash: &[u8; 32], run: &RunKey) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= IDENTIFIED_MAX {
            known.retain(|_, (_, at)| at.elapsed() < IDENTIFIED_TTL);
        }
        // Beyond the bound a token is not remembered, and the scheduler is asked at each call.
        if known.len() < IDENTIFIED_MAX {
            known.insert(*hash, (run.clone(), Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gofer_conformance::MemoryScheduler;
    use gofer_conformance::eventually;
    use gofer_conformance::scheduler::host_command;
    use gofer_core::journal::{NewRun, Runs};
    use gofer_core::run::Initiator;
    use gofer_core::scheduler::Scheduler;
    use gofer_core::{ExecutionId, Timestamp};
    use gofer_db::DbConfig;
    use http::header::AUTHORIZATION;
    use http::{HeaderMap, HeaderValue};
    use secrecy::ExposeSecret;

    use super::*;
    use crate::auth::Authenticator;

    async fn start_run(db: &Db, key: &RunKey) {
        let (namespace, pipeline, at) =
            (key.namespace.clone(), key.pipeline.clone(), Timestamp::now());
        crate::operations::testing::register(db, pipeline.as_str()).await;
        let new = NewRun {
            namespace,
            pipeline,
            version: None,
            variables: Default::default(),
            initiator: Initiator::Token("dev".to_owned()),
            retry_of: None,
            reused: Vec::new(),
            idempotency_key: None,
            token_nonce: [0; 16],
            token_hash: [0; 32],
            at,
            claim: None,
        };

        assert_eq!(db.insert_run(new).await.unwrap().run.key, *key);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_token_of_the_scheduler_is_its_run() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::connect(DbConfig::sqlite(dir.path().join("gofer.db"))).await.unwrap();
        let scheduler = Arc::new(MemoryScheduler::new().with_identities(true));
        let id: ExecutionId = "default/ci/1/build/1".parse().unwrap();

        scheduler.start(&id, &host_command(["forever"])).await.unwrap();
        let authenticator =
            Authenticator::for_test(db.clone(), scheduler, crate::config::Access::Tokens);
        let call = async |token: &str, path: &str| {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
            let admitted = authenticator
                .authenticate(
                    &HeaderMap::from_iter([(AUTHORIZATION, value)]),
                    &path.parse().unwrap(),
                    None,
                )
                .await;
            admitted.map(|caller| caller.identity)
        };

        let (good, get_run) = (MemoryScheduler::token(&id), "/gofer.v1.RunService/GetRun");
        let good = good.expose_secret();
        let unknown =
            |found| matches!(found, Err(ApiError::Unauthenticated(TokenProblem::Unknown)));
        assert!(unknown(call(good, get_run).await), "there is no such run");
        start_run(&db, &id.run).await;
        assert_eq!(call(good, get_run).await.unwrap(), Identity::Run(id.run.clone()));
        assert!(
            unknown(call("memory.default/ci/2/build/1.token", get_run).await),
            "there is no such execution"
        );
        assert!(unknown(call("a.b.c", get_run).await));

        let report = "/gofer.v1.ExecutionService/ReportEnd";
        assert!(
            matches!(call(good, report).await.unwrap(), Identity::Execution(_)),
            "the scheduler will look at it"
        );
        assert!(!format!("{:?}", call(good, report).await).contains("memory."));
        assert!(unknown(call("gofer_r_x", report).await));
        authenticator.scheduler.stop(&id, Duration::ZERO).await.unwrap();
        assert!(call(good, get_run).await.is_ok(), "the scheduler is not asked again");
        eventually("the execution is over", async || {
            match authenticator.scheduler.state(&id).await.unwrap().state {
                state if state.is_final() => Ok(()),
                state => Err(format!("{state:?}")),
            }
        })
        .await;
        authenticator.workload_tokens.0.lock().unwrap().clear();
        assert!(unknown(call(good, get_run).await), "the execution is over");
        db.close().await;
    }
}
