//! Objects on their way: streamed in both directions, so that memory stays small whatever their
//! size.

use std::io::Write as _;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use gofer_proto::v1::{
    GetObjectRequest, GetObjectResponse, Object, PutObjectHeader, PutObjectRequest,
    PutObjectResponse, get_object_response, put_object_request,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::oneshot;
use tokio_util::bytes::Bytes;
use tokio_util::io::ReaderStream;

use crate::client::Client;
use crate::errors::Failure;
use crate::output::Out;
use crate::source::{CHUNK_BYTES, Source, unreadable};

/// A transfer that takes longer shows its progress.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);

/// Stores what the file, or stdin for `-`, holds.
pub(crate) async fn put(
    client: &Client,
    mut header: PutObjectHeader,
    file: &Path,
) -> Result<PutObjectResponse, Failure> {
    if file == Path::new("-") {
        let stdin = ReaderStream::with_capacity(tokio::io::stdin(), CHUNK_BYTES);
        return send(client, header, stdin, "stdin").await;
    }
    let source = Source::open(file, &header.key).await?;
    let name = source.name().to_owned();
    header.size_bytes = source.size_bytes();
    send(client, header, source.chunks(), &name).await
}

async fn send(
    client: &Client,
    header: PutObjectHeader,
    source: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    name: &str,
) -> Result<PutObjectResponse, Failure> {
    let progress = Progress::new(header.size_bytes);
    let (broken, mut is_broken) = oneshot::channel();
    let first = PutObjectRequest { part: Some(put_object_request::Part::Header(header)) };
    let chunks = whole_or_never(Box::pin(source), broken, progress);
    let mut service = client.objects();
    let call = service.put_object(futures::stream::once(async { first }).chain(chunks));
    tokio::select! {
        response = call => Ok(response?.into_inner()),
        // Dropping the call cuts the stream off, and the server keeps nothing of it.
        Ok(error) = &mut is_broken => Err(unreadable(name, &error)),
    }
}

/// The chunks. Closing the stream would mean "this is all", so after a read error it stays open and
/// the error is told.
fn whole_or_never(
    source: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
    broken: oneshot::Sender<io::Error>,
    progress: Progress,
) -> impl futures::Stream<Item = PutObjectRequest> + Send + 'static {
    futures::stream::unfold(
        (source, Some(broken), progress),
        async |(mut source, mut broken, mut progress)| match source.next().await? {
            Ok(chunk) => {
                progress.advance(chunk.len());
                let message =
                    PutObjectRequest { part: Some(put_object_request::Part::Chunk(chunk)) };
                Some((message, (source, broken, progress)))
            }
            Err(error) => {
                if let Some(broken) = broken.take() {
                    let _ = broken.send(error);
                }
                std::future::pending().await
            }
        },
    )
}

/// Reads an object into the file, which appears when it is whole, or to stdout for `-`.
pub(crate) async fn get(
    client: &Client,
    request: GetObjectRequest,
    file: &Path,
    out: &Out,
) -> Result<(), Failure> {
    let mut stream = client.objects().get_object(request).await?.into_inner();
    let first = stream.message().await?;
    let Some(GetObjectResponse { part: Some(get_object_response::Part::Object(object)) }) = first
    else {
        return Err(Failure::unreachable("the server did not say which object it sends"));
    };

    let mut incoming = Incoming::new(object, file, out)?;
    while let Some(message) = stream.message().await? {
        if let Some(get_object_response::Part::Chunk(chunk)) = message.part {
            incoming.take(&chunk)?;
        }
        if out.closed() {
            return Ok(());
        }
    }

    if let Some((received, size)) = incoming.cut_off() {
        return Err(Failure::unreachable(format!(
            "the object was cut off after {received} of {size} bytes"
        )));
    }

    incoming.finish()
}

/// An object on its way into a file, or to stdout for `-`.
pub(crate) struct Incoming<'a> {
    object: Object,
    file: &'a Path,
    out: &'a Out,
    sink: Sink<'a>,
    progress: Progress,
    received: u64,
}

impl<'a> Incoming<'a> {
    pub(crate) fn new(object: Object, file: &'a Path, out: &'a Out) -> Result<Self, Failure> {
        let sink = if file == Path::new("-") { Sink::Stdout(out) } else { Sink::prepare(file)? };
        let progress = Progress::new(Some(object.size_bytes));
        Ok(Self { object, file, out, sink, progress, received: 0 })
    }

    /// Takes the next bytes.
    pub(crate) fn take(&mut self, chunk: &[u8]) -> Result<(), Failure> {
        self.received += chunk.len() as u64;
        self.progress.advance(chunk.len());
        self.sink.write(chunk)
    }

    /// How many bytes came, of how many, unless it is all.
    pub(crate) fn cut_off(&self) -> Option<(u64, u64)> {
        (self.received != self.object.size_bytes).then_some((self.received, self.object.size_bytes))
    }

    /// All came: the file appears, and that is said.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let Self { object, file, out, sink, .. } = self;
        let to_file = matches!(sink, Sink::File(_));
        sink.finish(file)?;
        if !to_file {
            return Ok(());
        }
        let size = crate::format::size(object.size_bytes);
        out.done(&object, |object| {
            format!("object `{}` is in `{}`: {size}", object.key, file.display())
        })
    }
}

/// Where the bytes of an object go.
enum Sink<'a> {
    Stdout(&'a Out),
    File(tempfile::NamedTempFile),
}

impl Sink<'_> {
    /// A file beside the one that is wanted, so that it can take its name in one step.
    fn prepare(file: &Path) -> Result<Self, Failure> {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let made = tempfile::Builder::new()
            .prefix(".gofer-")
            // Made smaller by the umask, as for every new file.
            .permissions(std::fs::Permissions::from_mode(0o666))
            .tempfile_in(dir);
        let made = made.map_err(|error| {
            Failure::usage(format!("cannot write in `{}`: {error}", dir.display()))
        })?;
        Ok(Self::File(made))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Stdout(out) => out.bytes(bytes),
            Self::File(file) => {
                let path = file.path().to_owned();
                let written = file.write_all(bytes);
                written.map_err(|error| {
                    Failure::usage(format!("cannot write `{}`: {error}", path.display()))
                })
            }
        }
    }

    fn finish(self, file: &Path) -> Result<(), Failure> {
        let Self::File(made) = self else { return Ok(()) };
        let persisted = made.persist(file);
        persisted.map(drop).map_err(|error| {
            Failure::usage(format!("cannot write `{}`: {}", file.display(), error.error))
        })
    }
}

/// A bar on stderr once a transfer takes long; nothing when stderr is no terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    since: Instant,
    shown: bool,
}

impl Progress {
    pub(crate) fn new(size_bytes: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(size_bytes, ProgressDrawTarget::hidden());
        let template = match size_bytes {
            Some(_) => {
                "{wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} \
                 left"
            }
            None => "{binary_bytes}, {binary_bytes_per_sec}",
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the template is right"));
        Self { bar, since: Instant::now(), shown: !std::io::stderr().is_terminal() }
    }

    pub(crate) fn advance(&mut self, bytes: usize) {
        self.bar.inc(bytes as u64);
        if !self.shown && self.since.elapsed() > PROGRESS_AFTER {
            self.shown = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
