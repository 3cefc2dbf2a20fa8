//! Where connections wait before their handshake. Who has said nothing yet holds no slot, and one source holds only its share of them: so
//! nobody keeps others out by connecting often and saying little.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tarn_client::tls::{Refusal, RefusalKind};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// How long a peer may take for its first byte. It follows the connection at once, so this is one round trip, and a busy machine.
const SPEAK_TIMEOUT: Duration = Duration::from_secs(2);

/// A source gets one in so many of the slots for handshakes.
const SHARES: usize = 8;

/// One in so many of the connections may wait.
const WAITING_PART: usize = 8;

/// So many may wait in any case.
const WAITING_MIN: usize = 64;

/// Connections that wait to shake hands, and the slots for those that do.
pub(super) struct Lobby {
    slots: Arc<Semaphore>,
    share: usize,
    waiting_max: usize,
    patience: Duration,
    rooms: Mutex<Rooms>,
}

#[derive(Default)]
struct Rooms {
    /// The slots of each source that has a connection here or in a handshake.
    shares: HashMap<IpAddr, Weak<Semaphore>>,
    /// Who waits, the longest first.
    waiting: VecDeque<Waiting>,
    /// Connections so far: their numbers.
    entered: u64,
}

struct Waiting {
    number: u64,
    source: IpAddr,
    sent_away: CancellationToken,
}

/// The right to shake hands: one of the source's slots, and one of all.
pub(super) struct Slot {
    _own: OwnedSemaphorePermit,
    _any: OwnedSemaphorePermit,
}

impl Lobby {
    /// A lobby for so many connections, of which so many shake hands at a time. Nobody waits longer than `patience`.
    pub(super) fn new(connections_max: usize, handshakes_max: usize, patience: Duration) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(handshakes_max)),
            share: (handshakes_max / SHARES).max(1),
            waiting_max: (connections_max / WAITING_PART).max(WAITING_MIN),
            patience,
            rooms: Mutex::default(),
        }
    }

    /// Waits until the peer speaks, and then for its turn.
    ///
    /// # Errors
    /// The peer is silent, its source has too many connections that wait, or its turn does not come.
    pub(super) async fn turn(&self, tcp: &TcpStream, address: IpAddr) -> Result<Slot, Refusal> {
        let place = self.enter(source_of(address));
        let turn = async {
            let spoken = tokio::time::timeout(SPEAK_TIMEOUT, tcp.peek(&mut [0])).await;
            let spoken = spoken.map_err(|_elapsed| Refusal::of(RefusalKind::TimedOut))?;
            spoken.map_err(|error| Refusal::of_handshake(&error))?;
            Ok(Slot { _own: permit(&place.slots).await, _any: permit(&self.slots).await })
        };
        let turn = tokio::time::timeout(self.patience, turn);
        match place.sent_away.run_until_cancelled(turn).await {
            Some(turn) => turn.unwrap_or_else(|_elapsed| Err(Refusal::of(RefusalKind::TimedOut))),
            None => Err(Refusal::of(RefusalKind::TooMany)),
        }
    }

    /// A place among those who wait. Where all are taken, the one that has waited longest makes room: of the same source, if it has one.
    fn enter(&self, source: IpAddr) -> Place<'_> {
        let mut rooms = self.rooms();
        if rooms.waiting.len() >= self.waiting_max {
            let of_source = rooms.waiting.iter().position(|waiting| waiting.source == source);
            if let Some(oldest) = rooms.waiting.remove(of_source.unwrap_or(0)) {
                oldest.sent_away.cancel();
            }
        }
        let number = rooms.entered;
        rooms.entered += 1;
        let sent_away = CancellationToken::new();
        rooms.waiting.push_back(Waiting { number, source, sent_away: sent_away.clone() });
        Place { lobby: self, number, sent_away, slots: rooms.slots_of(source, self.share) }
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rooms {
    fn slots_of(&mut self, source: IpAddr, share: usize) -> Arc<Semaphore> {
        if let Some(slots) = self.shares.get(&source).and_then(Weak::upgrade) {
            return slots;
        }
        // Sources of which nobody is left.
        self.shares.retain(|_, slots| slots.strong_count() > 0);
        let slots = Arc::new(Semaphore::new(share));
        self.shares.insert(source, Arc::downgrade(&slots));
        slots
    }
}

/// A connection's place among those who wait, until it is dropped.
struct Place<'a> {
    lobby: &'a Lobby,
    number: u64,
    sent_away: CancellationToken,
    slots: Arc<Semaphore>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut rooms = self.lobby.rooms();
        // In the order of their numbers; it is gone already if it had to make room.
        if let Ok(at) = rooms.waiting.binary_search_by_key(&self.number, |waiting| waiting.number) {
            rooms.waiting.remove(at);
        }
    }
}

async fn permit(slots: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    slots.clone().acquire_owned().await.expect("the lobby's semaphores are never closed")
}

/// Whom an address stands for: with IPv6, one customer has at least a network of 64 bits.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// A connection, from both ends.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (dialled, listener.accept().await.unwrap().0)
    }

    #[test]
    fn who_comes_last_makes_its_own_source_give_way() {
        let lobby = Lobby::new(0, 8, SPEAK_TIMEOUT);
        let other = lobby.enter(address(2));
        let mut flood: Vec<_> = (1..WAITING_MIN).map(|_| lobby.enter(address(1))).collect();
        flood.push(lobby.enter(address(1)));
        assert!(flood[0].sent_away.is_cancelled() && !flood[1].sent_away.is_cancelled());
        assert!(!other.sent_away.is_cancelled());
        // One that has nobody there takes the place of whoever has waited longest.
        let third = lobby.enter(address(3));
        assert!(other.sent_away.is_cancelled() && !third.sent_away.is_cancelled());
        drop((flood, other, third));
        assert!(lobby.rooms().waiting.is_empty());
    }

    #[test]
    fn one_network_is_one_source() {
        let source = |text: &str| source_of(text.parse().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:10.0.0.1"), address(1));
    }

    #[tokio::test]
    async fn a_source_has_its_share_of_the_slots_and_others_have_theirs() {
        let lobby = Lobby::new(0, 16, Duration::from_millis(100));
        let (mut far, near) = connection().await;
        far.write_all(b"x").await.unwrap();
        let first = lobby.turn(&near, address(1)).await.unwrap();
        let _second = lobby.turn(&near, address(1)).await.unwrap();
        let refused = lobby.turn(&near, address(1)).await.err().unwrap();
        assert_eq!(refused.kind, RefusalKind::TimedOut);
        lobby.turn(&near, address(2)).await.unwrap();
        drop(first);
        lobby.turn(&near, address(1)).await.unwrap();
    }
}
