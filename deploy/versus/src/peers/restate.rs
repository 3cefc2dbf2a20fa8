//! A three-node Restate cluster on loopback, and durable calls through it.
//!
//! A call goes over HTTP to a node's ingress, which answers with the handler's result. Before the handler runs, the call is in the
//! replicated log, and before the caller gets the result, that is too: each in the synced logs of two of the three nodes. The handler is a
//! service of Restate's own SDK in this process, and does nothing but answer.
//!
//! How it is tuned: one partition for every two processors, as each partition is a log of its own to sync and a state of its own to write;
//! callers spread over the nodes and keep their connections; the handler's answers leave at once. On two processors one partition took more
//! calls than two or four from 1 and 16 clients, and as many from 64. Switching off the compression between nodes, or what is kept of calls
//! that have ended, changed nothing that could be measured: both stay as they are by default.

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt::TcpNoDelay};
use restate_sdk::prelude::{Context, Endpoint, HttpServer, service};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::pace::{self, Client};
use super::servers::{Servers, free_ports, output};
use crate::measure::{Load, Samples};

/// How long the cluster may take until it serves.
const READY_WITHIN: Duration = Duration::from_secs(90);
const NODES: usize = 3;
const CALL: &str = "/Trivial/call";

/// Answers a call with its payload's first eight bytes.
struct Trivial {
    executed: Arc<AtomicU64>,
}

#[service]
impl Trivial {
    #[handler]
    async fn call(&self, _context: Context<'_>, payload: Bytes) -> Result<Bytes, Infallible> {
        self.executed.fetch_add(1, Ordering::Relaxed);
        Ok(payload.slice(..payload.len().min(8)))
    }
}

/// A running cluster, and the endpoint that it calls; dropping it ends both.
pub struct Restate {
    servers: Servers,
    ingresses: Vec<String>,
    version: String,
    partitions: usize,
    executed: Arc<AtomicU64>,
    endpoint: JoinHandle<()>,
}

impl Restate {
    /// Starts three nodes with their data below `dir`, registers the handler, and waits until a call succeeds through each of them. The
    /// program is the one that the environment variable `RESTATE_SERVER` names, else `restate-server`.
    ///
    /// # Errors
    /// If there is no such program, or the cluster does not serve in time.
    pub async fn start(dir: &Path) -> Result<Self> {
        let program = std::env::var_os("RESTATE_SERVER").unwrap_or_else(|| "restate-server".into());
        let version = output(Command::new(&program).arg("--version"))?.trim().to_owned();
        let executed = Arc::new(AtomicU64::new(0));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        // What a listener is told holds for its connections. The SDK does not tell them, and a handler's answer would wait for up to 40
        // milliseconds until the other side has acknowledged what came before.
        setsockopt(&listener, TcpNoDelay, &true)?;
        let uri = format!("http://{}", listener.local_addr()?);
        let service = Endpoint::builder().bind(Trivial { executed: executed.clone() }).build();
        let endpoint = tokio::spawn(HttpServer::new(service).serve_with_cancel(listener, std::future::pending::<()>()));

        let ports = free_ports(3 * NODES)?;
        let addresses: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let (fabrics, rest) = addresses.split_at(NODES);
        let (ingresses, admins) = rest.split_at(NODES);
        let partitions = std::thread::available_parallelism()?.get().div_ceil(2);
        let mut restate = Self { servers: Servers::default(), ingresses: ingresses.to_vec(), version, partitions, executed, endpoint };
        let members: Vec<String> = fabrics.iter().map(|fabric| format!("http://{fabric}")).collect();
        for (at, fabric) in fabrics.iter().enumerate() {
            let (name, config) = (format!("n{at}"), dir.join(format!("n{at}.toml")));
            let settings = serde_json::json!({
                "node-name": name,
                "cluster-name": "versus",
                "base-dir": dir,
                "listen-mode": "tcp",
                "bind-address": fabric,
                "advertised-address": format!("http://{fabric}"),
                // One node makes the cluster.
                "auto-provision": at == 0,
                "default-num-partitions": partitions,
                "default-replication": 2,
                "disable-telemetry": true,
                "log-filter": "warn",
                "metadata-client": { "type": "replicated", "addresses": members },
                "ingress": { "bind-address": ingresses[at] },
                "admin": { "bind-address": admins[at], "disable-web-ui": true },
                "bifrost": { "default-provider": "replicated" },
                "log-server": { "rocksdb-disable-wal-fsync": false },
            });
            fs::write(&config, toml::to_string(&settings)?)?;
            let mut command = Command::new(&program);
            command.arg("--no-logo").arg("--config-file").arg(&config).env("DO_NOT_TRACK", "1");
            restate.servers.start(&format!("restate-server {name}"), &mut command, &dir.join(format!("{name}.log")))?;
        }
        let deployment = Bytes::from(serde_json::json!({ "uri": uri }).to_string());
        let (admin, ingresses) = (&admins[0], &restate.ingresses);
        restate
            .servers
            .ready(READY_WITHIN, async || Caller::new(admin).await?.post("/deployments", deployment.clone(), None).await)
            .await?;
        restate
            .servers
            .ready(READY_WITHIN, async || {
                for ingress in ingresses {
                    Caller::new(ingress).await?.post(CALL, Bytes::from_static(b"ready"), None).await?;
                }
                Ok(())
            })
            .await?;
        Ok(restate)
    }

    /// The servers' process ids.
    pub fn pids(&self) -> Vec<u32> {
        self.servers.pids()
    }

    /// Version, replication and what is synced when.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        vec![
            ("version", self.version.clone()),
            ("replication", format!("2 of 3 log servers, {} partitions", self.partitions)),
            ("fsync", "before acknowledgement, by both log servers".to_owned()),
        ]
    }

    /// Calls the handler, each client its next when the last has answered, or when it is due. A call that a connection loses is not
    /// repeated, as the caller could not know whether it ran; unless each call has an idempotency key, under which Restate keeps its result
    /// for a day.
    ///
    /// # Errors
    /// If a call fails or is answered wrongly, or a handler did not run for every call.
    pub async fn call(&self, load: &Load, with_keys: bool) -> Result<Samples> {
        ensure!(load.payload >= 8, "a payload needs 8 bytes at least");
        let executed_before = self.executed.load(Ordering::Relaxed);
        let calls = Arc::new(AtomicU64::new(0));
        let filling: Arc<[u8]> = vec![b'x'; load.payload - 8].into();
        let key_prefix = with_keys.then(|| format!("{}-{executed_before}", std::process::id()));
        let mut clients = Vec::new();
        for client in 0..load.clients {
            let caller = Caller::new(&self.ingresses[client % NODES]).await?;
            clients.push(Calls { caller, calls: calls.clone(), filling: filling.clone(), key_prefix: key_prefix.clone() });
        }
        let mut samples = pace::drive(load, clients).await?;
        let executed = self.executed.load(Ordering::Relaxed) - executed_before;
        let calls = calls.load(Ordering::Relaxed);
        ensure!(executed >= calls, "{calls} calls were answered and {executed} executed");
        if executed > calls {
            samples.facts.push(("executed_again", (executed - calls).to_string()));
        }
        Ok(samples)
    }
}

impl Drop for Restate {
    fn drop(&mut self) {
        self.endpoint.abort();
    }
}

/// A client that calls the handler.
struct Calls {
    caller: Caller,
    /// How many calls all clients have made.
    calls: Arc<AtomicU64>,
    filling: Arc<[u8]>,
    /// What idempotency keys begin with, if calls have any.
    key_prefix: Option<String>,
}

impl Client for Calls {
    async fn operate(&mut self) -> Result<()> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let payload = Bytes::from([&number.to_le_bytes()[..], &self.filling].concat());
        let key = self.key_prefix.as_ref().map(|prefix| format!("{prefix}-{number}"));
        let answer = self.caller.post(CALL, payload, key).await?;
        ensure!(answer == number.to_le_bytes()[..], "a call was answered with another's result");
        Ok(())
    }
}

/// A connection to a node.
struct Caller {
    address: String,
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Caller {
    async fn new(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { address: address.to_owned(), sender })
    }

    /// Posts a body, and returns the answer's.
    async fn post(&mut self, path: &str, body: Bytes, key: Option<String>) -> Result<Bytes> {
        let media = if path == CALL { "application/octet-stream" } else { "application/json" };
        let mut request = http::Request::post(path).header("host", &self.address).header("content-type", media);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.sender.ready().await?;
        let answer = self.sender.send_request(request.body(Full::new(body))?).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await.context("an answer was cut")?.to_bytes();
        if !status.is_success() {
            bail!("{path}: {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(body)
    }
}
