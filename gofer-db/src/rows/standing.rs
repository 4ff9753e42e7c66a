//! What commits are judged by.

use diesel::prelude::*;

use crate::schema::{runs, task_runs};

/// What a commit is judged by: a run's row, locked until the end of the transaction.
#[derive(Queryable, Selectable)]
#[diesel(table_name = runs)]
pub(crate) struct Guard {
    pub(crate) id: i64,
    pub(crate) pipeline_id: i64,
    pub(crate) version: i64,
    pub(crate) state: String,
    pub(crate) status: Option<String>,
    pub(crate) lease_owner: Option<String>,
    pub(crate) lease_epoch: i64,
}

/// What a transition is judged by.
#[derive(Queryable, Selectable)]
#[diesel(table_name = task_runs)]
pub(crate) struct TaskStanding {
    pub(crate) run_id: i64,
    pub(crate) task: String,
    pub(crate) state: String,
    pub(crate) status: Option<String>,
    pub(crate) attempt: i64,
}
