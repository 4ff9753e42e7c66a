//! Bytes that are being uploaded through this server and that no record names yet. What a namespace
//! has used is in the database; this only keeps many uploads at once from filling the store before
//! the first of them is recorded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use gofer_core::NamespaceId;
use gofer_core::quota::QuotaUse;

use crate::error::ApiError;

/// Bytes in flight, by namespace.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Mutex<HashMap<NamespaceId, u64>>);

/// One upload's part; dropped, it is in flight no more.
#[derive(Debug)]
pub(crate) struct Share {
    all: Arc<InFlight>,
    namespace: NamespaceId,
    bytes: u64,
    /// The namespace's quota as it was when the upload began.
    quota: QuotaUse,
}

impl Share {
    /// An upload begins.
    pub(crate) fn new(all: &Arc<InFlight>, namespace: &NamespaceId, quota: QuotaUse) -> Self {
        Self { all: Arc::clone(all), namespace: namespace.clone(), bytes: 0, quota }
    }

    /// Bytes have arrived, or are announced; refused if all that is in flight would be more than
    /// there is room for.
    pub(crate) fn grow_to(&mut self, bytes: u64) -> Result<(), ApiError> {
        let more = bytes.saturating_sub(self.bytes);
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        let in_flight = all.entry(self.namespace.clone()).or_default();
        let used = self.quota.used.saturating_add(*in_flight);
        self.quota.quota.admit(&self.namespace, self.quota.limit, used, more)?;
        *in_flight += more;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(in_flight) = all.get_mut(&self.namespace) {
            *in_flight = in_flight.saturating_sub(self.bytes);
            if *in_flight == 0 {
                all.remove(&self.namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use gofer_core::quota::QuotaKind;

    use super::*;

    #[test]
    fn uploads_at_once_share_the_room_there_is() {
        let (all, red) = (Arc::<InFlight>::default(), NamespaceId::new("red").unwrap());
        let quota =
            QuotaUse { quota: QuotaKind::ObjectBytes, limit: 100, overridden: false, used: 40 };
        let (mut one, mut other) = (Share::new(&all, &red, quota), Share::new(&all, &red, quota));
        one.grow_to(30).unwrap();
        one.grow_to(20).expect("less is no change");
        other.grow_to(30).unwrap();
        assert!(
            matches!(other.grow_to(31), Err(ApiError::Quota(refused)) if refused.used == 100 && refused.wanted == 1)
        );
        drop(one);
        other.grow_to(60).unwrap();
        drop(other);
        assert!(all.0.lock().unwrap().is_empty());
    }
}
