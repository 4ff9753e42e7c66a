//! TLS towards the agents: rustls with ring.

use std::path::Path;
use std::sync::Arc;

use gofer_core::{BackendError, ErrorKind};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::config::NomadConfig;

/// The settings of every connection.
pub(crate) fn client_config(config: &NomadConfig) -> Result<ClientConfig, BackendError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(roots(config.ca_file.as_deref())?);
    let built = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid("TLS cannot be set up", error))?;
    let built = match &config.tls_server_name {
        None => built.with_root_certificates(roots),
        Some(name) => {
            let verifier = NamedVerifier::new(roots, provider, name)?;
            built.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };

    let (Some(cert_file), Some(key_file)) = (&config.cert_file, &config.key_file) else {
        return Ok(built.with_no_client_auth());
    };

    let chain = certificates("cert_file", cert_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| {
        invalid(
            &format!("`key_file` is `{}`, which holds no private key", key_file.display()),
            error,
        )
    })?;

    built.with_client_auth_cert(chain, key).map_err(|error| {
        invalid(
            &format!(
                "`cert_file` and `key_file` are `{}` and `{}`",
                cert_file.display(),
                key_file.display()
            ),
            error,
        )
    })
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, BackendError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            for certificate in certificates("ca_file", path)? {
                let what = format!(
                    "`ca_file` is `{}`, which holds a certificate that cannot be used",
                    path.display()
                );
                roots.add(certificate).map_err(|error| invalid(&what, error))?;
            }
        }
        // What cannot be read is left out, as every program does; an empty store refuses every
        // certificate.
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }

    Ok(roots)
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, BackendError> {
    let what = format!("`{key}` is `{}`, which holds no certificate", path.display());
    let all = CertificateDer::pem_file_iter(path)
        .and_then(|found| found.collect::<Result<Vec<_>, _>>())
        .map_err(|error| invalid(&what, error))?;
    if all.is_empty() {
        return Err(BackendError::new(ErrorKind::Invalid, what));
    }
    Ok(all)
}

fn invalid(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> BackendError {
    BackendError::new(ErrorKind::Invalid, what).with_source(error)
}

/// Verifies a certificate in full, but against the name in the configuration instead of the one in
/// the address: agents are often reached by an address that their certificates
/// (`server.<region>.nomad`) do not name.
#[derive(Debug)]
struct NamedVerifier {
    inner: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl NamedVerifier {
    fn new(
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
        name: &str,
    ) -> Result<Self, BackendError> {
        let parsed = ServerName::try_from(name.to_owned()).map_err(|error| {
            invalid(&format!("`tls_server_name` is `{name}`: must be a host name"), error)
        })?;
        let inner = WebPkiServerVerifier::builder_with_provider(roots, provider).build().map_err(
            |error| invalid("there is no certificate authority to trust: set `ca_file`", error),
        )?;
        Ok(Self { inner, name: parsed })
    }
}

impl ServerCertVerifier for NamedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.inner.verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use rustls::ServerConfig;

    /// A TLS handshake in memory, with a certificate for `server.global.nomad`, an address that is
    /// an IP, and this name.
    fn handshake(name: Option<&str>) -> Result<(), io::Error> {
        let made = rcgen::generate_simple_self_signed(["server.global.nomad".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ca_file = dir.path().join("ca.pem");
        std::fs::write(&ca_file, made.cert.pem()).unwrap();

        let config = NomadConfig {
            ca_file: Some(ca_file),
            tls_server_name: name.map(str::to_owned),
            ..NomadConfig::default()
        };

        let client = client_config(&config).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let server =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .unwrap();
        let address = ServerName::try_from("127.0.0.1").unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(client), address).unwrap();
        let mut server = rustls::ServerConnection::new(Arc::new(server)).unwrap();

        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire)?;
            server.read_tls(&mut wire.as_slice())?;
            server.process_new_packets().map_err(io::Error::other)?;
            wire.clear();
            server.write_tls(&mut wire)?;
            client.read_tls(&mut wire.as_slice())?;
            client.process_new_packets().map_err(io::Error::other)?;
        }

        Ok(())
    }

    #[test]
    fn the_configured_name_is_the_one_that_is_verified() {
        handshake(Some("server.global.nomad")).unwrap();
        for wrong in [None, Some("server.other.nomad")] {
            let error = handshake(wrong).unwrap_err();
            assert!(error.to_string().contains("certificate"), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn files_that_are_no_certificates_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, "nothing").unwrap();
        let config = NomadConfig { ca_file: Some(path), ..NomadConfig::default() };
        let error = client_config(&config).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.starts_with("`ca_file` is `"), "{}", error.message);
    }
}
