//! What the store answers.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use gofer_core::object_store::ObjectMeta;
use gofer_core::time::Timestamp;
use gofer_core::{BackendError, ErrorKind, ObjectKey};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, DATE, ETAG, HeaderName, LAST_MODIFIED};
use quick_xml::de::from_str;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// An answer that is no object is shorter than this: 1,000 keys of 1 KiB with what belongs to each.
pub(crate) const MAX_TEXT_BYTES: usize = 8 * 1024 * 1024;

/// The object's SHA-256 in base64: signed by who uploads it, and told by stores that have computed
/// it themselves.
pub(crate) const SHA256: HeaderName = HeaderName::from_static("x-amz-checksum-sha256");

/// An answer with a status of success.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    /// The body, when it is a text.
    pub(crate) text: Bytes,
    /// The body, when it is an object.
    pub(crate) stream: Option<reqwest::Response>,
    /// How often the request was sent; more than once means that an earlier one may have taken
    /// effect.
    pub(crate) attempts: u32,
}

/// An answer that says no.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Refusal {
    /// The HTTP status; 200 for an upload whose completion failed after the headers had gone out.
    #[serde(skip)]
    pub(crate) status: u16,
    /// The server's clock, as it said.
    #[serde(skip)]
    pub(crate) date: Option<Timestamp>,
    /// How long the server asks to be left alone, in seconds.
    #[serde(skip)]
    pub(crate) retry_after_seconds: Option<u64>,
    /// S3's word for what is wrong, such as `NoSuchKey`; empty for an answer without a body.
    pub(crate) code: String,
    /// The server's sentence about it.
    pub(crate) message: String,
    /// The region that the bucket is in, when the request was signed for another.
    pub(crate) region: String,
}

impl Refusal {
    pub(crate) fn read(status: u16, headers: &HeaderMap, text: &[u8]) -> Self {
        let mut refusal: Self = from_str(&String::from_utf8_lossy(text)).unwrap_or_default();
        refusal.status = status;
        refusal.date = header(headers, &DATE).and_then(parse_http_date);
        refusal.retry_after_seconds =
            header(headers, &http::header::RETRY_AFTER).and_then(|text| text.parse().ok());
        if let Some(region) = header(headers, &HeaderName::from_static("x-amz-bucket-region")) {
            region.clone_into(&mut refusal.region);
        }
        refusal
    }
}

impl Answer {
    /// The text as XML.
    pub(crate) fn xml<T: DeserializeOwned>(&self) -> Result<T, BackendError> {
        from_str(&String::from_utf8_lossy(&self.text)).map_err(|error| {
            let message = "the store's answer is not the XML that S3 describes; does endpoint name \
                           an S3 service";
            BackendError::new(ErrorKind::Internal, message).with_source(error)
        })
    }

    /// What the headers say of the object.
    pub(crate) fn object_meta(&self, key: &ObjectKey) -> Result<ObjectMeta, BackendError> {
        let size_bytes = header(&self.headers, &CONTENT_LENGTH).and_then(|text| text.parse().ok());
        let modified_at = header(&self.headers, &LAST_MODIFIED).and_then(parse_http_date);
        match (size_bytes, modified_at) {
            (Some(size_bytes), Some(modified_at)) => {
                let sha256 = header(&self.headers, &SHA256).and_then(parse_sha256);
                Ok(ObjectMeta { key: key.clone(), size_bytes, modified_at, sha256 })
            }
            _ => {
                let message = format!(
                    "the store says neither length nor time of `{key}`; does endpoint name an S3 \
                     service"
                );
                Err(BackendError::new(ErrorKind::Internal, message))
            }
        }
    }

    pub(crate) fn etag(&self) -> Option<String> {
        header(&self.headers, &ETAG).map(str::to_owned)
    }

    /// The server's clock, or ours when it says nothing.
    pub(crate) fn date(&self) -> Timestamp {
        header(&self.headers, &DATE).and_then(parse_http_date).unwrap_or_else(Timestamp::now)
    }
}

pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `Tue, 24 Nov 2026 13:09:26 GMT`.
pub(crate) fn parse_http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text).ok().map(|time| Timestamp(time.timestamp().as_microsecond()))
}

/// `2026-11-24T13:09:26.123Z`.
pub(crate) fn parse_iso_date(text: &str) -> Option<Timestamp> {
    text.parse::<jiff::Timestamp>().ok().map(|time| Timestamp(time.as_microsecond()))
}

/// The checksum of a whole object; that of an upload in parts is another thing, and has `-` and
/// their number at its end.
fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    BASE64_STANDARD.decode(text).ok()?.try_into().ok()
}

/// Adds a piece to a text, unless it grows too long.
pub(crate) fn gather(text: &mut BytesMut, piece: &[u8]) -> bool {
    let fits = text.len() + piece.len() <= MAX_TEXT_BYTES;
    if fits {
        text.extend_from_slice(piece);
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_time_are_read() {
        let expected = Some(Timestamp(1_795_525_766_000_000));
        assert_eq!(parse_http_date("Tue, 24 Nov 2026 13:09:26 GMT"), expected);
        assert_eq!(parse_iso_date("2026-11-24T13:09:26Z"), expected);
        assert_eq!(parse_iso_date("2026-11-24T13:09:26.000Z"), expected);
        assert_eq!(parse_http_date("yesterday"), None);
    }

    #[test]
    fn a_checksum_is_that_of_the_whole_object() {
        let text = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        assert_eq!(parse_sha256(text).map(|sum| sum[..3].to_vec()), Some(vec![0xe3, 0xb0, 0xc4]));
        for other in ["", "47DE", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=-3"] {
            assert_eq!(parse_sha256(other), None, "{other}");
        }
    }

    #[test]
    fn a_refusal_is_read_with_and_without_a_body() {
        let text = b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>no key</Message><Key>a</Key></Error>";
        let refusal = Refusal::read(404, &HeaderMap::new(), text);
        assert_eq!(
            (refusal.status, refusal.code.as_str(), refusal.message.as_str()),
            (404, "NoSuchKey", "no key")
        );
        let refusal = Refusal::read(503, &HeaderMap::new(), b"upstream connect error");
        assert_eq!((refusal.status, refusal.code.as_str()), (503, ""));
    }
}
