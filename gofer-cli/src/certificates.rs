//! Why a server and its client do not trust each other's certificates, and what to do then.

use rustls::AlertDescription;

const CERTIFICATE_HINT: &str = "name the authority that has signed the server's certificate with \
                                `--ca-file FILE` or `GOFER_CA_FILE`, and the server by a name that \
                                the certificate has";

const CLIENT_CERTIFICATE_HINT: &str = "this server asks its clients for a certificate: name yours \
                                       with `--client-cert FILE` and `--client-key FILE`";

/// What to do when somebody is there, but one of the two does not know the other.
pub(crate) fn certificate_problem(
    error: &(dyn std::error::Error + 'static),
) -> Option<&'static str> {
    let mut error = Some(error);
    while let Some(cause) = error {
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let found = inner
            .map_or_else(|| cause.downcast_ref(), |inner| inner.downcast_ref::<rustls::Error>());

        match found {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
                return Some(CERTIFICATE_HINT);
            }
            Some(rustls::Error::AlertReceived(alert)) if ABOUT_THE_CLIENT.contains(alert) => {
                return Some(CLIENT_CERTIFICATE_HINT);
            }
            _ if tells_of_the_client(cause) => return Some(CLIENT_CERTIFICATE_HINT),
            _ => error = cause.source(),
        }
    }

    None
}

/// The alerts with which a server refuses its client's certificate.
const ABOUT_THE_CLIENT: [AlertDescription; 5] = [
    AlertDescription::CertificateRequired,
    AlertDescription::BadCertificate,
    AlertDescription::UnknownCA,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
];

/// Once HTTP/2 has begun, h2 keeps of an error of the connection its kind and its text alone.
fn tells_of_the_client(cause: &(dyn std::error::Error + 'static)) -> bool {
    let said = cause.to_string();
    ABOUT_THE_CLIENT.iter().any(|alert| said == rustls::Error::AlertReceived(*alert).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_certificate_is_known_by_its_alert_and_by_its_words_alone() {
        let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        let words = std::io::Error::other(alert.to_string());
        for cause in [std::io::Error::other(alert), words] {
            assert_eq!(certificate_problem(&cause), Some(CLIENT_CERTIFICATE_HINT), "{cause:?}");
        }
        assert_eq!(certificate_problem(&std::io::Error::other("connection reset by peer")), None);
    }
}
