use gofer_core::entity::Namespace;
use gofer_core::object_store::ListPage;
use gofer_core::{NamespaceId, Timestamp};

use crate::db::{Db, query, transact};
use crate::error::DbError;
use crate::types::Page;

impl Db {
    /// Makes a namespace.
    ///
    /// # Errors
    /// `AlreadyExists`, or the database's.
    pub async fn namespace_create(
        &self,
        id: &NamespaceId,
        description: &str,
        actor: &str,
        at: Timestamp,
    ) -> Result<Namespace, DbError> {
        let (id, description, actor) = (id.clone(), description.to_owned(), actor.to_owned());
        transact!(self, namespaces::create(&id, &description, &actor, at))
    }

    /// The namespace.
    ///
    /// # Errors
    /// `NotFound`, or the database's.
    pub async fn namespace_get(&self, id: &NamespaceId) -> Result<Namespace, DbError> {
        let id = id.clone();
        query!(self, namespaces::get(&id))
    }

    /// Namespaces by id, ascending; with `only`, no others than these.
    ///
    /// # Errors
    /// The database's.
    pub async fn namespace_list(
        &self,
        only: Option<&[NamespaceId]>,
        page: &ListPage,
    ) -> Result<Page<Namespace>, DbError> {
        let (only, page) = (only.map(<[NamespaceId]>::to_vec), page.clone());
        query!(self, namespaces::list(only.as_deref(), &page))
    }

    /// Changes the description.
    ///
    /// # Errors
    /// `NotFound`, or the database's.
    pub async fn namespace_update(
        &self,
        id: &NamespaceId,
        description: &str,
        actor: &str,
        at: Timestamp,
    ) -> Result<Namespace, DbError> {
        let (id, description, actor) = (id.clone(), description.to_owned(), actor.to_owned());
        transact!(self, namespaces::update(&id, &description, &actor, at))
    }

    /// Removes a namespace.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while it owns a pipeline, and always for `default`; or the
    /// database's.
    pub async fn namespace_delete(
        &self,
        id: &NamespaceId,
        actor: &str,
        at: Timestamp,
    ) -> Result<(), DbError> {
        let (id, actor) = (id.clone(), actor.to_owned());
        transact!(self, namespaces::delete(&id, &actor, at))
    }
}
