use std::sync::Arc;

use gofer_core::entity::{Pipeline, PipelineVersion};
use gofer_core::object_store::ListPage;
use gofer_core::{NamespaceId, PipelineId, Timestamp, Version};

use crate::db::{Db, query, transact};
use crate::error::DbError;
use crate::types::{DeletedPipeline, Page, PipelineVersionSummary, Registered, Registration};

impl Db {
    /// Registers a pipeline, or its next version. A digest equal to the latest version's changes
    /// nothing. Of concurrent registrations each sees the one before.
    ///
    /// # Errors
    /// `NotFound` for the namespace; `Conflict` when `expected_version` is not the latest; or the
    /// database's.
    pub async fn pipeline_register(
        &self,
        registration: Registration,
        actor: &str,
        at: Timestamp,
    ) -> Result<Registered, DbError> {
        let actor = actor.to_owned();
        let book = Arc::clone(self.quotas());
        transact!(self, pipelines::register(&registration, &actor, at, &book))
    }

    /// The pipeline.
    ///
    /// # Errors
    /// `NotFound`, or the database's.
    pub async fn pipeline_get(
        &self,
        namespace: &NamespaceId,
        id: &PipelineId,
    ) -> Result<Pipeline, DbError> {
        let (namespace, id) = (namespace.clone(), id.clone());
        query!(self, pipelines::get(&namespace, &id))
    }

    /// A namespace's pipelines by name, ascending.
    ///
    /// # Errors
    /// `NotFound` for the namespace, or the database's.
    pub async fn pipeline_list(
        &self,
        namespace: &NamespaceId,
        page: &ListPage,
    ) -> Result<Page<Pipeline>, DbError> {
        let (namespace, page) = (namespace.clone(), page.clone());
        query!(self, pipelines::list(&namespace, &page))
    }

    /// One version with its spec; `None` is the latest.
    ///
    /// # Errors
    /// `NotFound` for the pipeline or the version, or the database's.
    pub async fn pipeline_version_get(
        &self,
        namespace: &NamespaceId,
        id: &PipelineId,
        version: Option<Version>,
    ) -> Result<PipelineVersion, DbError> {
        let (namespace, id, specs) = (namespace.clone(), id.clone(), Arc::clone(self.specs()));
        query!(self, pipelines::version_get(&namespace, &id, version, &specs))
    }

    /// A pipeline's versions, newest first, without their specs.
    ///
    /// # Errors
    /// `NotFound` for the pipeline, or the database's.
    pub async fn pipeline_version_list(
        &self,
        namespace: &NamespaceId,
        id: &PipelineId,
        page: &ListPage,
    ) -> Result<Page<PipelineVersionSummary>, DbError> {
        let (namespace, id, page) = (namespace.clone(), id.clone(), page.clone());
        query!(self, pipelines::version_list(&namespace, &id, &page))
    }

    /// Lets new runs start, or refuses them. Setting what is set changes nothing and records
    /// nothing.
    ///
    /// # Errors
    /// `NotFound`, or the database's.
    pub async fn pipeline_set_enabled(
        &self,
        namespace: &NamespaceId,
        id: &PipelineId,
        enabled: bool,
        actor: &str,
        at: Timestamp,
    ) -> Result<Pipeline, DbError> {
        let (namespace, id, actor) = (namespace.clone(), id.clone(), actor.to_owned());
        transact!(self, pipelines::set_enabled(&namespace, &id, enabled, &actor, at))
    }

    /// Deletes a pipeline with its versions, runs, objects' and secrets' records, in one
    /// transaction. Its events stay. Registered again, it goes on with the next version and run
    /// number, so that no execution is ever named twice.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while one of its runs is not complete; or the database's.
    pub async fn pipeline_delete(
        &self,
        namespace: &NamespaceId,
        id: &PipelineId,
        actor: &str,
        at: Timestamp,
    ) -> Result<DeletedPipeline, DbError> {
        let (namespace, id, actor) = (namespace.clone(), id.clone(), actor.to_owned());
        let book = Arc::clone(self.quotas());
        transact!(self, pipeline_delete::delete(&namespace, &id, &actor, at, &book))
    }
}
