//! Databases that are there for one measurement only.

use std::path::Path;

use anyhow::{Context as _, Result};
use tokio_postgres::{Client, NoTls};

/// A PostgreSQL database from which others may be made; without it, only SQLite is measured.
const POSTGRES: &str = "GOFER_TEST_POSTGRES_URL";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Product {
    Sqlite,
    Postgres,
}

impl Product {
    /// Those that can be measured here.
    pub(crate) fn here() -> Vec<Self> {
        let postgres = std::env::var_os(POSTGRES).map(|_| Self::Postgres);
        [Self::Sqlite].into_iter().chain(postgres).collect()
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }
}

/// A new, empty database.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) product: Product,
    /// As in `database.url`.
    pub(crate) url: String,
    name: String,
}

impl Scratch {
    /// Makes one; SQLite's lies in `dir`, PostgreSQL's beside the one in the environment.
    pub(crate) async fn create(product: Product, dir: &Path, name: &str) -> Result<Self> {
        let name = format!("gofer_bench_{}_{name}", std::process::id());
        let url = match product {
            Product::Sqlite => {
                dir.join(&name).with_extension("db").to_str().context("not UTF-8")?.to_owned()
            }
            Product::Postgres => {
                let (client, base) = beside().await?;
                client
                    .batch_execute(&format!("CREATE DATABASE {name}"))
                    .await
                    .context("cannot make a database")?;
                with_database(&base, &name)?
            }
        };

        Ok(Self { product, url, name })
    }

    /// Drops a PostgreSQL database; SQLite's file is removed with its directory.
    pub(crate) async fn remove(self) -> Result<()> {
        if self.product == Product::Postgres {
            let (client, _) = beside().await?;
            client.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name)).await?;
        }
        Ok(())
    }
}

/// A connection to PostgreSQL.
pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.context("cannot connect to PostgreSQL")?;
    // Ends with the client; what goes wrong is the answer to the client's next call.
    tokio::spawn(connection);
    Ok(client)
}

async fn beside() -> Result<(Client, String)> {
    let url = std::env::var(POSTGRES).with_context(|| format!("{POSTGRES} is not set"))?;
    Ok((connect(&url).await?, url))
}

/// The same URL with another database.
fn with_database(url: &str, name: &str) -> Result<String> {
    let (scheme, rest) = url.split_once("://").context("the URL of PostgreSQL has no scheme")?;
    let (rest, parameters) =
        rest.split_once('?').map_or((rest, None), |(rest, after)| (rest, Some(after)));
    let server = rest.split('/').next().unwrap_or_default();
    let parameters = parameters.map_or_else(String::new, |parameters| format!("?{parameters}"));
    Ok(format!("{scheme}://{server}/{name}{parameters}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_the_database_is_replaced() {
        let with = |url| super::with_database(url, "other").unwrap();
        assert_eq!(
            with("postgres://u:p@host:5432/db?sslmode=disable"),
            "postgres://u:p@host:5432/other?sslmode=disable"
        );
        assert_eq!(with("postgres://host"), "postgres://host/other");
        assert!(super::with_database("host/db", "other").is_err());
    }
}
