//! The wire between the clusters: a relay of bytes that can be cut.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A relay to one address. While it is cut, connections through it end and new ones come to nothing.
pub struct Wire {
    address: SocketAddr,
    whole: watch::Sender<bool>,
    bytes: Arc<AtomicU64>,
}

impl Wire {
    /// A wire that ends at `target`, which may be set later.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn new() -> Result<(Self, Target)> {
        let listener = TcpListener::bind("127.0.0.2:0").await?;
        let address = listener.local_addr()?;
        let (whole, state) = watch::channel(true);
        let target = Target::default();
        let bytes = Arc::<AtomicU64>::default();
        tokio::spawn(relay(listener, target.clone(), state, bytes.clone()));
        Ok((Self { address, whole, bytes }, target))
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that it has carried, both ways: those of TLS, without what TCP and IP add.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Cuts it, or joins it again.
    pub fn set_whole(&self, whole: bool) {
        self.whole.send_replace(whole);
    }
}

/// Where a wire ends.
#[derive(Clone, Default)]
pub struct Target(Arc<Mutex<Option<String>>>);

impl Target {
    /// Sets it.
    pub fn set(&self, address: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn relay(listener: TcpListener, target: Target, whole: watch::Receiver<bool>, bytes: Arc<AtomicU64>) {
    while let Ok((inbound, _)) = listener.accept().await {
        let (target, mut whole, bytes) = (target.get(), whole.clone(), bytes.clone());
        let Some(target) = target.filter(|_| *whole.borrow()) else { continue };
        tokio::spawn(async move {
            let carried = async {
                let outbound = TcpStream::connect(target).await?;
                inbound.set_nodelay(true)?;
                outbound.set_nodelay(true)?;
                let ((from, back), (answers, to)) = (inbound.into_split(), outbound.into_split());
                tokio::try_join!(carry(from, to, &bytes), carry(answers, back, &bytes))
            };
            tokio::select! {
                _ = carried => {}
                _ = whole.wait_for(|whole| !whole) => {}
            }
        });
    }
}

/// Carries one direction of a connection, and counts.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, bytes: &AtomicU64) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        bytes.fetch_add(count as u64, Ordering::Relaxed);
        to.write_all(&buffer[..count]).await?;
    }
}
