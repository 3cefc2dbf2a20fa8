//! A three-node etcd cluster on loopback, and puts against it.
//!
//! The load generator speaks etcd's gRPC API, version 3: `etcdserverpb.KV/Put` with a key and a value. etcd acknowledges a put when a majority
//! of its members has it in a synced write-ahead log, which is what tarn does for every step of a task.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::Measured;

/// How long the cluster may take until it serves.
const READY_WITHIN: Duration = Duration::from_secs(30);

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

/// A running etcd cluster; dropping it ends its processes.
pub struct Etcd {
    processes: Vec<Child>,
    endpoints: Vec<String>,
}

impl Etcd {
    /// Starts three members with their data below `dir`, and waits until they serve.
    pub async fn start(dir: &Path) -> Result<Self> {
        let urls: Vec<String> = free_ports(6)?.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let (peers, endpoints) = urls.split_at(3);
        let members: Vec<String> = peers.iter().enumerate().map(|(at, peer)| format!("m{at}={peer}")).collect();
        let mut etcd = Self { processes: Vec::new(), endpoints: endpoints.to_vec() };
        for (at, (peer, endpoint)) in peers.iter().zip(endpoints).enumerate() {
            let process = Command::new("etcd")
                .args(["--name", &format!("m{at}"), "--data-dir"])
                .arg(dir.join(format!("m{at}")))
                .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
                .args(["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint])
                .args(["--initial-cluster", &members.join(","), "--initial-cluster-state", "new", "--log-level", "error"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("etcd cannot be started; is the package etcd-server installed?")?;
            etcd.processes.push(process);
        }
        etcd.wait_until_served().await?;
        Ok(etcd)
    }

    async fn wait_until_served(&self) -> Result<()> {
        let end = Instant::now() + READY_WITHIN;
        loop {
            let tried = async { put(&mut Grpc::new(channel(&self.endpoints[0])?), Bytes::from_static(b"ready"), Bytes::new()).await };
            match tried.await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= end => bail!("etcd does not serve: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Puts values from this many clients at once, each its next when the last is acknowledged, over so many connections.
    pub async fn puts(&self, clients: usize, connections: usize, payload: usize, time: Duration) -> Result<Measured> {
        let channels: Vec<Channel> =
            self.endpoints.iter().cycle().take(connections.max(3)).map(|endpoint| channel(endpoint)).collect::<Result<_>>()?;
        let end = Arc::new(AtomicBool::new(false));
        let began = Instant::now();
        let clients: Vec<_> = (0..clients)
            .map(|number| {
                let (channel, end) = (channels[number % channels.len()].clone(), end.clone());
                tokio::spawn(client(channel, number, payload, end))
            })
            .collect();
        tokio::time::sleep(time).await;
        end.store(true, Ordering::Relaxed);
        let mut micros = Vec::new();
        for client in clients {
            micros.extend(client.await??);
        }
        Ok(Measured::new(micros, began.elapsed()))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

async fn client(channel: Channel, number: usize, payload: usize, end: Arc<AtomicBool>) -> Result<Vec<u32>> {
    let mut grpc = Grpc::new(channel);
    let value = Bytes::from(vec![b'x'; payload]);
    let mut micros = Vec::new();
    while !end.load(Ordering::Relaxed) {
        let key = Bytes::from(format!("bench/{number}/{}", micros.len()));
        let began = Instant::now();
        put(&mut grpc, key, value.clone()).await?;
        micros.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(micros)
}

async fn put(grpc: &mut Grpc<Channel>, key: Bytes, value: Bytes) -> Result<()> {
    grpc.ready().await?;
    let path = http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Put");
    let codec: ProstCodec<PutRequest, PutResponse> = ProstCodec::default();
    grpc.unary(tonic::Request::new(PutRequest { key, value }), path, codec).await?;
    Ok(())
}

fn channel(endpoint: &str) -> Result<Channel> {
    Ok(Endpoint::from_shared(endpoint.to_owned())?.tcp_nodelay(true).connect_lazy())
}

fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let ports: Vec<u16> = listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<Result<_>>()?;
    ensure!(ports.len() == count, "too few free ports");
    Ok(ports)
}
