//! Lets `src/queries` run on diesel's synchronous SQLite connection: the same names and shapes as
//! diesel-async's, but the futures are ready at once. Measured: a transaction as one closure is 2
//! to 4 times faster than a hop per statement.

use diesel::connection::LoadConnection;
use diesel::dsl::Limit;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::query_dsl::methods::{LimitDsl, LoadQuery};
use diesel::result::{Error as DieselError, QueryResult};
use diesel::sql_types::{BigInt, Untyped};
use diesel::sqlite::Sqlite;
use futures::FutureExt as _;

use super::Conn;
use crate::prepared::prepared;

/// The value of a future that never waits.
///
/// # Panics
/// When it does, which is a query that awaits something else than its connection.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("a query on SQLite never waits")
}

/// Runs a statement that has no rows.
pub(crate) fn run<Q: QueryFragment<Sqlite> + QueryId>(
    c: &mut Conn,
    statement: Q,
) -> QueryResult<()> {
    LoadConnection::load(c, Executed(statement))?.try_for_each(|row| row.map(drop))
}

/// One of the counters of this connection.
pub(crate) fn count(c: &mut Conn, what: &'static str) -> QueryResult<usize> {
    let changes: i64 =
        now(prepared(diesel::select(diesel::dsl::sql::<BigInt>(what))).get_result(c))?;
    Ok(usize::try_from(changes).unwrap_or(0))
}

/// A statement that is run as a query without rows. Diesel's own `execute` asks the reference to a
/// statement, and not the statement, whether it may stay prepared, and so prepares anew what
/// [`cached`] has marked: a quarter of the writer's time.
struct Executed<Q>(Q);

impl<Q: QueryFragment<Sqlite>> QueryFragment<Sqlite> for Executed<Q> {
    fn walk_ast<'b>(&'b self, pass: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        self.0.walk_ast(pass)
    }

    fn is_safe_to_cache_prepared(&self, backend: &Sqlite) -> QueryResult<bool> {
        self.0.is_safe_to_cache_prepared(backend)
    }
}

impl<Q: QueryId> QueryId for Executed<Q> {
    type QueryId = Q::QueryId;
    const HAS_STATIC_QUERY_ID: bool = Q::HAS_STATIC_QUERY_ID;
}

impl<Q> Query for Executed<Q> {
    type SqlType = Untyped;
}

/// diesel-async's trait of this name, as far as the queries use it.
pub(crate) trait RunQueryDsl: Sized {
    async fn execute(self, c: &mut Conn) -> QueryResult<usize>
    where
        Self: QueryFragment<Sqlite> + QueryId,
    {
        run(c, self)?;
        count(c, "changes()")
    }

    async fn load<'query, U>(self, c: &mut Conn) -> QueryResult<Vec<U>>
    where
        Self: LoadQuery<'query, Conn, U>,
    {
        self.internal_load(c)?.collect()
    }

    async fn get_result<'query, U>(self, c: &mut Conn) -> QueryResult<U>
    where
        Self: LoadQuery<'query, Conn, U>,
    {
        self.internal_load(c)?.next().unwrap_or(Err(DieselError::NotFound))
    }

    async fn first<'query, U>(self, c: &mut Conn) -> QueryResult<U>
    where
        Self: LimitDsl,
        Limit<Self>: LoadQuery<'query, Conn, U>,
    {
        self.limit(1).internal_load(c)?.next().unwrap_or(Err(DieselError::NotFound))
    }
}

impl<Q> RunQueryDsl for Q {}
