//! `CommonTaskService`: part of the contract, not yet of this version.

use gofer_proto::v1;

use crate::error::ApiError;
use crate::rpc::call::{Call, service, target};

service! {
    v1::common_task_service_server::CommonTaskService {
        unary install_common_task(v1::InstallCommonTaskRequest) -> v1::InstallCommonTaskResponse;
        unary get_common_task(v1::GetCommonTaskRequest) -> v1::GetCommonTaskResponse;
        unary list_common_tasks(v1::ListCommonTasksRequest) -> v1::ListCommonTasksResponse;
        unary update_common_task(v1::UpdateCommonTaskRequest) -> v1::UpdateCommonTaskResponse;
        unary uninstall_common_task(v1::UninstallCommonTaskRequest) -> v1::UninstallCommonTaskResponse;
    }
}

target!(installation:
    InstallCommonTaskRequest, GetCommonTaskRequest, ListCommonTasksRequest, UpdateCommonTaskRequest,
    UninstallCommonTaskRequest,
);

macro_rules! not_yet {
    ($($name:ident($request:ident) -> $response:ident;)*) => {
        $(async fn $name(_: Call, _: v1::$request) -> Result<v1::$response, ApiError> {
            Err(ApiError::NotInThisVersion { what: "the service of common tasks" })
        })*
    };
}

not_yet! {
    install_common_task(InstallCommonTaskRequest) -> InstallCommonTaskResponse;
    get_common_task(GetCommonTaskRequest) -> GetCommonTaskResponse;
    list_common_tasks(ListCommonTasksRequest) -> ListCommonTasksResponse;
    update_common_task(UpdateCommonTaskRequest) -> UpdateCommonTaskResponse;
    uninstall_common_task(UninstallCommonTaskRequest) -> UninstallCommonTaskResponse;
}
