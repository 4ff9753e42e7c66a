//! Logs of attempts: masked wherever they are read, and moved into the object store at the end.
//!
//! ```text
//!  a run ──value──► RunMasks ──record──► journal, ──value──► secret store
//!                      │ values, changes
//!                      ▼
//!  scheduler ──raw──► live: Masker (mask/) ──► lines ──┬──► LogReader (read) ──► API
//!                      ▲                               │        ▲
//!              MaskSource: what to mask                │        │ archived
//!                                                      ▼        │
//!  driver ──Finished──► ArchiveQueue ──► Archiver ──format──► object store
//!                                           └──remove──► scheduler, ──log_state──► journal
//! ```

pub(crate) mod archive_queue;
pub(crate) mod archiver;
mod format;
mod lines;
mod live;
pub mod mask;
pub(crate) mod mask_source;
pub(crate) mod read;
pub(crate) mod run_masks;
mod warnings;

use futures::stream::BoxStream;
use gofer_core::BackendError;
use gofer_core::scheduler::LogChunk;

/// A log as it is read.
type Chunks = BoxStream<'static, Result<LogChunk, BackendError>>;
