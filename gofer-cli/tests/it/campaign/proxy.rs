//! A network between the server and its database that fails as networks do.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What the network does.
#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    /// How long everything is on its way.
    delay: Duration,
    /// Everything is swallowed, and acknowledged. A connection that lost something stays dead.
    black_hole: bool,
    /// Counts up when all connections are cut.
    cuts: u64,
    /// Counts up when the database's side of all connections is closed, and the other left as it
    /// is.
    half_closes: u64,
}

/// Passes connections on.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    weather: watch::Sender<Weather>,
    _runtime: Runtime,
}

impl Proxy {
    /// In front of this address.
    pub(crate) fn to(target: SocketAddr) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let addr = listener.local_addr().expect("an address");
        let weather = watch::Sender::new(Weather::default());
        runtime.spawn(accept(listener, target, weather.clone()));
        Self { addr, weather, _runtime: runtime }
    }

    pub(crate) fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    pub(crate) fn half_close(&self) {
        self.weather.send_modify(|weather| weather.half_closes += 1);
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    pub(crate) fn black_hole(&self, black_hole: bool) {
        self.weather.send_modify(|weather| weather.black_hole = black_hole);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, weather: watch::Sender<Weather>) {
    while let Ok((client, _)) = listener.accept().await {
        let weather = weather.subscribe();
        tokio::spawn(async move {
            // Refused: so is the client, who sees its connection end.
            let Ok(server) = TcpStream::connect(target).await else { return };
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            tokio::join!(
                pump(from_client, to_server, weather.clone(), false),
                pump(from_server, to_client, weather, true),
            );
        });
    }
}

/// One direction of one connection.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    to_client: bool,
) {
    let born = *weather.borrow_and_update();
    let mut dead = born.black_hole;
    let mut buffer = vec![0; 64 * 1024];

    loop {
        let count = tokio::select! {
            biased;
            changed = weather.changed() => {
                let now = *weather.borrow_and_update();
                dead |= now.black_hole;
                if changed.is_err() || now.cuts != born.cuts {
                    return;
                }
                if to_client && now.half_closes != born.half_closes {
                    let _ = to.shutdown().await;
                    let _ = weather.wait_for(|now| now.cuts != born.cuts).await;
                    return;
                }
                continue;
            }
            count = from.read(&mut buffer) => count.unwrap_or(0),
        };

        let delay = weather.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }

        if count == 0 {
            let _ = to.shutdown().await;
            return;
        }

        if !dead && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
