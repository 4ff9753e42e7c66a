//! Long objects through Gofer to and from a store that speaks S3, beside the store's own client.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use gofer_proto::v1::object_service_client::ObjectServiceClient;
use gofer_proto::v1::{
    BeginObjectUploadRequest, CompleteObjectUploadRequest, DeleteObjectRequest, GetObjectRequest,
    GetObjectUrlRequest, PutObjectHeader, PutObjectRequest, get_object_response,
    put_object_request,
};
use reqwest::{Body, Client};
use s3::creds::Credentials;
use s3::{Bucket, Region};
use tokio_util::bytes::Bytes;
use tokio_util::io::StreamReader;

use crate::pipelines::single;
use crate::report::{Report, Samples, Unit};
use crate::server::{Connection, NAMESPACE, Server};
use crate::{Bench, http, processes, progress};

const PIPELINE: &str = "transfer";
/// As the command line sends it.
const CHUNK_BYTES: usize = 64 * 1024;
const MIB: usize = 1024 * 1024;
/// How long a presigned URL holds, in seconds, and the longest one transfer may take.
const PRESIGNED_S: u32 = 3_600;

/// Which store, and how much.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct Options {
    /// Address of the store
    #[arg(long, default_value = "http://127.0.0.1:8333", value_name = "URL")]
    s3_endpoint: String,
    /// A bucket that exists
    #[arg(long, value_name = "NAME")]
    bucket: String,
    /// Id of the access key
    #[arg(long, value_name = "ID")]
    access_key: String,
    /// A file that holds its secret
    #[arg(long, value_name = "FILE")]
    secret_key_file: PathBuf,
    /// Length of the object
    #[arg(long, default_value_t = 1024, value_name = "MIB", value_parser = clap::value_parser!(u32).range(16..=4096))]
    mib: u32,
    /// How often each transfer is repeated
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

pub(crate) async fn measure(bench: &Bench, options: &Options, report: &mut Report) -> Result<()> {
    let config = format!(
        "[objects]\nbackend = \"s3\"\n[objects.s3]\nendpoint = {}\nbucket = {}\nprefix = \
         \"gofer-bench-{}/\"\naccess_key = {}\nsecret_key_file = {}\n",
        http::quoted(&options.s3_endpoint),
        http::quoted(&options.bucket),
        std::process::id(),
        http::quoted(&options.access_key),
        http::quoted_path(&options.secret_key_file)?,
    );
    let server =
        Server::start_configured(&bench.gofer, &bench.new_dir("transfer-")?, &config).await?;

    server.register(single(PIPELINE, &["true"])).await?;
    let bare = Bare::new(options)?;
    let gofer = ObjectServiceClient::new(server.channel());
    let mib = options.mib as usize;
    let mut puts =
        ["bare client, multipart", "bare client, presigned URL", "PutObject", "PutObject URL"]
            .map(Samples::new);
    let mut gets = ["bare client", "bare client, presigned URL", "GetObject", "GetObject URL"]
        .map(Samples::new);
    let mut memory = [
        Samples::new("RSS before"),
        Samples::new("RSS at most, put"),
        Samples::new("RSS at most, get"),
    ];
    let pid = server.pid()?;
    let per_second = |start: Instant| mib as f64 / start.elapsed().as_secs_f64();

    for round in 1..=options.rounds {
        progress(&format!("put and get of {mib} MiB, {round} of {}", options.rounds));
        let start = Instant::now();
        bare.put(mib).await?;
        puts[0].values.push(per_second(start));

        let start = Instant::now();
        bare.put_presigned(mib).await?;
        puts[1].values.push(per_second(start));
        memory[0].values.push(processes::memory(pid)?.now_mib);
        processes::forget_peak(pid)?;

        let start = Instant::now();
        put(gofer.clone(), mib).await?;
        puts[2].values.push(per_second(start));
        memory[1].values.push(processes::memory(pid)?.peak_mib);

        let start = Instant::now();
        put_by_url(gofer.clone(), &bare.http, mib).await?;
        puts[3].values.push(per_second(start));

        let start = Instant::now();
        bare.get(mib).await?;
        gets[0].values.push(per_second(start));
        let start = Instant::now();
        bare.get_presigned(mib).await?;
        gets[1].values.push(per_second(start));
        processes::forget_peak(pid)?;

        let start = Instant::now();
        get(gofer.clone(), mib).await?;
        gets[2].values.push(per_second(start));
        memory[2].values.push(processes::memory(pid)?.peak_mib);

        let start = Instant::now();
        get_by_url(gofer.clone(), &bare.http, mib).await?;
        gets[3].values.push(per_second(start));
        bare.remove().await?;
        remove(gofer.clone()).await?;
    }

    for (what, samples) in [("put", puts), ("get", gets)] {
        let measure = format!("{what} of {mib} MiB, S3");
        report.add(&measure, Unit::MebibytesPerSecond, Some(&samples[0]), &samples[1..]);
    }

    report.add(&format!("server, {mib} MiB to and from S3"), Unit::Mebibytes, None, &memory);
    server.stop().await
}

/// So many bytes that no store compresses, in chunks that share their memory.
fn data(mib: usize) -> impl Stream<Item = Bytes> + Send + 'static {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33).to_le_bytes()[0]
    };
    let block: Bytes = (0..MIB).map(|_| next()).collect();
    let chunks = move |_| {
        (0..MIB / CHUNK_BYTES).map({
            let block = block.clone();
            move |index| block.slice(index * CHUNK_BYTES..(index + 1) * CHUNK_BYTES)
        })
    };
    stream::iter((0..mib).flat_map(chunks))
}

const KEY: &str = "long";

async fn put(mut gofer: ObjectServiceClient<Connection>, mib: usize) -> Result<()> {
    let header = PutObjectHeader {
        namespace: NAMESPACE.to_owned(),
        pipeline: PIPELINE.to_owned(),
        key: KEY.to_owned(),
        size_bytes: Some((mib * MIB) as u64),
        ..PutObjectHeader::default()
    };
    let part = |part| PutObjectRequest { part: Some(part) };
    let header = part(put_object_request::Part::Header(header));
    let chunks = data(mib).map(move |chunk| part(put_object_request::Part::Chunk(chunk)));
    gofer.put_object(stream::iter([header]).chain(chunks)).await?;
    Ok(())
}

async fn get(mut gofer: ObjectServiceClient<Connection>, mib: usize) -> Result<()> {
    let request = GetObjectRequest {
        namespace: NAMESPACE.to_owned(),
        pipeline: PIPELINE.to_owned(),
        key: KEY.to_owned(),
        ..GetObjectRequest::default()
    };

    let mut answers = gofer.get_object(request).await?.into_inner();
    let mut bytes = 0;
    while let Some(answer) = answers.message().await? {
        if let Some(get_object_response::Part::Chunk(chunk)) = answer.part {
            bytes += chunk.len();
        }
    }

    ensure!(bytes == mib * MIB, "{bytes} bytes came back");
    Ok(())
}

/// The URL that Gofer hands out, and the completion: what a caller waits for from its decision to
/// the durable object.
async fn put_by_url(
    mut gofer: ObjectServiceClient<Connection>,
    http: &Client,
    mib: usize,
) -> Result<()> {
    let request = BeginObjectUploadRequest {
        namespace: NAMESPACE.to_owned(),
        pipeline: PIPELINE.to_owned(),
        key: KEY.to_owned(),
        size_bytes: Some((mib * MIB) as u64),
        ..BeginObjectUploadRequest::default()
    };

    let begun = gofer.begin_object_upload(request).await?.into_inner();
    let body = Body::wrap_stream(data(mib).map(Ok::<_, std::io::Error>));
    let mut request = http.put(begun.url).header("content-length", mib * MIB).body(body);

    for header in begun.headers {
        request = request.header(header.name, header.value);
    }

    request.send().await?.error_for_status()?;
    let request = CompleteObjectUploadRequest {
        namespace: NAMESPACE.to_owned(),
        pipeline: PIPELINE.to_owned(),
        upload_id: begun.upload_id,
        ..CompleteObjectUploadRequest::default()
    };

    gofer.complete_object_upload(request).await?;
    Ok(())
}

async fn get_by_url(
    mut gofer: ObjectServiceClient<Connection>,
    http: &Client,
    mib: usize,
) -> Result<()> {
    let request = GetObjectUrlRequest {
        namespace: NAMESPACE.to_owned(),
        pipeline: PIPELINE.to_owned(),
        key: KEY.to_owned(),
        ..GetObjectUrlRequest::default()
    };
    let url = gofer.get_object_url(request).await?.into_inner().url;
    read(http, &url, mib).await
}

/// Reads what is at the URL.
async fn read(http: &Client, url: &str, mib: usize) -> Result<()> {
    let mut answer = http.get(url).send().await?.error_for_status()?;
    let mut bytes = 0;
    while let Some(chunk) = answer.chunk().await? {
        bytes += chunk.len();
    }
    ensure!(bytes == mib * MIB, "{bytes} bytes came back");
    Ok(())
}

async fn remove(mut gofer: ObjectServiceClient<Connection>) -> Result<()> {
    let request = DeleteObjectRequest {
        namespace: NAMESPACE.to_owned(),
        pipeline: PIPELINE.to_owned(),
        key: KEY.to_owned(),
        ..DeleteObjectRequest::default()
    };
    gofer.delete_object(request).await?;
    Ok(())
}

/// The store's client, and URLs that need none.
struct Bare {
    bucket: Bucket,
    http: Client,
    key: String,
}

impl Bare {
    fn new(options: &Options) -> Result<Self> {
        let secret = http::secret(&options.secret_key_file)?;
        let credentials =
            Credentials::new(Some(&options.access_key), Some(&secret), None, None, None)?;
        let region = Region::Custom {
            region: "us-east-1".to_owned(),
            endpoint: options.s3_endpoint.clone(),
        };
        let http = http::client()?;
        let mut bucket = Bucket::new(&options.bucket, region, credentials)?.with_path_style();
        bucket.set_request_timeout(Some(Duration::from_secs(PRESIGNED_S.into())));
        Ok(Self { bucket: *bucket, http, key: format!("gofer-bench-bare-{}", std::process::id()) })
    }

    async fn put(&self, mib: usize) -> Result<()> {
        let mut reader = StreamReader::new(data(mib).map(Ok::<_, std::io::Error>));
        let answer = self.bucket.put_object_stream(&mut reader, &self.key).await?;
        ensure!(answer.status_code() == 200, "the store answered {}", answer.status_code());
        Ok(())
    }

    async fn put_presigned(&self, mib: usize) -> Result<()> {
        let url = self.bucket.presign_put(&self.key, PRESIGNED_S, None, None).await?;
        let body = Body::wrap_stream(data(mib).map(Ok::<_, std::io::Error>));
        let request = self.http.put(url).header("content-length", mib * MIB).body(body);
        request.send().await?.error_for_status()?;
        Ok(())
    }

    async fn get(&self, mib: usize) -> Result<()> {
        let mut answer = self.bucket.get_object_stream(&self.key).await?;
        let mut bytes = 0;
        while let Some(chunk) = answer.bytes().try_next().await? {
            bytes += chunk.len();
        }
        ensure!(bytes == mib * MIB, "{bytes} bytes came back");
        Ok(())
    }

    async fn get_presigned(&self, mib: usize) -> Result<()> {
        let url = self.bucket.presign_get(&self.key, PRESIGNED_S, None).await?;
        read(&self.http, &url, mib).await
    }

    async fn remove(&self) -> Result<()> {
        self.bucket.delete_object(&self.key).await.context("cannot remove the object")?;
        Ok(())
    }
}
