//! The forms of tokens: what a header holds, what a new one is made of, and what only the scheduler
//! can tell the worth of.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gofer_core::Timestamp;
use gofer_core::entity::{Token, TokenKind};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use secrecy::SecretString;

use crate::error::TokenProblem;

/// What the tokens of people and programs start with, so that leaked ones can be recognised.
pub(crate) const TOKEN_PREFIX: &str = "gofer_t_";
/// Longest token worth hashing.
const TOKEN_MAX_BYTES: usize = 256;
/// Longest token that a scheduler may have signed.
const SIGNED_TOKEN_MAX_BYTES: usize = 4 * 1024;

/// A fresh token and its secret, which nobody but the caller will ever know.
pub(crate) fn new_token(
    kind: TokenKind,
    description: &str,
    created_by: &str,
) -> (Token, SecretString) {
    let secret = SecretString::from(format!(
        "{TOKEN_PREFIX}{}",
        URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
    ));
    let token = Token {
        id: format!("{:016x}", rand::random::<u64>()),
        kind,
        namespaces: Vec::new(),
        description: description.to_owned(),
        created_by: created_by.to_owned(),
        created_at: Timestamp::now(),
        expires_at: None,
        disabled: false,
    };

    (token, secret)
}

/// The token of the header `authorization`.
pub(super) fn bearer(headers: &HeaderMap) -> Result<&str, TokenProblem> {
    let value = headers.get(AUTHORIZATION).ok_or(TokenProblem::Missing)?;
    let text = value.to_str().map_err(|_| TokenProblem::Malformed)?;
    let (scheme, token) = text.split_once(' ').ok_or(TokenProblem::Malformed)?;
    let token = token.trim();
    let longest = if has_signed_form(token) { SIGNED_TOKEN_MAX_BYTES } else { TOKEN_MAX_BYTES };
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > longest {
        return Err(TokenProblem::Malformed);
    }
    Ok(token)
}

/// The form of a signed token: three parts. No other token has a dot.
pub(super) fn has_signed_form(text: &str) -> bool {
    text.bytes().filter(|byte| *byte == b'.').count() == 2
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(authorization: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(authorization))])
    }

    #[test]
    fn a_bearer_token_is_taken_apart_strictly() {
        assert_eq!(bearer(&headers("Bearer gofer_t_x")), Ok("gofer_t_x"));
        assert_eq!(bearer(&headers("bearer  gofer_t_x ")), Ok("gofer_t_x"));
        assert_eq!(bearer(&HeaderMap::new()), Err(TokenProblem::Missing));
        let long = |dots: usize, size: usize| format!("{}{}", ".".repeat(dots), "x".repeat(size));
        for (dots, size, fits) in
            [(0, 257, false), (1, 257, false), (2, 4_094, true), (2, 4_095, false), (3, 257, false)]
        {
            let value = HeaderValue::from_str(&format!("Bearer {}", long(dots, size))).unwrap();
            let found = bearer(&HeaderMap::from_iter([(AUTHORIZATION, value)])).is_ok();
            assert_eq!(found, fits, "{dots} dots and {size} bytes");
        }
        for bad in ["gofer_t_x", "Basic abc", "Bearer ", "Bearer"] {
            assert_eq!(bearer(&headers(bad)), Err(TokenProblem::Malformed), "{bad}");
        }
    }
}
