//! Whom the store trusts, and what it shows of itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::serve::Listener;
use gofer_core::ErrorKind;
use gofer_core::secret_store::SecretStore;
use gofer_secrets_vault::{VaultConfig, VaultSecretStore};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::fake::{Fake, Fault};
use crate::support::{failed, get, open, put};

/// A listener that speaks TLS.
struct Encrypted {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Encrypted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            // A client that does not trust us hangs up.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// Files of an authority, of a client that it knows, and the fake behind a certificate that it
/// made.
struct Place {
    dir: TempDir,
    address: String,
    fake: Fake,
}

impl Place {
    async fn new(asks_for_a_certificate: bool) -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let made = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let certificate = CertificateParams::new([name.to_owned()])
                .unwrap()
                .signed_by(&key, &authority)
                .unwrap();
            (certificate, key)
        };

        let (client, client_key) = made("gofer.example.com");
        let dir = tempfile::tempdir().unwrap();
        let stranger = KeyPair::generate().unwrap().serialize_pem();

        for (name, pem) in [
            ("ca.pem", authority.pem()),
            ("client.pem", client.pem()),
            ("client.key", client_key.serialize_pem()),
            ("stranger.key", stranger),
        ] {
            std::fs::write(dir.path().join(name), pem).unwrap();
        }

        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if asks_for_a_certificate {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };

        let (certificate, key) = made("127.0.0.1");
        let config = builder.with_single_cert(vec![certificate.der().clone()], key.into()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let listener = Encrypted { listener, acceptor: TlsAcceptor::from(Arc::new(config)) };
        let fake = Fake::start().await;
        let router = fake.router();

        // It ends with the test's runtime.
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { dir, address, fake }
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        Some(Path::new(self.dir.path()).join(name))
    }

    fn config(&self) -> VaultConfig {
        let ca_file = self.file("ca.pem");
        VaultConfig { address: self.address.clone(), ca_file, attempts: 1, ..self.fake.root() }
    }
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted() {
    let place = Place::new(false).await;
    let store = open(place.config()).await;
    put(&store, "a", "1").await.unwrap();
    assert_eq!(get(&store, "a").await.unwrap(), "1");
    assert!(store.check().await.unwrap().contains(&place.address));

    // Without it, or with another, nothing is sent.
    let (other, before) = (Place::new(false).await, place.fake.take_lines().len());
    assert!(before > 0);
    for ca_file in [other.file("ca.pem"), other.file("client.pem")] {
        let text = failed(
            VaultSecretStore::connect(VaultConfig { ca_file, ..place.config() }).await,
            ErrorKind::Unavailable,
        );
        assert!(text.contains("`ca_file` names the authority of its certificate"), "{text}");
    }

    assert_eq!(place.fake.take_lines(), Vec::<String>::new());
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_a_server_that_asks() {
    let place = Place::new(true).await;
    let with = |key: &str| VaultConfig {
        cert_file: place.file("client.pem"),
        key_file: place.file(key),
        ..place.config()
    };

    let store = open(with("client.key")).await;
    put(&store, "a", "1").await.unwrap();
    let error = VaultSecretStore::connect(place.config()).await.unwrap_err();
    assert!(error.is_retryable(), "{}", error.chain());

    let text = failed(VaultSecretStore::connect(with("stranger.key")).await, ErrorKind::Invalid);
    assert!(
        text.starts_with("cert_file, key_file: the key in `") && text.contains("is not that of `"),
        "{text}"
    );

    let text = failed(VaultSecretStore::connect(with("ca.pem")).await, ErrorKind::Invalid);
    assert!(text.starts_with("key_file: `"), "{text}");
}

#[tokio::test]
async fn nothing_goes_from_tls_into_the_clear() {
    let place = Place::new(false).await;
    let store = open(place.config()).await;
    place.fake.take_lines();
    place.fake.fault("GET", Fault::Redirect(place.fake.address.clone()));
    let text = failed(get(&store, "a").await, ErrorKind::Unavailable);
    assert!(text.contains("points elsewhere"), "{text}");
    assert_eq!(place.fake.take_lines(), ["GET /v1/secret/data/gofer/a"]);
}
