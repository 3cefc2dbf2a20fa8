//! A cluster of real `tarn` processes on this machine.
//!
//! Makes keys with `tarn ca`, writes one configuration file per node, starts the nodes on loopback ports that were free a moment ago, and
//! hands out a client. Nodes can be killed with SIGKILL, stopped with SIGTERM and started again. Only processes that were started here are
//! ever signalled, by their process id, and none outlives the [`LocalCluster`].
//!
//! ```text
//! DIR/ca             the authority
//! DIR/user           the user's certificate and key
//! DIR/node-N.toml    configuration
//! DIR/node-N         data
//! DIR/node-N.log     what the node wrote to standard error, over all its starts
//! ```

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tarn_client::{Client, Credentials};

/// How long a cluster may take to elect a leader after its start. Generous: the machine may be busy with a build.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a node may take to end after SIGTERM, its grace time for running attempts included.
const STOP_WITHIN: Duration = Duration::from_secs(40);

/// One node's process, if it runs.
struct Node {
    address: String,
    ops_address: String,
    process: Option<Child>,
}

/// A cluster whose nodes are processes of this machine. Dropping it kills those that still run.
pub struct LocalCluster {
    tarn: PathBuf,
    dir: PathBuf,
    nodes: Vec<Node>,
    /// Lines of configuration that every node has.
    settings: Vec<String>,
}

impl LocalCluster {
    /// Makes keys and configuration for this many nodes in an empty directory. `settings` are lines of TOML keys and values, such as
    /// `("raft.snapshot_entries", "500")`, for every node.
    ///
    /// # Errors
    /// If `tarn` cannot be run or refuses, or the directory cannot be written.
    pub fn create(tarn: &Path, dir: &Path, nodes: usize, settings: &[(&str, &str)]) -> Result<Self> {
        Self::create_with(tarn, dir, &[], nodes, settings)
    }

    /// The same, of a cluster whose authority has this name.
    ///
    /// # Errors
    /// As [`LocalCluster::create`].
    pub fn create_named(tarn: &Path, dir: &Path, name: &str, nodes: usize, settings: &[(&str, &str)]) -> Result<Self> {
        Self::create_with(tarn, dir, &["--cluster-id", name], nodes, settings)
    }

    fn create_with(tarn: &Path, dir: &Path, authority: &[&str], nodes: usize, settings: &[(&str, &str)]) -> Result<Self> {
        let mut cluster = Self {
            tarn: tarn.to_owned(),
            dir: dir.to_owned(),
            nodes: Vec::new(),
            settings: settings.iter().map(|(key, value)| format!("{key} = {value}")).collect(),
        };
        let ca = dir.join("ca");
        cluster.tarn(&[&["ca", "init", "--dir", &text(&ca)], authority].concat())?;
        cluster.tarn(&["ca", "issue", "--ca", &text(&ca), "--user", "admin", "--out", &text(&dir.join("user"))])?;
        for address in free_addresses(nodes)? {
            let [address, ops_address] = address;
            cluster.nodes.push(Node { address, ops_address, process: None });
        }
        let bootstrap: Vec<String> =
            cluster.nodes.iter().enumerate().map(|(at, node)| format!("\"{}={}\"", at + 1, node.address)).collect();
        for id in cluster.ids() {
            cluster.issue_key(id)?;
            cluster.write_config(id, Some(&format!("cluster.bootstrap = [{}]", bootstrap.join(", "))))?;
        }
        Ok(cluster)
    }

    /// Adds a node that is no member, with keys from the authority, and returns its id. Once started it waits until the cluster adds it.
    ///
    /// # Errors
    /// As [`LocalCluster::create`].
    pub fn issue_node(&mut self) -> Result<u64> {
        let id = self.reserve_node()?;
        self.issue_key(id)?;
        self.write_config(id, None)?;
        Ok(id)
    }

    /// Adds a node that gets its keys from the running cluster with `tarn node join` and a token, and returns its id. Once started it makes
    /// itself a member.
    ///
    /// # Errors
    /// If the cluster does not take the token, or gives the node another id than the next one here.
    pub fn join_node(&mut self, token: &str) -> Result<u64> {
        let addresses = self.addresses().join(",");
        let id = self.reserve_node()?;
        let (data, advertise) = (text(&self.data_dir(id)), self.node(id)?.address.clone());
        let join = ["node", "join", "--token", token, "--address", &addresses, "--advertise", &advertise];
        let joined = self.tarn(&[&join[..], &["--data-dir", &data, "-o", "json"]].concat());
        let answer = joined.inspect_err(|_| drop(self.nodes.pop()))?;
        ensure!(answer.contains(&format!("\"node_id\":{id}")) || answer.contains(&format!("\"node_id\": {id}")), "not node {id}: {answer}");
        self.write_config(id, None)?;
        Ok(id)
    }

    fn reserve_node(&mut self) -> Result<u64> {
        let [address, ops_address] = free_addresses(1)?.remove(0);
        self.nodes.push(Node { address, ops_address, process: None });
        Ok(self.nodes.len() as u64)
    }

    fn issue_key(&self, id: u64) -> Result<()> {
        let (ca, data) = (text(&self.dir.join("ca")), text(&self.data_dir(id)));
        self.tarn(&["ca", "issue", "--ca", &ca, "--node", &id.to_string(), "--data-dir", &data]).map(drop)
    }

    fn write_config(&self, id: u64, bootstrap: Option<&str>) -> Result<()> {
        let node = self.node(id)?;
        let mut lines = vec![
            format!("node.data_dir = {:?}", text(&self.data_dir(id))),
            format!("listen.bind = {:?}", node.address),
            format!("listen.ops_bind = {:?}", node.ops_address),
            "listen.https_bind = \"127.0.0.1:0\"".to_owned(),
        ];
        lines.extend(bootstrap.map(str::to_owned));
        lines.extend(self.settings.iter().cloned());
        Ok(fs::write(self.config(id), lines.join("\n") + "\n")?)
    }

    /// Adds a line of TOML key and value to one node's configuration, for its next start.
    ///
    /// # Errors
    /// If there is no such node, or its file cannot be written.
    pub fn add_setting(&self, id: u64, key: &str, value: &str) -> Result<()> {
        self.node(id)?;
        let mut file = OpenOptions::new().append(true).open(self.config(id))?;
        Ok(writeln!(file, "{key} = {value}")?)
    }

    /// Starts every node that does not run, and waits until the cluster has a leader.
    ///
    /// # Errors
    /// If a node ends at once, or no leader is elected in time; the message has the end of the logs.
    pub async fn start(&mut self) -> Result<()> {
        for id in self.ids() {
            if self.node(id)?.process.is_none() {
                self.start_node(id)?;
            }
        }
        self.wait_for_leader().await.map(drop)
    }

    /// Starts one node.
    ///
    /// # Errors
    /// If it runs already or cannot be started.
    pub fn start_node(&mut self, id: u64) -> Result<()> {
        self.start_node_with(id, &[])
    }

    /// Starts one node with these environment variables.
    ///
    /// # Errors
    /// If it runs already or cannot be started.
    pub fn start_node_with(&mut self, id: u64, environment: &[(&str, &str)]) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.log(id))?;
        let config = self.config(id);
        let tarn = self.tarn.clone();
        let node = self.node_mut(id)?;
        ensure!(node.process.is_none(), "node {id} runs already");
        let child = Command::new(tarn)
            .args(["server", "--config", &text(&config)])
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("node {id} cannot be started"))?;
        node.process = Some(child);
        Ok(())
    }

    /// Ends one node with SIGKILL, as a crash would.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill_node(&mut self, id: u64) -> Result<()> {
        let mut child = self.take(id)?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// How a node that was started has ended by itself, if it has. It can be started again then.
    ///
    /// # Errors
    /// If it was not started.
    pub fn ended(&mut self, id: u64) -> Result<Option<ExitStatus>> {
        let process = &mut self.node_mut(id)?.process;
        let status = process.as_mut().with_context(|| format!("node {id} was not started"))?.try_wait()?;
        if status.is_some() {
            *process = None;
        }
        Ok(status)
    }

    /// Asks one node to end, with SIGTERM, and waits until it has.
    ///
    /// # Errors
    /// If it does not run, or has to be killed because it does not end in time.
    pub async fn stop_node(&mut self, id: u64) -> Result<ExitStatus> {
        let mut child = self.take(id)?;
        ensure!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?.success(), "node {id} cannot be signalled");
        let end = Instant::now() + STOP_WITHIN;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                child.kill()?;
                child.wait()?;
                bail!("node {id} did not end within {STOP_WITHIN:?} after SIGTERM:\n{}", self.log_end(id));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the cluster has a leader and returns its id.
    ///
    /// # Errors
    /// If a node that was started has ended, or there is no leader in time.
    pub async fn wait_for_leader(&mut self) -> Result<u64> {
        let client = self.client()?.with_deadline(Duration::from_secs(2));
        let end = Instant::now() + READY_WITHIN;
        loop {
            self.check_running()?;
            match client.cluster().await {
                Ok(cluster) if cluster.leader_id != 0 => return Ok(cluster.leader_id),
                Ok(_) | Err(_) if Instant::now() < end => tokio::time::sleep(Duration::from_millis(50)).await,
                Ok(_) => bail!("no leader within {READY_WITHIN:?}\n{}", self.log_ends()),
                Err(error) => bail!("no node answered within {READY_WITHIN:?}: {error}\n{}", self.log_ends()),
            }
        }
    }

    /// A client that knows all nodes.
    ///
    /// # Errors
    /// If the keys cannot be read.
    pub fn client(&self) -> Result<Client> {
        let addresses: Vec<String> = self.nodes.iter().map(|node| node.address.clone()).collect();
        Ok(Client::builder().addresses(addresses).credentials(self.credentials()?).connect_lazy()?)
    }

    /// The user's credentials.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn credentials(&self) -> Result<Credentials> {
        let [ca, certificate, key] = self.credential_files();
        Ok(Credentials::from_files(&ca, &certificate, &key)?)
    }

    /// Where the CA certificate, the user's certificate and the user's key are.
    pub fn credential_files(&self) -> [PathBuf; 3] {
        let user = self.dir.join("user");
        [user.join("ca.pem"), user.join("admin.pem"), user.join("admin.key")]
    }

    /// The nodes' ids, from 1.
    pub fn ids(&self) -> Vec<u64> {
        (1..=self.nodes.len() as u64).collect()
    }

    /// The nodes' addresses, in the order of their ids.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    /// The address of a node's plain HTTP listener.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn ops_address(&self, id: u64) -> Result<&str> {
        Ok(&self.node(id)?.ops_address)
    }

    /// A node's data directory.
    pub fn data_dir(&self, id: u64) -> PathBuf {
        self.dir.join(format!("node-{id}"))
    }

    /// The process id of a node that runs.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self, id: u64) -> Result<u32> {
        self.node(id)?.process.as_ref().map(Child::id).with_context(|| format!("node {id} does not run"))
    }

    /// Where a node's log is.
    pub fn log(&self, id: u64) -> PathBuf {
        self.dir.join(format!("node-{id}.log"))
    }

    /// The last lines of a node's log.
    pub fn log_end(&self, id: u64) -> String {
        let text = fs::read_to_string(self.log(id)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// The last lines of every node's log.
    pub fn log_ends(&self) -> String {
        self.ids().into_iter().map(|id| format!("--- node {id} ---\n{}\n", self.log_end(id))).collect()
    }

    /// Fails if a node that was started has ended by itself.
    fn check_running(&mut self) -> Result<()> {
        for id in self.ids() {
            let ended = match &mut self.node_mut(id)?.process {
                Some(child) => child.try_wait()?,
                None => None,
            };
            if let Some(status) = ended {
                bail!("node {id} ended by itself ({status}):\n{}", self.log_end(id));
            }
        }
        Ok(())
    }

    fn take(&mut self, id: u64) -> Result<Child> {
        self.node_mut(id)?.process.take().with_context(|| format!("node {id} does not run"))
    }

    fn node(&self, id: u64) -> Result<&Node> {
        let at = usize::try_from(id)?.checked_sub(1).context("ids count from 1")?;
        self.nodes.get(at).with_context(|| format!("there is no node {id}"))
    }

    fn node_mut(&mut self, id: u64) -> Result<&mut Node> {
        let at = usize::try_from(id)?.checked_sub(1).context("ids count from 1")?;
        self.nodes.get_mut(at).with_context(|| format!("there is no node {id}"))
    }

    fn config(&self, id: u64) -> PathBuf {
        self.dir.join(format!("node-{id}.toml"))
    }

    /// Runs a `tarn` command to its end and returns what it printed.
    fn tarn(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.tarn)
            .args(args)
            .output()
            .with_context(|| format!("{} cannot be run; build it with `cargo build -p tarn`", self.tarn.display()))?;
        ensure!(output.status.success(), "tarn {} failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut child) = node.process.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// The `tarn` binary that cargo built beside the running program or test.
///
/// # Errors
/// If it is not there.
pub fn built_binary() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let found = program.ancestors().skip(1).take(2).map(|folder| folder.join("tarn")).find(|path| path.is_file());
    found.with_context(|| format!("there is no tarn beside {}; build it with `cargo build -p tarn`", program.display()))
}

/// Two loopback addresses for each of so many nodes, on ports that nobody listens on now.
fn free_addresses(count: usize) -> Result<Vec<[String; 2]>> {
    // All are held until all are found, so that they differ.
    let listeners: Vec<TcpListener> = (0..count * 2).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let addresses: Vec<String> = listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect::<Result<_>>()?;
    Ok(addresses.chunks_exact(2).map(|pair| [pair[0].clone(), pair[1].clone()]).collect())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
