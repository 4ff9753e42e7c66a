#![doc = include_str!("../README.md")]
#![allow(unused)]

mod api;
mod config;
mod db;
mod error;
mod journal;
mod specs;
mod types;

pub use config::{DatabaseUrl, DbConfig, Durability, Target, TlsConfig};
pub use db::Db;
pub use error::DbError;
pub use types::{
    Counts, DeletedPipeline, EventFilter, LocalSecret, MAX_PAGE, ObjectPut, ObjectPutOutcome, Page,
    PipelineVersionSummary, Registered, Registration, RunFilter,
};
