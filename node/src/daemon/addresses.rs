//! Where a node listens: bound, advertised, and written down for those who asked for port 0.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The file in the data directory.
const FILE: &str = "addresses.json";

/// Where a node listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// gRPC: the bound address.
    pub api: SocketAddr,
    /// What peers and clients dial: host and port.
    pub advertise: String,
    /// Plain HTTP: `/livez`, `/readyz`, `/metrics`.
    pub ops: SocketAddr,
    /// HTTPS for bearers, if there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<SocketAddr>,
}

impl Addresses {
    /// The addresses of bound sockets. An empty `advertise` stands for the bound address; all interfaces, which nobody can dial, stand for
    /// the loopback one.
    pub(super) fn new(api: SocketAddr, ops: SocketAddr, advertise: &str) -> Self {
        let advertise = if advertise.is_empty() { reachable(api).to_string() } else { advertise.to_owned() };
        Self { api, advertise, ops, https: None }
    }

    /// The same, and where the HTTPS listener is.
    pub(super) fn with_https(self, https: Option<SocketAddr>) -> Self {
        Self { https, ..self }
    }

    /// Writes them down: whole or not at all.
    pub(super) fn write(&self, data_dir: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
        io::Write::write_all(&mut file, &text)?;
        file.persist(data_dir.join(FILE))?;
        Ok(())
    }

    /// What a node with this data directory wrote when it started last.
    ///
    /// # Errors
    /// There is no such file, or it is not what a node writes.
    pub fn read(data_dir: &Path) -> io::Result<Self> {
        serde_json::from_slice(&std::fs::read(data_dir.join(FILE))?).map_err(io::Error::other)
    }
}

fn reachable(mut bound: SocketAddr) -> SocketAddr {
    if bound.ip().is_unspecified() {
        bound.set_ip(match bound {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_can_dial_is_not_advertised() {
        let ops = "127.0.0.1:2".parse().unwrap();
        let of = |bound: &str, advertise: &str| Addresses::new(bound.parse().unwrap(), ops, advertise).advertise;
        assert_eq!(of("0.0.0.0:7610", ""), "127.0.0.1:7610");
        assert_eq!(of("[::]:7610", ""), "[::1]:7610");
        assert_eq!(of("10.0.0.1:7610", ""), "10.0.0.1:7610");
        assert_eq!(of("0.0.0.0:7610", "node-1.example:9"), "node-1.example:9");
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let addresses = Addresses::new("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap(), "");
        for https in [None, Some("127.0.0.1:3".parse().unwrap())] {
            let addresses = addresses.clone().with_https(https);
            addresses.write(dir.path()).unwrap();
            assert_eq!(Addresses::read(dir.path()).unwrap(), addresses);
        }
    }
}
