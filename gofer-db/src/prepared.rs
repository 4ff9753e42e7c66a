//! Statements that are prepared once per connection.

use diesel::backend::Backend;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::QueryResult;

/// A statement worth keeping prepared. Diesel prepares every UPDATE, every upsert and everything
/// with a piece of SQL in it anew, because many of those have another text each time. These have
/// few texts, and are found again by them.
pub(crate) struct Prepared<Q>(Q);

/// Keeps the statement prepared.
pub(crate) fn prepared<Q>(query: Q) -> Prepared<Q> {
    Prepared(query)
}

impl<Q: QueryFragment<DB>, DB: Backend> QueryFragment<DB> for Prepared<Q> {
    fn walk_ast<'b>(&'b self, pass: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        self.0.walk_ast(pass)
    }

    fn is_safe_to_cache_prepared(&self, _: &DB) -> QueryResult<bool> {
        Ok(true)
    }
}

impl<Q> QueryId for Prepared<Q> {
    type QueryId = ();
    // The type does not say the text, so the text itself is the key.
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Q: Query> Query for Prepared<Q> {
    type SqlType = Q::SqlType;
}

// Diesel's synchronous connection asks for it, of everything that is loaded.
impl<Q, C> diesel::RunQueryDsl<C> for Prepared<Q> {}
