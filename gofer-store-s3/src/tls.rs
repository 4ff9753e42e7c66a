//! The client that carries the requests, and whom it trusts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gofer_core::{BackendError, ErrorKind};
use reqwest::redirect::Policy;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::config::{S3Config, invalid};

/// A host that is there answers a connection attempt in far less.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Servers close idle connections after 30 s and more; a request on one that is just being closed
/// is lost.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);

/// The client for the store. HTTP/1.1, because a stalled transfer must not hold up the others.
pub(crate) fn store_client(config: &S3Config) -> Result<reqwest::Client, BackendError> {
    let builder = builder(config.request_timeout);
    // The system's authorities are not read for a store in clear: minimal images have none.
    let encrypted =
        [config.service(), config.public_service()].iter().any(|url| url.starts_with("https:"));
    let builder = if encrypted || config.ca_file.is_some() {
        builder.tls_backend_preconfigured(trusting(roots(config.ca_file.as_deref())?)?)
    } else {
        builder.tls_backend_preconfigured(trusting(RootCertStore::empty())?)
    };
    build(builder)
}

/// The client for instance metadata: in clear, and never through a proxy.
pub(crate) fn metadata_client(timeout: Duration) -> Result<reqwest::Client, BackendError> {
    build(builder(timeout).no_proxy().tls_backend_preconfigured(trusting(RootCertStore::empty())?))
}

fn builder(timeout: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .http1_only()
        .redirect(Policy::none())
        .connect_timeout(timeout.min(CONNECT_TIMEOUT))
        .pool_idle_timeout(IDLE_CONNECTION_TIMEOUT)
        .user_agent(concat!("gofer/", env!("CARGO_PKG_VERSION")))
}

fn build(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, BackendError> {
    builder.build().map_err(|error| {
        BackendError::new(ErrorKind::Internal, "cannot make an HTTP client").with_source(error)
    })
}

/// TLS settings of this client alone: neither a provider nor authorities have to be set for the
/// whole process.
fn trusting(roots: RootCertStore) -> Result<ClientConfig, BackendError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = versions.map_err(|error| {
        BackendError::new(ErrorKind::Internal, "cannot set up TLS").with_source(error)
    })?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, BackendError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let next_step = "install ca-certificates, or name the authority's PEM file in ca_file";
            return Err(invalid(format!(
                "endpoint: this machine trusts no certificate authority; {next_step}"
            )));
        }

        return Ok(roots);
    };

    let unreadable = |error| {
        invalid(format!("ca_file: cannot read certificates from `{}`", path.display()))
            .with_source(error)
    };

    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        let certificate = certificate.map_err(unreadable)?;
        roots.add(certificate).map_err(|error| {
            invalid(format!("ca_file: `{}` holds a certificate that is none", path.display()))
                .with_source(error)
        })?;
    }

    if roots.is_empty() {
        return Err(invalid(format!(
            "ca_file: `{}` holds no certificate; it must be PEM",
            path.display()
        )));
    }

    Ok(roots)
}
