//! What the fake says.

use std::collections::HashMap;
use std::fmt::Write;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};

use super::state::{Bucket, Object};

const HTTP_DATE: &str = "Tue, 24 Nov 2026 13:09:26 GMT";
const ISO_DATE: &str = "2026-11-24T13:09:26.000Z";

pub(super) fn xml(status: u16, text: &str) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    (status, [("content-type", "application/xml")], format!("<?xml version=\"1.0\"?>{text}"))
        .into_response()
}

pub(super) fn refuse(status: u16, code: &str) -> Response {
    let region =
        if code == "AuthorizationHeaderMalformed" { "<Region>eu-north-7</Region>" } else { "" };
    xml(
        status,
        &format!("<Error><Code>{code}</Code><Message>The fake says no.</Message>{region}</Error>"),
    )
}

pub(super) fn object(object: &Object, range: Option<&str>) -> Response {
    let size = object.bytes.len();
    let start = range.map(|range| {
        let start = range
            .strip_prefix("bytes=")
            .and_then(|rest| rest.strip_suffix('-'))
            .expect("an open range");
        start.parse::<usize>().expect("a number")
    });

    let mut response = Response::builder()
        .header("etag", &object.etag)
        .header("last-modified", HTTP_DATE)
        .header("content-length", size - start.unwrap_or(0));
    if let Some(mark) = &object.mark {
        response = response.header("x-amz-meta-gofer-put", mark);
    }

    if let Some(start) = start {
        response = response
            .status(206)
            .header("content-range", format!("bytes {start}-{}/{size}", size - 1));
    }

    // In pieces, so that a client can be in the middle of it.
    let pieces: Vec<Result<Bytes, std::io::Error>> = object
        .bytes
        .slice(start.unwrap_or(0)..)
        .chunks(64 * 1024)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();

    response.body(Body::from_stream(stream::iter(pieces))).expect("a response")
}

/// The same answer, which breaks or stands still after so many bytes.
pub(super) async fn cut(response: Response, bytes: usize, breaks: bool) -> Response {
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("the fake's own bytes");
    let head = stream::iter([Ok(body.slice(..bytes.min(body.len())))]);
    let tail = if breaks {
        // A moment later: hyper would not send at all what an error follows at once.
        let hang_up = async {
            tokio::task::yield_now().await;
            Err(std::io::Error::other("the fake hangs up"))
        };
        stream::once(hang_up).boxed()
    } else {
        stream::pending().boxed()
    };
    Response::from_parts(parts, Body::from_stream(head.chain(tail)))
}

pub(super) fn list(bucket: &Bucket, query: &HashMap<String, String>) -> Response {
    let text = |name: &str| query.get(name).map_or("", String::as_str);
    let prefix = text("prefix");
    let after = if query.contains_key("continuation-token") {
        text("continuation-token")
    } else {
        text("start-after")
    };

    let limit = text("max-keys").parse::<usize>().expect("a number");
    // A directory's objects come before whatever else begins with its name, when `/` sorts before
    // all.
    let rank = |key: &str| if bucket.tree { key.replace('/', "\u{1}") } else { key.to_owned() };
    let mut keys: Vec<&String> =
        bucket.objects.keys().filter(|key| key.starts_with(prefix)).collect();
    keys.retain(|key| rank(key) > rank(after));
    keys.sort_by_key(|key| rank(key));

    let truncated = keys.len() > limit;
    keys.truncate(limit);
    let mut body =
        format!("<ListBucketResult><Name>b</Name><IsTruncated>{truncated}</IsTruncated>");
    if let Some(last) = keys.last().filter(|_| truncated) {
        write!(body, "<NextContinuationToken>{last}</NextContinuationToken>").expect("a string");
    }

    for key in keys {
        let size = bucket.objects[key].bytes.len();
        let key = key.replace('&', "&amp;").replace('<', "&lt;");
        write!(body, "<Contents><Key>{key}</Key><LastModified>{ISO_DATE}</LastModified><Size>{size}</Size></Contents>")
            .expect("a string");
    }

    body.push_str("</ListBucketResult>");
    xml(200, &body)
}
