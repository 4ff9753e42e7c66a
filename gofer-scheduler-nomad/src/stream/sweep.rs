//! Secrets that were left behind.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::calls::{JobCalls, JobKey};
use crate::job::secrets;

/// How old a variable without a living job must be before it counts as left behind by a start that
/// was never completed.
const STRAY_AFTER: Duration = Duration::from_secs(3_600);

/// Deletes secrets that no start will ever use: their job was never registered, or ended while
/// nobody listened.
pub(crate) async fn sweep(
    calls: Arc<JobCalls>,
    namespace: String,
    prefix: String,
    alive: HashSet<String>,
) {
    let everything = JobKey { namespace, job_id: String::new() };
    let variables = match calls.variables(&everything, &prefix).await {
        Ok(variables) => variables,
        Err(failure) => {
            let error = failure.backend("the nomad variables of ended executions cannot be listed");
            tracing::warn!(error = %error.chain(), "secrets of executions that were never \
                                                    started may stay");
            return;
        }
    };

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for variable in variables {
        let age = now.saturating_sub(Duration::from_nanos(
            u64::try_from(variable.modify_time).unwrap_or(u64::MAX),
        ));
        if let Some(job_id) = secrets::job_of(&variable.path)
            && !alive.contains(job_id)
            && age > STRAY_AFTER
        {
            let key = JobKey { job_id: job_id.to_owned(), ..everything.clone() };
            let job = calls.job(&key).await;
            // Another Gofer's prefix may begin like this one's.
            let others = !matches!(&job, Ok(job) if job.as_ref().is_none_or(|job| calls.execution_of(job).is_some()));
            if !others && calls.delete_stray_variables(&key).await.is_ok() {
                tracing::info!(job = %job_id, "secrets that were left behind are deleted");
            }
        }
    }
}
