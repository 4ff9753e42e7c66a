//! How a connection is made: with TLS where it is asked for, and with limits on everything that
//! could hang.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diesel::{ConnectionError, ConnectionResult};
use diesel_async::AsyncPgConnection;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_postgres::config::{Host, SslMode, SslNegotiation};
use tokio_postgres::{AsyncMessage, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::TlsConfig;
use crate::error::DbError;
use crate::sqlstate::{Coded, Plain, WithCodes};

const DEFAULT_PORT: u16 = 5432;
/// Also for a server that accepts the connection and then says nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long sent data may stay unacknowledged before the connection counts as dead.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(20);
/// A statement that takes longer is broken off by the server; all of ours take milliseconds. So is
/// a transaction whose client (a paused server) says nothing for as long: what it has locked,
/// others wait for.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(super) struct Connector {
    config: tokio_postgres::Config,
    /// The same, never with TLS.
    plain: tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
}

impl Connector {
    pub(super) fn new(server: &tokio_postgres::Config, tls: &TlsConfig) -> Result<Self, DbError> {
        let mut config = server.clone();
        let encrypt =
            tls.require || tls.ca_file.is_some() || config.get_ssl_mode() == SslMode::Require;
        let tls = if encrypt {
            // The default, `prefer`, would fall back to plain text.
            config.ssl_mode(SslMode::Require);
            Some(MakeRustlsConnect::new(client_config(tls)?))
        } else {
            // Not for the driver: what it takes for TLS is `Plain`.
            config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
            None
        };

        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }

        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(ACKNOWLEDGE_TIMEOUT);
        }

        config.keepalives_idle(ACKNOWLEDGE_TIMEOUT);
        // The server side too gives up on a client that is gone, and frees its locks.
        let options = format!(
            "{} -c statement_timeout={} -c idle_in_transaction_session_timeout={} -c \
             tcp_keepalives_idle=20 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3",
            config.get_options().unwrap_or_default(),
            STATEMENT_TIMEOUT.as_millis(),
            STATEMENT_TIMEOUT.as_millis(),
        );

        config.options(options.trim());
        config.application_name(format!("gofer: {}", crate::support::this_process()));
        let mut plain = config.clone();
        plain.ssl_mode(SslMode::Disable).ssl_negotiation(SslNegotiation::Postgres);

        Ok(Self { config, plain, tls })
    }

    pub(super) async fn connect(&self) -> ConnectionResult<AsyncPgConnection> {
        let connecting = async {
            if let Some(Host::Unix(directory)) = self.config.get_hosts().first() {
                return self.connect_locally(directory).await;
            }
            match &self.tls {
                Some(tls) => {
                    let connecting = self.config.connect(WithCodes(tls.clone()));
                    let (client, connection) = connecting.await.map_err(bad_connection)?;
                    AsyncPgConnection::try_from_client_and_connection(client, connection).await
                }
                None => {
                    let connecting = self.config.connect(WithCodes(Plain));
                    let (client, connection) = connecting.await.map_err(bad_connection)?;
                    AsyncPgConnection::try_from_client_and_connection(client, connection).await
                }
            }
        };
        in_time(connecting).await
    }

    /// By a socket in the file system, where there is never TLS.
    async fn connect_locally(&self, directory: &Path) -> ConnectionResult<AsyncPgConnection> {
        let port = self.config.get_ports().first().copied().unwrap_or(DEFAULT_PORT);
        let path = directory.join(format!(".s.PGSQL.{port}"));
        let cannot =
            |error| ConnectionError::BadConnection(format!("`{}`: {error}", path.display()));
        let stream = UnixStream::connect(&path).await.map_err(cannot)?;

        let connecting = self.plain.connect_raw(Coded::new(stream), NoTls);
        let (client, connection) = connecting.await.map_err(bad_connection)?;
        // Ends with its client; what it ends with, the client is told.
        tokio::spawn(connection);
        AsyncPgConnection::try_from(client).await
    }

    /// A connection whose notifications' payloads go to `payloads`, which is closed when the
    /// connection ends.
    pub(super) async fn listener(
        &self,
        payloads: mpsc::Sender<String>,
    ) -> ConnectionResult<tokio_postgres::Client> {
        let connecting = async {
            match &self.tls {
                Some(tls) => {
                    let (client, connection) =
                        self.config.connect(tls.clone()).await.map_err(bad_connection)?;
                    tokio::spawn(forward(connection, payloads));
                    Ok(client)
                }
                None => {
                    let (client, connection) =
                        self.plain.connect(NoTls).await.map_err(bad_connection)?;
                    tokio::spawn(forward(connection, payloads));
                    Ok(client)
                }
            }
        };
        in_time(connecting).await
    }
}

async fn in_time<T>(connecting: impl Future<Output = ConnectionResult<T>>) -> ConnectionResult<T> {
    tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| {
        Err(ConnectionError::BadConnection("no answer from the server".to_owned()))
    })
}

/// Drives the connection, which ends when its client is dropped.
async fn forward<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    payloads: mpsc::Sender<String>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = std::future::poll_fn(|context| connection.poll_message(context)).await
    {
        match message {
            Ok(AsyncMessage::Notification(notification)) => {
                if payloads.send(notification.payload().to_owned()).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "the connection that listens broke");
                return;
            }
        }
    }
}

fn bad_connection(error: tokio_postgres::Error) -> ConnectionError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    ConnectionError::BadConnection(text)
}

pub(super) fn cannot_connect(error: ConnectionError) -> DbError {
    DbError::unavailable("cannot connect to the database", error)
}

fn client_config(tls: &TlsConfig) -> Result<ClientConfig, DbError> {
    let mut roots = RootCertStore::empty();
    match &tls.ca_file {
        Some(path) => {
            let unreadable = |error: &dyn std::fmt::Display| {
                DbError::config(format!(
                    "tls.ca_file: cannot read certificates from `{}`: {error}",
                    path.display()
                ))
            };

            for certificate in
                CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))?
            {
                let certificate = certificate.map_err(|error| unreadable(&error))?;
                roots.add(certificate).map_err(|error| unreadable(&error))?;
            }

            if roots.is_empty() {
                return Err(unreadable(&"it holds none"));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(DbError::config(
                    "tls.ca_file: the operating system trusts no authorities; name a file",
                ));
            }
        }
    }

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| DbError::internal("cannot set up TLS", error))?
        .with_root_certificates(roots)
        .with_no_client_auth();

    Ok(config)
}
