//! `SystemService`.

use gofer_proto::v1;

use crate::convert;
use crate::error::ApiError;
use crate::rpc::call::{Call, service, target};

/// The commit this was built from, where the build names it.
const COMMIT: Option<&str> = option_env!("GOFER_COMMIT");

service! {
    v1::system_service_server::SystemService {
        unary get_system_info(v1::GetSystemInfoRequest) -> v1::GetSystemInfoResponse;
    }
}

target!(installation: GetSystemInfoRequest);

async fn get_system_info(
    call: Call,
    request: v1::GetSystemInfoRequest,
) -> Result<v1::GetSystemInfoResponse, ApiError> {
    let mut backends =
        if request.check_backends { call.health.check().await } else { call.health.last().await };
    if !call.identity.manages() {
        // They name the paths and processes of the server's machine.
        backends.iter_mut().for_each(|backend| backend.message.clear());
    }

    let counts = call.db.run_counts().await?;
    let stats = call.engine.stats();
    Ok(v1::GetSystemInfoResponse {
        version: crate::VERSION.to_owned(),
        commit: COMMIT.unwrap_or_default().to_owned(),
        server_id: call.server_id.clone(),
        started_at: Some(convert::timestamp(call.started_at)),
        dev_mode: call.dev_mode,
        backends: backends.iter().map(convert::backend).collect(),
        active_runs: stats.active_runs as u64,
        pending_runs: counts.pending_runs,
        executions_in_flight: stats.executions as u64,
        last_event_id: counts.last_event_id,
        isolates_namespaces: call.scheduler.capabilities().isolates_namespaces,
    })
}
