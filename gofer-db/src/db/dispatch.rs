//! From a method of `Db` to the engine's copy of a query.

/// Runs a query of `crate::queries` on a connection that reads, within a time limit. The arguments
/// move into it.
macro_rules! query {
    ($db:expr, $module:ident :: $call:ident ( $($arg:expr),* $(,)? )) => {
        match $db.engine() {
            $crate::db::Engine::Sqlite(engine) => {
                engine.read(move |c| $crate::sqlite::now($crate::sqlite::queries::$module::$call(c $(, $arg)*))).await
            }
            $crate::db::Engine::Postgres(engine) => {
                let pool = engine.pool();
                $crate::support::joined(tokio::spawn(async move {
                    let mut connection = pool.get().await.map_err($crate::postgres::pool_error)?;
                    let work = $crate::postgres::queries::$module::$call(&mut connection $(, $arg)*);
                    let answer = $crate::postgres::answer(work).await;
                    answer.unwrap_or_else(|late| Err($crate::postgres::give_up(&pool, connection, late)))
                }).await)
            }
        }
    };
}

/// Runs a query of `crate::queries` in a transaction of its own, with the events it records. The
/// arguments move into it, and it goes on, within a time limit, when the caller goes away.
macro_rules! transact {
    ($db:expr, $module:ident :: $call:ident ( $($arg:expr),* $(,)? )) => {
        match $db.engine() {
            $crate::db::Engine::Sqlite(engine) => {
                engine.write(move |tx| $crate::sqlite::now($crate::sqlite::queries::$module::$call(tx $(, $arg)*))).await
            }
            $crate::db::Engine::Postgres(engine) => {
                let pool = engine.pool();
                let instance = engine.instance();
                let last_event = $db.last_event_sender();
                $crate::support::joined(tokio::spawn(async move {
                    use diesel_async::AsyncConnection as _;
                    let mut connection = pool.get().await.map_err($crate::postgres::pool_error)?;
                    let work = connection
                        .transaction(async |c| {
                            let mut tx = $crate::postgres::queries::Tx::new(c);
                            let value = $crate::postgres::queries::$module::$call(&mut tx $(, $arg)*).await?;
                            let hints = instance.map(|_| gofer_core::journal::Hint::of(&tx.events));
                            let last = tx.flush().await?.last().map(|event| event.id);
                            if let (Some(instance), Some(hints), Some(last)) = (instance, hints, last) {
                                $crate::postgres::notify::publish(c, instance, last, hints).await?;
                            }
                            Ok::<_, $crate::error::DbError>((value, last))
                        });
                    let answer = $crate::postgres::answer(work).await;
                    let (value, last) =
                        answer.unwrap_or_else(|late| Err($crate::postgres::give_up(&pool, connection, late)))?;
                    if let Some(last) = last {
                        $crate::support::note(&last_event, last);
                    }
                    Ok(value)
                }).await)
            }
        }
    };
}

pub(crate) use {query, transact};
