//! Every setting: its key, type, default, range and meaning.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::reader::Reader;
use super::types::{Bind, BootstrapMember, JwtIssuers, LogFormat, Paths, SourceAddress, Switch};

/// A setting's key and meaning, for help and for suggestions.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Such as `listen.bind`.
    pub path: &'static str,
    /// What it means, with unit and default.
    pub meaning: &'static str,
}

macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])*
        $Section:ident $section:ident {
            $($(#[doc = $doc:literal])* $key:ident: $type:ty = $default:expr $(, in $range:expr)?;)*
        }
    )*) => {
        $(
            $(#[doc = $section_doc])*
            #[derive(Clone, Debug)]
            pub struct $Section {
                $($(#[doc = $doc])* pub $key: $type,)*
            }
        )*

        /// The whole configuration of a node.
        #[derive(Clone, Debug)]
        pub struct Config {
            $($(#[doc = $section_doc])* pub $section: $Section,)*
        }

        impl Config {
            pub(super) fn read(reader: &mut Reader) -> Self {
                // A default may refer to the sections above its own.
                $(let $section = $Section {
                    $($key: reader.take(
                        concat!(stringify!($section), ".", stringify!($key)),
                        $default,
                        None$(.or(Some($range)))?,
                    ),)*
                };)*
                Self { $($section,)* }
            }
        }

        /// Every setting, in order.
        pub const KEYS: &[Key] = &[$($(Key {
            path: concat!(stringify!($section), ".", stringify!($key)),
            meaning: concat!($($doc,)*),
        },)*)*];
    };
}

const MIB: u64 = 1 << 20;
const DAY_S: u64 = 24 * 60 * 60;

/// A file that is installed with the binary.
fn beside_binary(name: &str) -> PathBuf {
    let binary = std::env::current_exe().unwrap_or_default();
    binary.parent().unwrap_or(Path::new("/")).join(name)
}

settings! {
    /// Who this node is and where it keeps its data.
    Node node {
        /// The node's number in the cluster, from 1. 0: whatever the node's certificate says.
        id: u64 = 0;
        /// Where the node keeps its log, state, artifacts and, unless told otherwise, its identity.
        data_dir: PathBuf = PathBuf::from("/var/lib/tarn");
        /// What people call it, in logs. Empty: `node-<id>`.
        name: String = String::new();
    }

    /// Where the node listens. Port 0 takes any free port; `<data_dir>/addresses.json` says which.
    Listen listen {
        /// gRPC with mutual authentication: peers, SDK and command line.
        bind: SocketAddr = SocketAddr::from(([0, 0, 0, 0], 7610));
        /// What peers and clients dial: host and port. Empty: the bound address, or the loopback address if that is all interfaces.
        advertise: String = String::new();
        /// HTTPS for bearers of API tokens and JWTs: gRPC clients of other languages, later browsers. `off`: nowhere.
        https_bind: Bind = Bind(Some(SocketAddr::from(([0, 0, 0, 0], 7611))));
        /// Plain HTTP without secrets: `/livez`, `/readyz`, `/metrics`.
        ops_bind: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7612));
    }

    /// The way to the other nodes.
    Network network {
        /// The local IP address that connections to other nodes come from, on a machine with several. Empty: what the system chooses.
        source_address: SourceAddress = SourceAddress::default();
    }

    /// The node's keys and certificates. Its own lie in `<node.data_dir>/identity`.
    Identity identity {
        /// Folder with the cluster's CA certificate and key, on the nodes that may sign certificates for joining machines. Nodes where
        /// there is none pass joiners on. Default: `<node.data_dir>/ca`.
        ca_dir: PathBuf = node.data_dir.join("ca");
        /// How long the certificates of nodes are valid that this node signs, where it holds the CA's key, in seconds. Nodes renew theirs
        /// when a third of that is left.
        node_validity_s: u64 = 90 * DAY_S, in 60..=3_650 * DAY_S;
        /// How often the node looks whether a certificate of its own has to be renewed, or was replaced on disk, in milliseconds.
        renewal_check_ms: u64 = 60_000, in 100..=3_600_000;
    }

    /// The HTTPS listener's certificate and TLS.
    Https https {
        /// A file with its certificate, PEM, leaf first, for names that its clients know already. Read again when it changes. Empty: the node
        /// gets one from the cluster's web authority, whose certificate `tarn cluster web-ca` prints, and renews it.
        certificate: String = String::new();
        /// The file with the key of that certificate, PEM, for its owner's eyes alone.
        key: String = String::new();
        /// DNS names and IP addresses by which clients reach this node, beside the host of its advertised address and the loopback ones.
        names: Vec<String> = Vec::new();
        /// Whether clients that know no post-quantum key exchange may connect: what they send can be recorded now and read in some years.
        classical: bool = false;
    }

    /// Who may come without a certificate.
    Auth auth {
        /// Issuers whose JWTs are taken, one table `[[auth.jwt]]` each: `issuer` (the token's `iss`, to the letter), `audience` (the token's
        /// `aud`, or one of several), `jwks_file` (the issuer's public keys; read again when it changes) and, where there are several
        /// issuers, `name`. Principals are `jwt/<subject>`, or `jwt/<name>/<subject>`.
        jwt: JwtIssuers = JwtIssuers::default();
        /// How far the clocks of JWT issuers and of this node may be apart, in seconds.
        jwt_leeway_s: u64 = 30, in 0..=300;
        /// How often the key files are looked at, in milliseconds.
        jwks_poll_ms: u64 = 1_000, in 10..=3_600_000;
    }

    /// Policies, and who is told of what they find.
    Policy policy {
        /// How long one policy may take to judge one task or command, in milliseconds. What takes longer is refused.
        budget_ms: u64 = 50, in 1..=1_000;
        /// Keys that sign what handlers are told: one file each, with the name that the handler has for it, readable by the node alone, of
        /// 16 bytes at least. Needed on every node that may lead. Default: `<node.data_dir>/secrets`.
        secrets_dir: PathBuf = node.data_dir.join("secrets");
        /// Certificates of the authorities that https handlers may have theirs from (PEM). Without the file, only http handlers work.
        webhook_authorities: PathBuf = PathBuf::from("/etc/ssl/certs/ca-certificates.crt");
    }

    /// The cluster that this node belongs to.
    Cluster cluster {
        /// The first voters, such as `["1=10.0.0.1:7610", "2=10.0.0.2:7610"]`, or `["self"]`. Used once, by a node without data, to make a
        /// new cluster; the same on every one of them. Empty: the node waits until a cluster adds it.
        bootstrap: Vec<BootstrapMember> = Vec::new();
    }

    /// Other clusters, with which this one shares what its users share.
    Federation federation {
        /// Where this node listens for other clusters of the federation, such as `0.0.0.0:7613`. `off`: nowhere. Of two clusters, one must
        /// listen; a node that listens nowhere dials all the same.
        bind: Bind = Bind(None);
        /// What other clusters dial to reach this node: host and port. Empty: the host of the node's advertised address, and the bound port.
        advertise: String = String::new();
        /// For how long a task that another cluster does may go on there without a word between the two, in milliseconds. Cuts that are
        /// shorter cost nothing. After twice as long it is tried again, and the attempt counts.
        lease_ms: u64 = 15_000, in 1_000..=1_500_000;
    }

    /// Consensus.
    Raft raft {
        /// Between signs of life from the leader, in milliseconds.
        heartbeat_ms: u64 = 150, in 10..=10_000;
        /// A follower stands for election when it has heard nothing for `election_max_ms` and then for a random time from
        /// `election_min_ms` to `election_max_ms`, in milliseconds.
        election_min_ms: u64 = 450, in 50..=60_000;
        /// See `election_min_ms`, in milliseconds.
        election_max_ms: u64 = 900, in 100..=120_000;
        /// A snapshot is taken after this many log entries.
        snapshot_entries: u64 = 20_000, in 100..=100_000_000;
        /// Log entries kept after a snapshot, so that a node that was away for a moment needs no snapshot.
        keep_entries: u64 = 5_000, in 0..=100_000_000;
    }

    /// What this node's executors may use.
    Executors executors {
        /// Whether this node runs WASM tasks.
        wasm: bool = true;
        /// WASM attempts that run at once. 0: one a core. Each takes about 4 GiB of address space, not of memory.
        wasm_slots: usize = 0, in 0..=256;
        /// Largest linear memory that one WASM attempt may ask for on this node, in bytes. A task that asks for more is tried again,
        /// perhaps on a larger node.
        wasm_memory_bytes: u64 = 1_024 * MIB, in MIB..=1_024 * MIB;
        /// Whether compiled modules are kept on disk, in `<node.data_dir>/wasm`, so that a restart compiles nothing again.
        wasm_cache: bool = true;
        /// PEM file with the certificates of the authorities that guests' requests over https trust. Where there is no such file, guests
        /// reach nothing over https.
        http_authorities: PathBuf = PathBuf::from("/etc/ssl/certs/ca-certificates.crt");
        /// Whether this node runs WASM modules in micro-VMs: `auto` where there are KVM and the guest image, `on` only then (the node does
        /// not start without), `off` never.
        microvm: Switch = Switch::Auto;
        /// The guest image of micro-VMs, which `deploy/microvm/build` makes. Default: `tarn-microvm.elf` beside the binary.
        microvm_image: PathBuf = beside_binary("tarn-microvm.elf");
        /// Micro-VMs that run at once, and as many wait ready. 0: one a core.
        microvm_slots: usize = 0, in 0..=128;
        /// Most linear memory that one attempt in a micro-VM may ask for on this node, in bytes. Starting one costs a little more for each.
        microvm_memory_bytes: u64 = 256 * MIB, in MIB..=1_024 * MIB;
        /// Whether this node runs tasks on its CUDA devices: `auto` where it has some, `on` only then, `off` never.
        cuda: Switch = Switch::Auto;
        /// CUDA attempts that run at once on one device, each with a share of its memory.
        cuda_slots_per_device: usize = 4, in 1..=64;
        /// Whether this node runs processes: `auto` where the machine can put up all walls around them, `on` also where it cannot put up
        /// some, `off` never. `tarn worker list -o json` shows the walls as labels, such as `native.network=yes`.
        native: Switch = Switch::Auto;
        /// Native attempts that run at once. 0: one a core.
        native_slots: usize = 0, in 0..=256;
        /// Most memory that one native attempt may ask for on this node, in bytes.
        native_memory_bytes: u64 = 1_024 * MIB, in MIB..=1_024 * MIB;
        /// The first of the user ids that native attempts become, one for each slot. Nobody else on the machine may have them.
        native_user_base: u32 = tarn_executor::native::USER_BASE, in 1_000..=4_000_000_000;
        /// Folders and files that native attempts may read besides the system's programs and libraries.
        native_readable: Paths = Paths::default();
        /// What a second of one slot costs on this node, in whatever unit the operator reckons in: tasks of the runtime `auto` go where they
        /// cost least.
        cost_per_second: u64 = 1, in 0..=tarn_machine::limits::COST_MAX;
        /// The same of one slot of a CUDA device.
        cuda_cost_per_second: u64 = 10, in 0..=tarn_machine::limits::COST_MAX;
        /// Leases of this node's executors last this long, in milliseconds, unless renewed: how soon others take over when it dies.
        lease_ms: u64 = 10_000, in 1_000..=3_600_000;
    }

    /// What one node takes at once.
    Limits limits {
        /// Connections at once. More are closed before the handshake.
        connections: usize = 4_096, in 16..=1_000_000;
        /// Connections at once to the HTTPS listener.
        https_connections: usize = 1_024, in 1..=1_000_000;
        /// Connections at once to the HTTPS listener from one address. Raise it where a proxy stands in front.
        https_connections_per_address: usize = 256, in 1..=1_000_000;
        /// Deadline of a request that names none, in milliseconds.
        default_deadline_ms: u64 = 30_000, in 100..=3_600_000;
        /// At shutdown, running attempts get this long to finish, in milliseconds, before they are given back.
        shutdown_grace_ms: u64 = 10_000, in 0..=3_600_000;
    }

    /// Log lines, on standard error.
    Log log {
        /// `text` or `json`.
        format: LogFormat = LogFormat::Text;
        /// What to log, in the syntax of tracing's filters, such as `info,tarn=debug`. openraft tells each of its steps at `info`.
        level: String = "info,openraft=error".into();
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::read(&mut Reader::new(Vec::new()))
    }
}

impl Config {
    /// The defaults for a node that keeps its data in `data_dir`, and there what lies in it by default.
    pub fn in_dir(data_dir: &Path) -> Self {
        let mut config = Self::default();
        let usual = std::mem::replace(&mut config.node.data_dir, data_dir.to_owned());
        for folder in [&mut config.identity.ca_dir, &mut config.policy.secrets_dir] {
            if let Ok(within) = folder.strip_prefix(&usual) {
                *folder = data_dir.join(within);
            }
        }
        config
    }
}
