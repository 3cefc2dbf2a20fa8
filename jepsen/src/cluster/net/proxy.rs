//! A TCP proxy on a thread of its own, whose connections obey the state of the links that they stand for.
//!
//! The thread can live in another network namespace than the rest of the process: sockets belong to the namespace of the thread that makes
//! them.

use std::collections::HashMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::Harms;
use super::gate::Gate;
use super::pump::pump;

/// Whoever is no node: clients, and nodes that were not named yet. The links to and from it are cut only if asked for.
pub const OUTSIDE: u64 = 0;

/// How long the proxy tries to reach the node that was meant. Beyond that the caller has given up too.
const DIAL_WITHIN: Duration = Duration::from_secs(10);
/// Between two tries to accept after one failed, for want of descriptors perhaps.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Where a connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The address that was meant by the caller, which says which node was meant.
    pub meant: IpAddr,
    /// Where the node listens.
    pub target: SocketAddr,
}

/// Says where an accepted connection goes; `None` closes it.
pub type Route = Arc<dyn Fn(&TcpStream) -> Option<Way> + Send + Sync>;

/// The proxy. Dropping it closes all its connections.
pub struct Proxy {
    shared: Arc<Shared>,
    handle: Handle,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    gate: Gate,
    names: Mutex<HashMap<IpAddr, u64>>,
}

impl Proxy {
    /// Starts a proxy without listeners, in this network namespace if one is given. `seed` decides what lossy links lose.
    ///
    /// # Errors
    /// If the thread cannot be started or cannot enter the namespace.
    pub fn start(namespace: Option<File>, seed: u64) -> Result<Self> {
        let stop = CancellationToken::new();
        let (ready, started) = mpsc::channel();
        let until = stop.clone();
        let thread = std::thread::Builder::new().name("proxy".into()).spawn(move || {
            let runtime = match enter(namespace) {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(runtime.handle().clone()));
            runtime.block_on(until.cancelled());
        })?;
        let handle = started.recv().context("the proxy's thread has ended")??;
        Ok(Self { shared: Arc::new(Shared { gate: Gate::new(seed), names: Mutex::default() }), handle, stop, thread: Some(thread) })
    }

    /// Listens here, and passes connections on as `route` says. Returns the bound address.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn listen(&self, address: SocketAddr, route: Route) -> Result<SocketAddr> {
        let (bound, wait) = mpsc::channel();
        let shared = self.shared.clone();
        self.handle.spawn(async move {
            let listener = match TcpListener::bind(address).await {
                Ok(listener) => listener,
                Err(error) => return drop(bound.send(Err(error))),
            };
            let _ = bound.send(listener.local_addr());
            loop {
                match listener.accept().await {
                    Ok((stream, source)) => drop(tokio::spawn(carry(stream, source, route.clone(), shared.clone()))),
                    Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
                }
            }
        });
        wait.recv().context("the proxy's thread has ended")?.with_context(|| format!("the proxy cannot listen at {address}"))
    }

    /// Says which node an address belongs to.
    pub fn name(&self, address: IpAddr, id: u64) {
        self.names().insert(address, id);
    }

    /// An address of a node that was named.
    pub(super) fn address_of(&self, id: u64) -> Option<IpAddr> {
        let names = self.names();
        names.iter().find(|(_, named)| **named == id).map(|(address, _)| *address)
    }

    /// Sets what was done to which links; all others are whole.
    pub fn set(&self, harms: &Harms) {
        self.shared.gate.set(harms);
    }

    fn names(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, u64>> {
        self.shared.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A runtime for this thread, in the namespace.
fn enter(namespace: Option<File>) -> Result<tokio::runtime::Runtime> {
    if let Some(namespace) = namespace {
        setns(namespace, CloneFlags::CLONE_NEWNET).context("the proxy cannot enter its network namespace")?;
    }
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

impl Shared {
    fn id_of(&self, address: IpAddr) -> u64 {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(&address).copied().unwrap_or(OUTSIDE)
    }
}

/// One connection, from its acceptance to its end.
async fn carry(mut caller: TcpStream, source: SocketAddr, route: Route, shared: Arc<Shared>) {
    let Some(way) = route(&caller) else { return };
    let (from, to) = (shared.id_of(source.ip()), shared.id_of(way.meant));
    // Neither the caller's first packet nor its answer would cross a cut link.
    shared.gate.open(&[(from, to), (to, from)]).await;
    let dialled = tokio::time::timeout(DIAL_WITHIN, TcpStream::connect(way.target)).await;
    let Ok(Ok(mut target)) = dialled else {
        return reset(&caller);
    };
    let _ = (caller.set_nodelay(true), target.set_nodelay(true));
    let (caller_read, caller_write) = caller.split();
    let (target_read, target_write) = target.split();
    let carried = tokio::try_join!(
        pump(caller_read, target_write, (from, to), &shared.gate),
        pump(target_read, caller_write, (to, from), &shared.gate),
    );
    if carried.is_err() {
        reset(&caller);
        reset(&target);
    }
}

/// Has the connection end with a reset rather than in good order when it is dropped.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
