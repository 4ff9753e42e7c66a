//! The server's certificate, which can be exchanged while it serves, and the authority of its
//! clients' certificates.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsSection;
use crate::files::Reload;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is not PEM of what it should be.
    #[error("server.tls.{key}: `{}` cannot be used: {problem}", path.display())]
    File {
        /// Such as `cert_file`.
        key: &'static str,
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// They do not belong together, or TLS cannot use them.
    #[error("server.tls: the certificate and its key cannot be used together")]
    Pair(#[source] rustls::Error),
    /// The clients' authority is none.
    #[error("server.tls.client_ca_file: `{}` holds no authority that can be used: {problem}", path.display())]
    ClientAuthority {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// The certificate that new connections are shown.
#[derive(Debug)]
pub(crate) struct Certificates {
    files: Files,
    current: RwLock<Arc<rustls::ServerConfig>>,
}

#[derive(Debug, Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_authority: Option<PathBuf>,
}

impl Certificates {
    /// Reads them; `None` for a server without TLS.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(crate) fn load(section: &TlsSection) -> Result<Option<Self>, TlsError> {
        let (Some(certificate), Some(key)) = (&section.cert_file, &section.key_file) else {
            return Ok(None);
        };
        let files = Files {
            certificate: certificate.clone(),
            key: key.clone(),
            client_authority: section.client_ca_file.clone(),
        };
        let current = RwLock::new(Arc::new(files.read()?));
        Ok(Some(Self { files, current }))
    }

    /// For the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Reload for Certificates {
    fn what(&self) -> &'static str {
        "the certificate of `server.tls`"
    }

    fn files(&self) -> Vec<PathBuf> {
        let Files { certificate, key, client_authority } = self.files.clone();
        [Some(certificate), Some(key), client_authority].into_iter().flatten().collect()
    }

    fn reload(&self) -> Result<(), String> {
        let read = self.files.read().map_err(|error| gofer_core::error::chain(&error))?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read);
        Ok(())
    }
}

impl Files {
    fn read(&self) -> Result<rustls::ServerConfig, TlsError> {
        let chain = certificates("cert_file", &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&bytes("key_file", &self.key)?)
            .map_err(|error| unusable("key_file", &self.key, error.to_string()))?;
        let provider = Arc::new(ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Pair)?;
        let builder = match &self.client_authority {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let wrong =
                    |problem: String| TlsError::ClientAuthority { path: path.clone(), problem };
                let mut roots = RootCertStore::empty();

                for authority in certificates("client_ca_file", path)? {
                    roots.add(authority).map_err(|error| wrong(error.to_string()))?;
                }

                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder
                    .with_client_cert_verifier(verifier.map_err(|error| wrong(error.to_string()))?)
            }
        };

        let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Pair)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn bytes(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| unusable(key, path, error.to_string()))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes(key, path)?).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable(key, path, "it holds no PEM certificate".to_owned())),
        Err(error) => Err(unusable(key, path, error.to_string())),
    }
}

fn unusable(key: &'static str, path: &Path, problem: String) -> TlsError {
    TlsError::File { key, path: path.to_owned(), problem }
}
