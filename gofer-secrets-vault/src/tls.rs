//! Which certificates are trusted, and which one is shown.

use std::path::Path;
use std::sync::Arc;

use gofer_core::{BackendError, ErrorKind};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::VaultConfig;

/// TLS with the configured authority and client certificate.
pub(crate) fn client_config(config: &VaultConfig) -> Result<ClientConfig, BackendError> {
    let mut roots = RootCertStore::empty();
    match &config.ca_file {
        Some(path) => {
            for certificate in certificates("ca_file", path)? {
                roots
                    .add(certificate)
                    .map_err(|error| unusable("ca_file", path).with_source(error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let message = "ca_file: the operating system trusts no authorities; name a file";
                return Err(BackendError::new(ErrorKind::Invalid, message));
            }
        }
    }

    let builder = builder()?.with_root_certificates(roots);
    let (Some(cert_file), Some(key_file)) = (&config.cert_file, &config.key_file) else {
        return Ok(builder.with_no_client_auth());
    };

    let chain = certificates("cert_file", cert_file)?;
    // Neither the parser's error nor rustls's own is kept: the file holds a key.
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|_| unusable("key_file", key_file))?;
    builder.with_client_auth_cert(chain, key).map_err(|_| {
        let (cert_file, key_file) = (cert_file.display(), key_file.display());
        let message =
            format!("cert_file, key_file: the key in `{key_file}` is not that of `{cert_file}`");
        BackendError::new(ErrorKind::Invalid, message)
    })
}

/// For an address without TLS.
pub(crate) fn no_trust() -> Result<ClientConfig, BackendError> {
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// With a crypto provider of its own: what the process has installed, or not, is not this crate's
/// business.
fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, BackendError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(
        |error| BackendError::new(ErrorKind::Internal, "cannot set up TLS").with_source(error),
    )
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, BackendError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| unusable(key, path).with_source(error))?;
    if found.is_empty() {
        return Err(unusable(key, path));
    }
    Ok(found)
}

fn unusable(key: &str, path: &Path) -> BackendError {
    let message = format!(
        "{key}: `{}` must be a readable file with what it is for, in PEM form",
        path.display()
    );
    BackendError::new(ErrorKind::Invalid, message)
}
