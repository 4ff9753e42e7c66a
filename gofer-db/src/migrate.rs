//! Brings a schema up to date. Forward only, embedded in the binary, run at every start.

use diesel::backend::Backend;
use diesel::migration::{Migration, MigrationSource, MigrationVersion};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness};

use crate::error::DbError;

pub(crate) fn run<DB: Backend>(
    connection: &mut impl MigrationHarness<DB>,
    ours: EmbeddedMigrations,
) -> Result<(), DbError> {
    let failed = |error| {
        DbError::internal("the database's schema cannot be brought up to date", Wrapped(error))
    };

    let known: Vec<Box<dyn Migration<DB>>> = ours.migrations().map_err(failed)?;
    let applied: Vec<MigrationVersion<'static>> =
        connection.applied_migrations().map_err(failed)?;
    let newer = applied
        .iter()
        .find(|version| !known.iter().any(|migration| migration.name().version() == **version));

    if let Some(version) = newer {
        return Err(DbError::corrupt(format!(
            "the database was written by a newer Gofer (schema `{version}`); install that version \
             again"
        )));
    }

    connection.run_pending_migrations(ours).map_err(failed)?;
    Ok(())
}

/// `Box<dyn Error>` does not implement `Error` itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Wrapped(Box<dyn std::error::Error + Send + Sync>);
