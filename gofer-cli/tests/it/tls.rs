//! A server with a certificate of a private authority.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use rustix::process::Signal;

use crate::harness::{eventually, finish_with_stdin, run, text};
use crate::serving::Serving;

/// Writes `ca.pem`, and `cert.pem` with `key.pem` for 127.0.0.1 signed by it, which a client may
/// show as well.
fn certificates(dir: &Path) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key"))
        .expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    for (name, pem) in [
        ("ca.pem", authority.pem()),
        ("cert.pem", certificate.pem()),
        ("key.pem", key.serialize_pem()),
    ] {
        std::fs::write(dir.join(name), pem).expect("a file");
    }
}

#[test]
fn only_a_client_that_trusts_the_authority_talks_to_it() {
    let dir = tempfile::tempdir().expect("a folder");
    certificates(dir.path());
    let path = |name: &str| text(&dir.path().join(name)).to_owned();
    let ca = path("ca.pem");
    let config = format!(
        "[server]\nauth = \"on\"\n[server.tls]\ncert_file = \"{}\"\nkey_file = \"{}\"\n",
        path("cert.pem"),
        path("key.pem")
    );
    let server = Serving::start_configured(tempfile::tempdir().expect("a folder"), &config);

    assert!(server.addr.starts_with("https://127.0.0.1:"), "{}", server.addr);
    server.run(&["--ca-file", &ca, "token", "bootstrap"]).expect(0);
    server.run(&["--ca-file", &ca, "run", "list"]).expect(4).says("token");
    server
        .run(&["run", "list"])
        .expect(3)
        .says("certificate")
        .says("`--ca-file FILE` or `GOFER_CA_FILE`");

    let mut command = server.command(&["run", "list"]);
    command.env("GOFER_CA_FILE", &ca);
    finish_with_stdin(command, b"").expect(4).says("token");
    let plain = server.addr.replace("https://", "http://");
    run(&["--addr", &plain, "run", "list"]).expect(3);
}

#[test]
fn a_client_shows_its_certificate_where_one_is_asked() {
    let dir = tempfile::tempdir().expect("a folder");
    certificates(dir.path());
    let path = |name: &str| text(&dir.path().join(name)).to_owned();
    let (ca, certificate, key) = (path("ca.pem"), path("cert.pem"), path("key.pem"));
    let config = format!(
        "[server]\nauth = \"on\"\n[server.tls]\ncert_file = \"{certificate}\"\nkey_file = \
         \"{key}\"\nclient_ca_file = \"{ca}\"\n"
    );
    let server = Serving::start_configured(tempfile::tempdir().expect("a folder"), &config);

    // With TLS 1.3 the server refuses after the handshake, and the connection may be closed before
    // its reason is read.
    let refused = server.run(&["--ca-file", &ca, "run", "list"]).expect(3);
    let known = ["`--client-cert FILE`", "connection closed", "reset", "broken pipe"]
        .iter()
        .any(|said| refused.stderr.contains(said));
    assert!(known, "{refused:?}");
    server
        .run(&["--ca-file", &ca, "--client-cert", &certificate, "run", "list"])
        .expect(2)
        .says("--client-key");

    let own = ["--ca-file", &ca, "--client-cert", &certificate, "--client-key", &key];
    server.run(&[&own[..], &["run", "list"]].concat()).expect(4).says("token");
    let mut command = server.command(&["run", "list"]);
    command
        .env("GOFER_CA_FILE", &ca)
        .env("GOFER_CLIENT_CERT_FILE", &certificate)
        .env("GOFER_CLIENT_KEY_FILE", &key);
    finish_with_stdin(command, b"").expect(4).says("token");

    // SIGHUP is no end, but a wish to look at the files again.
    server.signal(Signal::HUP);
    eventually("the certificate is read again", || {
        let log = server.log();
        if log.contains("the certificate of `server.tls` was read again") {
            Ok(())
        } else {
            Err(log)
        }
    });

    server.run(&[&own[..], &["run", "list"]].concat()).expect(4).says("token");
}
