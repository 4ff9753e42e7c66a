//! Which setting is to blame when the agents cannot be asked: never the job template, which is the
//! first that needs them.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;

use gofer_core::{BackendError, ErrorKind};
use gofer_scheduler_nomad::{NomadConfig, NomadScheduler};

use crate::fake::{FakeNomad, Token};

/// What connecting with a job template says.
async fn refusal(address: String, token: Option<&str>) -> BackendError {
    let dir = tempfile::tempdir().expect("a directory");
    let template = dir.path().join("task.nomad.hcl");
    std::fs::write(&template, "job \"t\" {}").expect("write the template");
    let config = NomadConfig {
        addresses: vec![address],
        job_template: Some(template),
        token: token.map(|token| token.to_owned().into()),
        ..NomadConfig::default()
    };
    let error = NomadScheduler::connect(config).await.expect_err("it cannot be asked");
    assert!(!error.chain().contains("job_template"), "{}", error.chain());
    error
}

/// Serves connections, each with this.
fn listen(serve: impl Fn(std::net::TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    // It ends with the test's process.
    let listening = std::thread::Builder::new().name("listener".to_owned()).spawn(move || {
        for stream in listener.incoming().flatten() {
            serve(stream);
        }
    });
    listening.expect("a thread");
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_speaks_tls_is_the_addresses_business() {
    // As Go's server does it.
    let address = listen(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(
            b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
        );
    });
    let error = refusal(format!("http://{address}"), None).await;
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    assert!(
        error.message.contains("`addresses` names") && error.message.contains("write `https://`"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_speaks_no_tls_is_the_addresses_business() {
    let fake = FakeNomad::start().await;
    let error = refusal(fake.address().replace("http:", "https:"), None).await;
    assert!(error.message.contains("write `http://`"), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_nobody_knows_is_ca_files_business() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let server = server
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key);
    let server = Arc::new(server.expect("a server"));
    let address = listen(move |mut stream| {
        let mut connection = rustls::ServerConnection::new(server.clone()).expect("a connection");
        // The client ends it.
        let _ = connection.complete_io(&mut stream);
    });

    let error = refusal(format!("https://{address}"), None).await;
    assert!(error.message.contains("`ca_file`"), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_nomad_does_not_know_is_the_tokens_business() {
    let fake = FakeNomad::start().await;
    fake.set_token("good", Token::Management);
    let error = refusal(fake.address(), Some("bad")).await;
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(error.message.contains("does not know the token in `token`"), "{error}");
}
