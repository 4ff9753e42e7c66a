//! PostgreSQL writes its errors in the language of `lc_messages`; what they mean does not depend on
//! it, nor on how they arrive.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gofer_conformance::skip;
use gofer_db::{DatabaseUrl, Db, DbConfig, DbError, TlsConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_postgres::{Client, NoTls};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};

use crate::engines::Place;
use crate::setup::default;

/// By `localedef` in `testbed/postgres.sh`.
const GERMAN: &str = "de_DE.UTF-8";
const TEST: &str = "gofer-db with errors in German";
/// What a client sends that wants TLS, and what a server that has it answers.
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const TLS_WELCOME: u8 = b'S';

#[tokio::test(flavor = "multi_thread")]
async fn an_error_means_the_same_in_another_language() {
    let Some(place) = Place::postgres().await else { return };
    let admin = impatient(&place).await;
    if let Err(error) = admin.batch_execute(&set("lc_messages", GERMAN)).await {
        skip("german", TEST, &format!("PostgreSQL has no `{GERMAN}`: {error}"));
    }

    let db = place.open().await;
    let text = refused_for_a_lock(&admin, &db).await;
    if text.contains("canceling statement") {
        skip("german", TEST, "its translations are not installed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_means_the_same_over_tls() {
    let Some(place) = Place::postgres().await else { return };
    let admin = impatient(&place).await;
    let folder = tempfile::tempdir().expect("a directory");
    let ca_file = folder.path().join("ca.pem");
    let port = serve_tls(&place.url(), &ca_file).await;

    let server = place.url();
    let (login, database) = parts(&server);
    let url = DatabaseUrl::new(format!("postgres://{login}@localhost:{port}/{database}"));
    let tls = TlsConfig { require: true, ca_file: Some(ca_file) };
    let db =
        Db::connect(DbConfig { url: Some(url), tls, ..place.config() }).await.expect("connect");
    refused_for_a_lock(&admin, &db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_means_the_same_over_a_socket_in_the_file_system() {
    let Some(place) = Place::postgres().await else { return };
    let admin = impatient(&place).await;
    let folder = tempfile::tempdir().expect("a directory");
    serve_socket(&place.url(), folder.path());

    let server = place.url();
    let (login, database) = parts(&server);
    let url = DatabaseUrl::new(format!(
        "postgres://{login}@/{database}?host={}",
        folder.path().display()
    ));
    let db = Db::connect(DbConfig { url: Some(url), ..place.config() }).await.expect("connect");
    refused_for_a_lock(&admin, &db).await;
}

/// A statement for the test's own database.
fn set(name: &str, value: &str) -> String {
    format!(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET {name} = %L', current_database(), \
         '{value}'); END $$"
    )
}

/// Has statements on the place's database wait for locks for a moment only.
async fn impatient(place: &Place) -> Client {
    place.open().await.close().await;
    let (client, connection) =
        tokio_postgres::connect(&place.url(), NoTls).await.expect("the test server answers");
    tokio::spawn(connection);
    client.batch_execute(&set("lock_timeout", "100ms")).await.unwrap();
    client
}

/// What a statement is refused with that finds its table locked; its code is told.
async fn refused_for_a_lock(admin: &Client, db: &Db) -> String {
    admin.batch_execute("BEGIN; LOCK TABLE namespaces IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let refused =
        tokio::time::timeout(Duration::from_secs(30), db.namespace_get(&default())).await.unwrap();
    let Err(DbError::Unavailable { source: Some(source), .. }) = &refused else {
        panic!("{refused:?}")
    };
    let text = source.to_string();
    assert!(text.starts_with("SQLSTATE 55P03: "), "{text}");

    admin.batch_execute("ROLLBACK").await.unwrap();
    db.namespace_get(&default()).await.unwrap();
    text
}

/// The user with the password, and the database, of a URL.
fn parts(url: &str) -> (&str, &str) {
    let (_, rest) = url.split_once("://").expect("a URL");
    let (login, rest) = rest.split_once('@').expect("a user");
    (login, rest.split_once('/').expect("a database").1)
}

fn address(url: &str) -> String {
    let (_, rest) = url.split_once('@').expect("a user");
    rest.split('/').next().unwrap_or_default().to_owned()
}

/// A way to the server with TLS; its certificate is written to the file.
async fn serve_tls(url: &str, ca_file: &Path) -> u16 {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(ca_file, made.cert.pem()).expect("a file");
    let key =
        PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).expect("a key");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key);
    let acceptor = TlsAcceptor::from(Arc::new(config.expect("a key and its certificate")));

    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let (port, server) = (listener.local_addr().expect("an address").port(), address(url));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                let mut request = [0; TLS_REQUEST.len()];
                client.read_exact(&mut request).await?;
                assert_eq!(request, TLS_REQUEST, "it wants TLS");
                client.write_u8(TLS_WELCOME).await?;
                forward(acceptor.accept(client).await?, &server).await
            });
        }
    });

    port
}

/// A way to the server by a socket in a folder.
fn serve_socket(url: &str, folder: &Path) {
    let listener = UnixListener::bind(folder.join(".s.PGSQL.5432")).expect("a socket");
    let server = address(url);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = server.clone();
            tokio::spawn(async move { forward(client, &server).await });
        }
    });
}

async fn forward(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    server: &str,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}
