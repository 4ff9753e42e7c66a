//! Objects straight from and to the object store: the server gives a URL, and the bytes go past it.
//! A URL is a credential: no message shows one, so errors of the HTTP client are stripped of
//! theirs.

use std::io;
use std::path::Path;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use gofer_proto::v1::{
    BeginObjectUploadRequest, BeginObjectUploadResponse, CompleteObjectUploadRequest,
    GetObjectUrlRequest, PutObjectHeader, PutObjectResponse,
};
use http::StatusCode;
use reqwest::{Body, Certificate, Response};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio_util::bytes::Bytes;

use crate::client::{Client, unary};
use crate::errors::{Failure, innermost};
use crate::format::hex;
use crate::output::Out;
use crate::source::{Source, unreadable};
use crate::transfer::{Incoming, Progress};

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
    if file == Path::new("-") {
        return Err(no_length("stdin"));
    }

    let mut source = Source::open(file, &header.key).await?;
    let Some(size_bytes) = source.size_bytes() else { return Err(no_length(source.name())) };
    let sha256 = source.sha256().await?;
    let http = http_client(ca_file)?;
    let PutObjectHeader { namespace, pipeline, run, key, if_absent, .. } = header;
    let request = BeginObjectUploadRequest {
        namespace: namespace.clone(),
        pipeline: pipeline.clone(),
        run,
        key,
        if_absent,
        size_bytes: Some(size_bytes),
        sha256: sha256.clone(),
        ttl: None,
    };

    let begun = client.objects().begin_object_upload(unary(request)).await?.into_inner();
    let upload_id = begun.upload_id.clone();
    send(&http, begun, source, size_bytes, sha256).await?;
    let request = CompleteObjectUploadRequest { namespace, pipeline, run, upload_id };
    let done = client.objects().complete_object_upload(unary(request)).await?.into_inner();

    Ok(PutObjectResponse { object: done.object, evicted_keys: done.evicted_keys })
}

fn no_length(name: &str) -> Failure {
    Failure::usage(format!("{name} has no length, which the object store wants to know first"))
        .hint("write it to a file, or leave `--direct` out")
}

async fn send(
    http: &reqwest::Client,
    begun: BeginObjectUploadResponse,
    source: Source,
    size_bytes: u64,
    sha256: String,
) -> Result<(), Failure> {
    let (broken, mut is_broken) = oneshot::channel();
    let chunks = the_same_again(source, sha256, broken, Progress::new(Some(size_bytes)));
    let mut request = http.put(begun.url).header(http::header::CONTENT_LENGTH, size_bytes);

    for header in begun.headers {
        request = request.header(header.name, header.value);
    }

    let answer = request.body(Body::wrap_stream(chunks)).send().await;
    // What is wrong here says more than what the store makes of it.
    if let Ok(failure) = is_broken.try_recv() {
        return Err(failure);
    }

    let answer = answer.map_err(broken_off)?;
    // The bytes of this upload are there already: only this URL writes them.
    if answer.status() == StatusCode::PRECONDITION_FAILED {
        Ok(())
    } else {
        accepted(answer).await.map(drop)
    }
}

/// The bytes of the file, which were read once before, for their hash.
fn the_same_again(
    source: Source,
    sha256: String,
    broken: oneshot::Sender<Failure>,
    progress: Progress,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let name = source.name().to_owned();
    let state = (Box::pin(source.chunks()), Sha256::new(), progress, Some(broken));
    futures::stream::unfold(state, move |(mut chunks, mut hash, mut progress, mut broken)| {
        let (name, sha256) = (name.clone(), sha256.clone());
        async move {
            let chunk = chunks.next().await;
            let wrong = match &chunk {
                Some(Ok(chunk)) => {
                    hash.update(chunk);
                    progress.advance(chunk.len());
                    None
                }
                Some(Err(error)) => Some(unreadable(&name, error)),
                None if hex(&hash.clone().finalize()) == sha256 => None,
                None => Some(
                    Failure::usage(format!("{name} changed while it was read; nothing is stored"))
                        .hint("try again once nobody writes to it"),
                ),
            };

            if let (Some(failure), Some(broken)) =
                (wrong, broken.take_if(|_| !matches!(chunk, Some(Ok(_)))))
            {
                let _ = broken.send(failure);
            }

            chunk.map(|chunk| (chunk, (chunks, hash, progress, broken)))
        }
    })
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
    let mut answer = accepted(http.get(found.url).send().await.map_err(broken_off)?).await?;
    let mut incoming = Incoming::new(object, file, out)?;
    let mut hash = Sha256::new();

    while let Some(chunk) = answer.chunk().await.map_err(broken_off)? {
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
        return Err(Failure::refused(
            "the object store sent other bytes than were stored: their SHA-256 differs",
        ));
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
    // A signature that is wrong is explained with all that was signed; only S3's word for it is for
    // people.
    let code = between(&explanation, "<Code>", "</Code>").unwrap_or_default();
    Err(Failure::refused(
        format!("the object store answered {status} {code}").trim_end().to_owned(),
    )
    .hint("try again, or leave `--direct` out"))
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split_once(end).map(|(inner, _)| inner)
}

fn broken_off(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    Failure::refused(format!("the object store did not answer: {}", innermost(&error))).hint(
        "can this machine reach the store (`objects.s3.public_endpoint`)? else leave \
               `--direct` out",
    )
}

/// A client that trusts what the system does, and `--ca-file`.
fn http_client(ca_file: Option<&Path>) -> Result<reqwest::Client, Failure> {
    // The first caller has installed the same.
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

    builder
        .build()
        .map_err(|error| Failure::refused(format!("cannot set up HTTP: {}", innermost(&error))))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// What is wrong when the file is changed like this after its hash was taken.
    async fn wrong(change: impl FnOnce(&mut std::fs::File)) -> Option<String> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(&[b'x'; 200_000]).expect("written");
        let mut source = Source::open(file.path(), "k").await.expect("opened");
        let sha256 = source.sha256().await.expect("a sum");
        change(file.as_file_mut());
        let (broken, mut is_broken) = oneshot::channel();
        let chunks = the_same_again(source, sha256, broken, Progress::new(None));
        let _sent: Vec<_> = chunks.collect().await;
        is_broken.try_recv().ok().map(|failure| failure.render())
    }

    #[tokio::test]
    async fn a_file_that_changes_between_its_hash_and_its_bytes_is_told_in_plain_words() {
        use std::os::unix::fs::FileExt as _;

        assert_eq!(wrong(|_| ()).await, None);
        assert_eq!(
            wrong(|file| file.write_all(b"more").expect("written")).await,
            None,
            "it only grows"
        );

        let changed = wrong(|file| file.write_all_at(b"y", 150_000).expect("written"))
            .await
            .expect("a failure");
        assert!(changed.contains("changed while it was read"), "{changed}");

        let shorter =
            wrong(|file| file.set_len(150_000).expect("a size")).await.expect("a failure");
        assert!(shorter.contains("became shorter while it was read"), "{shorter}");
    }
}
