#![doc = include_str!("../README.md")]

mod build;
mod edge;
mod interpolate;
mod pipeline;
mod proto;
mod run;
mod task;

pub use build::{Built, PipelineErrors};
pub use edge::Parents;
pub use gofer_core::pipeline::{Overlap, PipelineSpec, RetryOn};
pub use gofer_core::validate::Violation;
pub use interpolate::{Reference, global_secret, pipeline_object, run_object, secret};
pub use pipeline::{Pipeline, Subscription};
pub use proto::to_proto;
pub use task::Task;
