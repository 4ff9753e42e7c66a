#![doc = include_str!("../README.md")]
#![expect(
    clippy::duplicate_mod,
    reason = "src/queries is compiled once per engine; see the README"
)]

mod config;
mod db;
mod error;
mod event_cache;
mod headroom;
mod journal;
mod migrate;
mod postgres;
mod prepared;
mod rows;
mod schema;
mod spec_cache;
mod sqlite;
mod sqlstate;
mod support;
mod types;

pub use config::{DatabaseUrl, DbConfig, Durability, Target, TlsConfig};
pub use db::Db;
pub use error::DbError;
pub use types::{
    BootstrapProof, CompletedUpload, Counts, DeletedPipeline, EventFilter, LocalSecret,
    MAX_OPEN_UPLOADS, MAX_PAGE, ManagementEnd, ObjectPut, ObjectPutOutcome, ObjectUpload, Page,
    PipelineRoom, PipelineVersionSummary, Registered, Registration, RunFilter, RunRecords,
    SecretPutOutcome, SomeTasks, UploadState, UploadedObject,
};
