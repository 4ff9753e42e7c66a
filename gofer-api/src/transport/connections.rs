//! Which connections there are, and which of them goes when there are too many. Those that have
//! shown a token stay: a flood of others pushes out its own.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::connection::Connection;
use super::open_files::{default_connections, within_open_files};
use crate::config::Limits;

/// One address may have this part of all connections, unless the configuration says otherwise.
const ADDRESS_SHARE: usize = 2;
/// A connection with a token may be closed for another when it has done nothing for so long.
const IDLE_MIN: Duration = Duration::from_secs(30);
/// Connections that are closed when descriptors run out.
const CLOSED_AT_ONCE: usize = 16;
/// Connections that were told to end and still have a descriptor. While there are more, none is
/// accepted.
const ENDING_MAX: usize = 64;

/// All connections of a server.
#[derive(Debug)]
pub(super) struct Connections {
    most: usize,
    most_per_address: usize,
    table: Mutex<Table>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Table {
    /// By the order in which they came.
    open: BTreeMap<u64, Arc<Connection>>,
    per_address: HashMap<IpAddr, usize>,
    next: u64,
    /// Those that were told to end.
    ending: usize,
}

/// A connection's place in the table; dropped, it is free again.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) connection: Arc<Connection>,
    number: u64,
    connections: Arc<Connections>,
}

impl Connections {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        let most = limits.connections.map_or_else(default_connections, within_open_files);
        let most_per_address =
            limits.connections_per_address.unwrap_or((most / ADDRESS_SHARE).max(1)).min(most);
        Arc::new(Self { most, most_per_address, table: Mutex::default(), ended: Notify::new() })
    }

    /// A place for a new connection from this address; where there is none, the one that is missed
    /// least makes room.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = holder(address);
        let mut table = self.lock();
        let of_address = table.per_address.get(&address).copied().unwrap_or(0);
        if of_address >= self.most_per_address {
            table.make_room(Some(address))?;
        } else if table.open.len() >= self.most {
            table.make_room(None)?;
        }
        let connection = Arc::new(Connection::new(address));
        let number = table.next;
        table.next += 1;
        table.open.insert(number, connection.clone());
        *table.per_address.entry(address).or_default() += 1;
        Some(Place { connection, number, connections: self.clone() })
    }

    /// Closes those connections that are missed least, because descriptors have run out: for the
    /// rest of the server, too.
    pub(super) fn close_some(&self) {
        let mut table = self.lock();
        for _ in 0..CLOSED_AT_ONCE {
            if table.make_room(None).is_none() {
                return;
            }
        }
    }

    /// Waits while many connections are about to end.
    pub(super) async fn until_few_are_ending(&self) {
        loop {
            let ended = self.ended.notified();
            if self.lock().ending < ENDING_MAX {
                return;
            }
            ended.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Closes one connection, of this address if one is given: the oldest that has shown no token,
    /// best one without a call; else the one that has been idle longest. `None` when all are in
    /// use.
    fn make_room(&mut self, address: Option<IpAddr>) -> Option<()> {
        let candidates = || {
            self.open.iter().filter(|(_, one)| address.is_none_or(|address| one.address == address))
        };

        let strangers = || candidates().filter(|(_, one)| !one.is_authenticated());
        let quiet = strangers().find(|(_, one)| one.idle_for().is_some());
        let idle = || {
            let idle =
                candidates().filter_map(|(number, one)| Some((one.idle_for()?, number, one)));
            let longest = idle.min_by_key(|(duration, ..)| Reverse(*duration))?;
            (longest.0 >= IDLE_MIN).then_some((longest.1, longest.2))
        };

        let (number, connection) = quiet.or_else(|| strangers().next()).or_else(idle)?;
        let (number, address) = (*number, connection.address);
        connection.close();
        self.remove(number, address);
        self.ending += 1;

        Some(())
    }

    /// Whether it was still there.
    fn remove(&mut self, number: u64, address: IpAddr) -> bool {
        if self.open.remove(&number).is_none() {
            return false;
        }
        if let Some(count) = self.per_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(&address);
            }
        }
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.connections.lock();
        if !table.remove(self.number, self.connection.address) {
            table.ending -= 1;
        }
        drop(table);
        self.connections.ended.notify_waiters();
    }
}

/// The customer that has an address: of IPv6 a customer has a network of 64 bits at least.
fn holder(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let network = address.to_bits() >> 64 << 64;
            IpAddr::V6(network.into())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(most: usize, per_address: usize) -> Arc<Connections> {
        let limits = Limits {
            connections: Some(most),
            connections_per_address: Some(per_address),
            ..Limits::default()
        };
        Connections::new(&limits)
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_make_room_and_guests_stay() {
        let connections = connections(3, 3);
        let guest = connections.admit(address(1)).unwrap();
        drop(guest.connection.begin_call(true).unwrap());
        let oldest = connections.admit(address(2)).unwrap();
        let busy = connections.admit(address(2)).unwrap();
        let call = busy.connection.begin_call(false).unwrap();
        let newest = connections.admit(address(3)).unwrap();

        assert!(
            oldest.connection.is_closed()
                && !busy.connection.is_closed()
                && !guest.connection.is_closed()
        );

        // A connection with a call is closed before one with a token.
        drop(newest.connection.begin_call(true).unwrap());
        let next = connections.admit(address(3)).unwrap();
        assert!(busy.connection.is_closed() && !guest.connection.is_closed());
        drop((call, oldest, busy));

        // All have shown a token: the newcomer has to go, until one has been idle for long.
        drop(next.connection.begin_call(true).unwrap());
        assert!(connections.admit(address(4)).is_none());
        tokio::time::advance(IDLE_MIN).await;
        let working = guest.connection.begin_call(true).unwrap();
        assert!(connections.admit(address(4)).is_some());
        assert!(!guest.connection.is_closed() && newest.connection.is_closed());
        drop(working);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_pushes_out_its_own() {
        let connections = connections(10, 2);
        let other = connections.admit(address(9)).unwrap();
        let mut flood = Vec::new();
        for _ in 0..20 {
            flood.extend(connections.admit(address(1)));
        }
        assert!(!other.connection.is_closed());
        let open = flood.iter().filter(|place| !place.connection.is_closed()).count();
        assert_eq!(open, 2);
        assert_eq!(holder("2001:db8::1".parse().unwrap()), holder("2001:db8::2".parse().unwrap()));
        assert_eq!(holder("::ffff:10.0.0.1".parse().unwrap()), address(1));
    }

    #[tokio::test(start_paused = true)]
    async fn descriptors_are_free_before_more_is_accepted() {
        let connections = connections(1, 1);
        let mut places: Vec<Place> =
            (0..=ENDING_MAX).filter_map(|_| connections.admit(address(1))).collect();
        let waiting = tokio::time::timeout(IDLE_MIN, connections.until_few_are_ending()).await;
        assert!(waiting.is_err());
        drop(places.remove(0));
        connections.until_few_are_ending().await;
    }
}
