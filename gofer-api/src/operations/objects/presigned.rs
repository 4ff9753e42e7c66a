//! Objects that go between caller and object store without passing through the server: URLs to
//! read, and uploads in two steps. An upload's row is committed before its URL is handed out, and
//! its bytes become an object in the transaction that completes it; what dies in between is found
//! by retention. URLs are credentials: they go into the answer and nowhere else, and an event names
//! their caller before they are handed out.

use std::time::Duration;

use gofer_core::entity::{ObjectRecord, ObjectScope};
use gofer_core::event::{EventDetails, NewEvent, Subject};
use gofer_core::id::ObjectKey;
use gofer_core::object_store::{Access, ObjectMeta, Presigned, UploadTerms};
use gofer_core::{ErrorKind, Resource, Timestamp};
use gofer_db::{DbError, ObjectUpload, UploadState, UploadedObject};
use gofer_engine::layout;
use secrecy::SecretString;

use super::stored::{Objects, RecordedObject};
use crate::error::ApiError;
use crate::hex;

/// An upload by URL that a caller begins.
#[derive(Debug, Clone)]
pub(crate) struct NewUpload {
    pub(crate) scope: ObjectScope,
    pub(crate) key: ObjectKey,
    /// The length of the bytes, which is signed.
    pub(crate) size_bytes: u64,
    pub(crate) sha256: Option<[u8; 32]>,
    /// Only if the key is free when it is completed.
    pub(crate) if_absent: bool,
}

/// An upload that may be sent to its URL.
#[derive(Debug)]
pub(crate) struct IssuedUpload {
    pub(crate) id: String,
    pub(crate) url: SecretString,
    /// To be sent along.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) expires_at: Timestamp,
}

impl Objects<'_> {
    /// The object's record, a URL to read its bytes, and when the URL ends.
    pub(crate) async fn url(
        &self,
        scope: &ObjectScope,
        key: &ObjectKey,
        ttl: Duration,
    ) -> Result<(ObjectRecord, SecretString, Timestamp), ApiError> {
        let record = self.db.object_get(scope, key).await?;
        let file_name = key.as_str().rsplit('/').next().map(str::to_owned);
        let access = Access::Get { file_name };
        let presigned = self.presign(&record.location, access, ttl, "GetObject").await?;

        let expires_at = Timestamp::now().after(presigned.good_for);
        self.record_url(scope, key, false, expires_at).await?;
        Ok((record, presigned.url, expires_at))
    }

    /// Begins an upload: its row comes before its URL.
    pub(crate) async fn begin_upload(
        &self,
        new: NewUpload,
        ttl: Duration,
    ) -> Result<IssuedUpload, ApiError> {
        let NewUpload { scope, key, size_bytes, sha256, if_absent } = new;
        let limit_bytes = self.limits.object_max_bytes;
        if size_bytes > limit_bytes {
            return Err(ApiError::ObjectTooLarge { limit_bytes, at_least_bytes: size_bytes });
        }

        let location = layout::object_location(&scope);
        // The URL takes bytes once. Without this, it could change the bytes of a recorded object:
        // it may outlive the completion.
        let terms = UploadTerms { if_absent: true, sha256, size_bytes: Some(size_bytes) };
        let Presigned { url, headers, good_for } =
            self.presign(&location, Access::Put(terms), ttl, "PutObject").await?;

        let upload = ObjectUpload {
            id: format!("{:032x}", u128::from_be_bytes(rand::random())),
            scope,
            key,
            location,
            size_bytes: Some(size_bytes),
            sha256: sha256.as_ref().map(|sum| hex::encode(sum)),
            if_absent,
            expires_at: Timestamp::now().after(good_for),
            state: UploadState::Open,
        };

        self.db.upload_begin(&upload, size_bytes, Timestamp::now()).await?;
        self.record_url(&upload.scope, &upload.key, true, upload.expires_at).await?;
        Ok(IssuedUpload { id: upload.id, url, headers, expires_at: upload.expires_at })
    }

    /// Makes an object of what was sent to an upload's URL. Asked for again, it answers the same.
    pub(crate) async fn complete_upload(
        &self,
        scope: &ObjectScope,
        id: &str,
    ) -> Result<RecordedObject, ApiError> {
        let upload = self.db.upload_get(scope, id).await?;
        match upload.state {
            UploadState::Open => {}
            UploadState::Complete(record, evicted_keys) => {
                return Ok(RecordedObject { record, evicted_keys });
            }
            UploadState::GivenUp => return Err(ApiError::not_found(Resource::Upload, id)),
        }

        let found = match self.store.head(&upload.location).await {
            Err(error) if error.kind == ErrorKind::NotFound => return Err(not_there(id)),
            found => found?,
        };

        if let Err(problem) = fits(&found, &upload, self.limits.object_max_bytes) {
            self.give_up(scope, &upload).await?;
            return Err(problem);
        }

        let found = UploadedObject {
            size_bytes: found.size_bytes,
            sha256: found.sha256.as_ref().map(|sum| hex::encode(sum)),
            keep: self.keep(scope),
            at: Timestamp::now(),
        };

        match self.db.upload_complete(scope, id, &found, &self.actor).await {
            Ok(done) => {
                for old in &done.no_longer_named {
                    self.forget(&old.location).await;
                }
                Ok(RecordedObject { record: done.record, evicted_keys: done.evicted_keys })
            }
            Err(refused @ (DbError::AlreadyExists { .. } | DbError::Quota(_))) => {
                self.give_up(scope, &upload).await?;
                Err(refused.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes what was uploaded, unless another call has completed it: what a record names is
    /// never touched.
    async fn give_up(&self, scope: &ObjectScope, upload: &ObjectUpload) -> Result<(), ApiError> {
        if self.db.upload_give_up(scope, &upload.id).await? {
            self.forget(&upload.location).await;
        }
        Ok(())
    }

    /// Asks the store for a URL; where there is none, the error names the call that works
    /// everywhere.
    async fn presign(
        &self,
        location: &ObjectKey,
        access: Access,
        ttl: Duration,
        instead: &str,
    ) -> Result<Presigned, ApiError> {
        let unsupported = |why: &str| ApiError::Precondition {
            reason: "UNSUPPORTED",
            message: format!("{why}; use {instead}"),
        };
        match self.store.presign(location, access, ttl).await {
            Ok(Some(presigned)) => Ok(presigned),
            Ok(None) => Err(unsupported("the object store of this server has no URLs")),
            Err(error) if error.kind == ErrorKind::Unsupported => Err(unsupported(&error.message)),
            Err(error) => Err(error.into()),
        }
    }

    /// Records that a URL is about to be handed out. Without the record there is no URL.
    async fn record_url(
        &self,
        scope: &ObjectScope,
        key: &ObjectKey,
        upload: bool,
        expires_at: Timestamp,
    ) -> Result<(), ApiError> {
        let subject = Subject {
            namespace: Some(scope.namespace.clone()),
            pipeline: Some(scope.pipeline.clone()),
            run: scope.run,
            ..Subject::default()
        };
        let details = EventDetails::ObjectUrlIssued { key: key.to_string(), upload, expires_at };
        let (at, actor) = (Timestamp::now(), self.actor.clone());
        Ok(self.db.event_record(NewEvent { at, actor, subject, details }).await?)
    }
}

fn not_there(id: &str) -> ApiError {
    let next_step =
        "send them in one PUT to the URL, with the headers, and complete it after the answer 200";
    let message = format!("the object store has no bytes of upload `{id}`; {next_step}");
    ApiError::Precondition { reason: "UPLOAD_NOT_THERE", message }
}

/// Whether what was uploaded may be the object.
fn fits(found: &ObjectMeta, upload: &ObjectUpload, limit_bytes: u64) -> Result<(), ApiError> {
    if found.size_bytes > limit_bytes {
        return Err(ApiError::ObjectTooLarge { limit_bytes, at_least_bytes: found.size_bytes });
    }

    if let Some(declared) = upload.size_bytes.filter(|declared| *declared != found.size_bytes) {
        let rule = format!("{} bytes were uploaded; begin again", found.size_bytes);
        return Err(ApiError::invalid("size_bytes", declared.to_string(), rule));
    }

    let told = found.sha256.as_ref().map(|sum| hex::encode(sum));
    match (&upload.sha256, told) {
        (Some(declared), Some(told)) if *declared != told => Err(ApiError::invalid(
            "sha256",
            declared,
            format!("bytes with `{told}` were uploaded; begin again"),
        )),
        _ => Ok(()),
    }
}
