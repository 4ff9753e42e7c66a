//! Whom the store trusts.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use gofer_core::ErrorKind;
use gofer_core::object_store::ObjectStore;
use gofer_store_s3::S3Config;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::server::TlsStream;

use crate::fake::{Fake, Kind};
use crate::support::{PLAIN, base, content, open, put};

/// A listener whose certificate an authority of ours has signed.
struct Encrypted {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Encrypted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await.expect("a connection");
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

/// The fake in TLS, and its authority in PEM.
async fn encrypted() -> (Fake, String) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key"))
        .expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    let certificate = server.signed_by(&key, &authority).expect("a certificate");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .expect("a server");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let listener = Encrypted { listener, acceptor: TlsAcceptor::from(Arc::new(config)) };

    (Fake::serve(address, listener), authority.pem())
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_by_this_store_alone() {
    let (fake, pem) = encrypted().await;
    let directory = tempfile::tempdir().expect("a directory");
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, pem).expect("written");

    let endpoint = Some(format!("https://{}", fake.address));
    let trusting =
        open(S3Config { endpoint: endpoint.clone(), ca_file: Some(ca_file), ..base() }).await;
    trusting.check().await.expect("check");
    put(&trusting, "k", &Bytes::from_static(b"sealed"), PLAIN).await.expect("put");
    assert_eq!(content(&trusting, "k").await, "sealed");

    // Another authority's file: nothing that is in the system's store, which a minimal image may
    // lack.
    let stranger = directory.path().join("stranger.pem");
    let (_other, pem) = encrypted().await;
    std::fs::write(&stranger, pem).expect("written");
    let before = fake.count(Kind::List);
    let error = open(S3Config { endpoint, ca_file: Some(stranger), ..base() })
        .await
        .check()
        .await
        .expect_err("no trust");

    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(
        error
            .to_string()
            .ends_with("its certificate is not trusted; name the authority's PEM file in ca_file"),
        "{}",
        error.chain()
    );
    assert_eq!(fake.count(Kind::List), before);
}
