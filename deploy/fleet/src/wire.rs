//! The wire between the clusters: a relay of bytes that can be cut.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A relay to one address. While it is cut, connections through it end and new ones come to nothing.
pub struct Wire {
    address: SocketAddr,
    whole: watch::Sender<bool>,
}

impl Wire {
    /// A wire that ends at `target`, which may be set later.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn new() -> Result<(Self, Target)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (whole, state) = watch::channel(true);
        let target = Target::default();
        tokio::spawn(relay(listener, target.clone(), state));
        Ok((Self { address, whole }, target))
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
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

async fn relay(listener: TcpListener, target: Target, whole: watch::Receiver<bool>) {
    while let Ok((inbound, _)) = listener.accept().await {
        let (target, mut whole) = (target.get(), whole.clone());
        let Some(target) = target.filter(|_| *whole.borrow()) else { continue };
        tokio::spawn(async move {
            let carried = async {
                let mut inbound = inbound;
                let mut outbound = TcpStream::connect(target).await?;
                copy_bidirectional(&mut inbound, &mut outbound).await
            };
            tokio::select! {
                _ = carried => {}
                _ = whole.wait_for(|whole| !whole) => {}
            }
        });
    }
}
