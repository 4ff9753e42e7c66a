//! Requests that `vaultrs` does not know.

use rustify::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;

/// The kind of engine at a mount. Any right below the mount allows this question.
#[derive(Debug)]
pub(crate) struct MountInfo {
    pub(crate) mount: String,
}

impl Endpoint for MountInfo {
    type Response = ();
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        format!("sys/internal/ui/mounts/{}", self.mount)
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::GET
    }
}

/// The token's rights to some paths.
#[derive(Debug)]
pub(crate) struct Capabilities {
    pub(crate) paths: Vec<String>,
}

impl Endpoint for Capabilities {
    type Response = ();
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        "sys/capabilities-self".to_owned()
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::POST
    }

    fn body(&self) -> Result<Option<Vec<u8>>, ClientError> {
        let body = serde_json::json!({ "paths": self.paths });
        Ok(Some(body.to_string().into_bytes()))
    }
}
