use diesel::prelude::*;
use gofer_core::object_store::ListPage;
use gofer_core::{Resource, SecretPath};

use super::{Conn, RunQueryDsl, Tx};
use crate::error::DbError;
use crate::rows::{id, page, page_rows, prefix_end};
use crate::schema::local_secrets;
use crate::types::{LocalSecret, Page};

pub(crate) async fn put(
    tx: &mut Tx<'_>,
    path: &SecretPath,
    secret: &LocalSecret,
    if_absent: bool,
) -> Result<(), DbError> {
    let new = diesel::insert_into(local_secrets::table).values((
        local_secrets::path.eq(path.as_str()),
        local_secrets::key_id.eq(&secret.key_id),
        local_secrets::ciphertext.eq(&secret.ciphertext),
    ));

    if if_absent {
        return match new.on_conflict_do_nothing().execute(tx.c).await? {
            0 => Err(DbError::exists(Resource::Secret, path)),
            _ => Ok(()),
        };
    }

    new.on_conflict(local_secrets::path)
        .do_update()
        .set((
            local_secrets::key_id.eq(&secret.key_id),
            local_secrets::ciphertext.eq(&secret.ciphertext),
        ))
        .execute(tx.c)
        .await?;
    Ok(())
}

pub(crate) async fn get(c: &mut Conn, path: &SecretPath) -> Result<LocalSecret, DbError> {
    let found: Option<(String, Vec<u8>)> = local_secrets::table
        .find(path.as_str())
        .select((local_secrets::key_id, local_secrets::ciphertext))
        .get_result(c)
        .await
        .optional()?;
    let (key_id, ciphertext) = found.ok_or_else(|| DbError::not_found(Resource::Secret, path))?;
    Ok(LocalSecret { key_id, ciphertext })
}

pub(crate) async fn list(
    c: &mut Conn,
    prefix: &str,
    wanted: &ListPage,
) -> Result<Page<SecretPath>, DbError> {
    let rows: Vec<String> = local_secrets::table
        .filter(local_secrets::path.ge(prefix))
        .filter(local_secrets::path.lt(prefix_end(prefix)))
        .filter(local_secrets::path.gt(wanted.after.as_deref().unwrap_or_default()))
        .select(local_secrets::path)
        .order(local_secrets::path)
        .limit(page_rows(wanted.limit))
        .load(c)
        .await?;
    page(rows, wanted.limit, String::clone, |path| id(&path))
}

pub(crate) async fn delete(tx: &mut Tx<'_>, path: &SecretPath) -> Result<bool, DbError> {
    Ok(diesel::delete(local_secrets::table.find(path.as_str())).execute(tx.c).await? == 1)
}

pub(crate) async fn list_stale(
    c: &mut Conn,
    key_id: &str,
    wanted: &ListPage,
) -> Result<Page<(SecretPath, LocalSecret)>, DbError> {
    let rows: Vec<(String, String, Vec<u8>)> = local_secrets::table
        .filter(local_secrets::key_id.ne(key_id))
        .filter(local_secrets::path.gt(wanted.after.as_deref().unwrap_or_default()))
        .order(local_secrets::path)
        .limit(page_rows(wanted.limit))
        .load(c)
        .await?;
    page(
        rows,
        wanted.limit,
        |(path, ..)| path.clone(),
        |(path, key_id, ciphertext)| Ok((id(&path)?, LocalSecret { key_id, ciphertext })),
    )
}

pub(crate) async fn rewrite(
    tx: &mut Tx<'_>,
    path: &SecretPath,
    from: &LocalSecret,
    to: &LocalSecret,
) -> Result<bool, DbError> {
    let unchanged = local_secrets::table
        .find(path.as_str())
        .filter(local_secrets::key_id.eq(&from.key_id))
        .filter(local_secrets::ciphertext.eq(&from.ciphertext));
    let changed = diesel::update(unchanged)
        .set((local_secrets::key_id.eq(&to.key_id), local_secrets::ciphertext.eq(&to.ciphertext)))
        .execute(tx.c)
        .await?;
    Ok(changed == 1)
}
