//! `ExecutionService`.

use gofer_core::scheduler::{ExecutionTimes, ReportedEnd};
use gofer_proto::v1;

use crate::auth::Identity;
use crate::convert;
use crate::error::{ApiError, TokenProblem};
use crate::rpc::call::{Call, service, target};

/// Where exit codes begin that stand for a signal.
const SIGNAL_BASE: i32 = 128;

service! {
    v1::execution_service_server::ExecutionService {
        unary report_end(v1::ReportEndRequest) -> v1::ReportEndResponse;
    }
}

target!(installation: ReportEndRequest);

async fn report_end(
    call: Call,
    request: v1::ReportEndRequest,
) -> Result<v1::ReportEndResponse, ApiError> {
    let times = times(&request)?;
    let v1::ReportEndRequest { exit_code, signal, .. } = request;
    if !(0..=255).contains(&exit_code) {
        return Err(ApiError::invalid("exit_code", exit_code.to_string(), "must be 0 to 255"));
    }

    if !(0..=64).contains(&signal) {
        return Err(ApiError::invalid(
            "signal",
            signal.to_string(),
            "must be a signal, or 0 for none",
        ));
    }

    if signal != 0 && exit_code != 0 {
        return Err(ApiError::invalid(
            "exit_code",
            exit_code.to_string(),
            "must be 0 when a signal ended the process",
        ));
    }

    let Identity::Execution(signed) = &call.identity else {
        return Err(ApiError::Unauthenticated(TokenProblem::Unknown));
    };

    let end = match signal {
        0 => ReportedEnd { code: exit_code, signal: None, times },
        signal => ReportedEnd { code: SIGNAL_BASE + signal, signal: Some(signal), times },
    };

    call.engine.report_end(signed.token(), end).await?;
    Ok(v1::ReportEndResponse {})
}

/// When it was, as far as is told. It is shown to people and compared with a timeout, so it must at
/// least be possible.
fn times(request: &v1::ReportEndRequest) -> Result<ExecutionTimes, ApiError> {
    let started_at = convert::from_timestamp("started_at", request.started_at.as_ref())?;
    let ended_at = convert::from_timestamp("ended_at", request.ended_at.as_ref())?;
    let ran = request.ran.map(std::time::Duration::try_from).transpose();
    let ran = ran.map_err(|_| {
        ApiError::invalid("ran", format!("{:?}", request.ran), "must not be negative")
    })?;
    if started_at.zip(ended_at).is_some_and(|(started_at, ended_at)| ended_at < started_at) {
        return Err(ApiError::invalid(
            "ended_at",
            format!("{ended_at:?}"),
            "must not be before `started_at`",
        ));
    }
    Ok(ExecutionTimes { started_at, ended_at, ran })
}
