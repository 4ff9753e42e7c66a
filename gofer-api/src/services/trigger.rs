//! `TriggerService`: part of the contract, not yet of this version.

use std::sync::Arc;

use gofer_proto::v1;
use tonic::{Extensions, Streaming};

use crate::auth::permissions::Target;
use crate::error::ApiError;
use crate::rpc::call::{Call, ReplyStream, authorize, service, target};
use crate::rpc::context::Context;

const NOT_YET: ApiError = ApiError::NotInThisVersion { what: "the service of triggers" };

service! {
    v1::trigger_service_server::TriggerService {
        unary install_trigger(v1::InstallTriggerRequest) -> v1::InstallTriggerResponse;
        unary get_trigger(v1::GetTriggerRequest) -> v1::GetTriggerResponse;
        unary list_triggers(v1::ListTriggersRequest) -> v1::ListTriggersResponse;
        unary update_trigger(v1::UpdateTriggerRequest) -> v1::UpdateTriggerResponse;
        unary uninstall_trigger(v1::UninstallTriggerRequest) -> v1::UninstallTriggerResponse;
        unary enable_trigger(v1::EnableTriggerRequest) -> v1::EnableTriggerResponse;
        unary disable_trigger(v1::DisableTriggerRequest) -> v1::DisableTriggerResponse;
        unary list_trigger_subscriptions(v1::ListTriggerSubscriptionsRequest) -> v1::ListTriggerSubscriptionsResponse;
        bidi connect_trigger(v1::ConnectTriggerRequest) -> ConnectTriggerStream<v1::ConnectTriggerResponse>;
    }
}

target!(installation:
    InstallTriggerRequest, GetTriggerRequest, ListTriggersRequest, UpdateTriggerRequest, UninstallTriggerRequest,
    EnableTriggerRequest, DisableTriggerRequest, ListTriggerSubscriptionsRequest,
);

macro_rules! not_yet {
    ($($name:ident($request:ident) -> $response:ident;)*) => {
        $(async fn $name(_: Call, _: v1::$request) -> Result<v1::$response, ApiError> {
            Err(NOT_YET)
        })*
    };
}

not_yet! {
    install_trigger(InstallTriggerRequest) -> InstallTriggerResponse;
    get_trigger(GetTriggerRequest) -> GetTriggerResponse;
    list_triggers(ListTriggersRequest) -> ListTriggersResponse;
    update_trigger(UpdateTriggerRequest) -> UpdateTriggerResponse;
    uninstall_trigger(UninstallTriggerRequest) -> UninstallTriggerResponse;
    enable_trigger(EnableTriggerRequest) -> EnableTriggerResponse;
    disable_trigger(DisableTriggerRequest) -> DisableTriggerResponse;
    list_trigger_subscriptions(ListTriggerSubscriptionsRequest) -> ListTriggerSubscriptionsResponse;
}

async fn connect_trigger(
    context: &Arc<Context>,
    extensions: Extensions,
    _: Streaming<v1::ConnectTriggerRequest>,
) -> Result<ReplyStream<v1::ConnectTriggerResponse>, ApiError> {
    authorize(context, &extensions, Target::Installation)?;
    Err(NOT_YET)
}
