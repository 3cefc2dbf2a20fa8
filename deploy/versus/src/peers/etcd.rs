//! A three-node etcd cluster on loopback: puts, and linearizable gets.
//!
//! The clients speak etcd's gRPC API, version 3 (`etcdserverpb.KV`), as every etcd client does. etcd acknowledges a put when a majority of
//! its members has it in a synced write-ahead log; that is its usual mode. A linearizable get is answered once the member knows that the
//! leader still leads. Compression, authentication and TLS are off; nothing is compacted during a run.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use rand::Rng;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::servers::{Servers, free_ports, output};
use crate::drive;
use crate::measure::{Load, Samples};
use crate::scenario::GET_KEYS;

/// How long the cluster may take until it serves.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Puts at once while keys are made for gets.
const FILLERS: usize = 64;
/// How large the database may grow, in bytes: a run is not compacted, and etcd's own limit of 2 GiB would end a long one.
const QUOTA_BYTES: u64 = 8 << 30;

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// The answer's fields are not of interest; those that come are skipped.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// `serializable` is left out, and so the read is linearizable.
#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// A running etcd cluster; dropping it ends its processes.
pub struct Etcd {
    servers: Servers,
    endpoints: Vec<String>,
    version: String,
    /// Each load's keys have a prefix of their own, so that every put makes a key.
    loads: AtomicU64,
}

impl Etcd {
    /// Starts three members with their data below `dir`, and waits until they serve.
    ///
    /// # Errors
    /// If etcd is not installed, or does not serve in time.
    pub async fn start(dir: &Path) -> Result<Self> {
        let urls: Vec<String> = free_ports(6)?.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let (peers, endpoints) = urls.split_at(3);
        let members: Vec<String> = peers.iter().enumerate().map(|(at, peer)| format!("m{at}={peer}")).collect();
        let said = output(Command::new("etcd").arg("--version"))?;
        let version = said.lines().next().unwrap_or_default().trim().to_owned();
        let mut etcd = Self { servers: Servers::default(), endpoints: endpoints.to_vec(), version, loads: AtomicU64::new(0) };
        for (at, (peer, endpoint)) in peers.iter().zip(endpoints).enumerate() {
            let mut command = Command::new("etcd");
            command
                .args(["--name", &format!("m{at}"), "--data-dir"])
                .arg(dir.join(format!("m{at}")))
                .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
                .args(["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint])
                .args(["--initial-cluster", &members.join(","), "--initial-cluster-state", "new", "--log-level", "error"])
                .args(["--quota-backend-bytes", &QUOTA_BYTES.to_string()]);
            etcd.servers.start(&format!("etcd m{at}"), &mut command, &dir.join(format!("m{at}.log")))?;
        }
        for endpoint in endpoints {
            let kv = Kv::connect(endpoint)?;
            etcd.servers.ready(READY_WITHIN, async || kv.put(Bytes::from_static(b"ready"), Bytes::new()).await).await?;
        }
        Ok(etcd)
    }

    /// The processes of the members.
    pub fn pids(&self) -> Vec<u32> {
        self.servers.pids()
    }

    /// What etcd promises here.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        vec![
            ("version", self.version.clone()),
            ("replication", "3 members, majority".to_owned()),
            ("fsync", "on a majority before each acknowledgement".to_owned()),
            ("transport", "gRPC without TLS".to_owned()),
        ]
    }

    /// Connections for the clients, all of them to the leader: spread over the members, puts are about as fast and gets slower, since a
    /// follower asks the leader about each.
    async fn connections(&self, load: &Load) -> Result<Vec<Kv>> {
        let leader = self.leader().await?;
        (0..load.connections.max(1)).map(|_| Kv::connect(leader)).collect()
    }

    async fn leader(&self) -> Result<&str> {
        for endpoint in &self.endpoints {
            let status: StatusResponse = Kv::connect(endpoint)?.call("/etcdserverpb.Maintenance/Status", StatusRequest {}).await?;
            if status.header.is_some_and(|header| header.member_id == status.leader) {
                return Ok(endpoint);
            }
        }
        bail!("no member of etcd says that it leads")
    }

    /// Puts a new key each time.
    ///
    /// # Errors
    /// If a put fails.
    pub async fn puts(&self, load: &Load) -> Result<Samples> {
        let connections = self.connections(load).await?;
        let (value, prefix) = (Bytes::from(vec![b'x'; load.payload]), self.prefix("put"));
        drive::clients(load, move |client, done| {
            let (kv, value) = (connections[client % connections.len()].clone(), value.clone());
            let key = Bytes::from(format!("{prefix}/{client}/{done}"));
            async move { kv.put(key, value).await }
        })
        .await
    }

    /// Gets keys at random, after [`GET_KEYS`] of them were put.
    ///
    /// # Errors
    /// If a put or a get fails, or a get finds another value than was put.
    pub async fn gets(&self, load: &Load) -> Result<Samples> {
        let connections = self.connections(load).await?;
        let (value, prefix) = (Bytes::from(vec![b'x'; load.payload]), self.prefix("get"));
        let next = Arc::new(AtomicU64::new(0));
        let fillers = (0..FILLERS).map(|number| {
            let (kv, next, value) = (connections[number % connections.len()].clone(), next.clone(), value.clone());
            let prefix = prefix.clone();
            async move {
                while let Some(key) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|key| *key < GET_KEYS) {
                    kv.put(format!("{prefix}/{key}").into(), value.clone()).await?;
                }
                anyhow::Ok(())
            }
        });
        futures::future::try_join_all(fillers).await?;
        drive::clients(load, move |client, _| {
            let (kv, value) = (connections[client % connections.len()].clone(), value.clone());
            let key = Bytes::from(format!("{prefix}/{}", rand::rng().random_range(0..GET_KEYS)));
            async move {
                let found = kv.get(key).await?;
                ensure!(found.as_ref() == Some(&value), "etcd gave another value than was put");
                Ok(())
            }
        })
        .await
    }

    fn prefix(&self, what: &str) -> String {
        format!("{what}-{}", self.loads.fetch_add(1, Ordering::Relaxed))
    }
}

/// One connection to one member.
#[derive(Clone)]
struct Kv {
    grpc: Grpc<Channel>,
}

impl Kv {
    fn connect(endpoint: &str) -> Result<Kv> {
        Ok(Kv { grpc: Grpc::new(Endpoint::from_shared(endpoint.to_owned())?.tcp_nodelay(true).connect_lazy()) })
    }

    async fn put(&self, key: Bytes, value: Bytes) -> Result<()> {
        let _: PutResponse = self.call("/etcdserverpb.KV/Put", PutRequest { key, value }).await?;
        Ok(())
    }

    async fn get(&self, key: Bytes) -> Result<Option<Bytes>> {
        let found: RangeResponse = self.call("/etcdserverpb.KV/Range", RangeRequest { key }).await?;
        Ok(found.kvs.into_iter().next().map(|found| found.value))
    }

    async fn call<Q, R>(&self, path: &'static str, request: Q) -> Result<R>
    where
        Q: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc.clone();
        grpc.ready().await?;
        let codec: ProstCodec<Q, R> = ProstCodec::default();
        Ok(grpc.unary(tonic::Request::new(request), http::uri::PathAndQuery::from_static(path), codec).await?.into_inner())
    }
}
