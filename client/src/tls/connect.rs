//! A tonic channel over post-quantum TLS.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::certificate::LeafInfo;
use super::live::{LiveConnections, LiveStream};
use super::refusal::refusal_in;

/// The port of the gRPC listener, taken where an address names none.
pub const DEFAULT_PORT: u16 = 7610;

/// Longest address that is accepted: the longest DNS name, with scheme, brackets and port.
const ADDRESS_MAX: usize = 253 + 16;

/// Where a node listens: host and port. Text forms: `host`, `host:port`, `1.2.3.4:port`, `[v6]:port`, each with or without `https://`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It asks for an unencrypted connection.
    #[error("{0:?} asks for an unencrypted connection, which does not exist here: write host:port")]
    PlainText(String),
    /// It is of another form.
    #[error("{0:?} is not an address: write host:port, for example 10.0.0.5:{DEFAULT_PORT}")]
    Malformed(String),
}

impl Address {
    /// The host: a name or an IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let quoted: String = text.chars().take(ADDRESS_MAX).collect();
        if text.starts_with("http://") {
            return Err(AddressError::PlainText(quoted));
        }
        let malformed = || AddressError::Malformed(quoted.clone());
        if text.len() > ADDRESS_MAX {
            return Err(malformed());
        }
        let rest = text.strip_prefix("https://").unwrap_or(text);
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = split_port(rest).ok_or_else(malformed)?;
        let port = match port {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok().filter(|port| *port != 0),
            Some(_) => None,
            None => Some(DEFAULT_PORT),
        };
        // What is left must be a name or an IP address; the library's parser for server names knows both.
        ServerName::try_from(host).map_err(|_| malformed())?;
        Ok(Self { host: host.to_owned(), port: port.ok_or_else(malformed)? })
    }
}

/// Splits `host:port`, `host` and `[v6]:port`; an IPv6 address without brackets has no port.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        if !host.contains(':') {
            return None;
        }
        return match after {
            "" => Some((host, None)),
            _ => Some((host, Some(after.strip_prefix(':')?))),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => Some((text, None)),
        Some((host, port)) => Some((host, Some(port))),
        None => Some((text, None)),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

/// How long to try and how to notice that the other side is gone.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Limit on name resolution, TCP connect and TLS handshake together.
    pub connect_timeout: Duration,
    /// After this long without a frame from the other side, a ping is sent.
    pub keep_alive_interval: Duration,
    /// A ping that is not answered within this time ends the connection.
    pub keep_alive_timeout: Duration,
    /// Whether to send pings while no request is open. Peers do, so that a dead node is known before it is needed.
    pub keep_alive_while_idle: bool,
    /// The local address to connect from. `None`: what the system chooses.
    pub source: Option<IpAddr>,
    /// Where the connection is entered, by the certificate of the other side, so that it can be cut. `None`: nowhere.
    pub live: Option<LiveConnections>,
}

impl Default for ConnectOptions {
    /// Five seconds to connect: several round trips around the world and a handshake on a busy core. A dead connection is noticed after
    /// 15 seconds, which stays clear of what a paused virtual machine or a slow disk can cause.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(5),
            keep_alive_while_idle: true,
            source: None,
            live: None,
        }
    }
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {address}: {reason}")]
pub struct ConnectError {
    /// Where to.
    pub address: Address,
    /// What happened, in words.
    pub reason: String,
    /// The cause.
    #[source]
    pub source: tonic::transport::Error,
}

/// The settings of a channel as [`connect`] and [`connect_lazy`] use them, without any connection.
pub fn endpoint(address: &Address, options: &ConnectOptions) -> Endpoint {
    Endpoint::from_shared(format!("https://{address}"))
        .expect("an address consists of what an URI's authority allows")
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(options.keep_alive_interval)
        .keep_alive_timeout(options.keep_alive_timeout)
        .keep_alive_while_idle(options.keep_alive_while_idle)
}

/// Connects now. The channel reconnects by itself when the connection is lost later.
///
/// In TLS 1.3 the client's part of the handshake ends before the server has judged the client's certificate: a refusal of ours shows with
/// the first request, where [`super::refusal_in`] finds it.
///
/// # Errors
/// [`ConnectError`] when the address cannot be reached in time, or the server is not accepted.
pub async fn connect(address: &Address, config: Arc<ClientConfig>, options: &ConnectOptions) -> Result<Channel, ConnectError> {
    let endpoint = endpoint(address, options);
    let (dial_address, source, live) = (address.clone(), options.source, options.live.clone());
    endpoint
        .connect_with_connector(service_fn(move |_uri: Uri| dial(dial_address.clone(), source, config.clone(), live.clone())))
        .await
        .map_err(|source| ConnectError { address: address.clone(), reason: describe(&source), source })
}

/// A channel that connects with the first request, and again whenever the connection was lost. Errors show at requests.
pub fn connect_lazy(address: &Address, config: Arc<ClientConfig>, options: &ConnectOptions) -> Channel {
    let (dial_address, source, live) = (address.clone(), options.source, options.live.clone());
    endpoint(address, options)
        .connect_with_connector_lazy(service_fn(move |_uri: Uri| dial(dial_address.clone(), source, config.clone(), live.clone())))
}

/// One TCP connection with a finished handshake.
async fn dial(
    address: Address,
    source: Option<IpAddr>,
    config: Arc<ClientConfig>,
    live: Option<LiveConnections>,
) -> io::Result<TokioIo<LiveStream<TlsStream<TcpStream>>>> {
    let tcp = match source {
        None => TcpStream::connect((address.host.as_str(), address.port)).await?,
        Some(source) => connect_from(source, &address).await?,
    };
    // Small requests wait for their answers: without this each could wait for the other side's delayed acknowledgement.
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(address.host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let tls = TlsConnector::from(config).connect(name, tcp).await?;
    let live = live.and_then(|live| Some(live.enter(&serial_of(&tls)?)));
    Ok(TokioIo::new(LiveStream::new(tls, live)))
}

/// The serial number of the certificate at the other side, which the handshake has verified.
fn serial_of(tls: &TlsStream<TcpStream>) -> Option<String> {
    let leaf = tls.get_ref().1.peer_certificates()?.first()?;
    Some(LeafInfo::from_der("the peer's certificate", leaf).ok()?.serial)
}

/// A TCP connection from this local address to the first of the other side's addresses of the same family that answers.
async fn connect_from(source: IpAddr, address: &Address) -> io::Result<TcpStream> {
    let targets = tokio::net::lookup_host((address.host.as_str(), address.port)).await?;
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, format!("{address} has no address that can be reached from {source}"));
    for target in targets.filter(|target| target.is_ipv4() == source.is_ipv4()) {
        let socket = if source.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(source, 0))?;
        match socket.connect(target).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The refusal if there is one, else the innermost cause: the outer ones only say "transport error".
fn describe(error: &tonic::transport::Error) -> String {
    if let Some(refusal) = refusal_in(error) {
        return refusal.to_string();
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_every_form() {
        for (text, host, port) in [
            ("10.0.0.5", "10.0.0.5", 7610),
            ("10.0.0.5:1", "10.0.0.5", 1),
            ("node-1.example.org:7611", "node-1.example.org", 7611),
            ("https://localhost:7610", "localhost", 7610),
            ("https://localhost/", "localhost", 7610),
            ("[::1]:7610", "::1", 7610),
            ("[::1]", "::1", 7610),
            ("::1", "::1", 7610),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host(), address.port()), (host, port), "{text}");
            let again: Address = address.to_string().parse().unwrap();
            assert_eq!(again, address);
            endpoint(&address, &ConnectOptions::default());
        }
    }

    #[tokio::test]
    async fn a_connection_comes_from_the_address_that_was_asked_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let stream = connect_from("127.0.0.77".parse().unwrap(), &address).await.unwrap();
        let (_, seen) = listener.accept().await.unwrap();
        assert_eq!(seen.ip(), "127.0.0.77".parse::<IpAddr>().unwrap());
        assert_eq!(stream.local_addr().unwrap(), seen);

        let other_family = connect_from("::1".parse().unwrap(), &address).await.unwrap_err();
        assert_eq!(other_family.kind(), io::ErrorKind::AddrNotAvailable);
        assert!(other_family.to_string().contains("::1"), "{other_family}");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            ":7610",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            "host:x",
            "host/path",
            "user@host",
            "ho st",
            "[::1",
            "[host]:1",
            "[::1]7610",
            "https://",
            "ftp://host",
            "host\n",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text:?} was accepted");
        }
        assert!("a".repeat(1 << 16).parse::<Address>().is_err());
        let error = "http://host:7610".parse::<Address>().unwrap_err();
        assert!(error.to_string().contains("unencrypted"), "{error}");
    }
}
