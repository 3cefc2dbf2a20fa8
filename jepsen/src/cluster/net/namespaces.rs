//! Nodes in network namespaces, around a hub.
//!
//! ```text
//!  harness ── veth ── hub: bridge, router, packet filter, proxy ── veth ── node 1
//!                                                              └── veth ── node 2 …
//! ```
//! The hub is a namespace too: its forwarding, filters and proxy touch nothing of the machine, and go when it goes. All that the machine itself
//! has of it is one interface and one route. Each node has a single address and sends everything to the hub, so that the hub's filter sees
//! each packet between two nodes.
//!
//! Names carry the harness's process id: what a harness that was killed left behind is removed by the next one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{getsockopt, sockopt::OriginalDst};
use tokio::net::TcpStream;

use super::command::{fed, run};
use super::{Harms, Link, Moves, Place, Proxy, Way};

/// The nodes' port.
const PORT: u16 = 7610;
/// Their port for health checks and metrics.
const OPS_PORT: u16 = 7612;
/// Where the proxy in the hub listens.
const PROXY_PORT: u16 = 7619;
/// Places of one cluster.
const PLACES_MAX: u8 = 250;
/// Where `ip netns` keeps namespaces.
const NAMESPACES: &str = "/run/netns";
/// Sets in front of everything else; the filter's rules never change, only its sets do.
const FILTER: &str = "
table ip tarn {
    set cut { type ipv4_addr . ipv4_addr; }
    set slow { type ipv4_addr . ipv4_addr; }
    map moved { type ipv4_addr : ipv4_addr; }
    chain cutting {
        type filter hook prerouting priority raw; policy accept;
        ip saddr . ip daddr @cut drop
    }
    chain slowing {
        type nat hook prerouting priority dstnat; policy accept;
        dnat to ip daddr map @moved
        ip saddr . ip daddr @slow meta l4proto tcp redirect to :PROXY
    }
    chain direct {
        type filter hook forward priority filter; policy accept;
        ip saddr . ip daddr @slow meta l4proto tcp reject with tcp reset
    }
}
";

/// The namespaces of one cluster. Dropping it removes them.
pub(super) struct Namespaces {
    /// What all names here begin with.
    prefix: String,
    /// The harness's end of the way to the hub.
    interface: String,
    /// The first three bytes of all addresses.
    net: [u8; 3],
    next: AtomicU8,
}

/// Whether this process may make namespaces and filters; if not, why.
///
/// # Errors
/// A sentence for people that says what is missing.
pub fn available() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("network namespaces need root".to_owned());
    }
    for (program, package) in [("ip", "iproute2"), ("nft", "nftables"), ("nsenter", "util-linux")] {
        if run(&format!("{program} --version")).is_err() && run(&format!("{program} -V")).is_err() {
            return Err(format!("{program} is missing: apt-get install {package}"));
        }
    }
    // The rest depends on the kernel and on what a container may do: only a try tells.
    Namespaces::create()
        .and_then(|trial| trial.place().map(drop))
        .map_err(|error| format!("network namespaces cannot be made here: {error:#}"))
}

impl Namespaces {
    /// Makes the hub and the way to it.
    pub(super) fn create() -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        sweep();
        let (pid, serial) = (std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let mut namespaces =
            Self { prefix: format!("tarn-{pid}-{serial}"), interface: format!("tn{pid}x{serial}"), net: [0; 3], next: AtomicU8::new(1) };
        namespaces.make_hub()?;
        Ok(namespaces)
    }

    fn make_hub(&mut self) -> Result<()> {
        let (hub, interface) = (self.hub(), self.interface.clone());
        run(&format!("ip netns add {hub}"))?;
        for line in ["link set lo up".to_owned(), "link add bridge type bridge".to_owned(), "link set bridge up".to_owned()] {
            run(&format!("ip -n {hub} {line}"))?;
        }
        run(&format!("ip link add {interface} type veth peer name harness netns {hub}"))?;
        run(&format!("ip link set {interface} up"))?;
        run(&format!("ip -n {hub} link set dev harness up"))?;
        self.claim_net()?;
        let [own, gate] = [253, 252].map(|last| self.address(last));
        run(&format!("ip -n {hub} addr add {gate} peer {own} dev harness"))?;
        run(&format!("ip -n {hub} addr add {}/24 dev bridge", self.address(254)))?;
        let settings = "net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.bridge.send_redirects=0";
        for setting in settings.split(' ') {
            let (key, value) = setting.split_once('=').context("a setting has a value")?;
            let path = format!("/proc/sys/{}", key.replace('.', "/"));
            fed(&format!("ip netns exec {hub} tee {path}"), value)?;
        }
        self.load(&FILTER.replace("PROXY", &PROXY_PORT.to_string()))
    }

    /// Takes 256 addresses that this machine has no way to yet. The route to them is the claim: there can be only one.
    fn claim_net(&mut self) -> Result<()> {
        let taken = routes()?;
        let free = (200..=250).flat_map(|second| (0..=255).map(move |third| [10, second, third]));
        let mut last = anyhow::anyhow!("no network of 256 private addresses is free");
        let start = usize::try_from(std::process::id() % 12_000).unwrap_or(0);
        for net in free.clone().skip(start).chain(free).filter(|net| !overlaps(*net, &taken)).take(16) {
            self.net = net;
            let [own, gate, base] = [253, 252, 0].map(|at| self.address(at));
            let claimed = run(&format!("ip addr add {own} peer {gate} dev {}", self.interface))
                .and_then(|()| run(&format!("ip route add {base}/24 via {gate} src {own}")));
            match claimed {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
            let _ = run(&format!("ip addr flush dev {}", self.interface));
        }
        Err(last)
    }

    /// Makes the next node's namespace.
    pub(super) fn place(&self) -> Result<Place> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        ensure!(number <= PLACES_MAX, "a cluster in namespaces has at most {PLACES_MAX} places");
        let (hub, name) = (self.hub(), format!("{}-{number}", self.prefix));
        let (own, gate) = (self.address(number), self.address(254));
        run(&format!("ip netns add {name}"))?;
        run(&format!("ip -n {hub} link add node{number} type veth peer name net netns {name}"))?;
        run(&format!("ip -n {hub} link set dev node{number} master bridge up"))?;
        for line in [
            "link set dev lo up".to_owned(),
            "link set dev net up".to_owned(),
            format!("addr add {own}/32 dev net"),
            format!("route add {gate} dev net"),
            format!("route add default via {gate} dev net"),
        ] {
            run(&format!("ip -n {name} {line}"))?;
        }
        let at = |port| SocketAddr::new(own.into(), port);
        Ok(Place { bind: at(PORT), advertise: at(PORT), ops: at(OPS_PORT), source: None, namespace: Some(name) })
    }

    /// Where clients and the harness itself speak from.
    pub(super) fn harness(&self) -> IpAddr {
        self.address(253).into()
    }

    /// The hub's namespace, to enter it.
    pub(super) fn hub_file(&self) -> Result<File> {
        let path = Path::new(NAMESPACES).join(self.hub());
        File::open(&path).with_context(|| format!("{} cannot be opened", path.display()))
    }

    /// Has the proxy, which lives in the hub, take the connections that the filter turns over to it.
    pub(super) fn listen(&self, proxy: &Proxy) -> Result<()> {
        let meant = |stream: &TcpStream| {
            let target = getsockopt(stream, OriginalDst).ok()?;
            let address = Ipv4Addr::from(u32::from_be(target.sin_addr.s_addr));
            Some(Way { meant: address.into(), target: SocketAddr::new(address.into(), u16::from_be(target.sin_port)) })
        };
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PROXY_PORT));
        proxy.listen(everywhere, Arc::new(meant)).map(drop)
    }

    /// Has the filter do this and no other harm. Whoever dials a node that is gone is not held up on the way to its heir, only on the way back.
    pub(super) fn filter(&self, harms: &Harms, address: impl Fn(u64) -> Option<IpAddr>) -> Result<()> {
        let cut = harms.iter().filter(|(_, harm)| harm.cut).map(|(link, _)| *link);
        let slow = harms.iter().filter(|(_, harm)| harm.slow.is_some());
        // A connection carries both directions, whoever made it.
        let slow = slow.flat_map(|((from, to), _)| [(*from, *to), (*to, *from)]);
        let mut script = String::from("flush set ip tarn cut\nflush set ip tarn slow\n");
        for (set, links) in [("cut", cut.collect::<BTreeSet<Link>>()), ("slow", slow.collect())] {
            for (from, to) in links {
                if let (Some(from), Some(to)) = (address(from), address(to)) {
                    script += &format!("add element ip tarn {set} {{ {from} . {to} }}\n");
                }
            }
        }
        self.load(&script)
    }

    /// Has connections to addresses that nobody has any more reach other nodes.
    pub(super) fn redirect(&self, moves: &Moves) -> Result<()> {
        let mut script = String::from("flush map ip tarn moved\n");
        for (from, to) in moves {
            script += &format!("add element ip tarn moved {{ {from} : {} }}\n", to.bind.ip());
        }
        self.load(&script)
    }

    /// Hands the packet filter a script, which it takes as a whole or not at all.
    fn load(&self, script: &str) -> Result<()> {
        fed(&format!("ip netns exec {} nft -f -", self.hub()), script)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.net;
        Ipv4Addr::new(a, b, c, last)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        remove(&self.prefix, &self.interface);
    }
}

/// Removes all namespaces whose names begin so, and the interface. With a namespace go its interfaces, addresses, routes and filters.
fn remove(prefix: &str, interface: &str) {
    if Path::new("/sys/class/net").join(interface).exists() {
        // It may go by itself at the same moment, with the hub that a sweep removes.
        let _ = run(&format!("ip link del {interface}"));
    }
    for name in existing().into_iter().filter(|name| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-'))) {
        if let Err(error) = run(&format!("ip netns del {name}")) {
            tracing::warn!(name, %error, "a network namespace could not be removed");
        }
    }
}

/// Removes what harnesses left behind that do not run any more.
fn sweep() {
    let stale: BTreeSet<(u32, u32)> = existing()
        .iter()
        .filter_map(|name| {
            let mut parts = name.strip_prefix("tarn-")?.split('-');
            Some((parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?))
        })
        .filter(|(pid, _)| !Path::new("/proc").join(pid.to_string()).exists())
        .collect();
    for (pid, serial) in stale {
        remove(&format!("tarn-{pid}-{serial}"), &format!("tn{pid}x{serial}"));
    }
}

fn existing() -> Vec<String> {
    let entries = fs::read_dir(NAMESPACES).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Destinations and masks of this machine's routes, the default one left out.
fn routes() -> Result<Vec<(u32, u32)>> {
    let table = fs::read_to_string("/proc/net/route").context("the routes cannot be read")?;
    let number = |word: &str| u32::from_str_radix(word, 16).ok().map(u32::from_be);
    let line = |line: &str| -> Option<(u32, u32)> {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some((number(words.get(1)?)?, number(words.get(7)?)?))
    };
    Ok(table.lines().skip(1).filter_map(line).filter(|(_, mask)| *mask != 0).collect())
}

fn overlaps(net: [u8; 3], taken: &[(u32, u32)]) -> bool {
    let first = u32::from_be_bytes([net[0], net[1], net[2], 0]);
    taken.iter().any(|(destination, mask)| {
        let shared = mask & 0xffff_ff00;
        first & shared == destination & shared
    })
}

#[cfg(test)]
#[path = "namespaces_tests.rs"]
mod tests;
