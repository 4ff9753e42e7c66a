//! Objects straight from and to the object store: the server gives a URL, and the bytes go past it. A URL is a credential:
//! no message shows one, so errors of the HTTP client are stripped of theirs.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use gofer_proto::v1::{
    BeginObjectUploadRequest, BeginObjectUploadResponse, CompleteObjectUploadRequest, GetObjectUrlRequest,
    PutObjectHeader, PutObjectResponse,
};
use http::StatusCode;
use reqwest::{Body, Certificate, Response};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use crate::client::{Client, unary};
use crate::errors::{Failure, innermost};
use crate::output::Out;
use crate::transfer::{CHUNK_BYTES, Incoming, Progress};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a transfer may stand still, and the store think about its answer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest explanation of the store that is shown.
const MAX_EXPLANATION_BYTES: usize = 4 * 1024;

/// Uploads the file: begins, sends it in one PUT, and completes.
pub(crate) async fn put(
    client: &Client,
    header: PutObjectHeader,
    file: &Path,
    ca_file: Option<&Path>,
) -> Result<PutObjectResponse, Failure> {
    let name = format!("`{}`", file.display());
    let unreadable = |error: std::io::Error| Failure::usage(format!("cannot read {name}: {error}"));
    let no_length = || {
        Failure::usage(format!("{name} has no length, which the object store wants to know first"))
            .hint("write it to a file, or leave `--direct` out")
    };
    if file == Path::new("-") {
        return Err(no_length());
    }
    let meta = tokio::fs::metadata(file).await.map_err(unreadable)?;
    if !meta.is_file() {
        return Err(no_length());
    }
    let http = http_client(ca_file)?;
    let PutObjectHeader { namespace, pipeline, run, key, if_absent, .. } = header;
    let request = BeginObjectUploadRequest {
        namespace: namespace.clone(),
        pipeline: pipeline.clone(),
        run,
        key,
        if_absent,
        size_bytes: Some(meta.len()),
        sha256: sha256(file).await.map_err(unreadable)?,
        ttl: None,
    };
    let begun = client.objects().begin_object_upload(unary(request)).await?.into_inner();
    let upload_id = begun.upload_id.clone();
    let source = tokio::fs::File::open(file).await.map_err(unreadable)?;
    send(&http, begun, source, meta.len()).await?;
    let request = CompleteObjectUploadRequest { namespace, pipeline, run, upload_id };
    let done = client.objects().complete_object_upload(unary(request)).await?.into_inner();
    Ok(PutObjectResponse { object: done.object, evicted_keys: done.evicted_keys })
}

async fn send(
    http: &reqwest::Client,
    begun: BeginObjectUploadResponse,
    source: tokio::fs::File,
    size_bytes: u64,
) -> Result<(), Failure> {
    let mut progress = Progress::new(Some(size_bytes));
    let chunks = ReaderStream::with_capacity(source, CHUNK_BYTES).map(move |chunk| {
        progress.advance(chunk.as_ref().map_or(0, bytes_of));
        chunk
    });
    let mut request = http.put(begun.url).header(http::header::CONTENT_LENGTH, size_bytes);
    for header in begun.headers {
        request = request.header(header.name, header.value);
    }
    let answer = request.body(Body::wrap_stream(chunks)).send().await.map_err(broken)?;
    // The bytes of this upload are there already: only this URL writes them.
    if answer.status() == StatusCode::PRECONDITION_FAILED { Ok(()) } else { accepted(answer).await.map(drop) }
}

fn bytes_of(chunk: &impl AsRef<[u8]>) -> usize {
    chunk.as_ref().len()
}

/// Reads an object into the file, which appears when it is whole, or to stdout for `-`.
pub(crate) async fn get(
    client: &Client,
    request: GetObjectUrlRequest,
    file: &Path,
    ca_file: Option<&Path>,
    out: &Out,
) -> Result<(), Failure> {
    let http = http_client(ca_file)?;
    let found = client.objects().get_object_url(unary(request)).await?.into_inner();
    let object = found.object.unwrap_or_default();
    let stored = object.sha256.clone();
    let mut answer = accepted(http.get(found.url).send().await.map_err(broken)?).await?;
    let mut incoming = Incoming::new(object, file, out)?;
    let mut hash = Sha256::new();
    while let Some(chunk) = answer.chunk().await.map_err(broken)? {
        hash.update(&chunk);
        incoming.take(&chunk)?;
        if out.closed() {
            return Ok(());
        }
    }
    if let Some((received, size)) = incoming.cut_off() {
        return Err(Failure::refused(format!("the object store sent {received} of {size} bytes")));
    }
    if !stored.is_empty() && hex(&hash.finalize()) != stored {
        return Err(Failure::refused("the object store sent other bytes than were stored: their SHA-256 differs"));
    }
    incoming.finish()
}

/// The answer, unless it is a refusal: then what the store says about it.
async fn accepted(mut answer: Response) -> Result<Response, Failure> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let mut explanation = Vec::new();
    while explanation.len() < MAX_EXPLANATION_BYTES {
        let Ok(Some(chunk)) = answer.chunk().await else { break };
        explanation.extend_from_slice(&chunk);
    }
    let explanation = String::from_utf8_lossy(&explanation);
    // A signature that is wrong is explained with all that was signed; only S3's word for it is for people.
    let code = between(&explanation, "<Code>", "</Code>").unwrap_or_default();
    Err(Failure::refused(format!("the object store answered {status} {code}").trim_end().to_owned())
        .hint("try again, or leave `--direct` out"))
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split_once(end).map(|(inner, _)| inner)
}

fn broken(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    Failure::refused(format!("the object store did not answer: {}", innermost(&error)))
        .hint("can this machine reach the store (`objects.s3.public_endpoint`)? else leave `--direct` out")
}

/// A client that trusts what the system does, and `--ca-file`.
fn http_client(ca_file: Option<&Path>) -> Result<reqwest::Client, Failure> {
    // Whoever was first has installed the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("gofer/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(IDLE_TIMEOUT);
    if let Some(path) = ca_file {
        let wrong = |error: &dyn std::fmt::Display| {
            Failure::usage(format!("cannot read the CA file `{}`: {error}", path.display()))
        };
        let pem = std::fs::read(path).map_err(|error| wrong(&error))?;
        for certificate in Certificate::from_pem_bundle(&pem).map_err(|error| wrong(&error))? {
            builder = builder.add_root_certificate(certificate);
        }
    }
    builder.build().map_err(|error| Failure::refused(format!("cannot set up HTTP: {}", innermost(&error))))
}

async fn sha256(file: &Path) -> Result<String, std::io::Error> {
    let mut source = tokio::fs::File::open(file).await?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match source.read(&mut buffer).await? {
            0 => return Ok(hex(&hash.finalize())),
            bytes => hash.update(&buffer[..bytes]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
