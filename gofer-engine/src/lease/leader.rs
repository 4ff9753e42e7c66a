//! The one server that works for all that share a database: it archives the logs a dead server
//! left, and deletes what is kept long enough.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::ports::Ports;

/// Asks for leadership three times per lease, and does `work` while this server has it.
///
/// All of the work may be repeated. A server that loses the leadership may finish the step it is
/// at while the next leader begins.
pub(crate) async fn run<W, F>(ports: Arc<Ports>, work: W)
where
    W: Fn() -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let ttl = ports.config.lease_ttl;
    let mut leading: Option<CancellationToken> = None;
    loop {
        let now = ports.clock.now();
        let leads = match ports.journal.acquire_leadership(&ports.config.server_id, now, ttl).await
        {
            Ok(leads) => leads,
            Err(error) => {
                tracing::warn!(
                    error = %crate::chain(&error),
                    "cannot ask for the lead, will retry"
                );
                false
            }
        };

        if leads {
            leading.get_or_insert_with(|| begin(&ports, work()));
        } else if let Some(leading) = leading.take() {
            leading.cancel();
        }

        tokio::time::sleep(ttl / 3).await;
    }
}

fn begin(ports: &Ports, work: impl Future<Output = ()> + Send + 'static) -> CancellationToken {
    let leading = ports.shutdown.child_token();
    let ended = leading.clone();
    ports.shutdown.spawn(async move {
        tokio::select! {
            biased;
            () = ended.cancelled() => {}
            () = work => {}
        }
    });
    leading
}
