//! Named leases: locks with a holder, an end, and a fencing token that only grows.

use std::time::Duration;

use futures::Stream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::client::{Client, request_id, rpc};
use crate::error::Error;
use crate::page;
use crate::proto::{self, lease_service_client::LeaseServiceClient};
use crate::time::{from_now, millis};

/// How long a lock outlives its holder unless told otherwise.
const TTL: Duration = Duration::from_secs(30);
/// How often somebody who waits for a lock asks again: often enough for people, seldom enough for the log that each question enters.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// The reason with which the cluster refuses a lock that another holds.
const LEASE_HELD: &str = "LEASE_HELD";

/// How a lock is to be taken; made by [`Client::lock`].
#[derive(Clone)]
pub struct LockBuilder {
    client: Client,
    name: String,
    holder: String,
    ttl: Duration,
    wait: Duration,
}

/// A lock that is held. It renews itself until it is released, dropped or lost.
///
/// A lock in a distributed system is advice: a holder that was paused may still believe in a lock that has gone to another. What makes it
/// safe is the [token](Lock::token), a number that grows with each holder: give it to the store that the lock protects, and have that
/// store refuse tokens that are older than the newest it has seen.
///
/// Dropping it releases it in the background, as far as that succeeds; otherwise it ends by itself after its time to live.
/// [`Lock::release`] waits for the release and tells how it went.
pub struct Lock {
    client: Client,
    lease: proto::NamedLease,
    lost: CancellationToken,
    renewal: AbortOnDropHandle<()>,
    released: bool,
}

impl LockBuilder {
    /// Who holds it, for people to read: up to 256 bytes. The process id and a random text unless given.
    pub fn holder(mut self, holder: impl Into<String>) -> Self {
        self.holder = holder.into();
        self
    }

    /// How long the lock outlives its holder: from one second to 24 hours. 30 seconds unless given. It is renewed at a third of that.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Waits up to this long while another holds it. Without it, a held lock is refused at once.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason `LEASE_HELD` while another holds it; see [`Error`].
    pub async fn acquire(self) -> Result<Lock, Error> {
        let end = from_now(self.wait);
        loop {
            let asked = Instant::now();
            match self.client.acquire_lease(&self.name, &self.holder, self.ttl).await {
                Ok(lease) => return Ok(Lock::new(self.client, lease, asked, self.ttl)),
                Err(error) if error.reason() == LEASE_HELD && Instant::now() + ASK_AGAIN <= end => {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Lock {
    fn new(client: Client, lease: proto::NamedLease, asked: Instant, ttl: Duration) -> Lock {
        let lost = CancellationToken::new();
        let renewal = tokio::spawn(renew(client.clone(), lease.clone(), asked, ttl, lost.clone()));
        Lock { client, lease, lost, renewal: AbortOnDropHandle::new(renewal), released: false }
    }

    /// The fencing token: greater than that of every earlier holder.
    pub fn token(&self) -> u64 {
        self.lease.token
    }

    /// The lock's name.
    pub fn name(&self) -> &str {
        &self.lease.name
    }

    /// Whether the lock is known to be lost: it could not be renewed in time, or was given to another.
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Waits until the lock is lost; for ever while it is held.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Releases the lock and waits for the cluster's answer.
    ///
    /// # Errors
    /// [`Error::Refused`] where the lock was lost before; see [`Error`].
    pub async fn release(mut self) -> Result<(), Error> {
        self.renewal.abort();
        // From here on dropping need not release again: if this call fails, it has tried for as long as the deadline allows.
        self.released = true;
        self.client.release_lease(&self.lease.name, self.lease.token).await
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.released || self.is_lost() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (client, name, token) = (self.client.clone(), std::mem::take(&mut self.lease.name), self.lease.token);
            runtime.spawn(async move {
                if let Err(error) = client.release_lease(&name, token).await {
                    tracing::debug!(lock = name, %error, "a dropped lock was not released and will expire");
                }
            });
        }
    }
}

/// Renews the lease at a third of its time to live. Reports it as lost when the cluster says so, or when it has not been renewed for its
/// whole time to live by this machine's clock, counted from before the last successful renewal was sent.
async fn renew(client: Client, lease: proto::NamedLease, asked: Instant, ttl: Duration, lost: CancellationToken) {
    let mut renewed = asked;
    loop {
        tokio::time::sleep_until(renewed + ttl / 3).await;
        let asked = Instant::now();
        let left = (renewed + ttl).saturating_duration_since(asked);
        match client.with_deadline(left).renew_lease(&lease.name, lease.token, ttl).await {
            Ok(_) => renewed = asked,
            Err(error) => {
                tracing::warn!(lock = lease.name, %error, "a lock is lost");
                lost.cancel();
                return;
            }
        }
    }
}

impl Client {
    /// A lock of this name, to be taken with [`LockBuilder::acquire`].
    pub fn lock(&self, name: impl Into<String>) -> LockBuilder {
        LockBuilder {
            client: self.clone(),
            name: name.into(),
            holder: format!("process {} {}", std::process::id(), &request_id()[..8]),
            ttl: TTL,
            wait: Duration::ZERO,
        }
    }

    /// Acquires a named lease without renewing it; [`Client::lock`] is the comfortable way.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason `LEASE_HELD` while another holds it; see [`Error`].
    pub async fn acquire_lease(&self, name: &str, holder: &str, ttl: Duration) -> Result<proto::NamedLease, Error> {
        let request = proto::AcquireLeaseRequest {
            request_id: String::new(),
            namespace: self.ns(),
            name: name.to_owned(),
            holder: holder.to_owned(),
            ttl_ms: millis(ttl),
        };
        given(self.command(request, rpc!(LeaseServiceClient.acquire_lease)).await?.lease)
    }

    /// Extends a named lease: it ends this long from now.
    ///
    /// # Errors
    /// [`Error::Refused`] where the token is not the present holder's; see [`Error`].
    pub async fn renew_lease(&self, name: &str, token: u64, ttl: Duration) -> Result<proto::NamedLease, Error> {
        let request =
            proto::RenewLeaseRequest { request_id: String::new(), namespace: self.ns(), name: name.to_owned(), token, ttl_ms: millis(ttl) };
        given(self.command(request, rpc!(LeaseServiceClient.renew_lease)).await?.lease)
    }

    /// Ends a named lease.
    ///
    /// # Errors
    /// [`Error::Refused`] where the token is not the present holder's; see [`Error`].
    pub async fn release_lease(&self, name: &str, token: u64) -> Result<(), Error> {
        let request = proto::ReleaseLeaseRequest { request_id: String::new(), namespace: self.ns(), name: name.to_owned(), token };
        self.command(request, rpc!(LeaseServiceClient.release_lease)).await.map(drop)
    }

    /// Reads a named lease.
    ///
    /// # Errors
    /// [`Error::Refused`] where nobody holds it; see [`Error`].
    pub async fn get_lease(&self, name: impl Into<String>) -> Result<proto::NamedLease, Error> {
        let request = proto::GetLeaseRequest { namespace: self.ns(), name: name.into() };
        given(self.read(request, rpc!(LeaseServiceClient.get_lease)).await?.lease)
    }

    /// Lists the named leases of the client's namespace.
    pub fn list_leases(&self) -> impl Stream<Item = Result<proto::NamedLease, Error>> + Send + use<> {
        let client = self.clone();
        page::items(move |page_token| {
            let client = client.clone();
            async move {
                let request = proto::ListLeasesRequest { namespace: client.ns(), page_size: 0, page_token };
                let page = client.read(request, rpc!(LeaseServiceClient.list_leases)).await?;
                Ok((page.leases, page.next_page_token))
            }
        })
    }
}

fn given(lease: Option<proto::NamedLease>) -> Result<proto::NamedLease, Error> {
    lease.ok_or_else(|| Error::Transport("the node answered without the lease".into()))
}
