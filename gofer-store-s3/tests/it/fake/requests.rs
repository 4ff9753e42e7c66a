//! What the fake does with a request.

use std::collections::HashMap;

use axum::body::{Bytes, to_bytes};
use axum::extract::{Query, Request};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::answers::{self, refuse};
use super::state::{Bucket, Fault, Kind, Seen, Shared, Upload};
use super::{ACCESS_KEY, BUCKET};

/// S3's smallest part, except the last.
const MIN_PART_BYTES: usize = 5 * 1024 * 1024;

/// A request, taken apart.
struct Asked {
    kind: Kind,
    key: String,
    query: HashMap<String, String>,
    headers: HeaderMap,
    body: Bytes,
}

pub(super) async fn handle(shared: &Shared, request: Request) -> Response {
    let asked = match take_apart(request).await {
        Ok(asked) => asked,
        Err(refusal) => return refusal,
    };

    let range = asked.header("range");
    let body_bytes = asked.body.len();
    shared.note(Seen { kind: asked.kind, key: asked.key.clone(), range, body_bytes });
    let fault = shared.fault(asked.kind);

    match fault {
        Some(Fault::Refuse(status, code)) => return refuse(status, code),
        Some(Fault::Silent) => return std::future::pending().await,
        Some(Fault::FailedWithStatus200) => return refuse(200, "InternalError"),
        _ => {}
    }

    let response = act(&mut shared.bucket(), &asked);
    match fault {
        Some(Fault::DoneButFailed) => refuse(500, "InternalError"),
        Some(Fault::DoneButSilent) => std::future::pending().await,
        Some(Fault::CutAfter(bytes)) => answers::cut(response, bytes, true).await,
        Some(Fault::StallAfter(bytes)) => answers::cut(response, bytes, false).await,
        _ => response,
    }
}

impl Asked {
    fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|value| value.to_str().expect("a text").to_owned())
    }

    fn upload(&self) -> String {
        self.query.get("uploadId").cloned().unwrap_or_default()
    }
}

async fn take_apart(request: Request) -> Result<Asked, Response> {
    let (parts, body) = request.into_parts();
    let Query(query) = Query::<HashMap<String, String>>::try_from_uri(&parts.uri).expect("a query");
    let path = decode(parts.uri.path());
    let Some(key) = path.strip_prefix(&format!("/{BUCKET}")) else {
        return Err(refuse(404, "NoSuchBucket"));
    };

    let key = key.strip_prefix('/').unwrap_or(key).to_owned();
    let authorization =
        parts.headers.get("authorization").map(|value| value.to_str().expect("a text").to_owned());
    let credential = query.get("X-Amz-Credential").cloned().or(authorization).unwrap_or_default();
    if !credential.contains(&format!("{ACCESS_KEY}/")) {
        return Err(refuse(403, "InvalidAccessKeyId"));
    }

    // The headers that a presigned URL was signed with have to come, or the signature is that of
    // another request.
    let signed = query.get("X-Amz-SignedHeaders").map(String::as_str).unwrap_or_default();
    if signed.split(';').any(|name| !name.is_empty() && !parts.headers.contains_key(name)) {
        return Err(refuse(403, "SignatureDoesNotMatch"));
    }

    let body = to_bytes(body, 64 * 1024 * 1024).await.map_err(|_| refuse(400, "IncompleteBody"))?;
    let has = |name: &str| query.contains_key(name);
    let kind = match (parts.method, key.is_empty()) {
        (Method::GET, true) => Kind::List,
        (Method::GET, false) => Kind::Get,
        (Method::HEAD, _) => Kind::Head,
        (Method::PUT, _) if has("partNumber") => Kind::Part,
        (Method::PUT, _) => Kind::Put,
        (Method::POST, _) if has("uploads") => Kind::Begin,
        (Method::POST, _) => Kind::Complete,
        (Method::DELETE, _) if has("uploadId") => Kind::Abort,
        (Method::DELETE, _) => Kind::Delete,
        _ => return Err(refuse(405, "MethodNotAllowed")),
    };

    Ok(Asked { kind, key, query, headers: parts.headers, body })
}

fn act(bucket: &mut Bucket, asked: &Asked) -> Response {
    match asked.kind {
        Kind::List => answers::list(bucket, &asked.query),
        Kind::Head | Kind::Get => read(bucket, asked),
        Kind::Put => put(bucket, asked),
        Kind::Delete => {
            bucket.objects.remove(&asked.key);
            StatusCode::NO_CONTENT.into_response()
        }
        Kind::Begin => begin(bucket, asked),
        Kind::Part => part(bucket, asked),
        Kind::Complete => complete(bucket, asked),
        Kind::Abort => match bucket.uploads.remove(&asked.upload()) {
            Some(_) => StatusCode::NO_CONTENT.into_response(),
            None => refuse(404, "NoSuchUpload"),
        },
    }
}

fn read(bucket: &Bucket, asked: &Asked) -> Response {
    let Some(object) = bucket.objects.get(&asked.key) else { return refuse(404, "NoSuchKey") };
    if asked.header("if-match").is_some_and(|wanted| wanted != object.etag) {
        return refuse(412, "PreconditionFailed");
    }
    let mut response = answers::object(object, asked.header("range").as_deref());
    let headers = response.headers_mut();
    if let (Some(sum), Some(_)) = (&object.sha256, asked.header("x-amz-checksum-mode")) {
        headers.insert("x-amz-checksum-sha256", sum.parse().expect("a header"));
    }
    if let Some(disposition) = asked.query.get("response-content-disposition") {
        headers.insert("content-disposition", disposition.parse().expect("a header"));
    }
    response
}

fn is_refused(bucket: &Bucket, asked: &Asked, key: &str) -> bool {
    bucket.conditions
        && asked.header("if-none-match").is_some_and(|text| text == "*")
        && bucket.objects.contains_key(key)
}

fn put(bucket: &mut Bucket, asked: &Asked) -> Response {
    if is_refused(bucket, asked, &asked.key) {
        return refuse(412, "PreconditionFailed");
    }

    let declared = asked.header("x-amz-checksum-sha256");
    if declared
        .as_ref()
        .is_some_and(|sum| *sum != BASE64_STANDARD.encode(Sha256::digest(&asked.body)))
    {
        return refuse(400, "BadDigest");
    }

    let mut object = bucket.object(asked.body.clone(), asked.header("x-amz-meta-gofer-put"));
    object.sha256 = declared;
    let etag = object.etag.clone();
    bucket.objects.insert(asked.key.clone(), object);

    ([("etag", etag)], "").into_response()
}

fn begin(bucket: &mut Bucket, asked: &Asked) -> Response {
    bucket.serial += 1;
    // With characters that have to be escaped in a URL.
    let id = format!("up+load/{}=", bucket.serial);
    let mark = asked.header("x-amz-meta-gofer-put");
    bucket
        .uploads
        .insert(id.clone(), Upload { key: asked.key.clone(), mark, parts: Default::default() });
    answers::xml(
        200,
        &format!(
            "<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>k</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
        ),
    )
}

fn part(bucket: &mut Bucket, asked: &Asked) -> Response {
    let object = bucket.object(asked.body.clone(), None);
    let etag = object.etag.clone();
    let number = asked.query["partNumber"].parse().expect("a number");
    match bucket.uploads.get_mut(&asked.upload()) {
        Some(upload) => upload.parts.insert(number, object),
        None => return refuse(404, "NoSuchUpload"),
    };
    ([("etag", etag)], "").into_response()
}

fn complete(bucket: &mut Bucket, asked: &Asked) -> Response {
    let Some(upload) = bucket.uploads.get(&asked.upload()) else {
        return refuse(404, "NoSuchUpload");
    };

    let key = upload.key.clone();
    if is_refused(bucket, asked, &key) {
        return refuse(412, "PreconditionFailed");
    }

    let upload = bucket.uploads.remove(&asked.upload()).expect("it was there");
    let named = String::from_utf8_lossy(&asked.body).matches("<PartNumber>").count();
    let numbers: Vec<u32> = upload.parts.keys().copied().collect();
    let consecutive = (1..=u32::try_from(named).expect("few")).collect::<Vec<_>>();
    let last = numbers.len().saturating_sub(1);
    if numbers != consecutive {
        return refuse(400, "InvalidPart");
    }

    if upload.parts.values().take(last).any(|part| part.bytes.len() < MIN_PART_BYTES) {
        return refuse(400, "EntityTooSmall");
    }

    let bytes: Vec<u8> =
        upload.parts.values().flat_map(|part| part.bytes.iter().copied()).collect();
    let object = bucket.object(bytes.into(), upload.mark);
    bucket.objects.insert(key, object);

    answers::xml(
        200,
        "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>",
    )
}

/// `%41` to `A`.
fn decode(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        if let (b'%', Some(hex)) = (first, tail.get(..2)) {
            let hex = std::str::from_utf8(hex).expect("two digits");
            bytes.push(u8::from_str_radix(hex, 16).expect("two digits"));
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}
