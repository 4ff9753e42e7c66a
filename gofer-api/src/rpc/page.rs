//! Pages of lists: sizes, and the tokens that name the next page.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gofer_core::object_store::ListPage;
use prost::{Message, Name};
use sha2::{Digest, Sha256};

use crate::error::ApiError;

/// Entries of a page when the caller asks for none.
pub(crate) const PAGE_SIZE_DEFAULT: u32 = 50;
/// Most entries of a page.
pub(crate) const PAGE_SIZE_MAX: u32 = 500;
/// How much of the request's hash a token carries: enough to notice a token of another list.
const FINGERPRINT_BYTES: usize = 8;

/// A request for a page of a list.
pub(crate) trait Paged: Message + Name + Clone {
    /// `page_size` as sent.
    fn page_size(&self) -> u32;
    /// `page_token` as sent.
    fn page_token(&self) -> &str;
    /// The request without its page.
    fn without_page(&self) -> Self;
}

macro_rules! paged {
    ($($request:ident),+ $(,)?) => {
        $(impl Paged for gofer_proto::v1::$request {
            fn page_size(&self) -> u32 {
                self.page_size
            }
            fn page_token(&self) -> &str {
                &self.page_token
            }
            fn without_page(&self) -> Self {
                let mut request = self.clone();
                request.page_size = 0;
                request.page_token.clear();
                request
            }
        })+
    };
}

paged!(
    GetRunTimelineRequest,
    ListEventsRequest,
    ListNamespacesRequest,
    ListObjectsRequest,
    ListPipelinesRequest,
    ListPipelineVersionsRequest,
    ListRunsRequest,
    ListSecretsRequest,
    ListTaskRunsRequest,
    ListTokensRequest,
);

/// Which part of a list to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// Where the page before ended, in the list's own words.
    pub(crate) after: Option<String>,
    /// Most entries.
    pub(crate) limit: usize,
    fingerprint: [u8; FINGERPRINT_BYTES],
}

impl Page {
    /// The page a request asks for. A token is good only for the request it came from.
    pub(crate) fn of<R: Paged>(request: &R) -> Result<Self, ApiError> {
        let size = request.page_size();
        if size > PAGE_SIZE_MAX {
            return Err(ApiError::invalid(
                "page_size",
                size.to_string(),
                format!("at most {PAGE_SIZE_MAX}; 0 = {PAGE_SIZE_DEFAULT}"),
            ));
        }

        let limit = if size == 0 { PAGE_SIZE_DEFAULT } else { size } as usize;
        let fingerprint = fingerprint(request);
        let token = request.page_token();
        if token.is_empty() {
            return Ok(Self { after: None, limit, fingerprint });
        }

        let after = decode(token, fingerprint).ok_or_else(|| bad_token(token))?;
        Ok(Self { after: Some(after), limit, fingerprint })
    }

    /// The same as the database wants it.
    pub(crate) fn to_list(&self) -> ListPage {
        ListPage { after: self.after.clone(), limit: self.limit }
    }

    /// The token of the next page, from where this one ended; empty at the end of the list.
    pub(crate) fn next(&self, end: Option<&str>) -> String {
        end.map(|end| self.token_after(end)).unwrap_or_default()
    }

    fn token_after(&self, last: &str) -> String {
        let mut bytes = self.fingerprint.to_vec();
        bytes.extend_from_slice(last.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

/// A token that this list did not give out.
pub(crate) fn bad_token(token: &str) -> ApiError {
    ApiError::invalid("page_token", token, "the `next_page_token` of an answer to the same request")
}

fn fingerprint<R: Paged>(request: &R) -> [u8; FINGERPRINT_BYTES] {
    let mut hash = Sha256::new();
    hash.update(R::NAME.as_bytes());
    hash.update(request.without_page().encode_to_vec());
    let digest: [u8; 32] = hash.finalize().into();
    digest[..FINGERPRINT_BYTES].try_into().expect("a digest is longer than a fingerprint")
}

fn decode(token: &str, fingerprint: [u8; FINGERPRINT_BYTES]) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (head, after) = bytes.split_at_checked(FINGERPRINT_BYTES)?;
    if head != fingerprint {
        return None;
    }
    String::from_utf8(after.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use gofer_proto::v1::{ListNamespacesRequest, ListPipelinesRequest};

    use super::*;

    fn request(page_size: u32, page_token: &str) -> ListPipelinesRequest {
        ListPipelinesRequest {
            namespace: "default".into(),
            page_size,
            page_token: page_token.into(),
        }
    }

    #[test]
    fn a_token_leads_to_the_next_page_of_the_same_request_only() {
        let page = Page::of(&request(2, "")).unwrap();
        assert_eq!(page.to_list(), ListPage { after: None, limit: 2 });
        let token = page.next(Some("b"));
        assert_eq!(Page::of(&request(7, &token)).unwrap().after.as_deref(), Some("b"));

        let other = ListPipelinesRequest {
            namespace: "other".into(),
            page_size: 2,
            page_token: token.clone(),
        };
        assert!(Page::of(&other).is_err());
        assert!(Page::of(&ListNamespacesRequest { page_size: 2, page_token: token }).is_err());
        assert!(Page::of(&request(2, "garbage")).is_err());
        assert!(Page::of(&request(501, "")).is_err());
    }

    #[test]
    fn the_last_page_names_no_next_one() {
        let page = Page::of(&request(0, "")).unwrap();
        assert_eq!((page.limit, page.next(None)), (50, String::new()));
    }
}
