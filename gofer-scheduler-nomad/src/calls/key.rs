//! Where an execution is in Nomad.

use crate::http::client::{Query, encoded};

/// The namespace and the id of an execution's job.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct JobKey {
    pub(crate) namespace: String,
    pub(crate) job_id: String,
}

impl JobKey {
    /// The path of a call about the job.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/v1/job/{}{rest}", encoded(&self.job_id))
    }

    pub(crate) fn query(&self) -> Query {
        Query::namespace(&self.namespace)
    }
}
