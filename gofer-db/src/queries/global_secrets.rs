//! Secrets of no pipeline, which name the namespaces that may use them.

use diesel::prelude::*;
use gofer_core::NamespaceId;

use super::engine::locked;
use super::{RunQueryDsl, Tx};
use crate::error::DbError;
use crate::rows::{json, parsed};
use crate::schema::secrets;

/// `pipeline_id` of global secrets.
pub(super) const GLOBAL: i64 = 0;

/// Takes a namespace that is being deleted out of what global secrets allow: the next one of its
/// name is another.
pub(super) async fn forget_namespace(
    tx: &mut Tx<'_>,
    namespace: &NamespaceId,
) -> Result<(), DbError> {
    let naming = secrets::table
        .filter(secrets::pipeline_id.eq(GLOBAL))
        .filter(secrets::allowed_namespaces.like(format!("%\"{namespace}\"%")))
        .select((secrets::key, secrets::allowed_namespaces));
    let naming: Vec<(String, String)> = locked!(naming).load(tx.c).await?;
    for (key, allowed) in naming {
        let mut allowed: Vec<NamespaceId> = parsed(&allowed)?;
        allowed.retain(|allowed| allowed != namespace);
        diesel::update(secrets::table.find((GLOBAL, key)))
            .set(secrets::allowed_namespaces.eq(json(&allowed)?))
            .execute(tx.c)
            .await?;
    }
    Ok(())
}
