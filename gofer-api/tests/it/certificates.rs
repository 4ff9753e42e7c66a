//! Certificates: exchanged while the server serves, and asked of clients.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use gofer_api::{Server, TlsError};
use gofer_proto::v1;
use gofer_proto::v1::namespace_service_client::NamespaceServiceClient;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::Request;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::harness::{SOON, TestServer, eventually, launcher, test_config};

/// An authority, and certificates that it signs.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `localhost` and its key.
    pub(crate) fn sign(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

/// The server's files.
pub(crate) struct Files {
    dir: TempDir,
}

impl Files {
    pub(crate) fn new((certificate, key): (String, String)) -> Self {
        let files = Self { dir: TempDir::new().unwrap() };
        files.put("tls.crt", &certificate);
        files.put("tls.key", &key);
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// At once, as programs that renew certificates do.
    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    pub(crate) async fn serve(&self, client_authority: Option<&Path>) -> TestServer {
        TestServer::start_with(|config| {
            config.server.tls.cert_file = Some(self.path("tls.crt"));
            config.server.tls.key_file = Some(self.path("tls.key"));
            config.server.tls.client_ca_file = client_authority.map(Path::to_owned);
        })
        .await
    }
}

async fn connect(
    addr: SocketAddr,
    authority: &Authority,
    client: Option<(String, String)>,
) -> Result<Channel, String> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority.pem()))
        .domain_name("localhost");
    if let Some((certificate, key)) = client {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let endpoint =
        Endpoint::from_shared(format!("https://{addr}")).unwrap().tls_config(tls).unwrap();
    endpoint.connect().await.map_err(|error| format!("{error:?}"))
}

async fn call(channel: &Channel, server: &TestServer) -> Result<(), String> {
    let mut namespaces = NamespaceServiceClient::new(channel.clone());
    let mut request = Request::new(v1::ListNamespacesRequest::default());
    let token = format!("Bearer {}", server.own_token().unwrap());
    request.metadata_mut().insert("authorization", token.parse().unwrap());
    let answer = namespaces.list_namespaces(request).await;
    answer.map(drop).map_err(|status| format!("{status:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_served_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = Files::new(old.sign());
    let server = files.serve(None).await;
    let addr = server.server().addr();
    let open = connect(addr, &old, None).await.unwrap();
    call(&open, &server).await.unwrap();
    assert!(
        connect(addr, &new, None).await.is_err(),
        "trusted by an authority that has signed nothing yet"
    );

    // A pair that does not belong together changes nothing; what comes after it does.
    let (certificate, key) = new.sign();
    files.put("tls.crt", &certificate);
    server.server().reload()();
    connect(addr, &old, None).await.unwrap();
    files.put("tls.key", &key);
    eventually("the new certificate is served", || connect(addr, &new, None)).await;
    assert!(connect(addr, &old, None).await.is_err(), "the old certificate is still served");
    call(&open, &server).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_needs_a_certificate_where_one_is_asked() {
    let (authority, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let files = Files::new(authority.sign());
    files.put("clients.crt", &clients.pem());
    let server = files.serve(Some(&files.path("clients.crt"))).await;
    let addr = server.server().addr();

    // With TLS 1.3 a client hears of the refusal only with the first answer.
    for client in [None, Some(others.sign())] {
        let refused = match connect(addr, &authority, client).await {
            Ok(channel) => call(&channel, &server).await,
            Err(error) => Err(error),
        };
        assert!(refused.is_err());
    }

    let channel = connect(addr, &authority, Some(clients.sign())).await.unwrap();
    call(&channel, &server).await.unwrap();

    // The authority is exchanged like the certificate.
    files.put("clients.crt", &others.pem());
    eventually("the other authority's clients are served", || async {
        call(&connect(addr, &authority, Some(others.sign())).await?, &server).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_does_not_end_is_given_up() {
    let files = Files::new(Authority::new().sign());
    let server = files.serve(None).await;
    let mut silent = TcpStream::connect(server.server().addr()).await.unwrap();
    let ended = tokio::time::timeout(SOON, silent.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "still open after {SOON:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_certificate_stops_the_start_by_name() {
    let files = Files::new(Authority::new().sign());
    let start = |certificate: &str, key: &str, clients: Option<&str>| {
        let mut config = test_config(files.dir.path());
        config.server.tls.cert_file = Some(files.path(certificate));
        config.server.tls.key_file = Some(files.path(key));
        config.server.tls.client_ca_file = clients.map(|name| files.path(name));
        async { Server::start(config, launcher()).await.unwrap_err() }
    };

    let other = Authority::new().sign();
    files.put("other.key", &other.1);
    let cases = [
        (start("tls.crt", "tls.crt", None).await, "key_file"),
        (start("tls.key", "tls.key", None).await, "cert_file"),
        (start("absent", "tls.key", None).await, "absent"),
        (start("tls.crt", "other.key", None).await, "cannot be used together"),
        (start("tls.crt", "tls.key", Some("tls.key")).await, "client_ca_file"),
    ];

    for (error, word) in cases {
        let gofer_api::ServerError::Tls(error) = error else { panic!("{error:?}") };
        let text = error.to_string();
        assert!(text.contains("server.tls") && text.contains(word), "{text}");
        assert!(!matches!(error, TlsError::Pair(_)) || word == "cannot be used together", "{text}");
    }
}
