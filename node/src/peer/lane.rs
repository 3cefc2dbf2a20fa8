//! One standing connection to a peer: made when it is first needed, and made anew, after a pause that grows, when it fails.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use rustls::ClientConfig;
use tarn_client::tls::{Address, ConnectOptions, connect};
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
    failures: u32,
    serial: u64,
}

pub(super) struct Lane {
    address: Address,
    /// The local address to dial from, if it matters.
    source: Option<IpAddr>,
    config: Arc<ClientConfig>,
    inner: Mutex<Inner>,
}

impl Lane {
    pub fn new(address: Address, source: Option<IpAddr>, config: Arc<ClientConfig>) -> Arc<Self> {
        let inner = Inner {
            state: State::Idle,
            failures: 0,
            serial: 0,
        };
        Arc::new(Self {
            address,
            source,
            config,
            inner: Mutex::new(inner),
        })
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

    fn attempt(self: Arc<Self>) -> Attempt {
        let task = tokio::spawn(async move {
            let options = ConnectOptions {
                connect_timeout: CONNECT_TIMEOUT,
                keep_alive_interval: KEEP_ALIVE,
                keep_alive_timeout: KEEP_ALIVE,
                keep_alive_while_idle: true,
                source: self.source,
            };
            let dialled = tokio::time::timeout(CONNECT_TIMEOUT, connect(&self.address, self.config.clone(), &options));
            let result = match dialled.await {
                Ok(Ok(channel)) => Ok(channel),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("{} did not finish the handshake in time", self.address)),
            };
            self.settle(result)
        });
        task.map(|joined| joined.unwrap_or_else(|_| Err("this node is shutting down".into())))
            .boxed()
            .shared()
    }

    fn settle(&self, result: Result<Channel, String>) -> Result<Connection, Arc<str>> {
        let mut inner = self.lock();
        match result {
            Ok(channel) => {
                inner.serial += 1;
                let connection = Connection {
                    channel,
                    serial: inner.serial,
                    proven: Arc::default(),
                };
                inner.state = State::Ready(connection.clone());
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
        self.state = State::Pausing {
            until: Instant::now() + pause,
            reason,
        };
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
