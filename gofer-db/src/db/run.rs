use std::sync::Arc;

use gofer_core::event::Event;
use gofer_core::object_store::ListPage;
use gofer_core::run::{AttemptRecord, Run, TaskRun};
use gofer_core::{NamespaceId, PipelineId, RunKey, TaskId, Timestamp};

use crate::db::{Db, query};
use crate::error::DbError;
use crate::types::{Counts, Page, PipelineRoom, RunFilter, RunRecords, SomeTasks};

impl Db {
    /// The run. With its spec and task runs: [`gofer_core::journal::Runs::load`].
    ///
    /// # Errors
    /// `NotFound`, or the database's.
    pub async fn run_get(&self, key: &RunKey) -> Result<Run, DbError> {
        let key = key.clone();
        query!(self, runs::get(&key))
    }

    /// The pipeline's newest run.
    ///
    /// # Errors
    /// `NotFound` when the pipeline has none, or the database's.
    pub async fn run_latest(
        &self,
        namespace: &NamespaceId,
        pipeline: &PipelineId,
    ) -> Result<Run, DbError> {
        let (namespace, pipeline) = (namespace.clone(), pipeline.clone());
        query!(self, runs::latest(&namespace, &pipeline))
    }

    /// A namespace's runs, newest first. Their `variables` are left out (empty): [`Db::run_get`]
    /// has them.
    ///
    /// # Errors
    /// `Invalid` for an `after` that this list did not give out, or the database's.
    pub async fn run_list(
        &self,
        namespace: &NamespaceId,
        filter: &RunFilter,
        page: &ListPage,
    ) -> Result<Page<Run>, DbError> {
        let (namespace, filter, page) = (namespace.clone(), filter.clone(), page.clone());
        query!(self, runs::list(&namespace, &filter, &page))
    }

    /// The run whose API token hashes to this, unless it is complete.
    ///
    /// # Errors
    /// The database's.
    pub async fn run_by_token_hash(&self, hash: &[u8; 32]) -> Result<Option<RunKey>, DbError> {
        let hash = *hash;
        query!(self, runs::by_token_hash(&hash))
    }

    /// Whether there is this run and it is not complete.
    ///
    /// # Errors
    /// The database's.
    pub async fn run_is_unfinished(&self, key: &RunKey) -> Result<bool, DbError> {
        let key = key.clone();
        query!(self, runs::is_unfinished(&key))
    }

    /// Those of these runs that there are and that are not complete, in no order.
    ///
    /// # Errors
    /// The database's.
    pub async fn run_unfinished(&self, keys: Vec<RunKey>) -> Result<Vec<RunKey>, DbError> {
        query!(self, runs::unfinished(&keys))
    }

    /// How many runs wait and run, over all namespaces.
    ///
    /// # Errors
    /// The database's.
    pub async fn run_counts(&self) -> Result<Counts, DbError> {
        query!(self, runs::counts())
    }

    /// When the oldest run that waits was created, over all namespaces.
    ///
    /// # Errors
    /// The database's.
    pub async fn run_oldest_pending(&self) -> Result<Option<Timestamp>, DbError> {
        query!(self, runs::oldest_pending())
    }

    /// How many runs of a pipeline are running, and how many may.
    ///
    /// # Errors
    /// `NotFound` for the pipeline, or the database's.
    pub async fn pipeline_room(
        &self,
        namespace: &NamespaceId,
        pipeline: &PipelineId,
    ) -> Result<PipelineRoom, DbError> {
        let (namespace, pipeline) = (namespace.clone(), pipeline.clone());
        query!(self, waiting::room(&namespace, &pipeline))
    }

    /// What is recorded of a run's time beside its row.
    ///
    /// # Errors
    /// `NotFound` for the run, or the database's.
    pub async fn run_records(&self, key: &RunKey) -> Result<RunRecords, DbError> {
        let key = key.clone();
        query!(self, timeline::records(&key))
    }

    /// Events of these types about these tasks of a run (at most 1,000), ascending, at most 20,000.
    ///
    /// # Errors
    /// The database's.
    pub async fn task_event_list(
        &self,
        key: &RunKey,
        tasks: &[TaskId],
        types: &'static [&'static str],
    ) -> Result<Vec<Event>, DbError> {
        let (key, tasks) = (key.clone(), tasks.to_vec());
        query!(self, timeline::events(&key, &tasks, types))
    }

    /// One task run.
    ///
    /// # Errors
    /// `NotFound` for the run or the task, or the database's.
    pub async fn task_run_get(&self, key: &RunKey, task: &TaskId) -> Result<TaskRun, DbError> {
        let (key, task, specs) = (key.clone(), task.clone(), Arc::clone(self.specs()));
        query!(self, tasks::get(&key, &task, &specs))
    }

    /// The run and these of its task runs (at most 1,000) with their finished attempts, read
    /// together. Tasks that its pipeline does not have are left out.
    ///
    /// # Errors
    /// `NotFound` for the run, or the database's.
    pub async fn run_with_tasks(
        &self,
        key: &RunKey,
        tasks: &[TaskId],
    ) -> Result<SomeTasks, DbError> {
        let (key, tasks, specs) = (key.clone(), tasks.to_vec(), Arc::clone(self.specs()));
        query!(self, tasks::some(&key, &tasks, &specs))
    }

    /// A run's task runs by task id, ascending.
    ///
    /// # Errors
    /// `NotFound` for the run, or the database's.
    pub async fn task_run_list(
        &self,
        key: &RunKey,
        page: &ListPage,
    ) -> Result<Page<TaskRun>, DbError> {
        let (key, page, specs) = (key.clone(), page.clone(), Arc::clone(self.specs()));
        query!(self, tasks::list(&key, &page, &specs))
    }

    /// Finished attempts, by task id and attempt, ascending; with `tasks`, only theirs (at most
    /// 1,000).
    ///
    /// # Errors
    /// `NotFound` for the run, or the database's.
    pub async fn attempt_list(
        &self,
        key: &RunKey,
        tasks: Option<&[TaskId]>,
    ) -> Result<Vec<(TaskId, AttemptRecord)>, DbError> {
        let (key, tasks) = (key.clone(), tasks.map(<[TaskId]>::to_vec));
        query!(self, tasks::attempts(&key, tasks.as_deref()))
    }
}
