//! URLs that need no credentials.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gofer_core::object_store::{Access, Presigned, UploadTerms};
use gofer_core::{BackendError, ErrorKind};
use http::header::{CONTENT_LENGTH, IF_NONE_MATCH, InvalidHeaderValue};
use http::{HeaderMap, HeaderValue};
use s3::error::S3Error;
use secrecy::SecretString;

use crate::answer::SHA256;
use crate::config::invalid;
use crate::credentials::Signer;

/// The longest that a signature of this kind is good for.
const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Makes the store name the file to a browser; without it a download is called by the random end of
/// the key.
const DISPOSITION: &str = "response-content-disposition";

/// A query-signed URL at `public_endpoint`. A whole number of seconds, 1 s to 7 days; it ends
/// sooner when it was signed with temporary credentials that end.
pub(crate) async fn presign(
    signer: &Signer,
    full_key: &str,
    access: Access,
    ttl: Duration,
) -> Result<Presigned, BackendError> {
    if !(Duration::from_secs(1)..=MAX_TTL).contains(&ttl) {
        return Err(invalid(format!("ttl: a URL is valid for 1 s to 7 days (got `{ttl:?}`)")));
    }

    let bucket = &signer.public;
    let seconds = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
    let (url, headers) = match access {
        Access::Get { file_name } => {
            let disposition =
                |name| (DISPOSITION.to_owned(), format!("attachment; filename=\"{name}\""));
            let queries = file_name.map(|name| HashMap::from([disposition(name)]));
            (bucket.presign_get(full_key, seconds, queries).await, HeaderMap::new())
        }
        Access::Put(terms) => {
            let headers = headers_of(terms).map_err(|error| cannot_sign(full_key, error))?;
            let mut signed = headers.clone();
            signed
                .extend(terms.size_bytes.map(|length| (CONTENT_LENGTH, HeaderValue::from(length))));
            (bucket.presign_put(full_key, seconds, Some(signed), None).await, headers)
        }
    };

    let url = url.map_err(|error: S3Error| cannot_sign(full_key, error))?;
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
    Ok(Presigned {
        url: SecretString::from(url),
        headers: headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        good_for: signer.good_for().map_or(ttl, |left| left.min(ttl)),
    })
}

fn headers_of(terms: UploadTerms) -> Result<HeaderMap, InvalidHeaderValue> {
    let mut headers = HeaderMap::new();
    if terms.if_absent {
        headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
    }
    if let Some(sum) = terms.sha256 {
        headers.insert(SHA256, HeaderValue::from_str(&BASE64_STANDARD.encode(sum))?);
    }
    Ok(headers)
}

fn cannot_sign(
    full_key: &str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> BackendError {
    BackendError::new(ErrorKind::Internal, format!("cannot sign a URL for `{full_key}`"))
        .with_source(error)
}
