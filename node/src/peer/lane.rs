//! One standing connection to a peer: made when it is first needed, and made anew, after a pause that grows, when it fails.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use rustls::ClientConfig;
use tarn_client::tls::{Address, ConnectOptions, LiveConnections, connect};
use tonic::transport::Channel;

use super::fault::Fault;
use super::limits::{BACKOFF_MAX, BACKOFF_MIN, CONNECT_TIMEOUT, KEEP_ALIVE};

/// A connection, and whether an exchange over it ever succeeded: in TLS 1.3 the dialler believes that the handshake is over
/// before the other side has judged its certificate.
#[derive(Clone)]
pub(super) struct Connection {
    pub channel: Channel,
    serial: u64,
    proven: Arc<AtomicBool>,
}

type Attempt = Shared<BoxFuture<'static, Result<Connection, Arc<str>>>>;

enum State {
    Idle,
    /// Several exchanges may wait for one attempt. It runs on its own, so that it goes on when they give up.
    Connecting(Attempt),
    Ready(Connection),
    Pausing {
        until: Instant,
        reason: Arc<str>,
    },
}

struct Inner {
    state: State,
    /// The attempt under way may present the certificate of before: what comes of it is for those who wait, and for nobody after them.
    outdated: bool,
    failures: u32,
    serial: u64,
}

/// Whom to dial, and how.
#[derive(Clone)]
pub(super) struct Dialling {
    pub address: Address,
    /// The local address to dial from, if it matters.
    pub source: Option<IpAddr>,
    pub config: Arc<ClientConfig>,
    /// Where connections are entered, so that one to whose certificate is revoked is cut.
    pub live: LiveConnections,
}

pub(super) struct Lane {
    way: Dialling,
    inner: Mutex<Inner>,
}

impl Lane {
    pub fn new(way: Dialling) -> Arc<Self> {
        let inner = Inner { state: State::Idle, outdated: false, failures: 0, serial: 0 };
        Arc::new(Self { way, inner: Mutex::new(inner) })
    }

    /// The connection. Dropping the future leaves the attempt to those who come next.
    ///
    /// # Errors
    /// [`Fault::Unreachable`], at once during the pause after a failure.
    pub async fn connection(self: &Arc<Self>) -> Result<Connection, Fault> {
        let attempt = {
            let mut inner = self.lock();
            match &inner.state {
                State::Ready(connection) => return Ok(connection.clone()),
                State::Connecting(attempt) => attempt.clone(),
                State::Pausing { until, reason } if Instant::now() < *until => {
                    return Err(Fault::Unreachable(reason.to_string()));
                }
                State::Idle | State::Pausing { .. } => {
                    let attempt = self.clone().attempt();
                    inner.state = State::Connecting(attempt.clone());
                    attempt
                }
            }
        };
        attempt.await.map_err(|reason| Fault::Unreachable(reason.to_string()))
    }

    /// An exchange over the connection succeeded, or was refused by the peer in words.
    pub fn works(&self, connection: &Connection) {
        if !connection.proven.swap(true, Ordering::Relaxed) {
            self.lock().failures = 0;
        }
    }

    /// The connection broke. Does nothing if another has taken its place meanwhile.
    pub fn broke(&self, connection: &Connection, reason: &str) {
        let mut inner = self.lock();
        if matches!(&inner.state, State::Ready(current) if current.serial == connection.serial) {
            inner.pause(reason.into());
        }
    }

    /// The next exchange makes a connection of its own. Those that use the present one keep it until they end.
    pub fn renew(&self) {
        let mut inner = self.lock();
        match inner.state {
            State::Ready(_) => inner.state = State::Idle,
            State::Connecting(_) => inner.outdated = true,
            State::Idle | State::Pausing { .. } => {}
        }
    }

    fn attempt(self: Arc<Self>) -> Attempt {
        let task = tokio::spawn(async move {
            let options = ConnectOptions {
                connect_timeout: CONNECT_TIMEOUT,
                keep_alive_interval: KEEP_ALIVE,
                keep_alive_timeout: KEEP_ALIVE,
                keep_alive_while_idle: true,
                source: self.way.source,
                live: Some(self.way.live.clone()),
            };
            let dialled = connect(&self.way.address, self.way.config.clone(), &options);
            let dialled = tokio::time::timeout(CONNECT_TIMEOUT, dialled);
            let result = match dialled.await {
                Ok(Ok(channel)) => Ok(channel),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("{} did not finish the handshake in time", self.way.address)),
            };
            self.settle(result)
        });
        task.map(|joined| joined.unwrap_or_else(|_| Err("this node is shutting down".into()))).boxed().shared()
    }

    fn settle(&self, result: Result<Channel, String>) -> Result<Connection, Arc<str>> {
        let mut inner = self.lock();
        let outdated = std::mem::take(&mut inner.outdated);
        match result {
            Ok(channel) => {
                inner.serial += 1;
                let connection = Connection { channel, serial: inner.serial, proven: Arc::default() };
                inner.state = match outdated {
                    true => State::Idle,
                    false => State::Ready(connection.clone()),
                };
                Ok(connection)
            }
            Err(reason) => {
                let reason: Arc<str> = reason.into();
                inner.pause(reason.clone());
                Err(reason)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn pause(&mut self, reason: Arc<str>) {
        let pause = backoff(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.state = State::Pausing { until: Instant::now() + pause, reason };
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_to_its_limit_and_stays_there() {
        assert_eq!(backoff(0), BACKOFF_MIN);
        assert_eq!(backoff(1), BACKOFF_MIN * 2);
        assert_eq!(backoff(10), BACKOFF_MAX);
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }
}
