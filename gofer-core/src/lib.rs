#![doc = include_str!("../README.md")]

pub mod admission;
pub mod entity;
pub mod error;
pub mod event;
pub mod exec;
pub mod id;
pub mod journal;
pub mod object_store;
pub mod pipeline;
pub mod quota;
mod resource;
pub mod reuse;
pub mod run;
pub mod run_variables;
pub mod scheduler;
pub mod secret_store;
pub mod template;
pub mod time;
pub mod validate;

pub use error::{BackendError, ErrorKind};
pub use id::{
    Attempt, ExecutionId, NamespaceId, ObjectKey, PipelineId, RunKey, RunNumber, SecretPath,
    TaskId, Version,
};
pub use resource::Resource;
pub use time::Timestamp;
