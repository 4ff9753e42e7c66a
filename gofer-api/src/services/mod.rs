//! The gRPC services, one file or folder per resource.
//!
//! ```text
//! tonic ─▶ service! ─▶ rpc::call (authorized, in a task of its own, with a time limit)
//!                          │
//!                          ▼   decode        call                       encode
//!                       handler: convert ─▶ operations │ engine │ db ─▶ convert
//!                                           several     runs     one
//!                                           stores               transaction
//! ```

use std::sync::Arc;

use gofer_proto::v1;
use tonic::service::Routes;

use crate::intake::REQUEST_MAX_BYTES;
use crate::rpc::context::Context;

mod common_task;
mod event;
mod execution;
mod namespace;
mod object;
mod pipeline;
mod run;
mod secret;
mod system;
mod task_run;
mod token;
mod trigger;

/// Every service of the contract.
pub(crate) fn routes(context: &Arc<Context>) -> Routes {
    macro_rules! routes {
        ($($module:ident: $server_module:ident :: $server:ident;)+) => {
            Routes::default()$(.add_service(
                v1::$server_module::$server::new($module::Service(context.clone())).max_decoding_message_size(REQUEST_MAX_BYTES),
            ))+
        };
    }
    routes! {
        common_task: common_task_service_server::CommonTaskServiceServer;
        event: event_service_server::EventServiceServer;
        execution: execution_service_server::ExecutionServiceServer;
        namespace: namespace_service_server::NamespaceServiceServer;
        object: object_service_server::ObjectServiceServer;
        pipeline: pipeline_service_server::PipelineServiceServer;
        run: run_service_server::RunServiceServer;
        secret: secret_service_server::SecretServiceServer;
        system: system_service_server::SystemServiceServer;
        task_run: task_run_service_server::TaskRunServiceServer;
        token: token_service_server::TokenServiceServer;
        trigger: trigger_service_server::TriggerServiceServer;
    }
}
