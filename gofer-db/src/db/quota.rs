use std::sync::Arc;

use gofer_core::event::NewEvent;
use gofer_core::quota::{QuotaKind, QuotaUse};
use gofer_core::{ExecutionId, NamespaceId, Timestamp};

use crate::db::{Db, query, transact};
use crate::error::DbError;

impl Db {
    /// Every quota of a namespace, with its use.
    ///
    /// # Errors
    /// `NotFound`, or the database's.
    pub async fn quota_list(
        &self,
        namespace: &NamespaceId,
        at: Timestamp,
    ) -> Result<Vec<QuotaUse>, DbError> {
        let (namespace, book) = (namespace.clone(), Arc::clone(self.quotas()));
        query!(self, quotas::list(&namespace, &book.defaults, at))
    }

    /// One quota of a namespace, with its use.
    ///
    /// # Errors
    /// The database's.
    pub async fn quota_get(
        &self,
        namespace: &NamespaceId,
        quota: QuotaKind,
        at: Timestamp,
    ) -> Result<QuotaUse, DbError> {
        let (namespace, book) = (namespace.clone(), Arc::clone(self.quotas()));
        query!(self, quotas::get(&namespace, &book.defaults, quota, at))
    }

    /// Gives the namespace limits of its own, or with `None` the defaults again. Limits that are
    /// not named stay.
    ///
    /// # Errors
    /// `NotFound`, or the database's.
    pub async fn quota_set(
        &self,
        namespace: &NamespaceId,
        changes: &[(QuotaKind, Option<u64>)],
        actor: &str,
        at: Timestamp,
    ) -> Result<(), DbError> {
        let (namespace, changes, actor) = (namespace.clone(), changes.to_vec(), actor.to_owned());
        transact!(self, namespaces::set_quotas(&namespace, &changes, &actor, at))
    }

    /// Records that a command is about to run in a task, and counts it until [`Db::exec_end`], or
    /// until its server ends.
    ///
    /// # Errors
    /// `Quota` when the task or its namespace has as many as it may, or the database's; then there
    /// is no event.
    pub async fn exec_begin(
        &self,
        session: &str,
        server: &str,
        id: &ExecutionId,
        event: NewEvent,
    ) -> Result<(), DbError> {
        let (session, server, id) = (session.to_owned(), server.to_owned(), id.clone());
        let book = Arc::clone(self.quotas());
        transact!(self, exec::begin(&book, &session, &server, &id, event))
    }

    /// The command has ended.
    ///
    /// # Errors
    /// The database's.
    pub async fn exec_end(&self, session: &str) -> Result<(), DbError> {
        let session = session.to_owned();
        transact!(self, exec::end(&session))
    }
}
