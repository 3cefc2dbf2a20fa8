//! What a task is granted beyond computing: each capability by name, and nothing by default.
//!
//! Arguments, environment and input are granted by being given; standard output and error are always there, because they are how
//! a result and a complaint leave a guest. Everything else that reaches out of the sandbox is a field of [`Grants`].

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::{ExecutionError, Hash};

/// The most that [`Grants::scratch_bytes`] may be. Scratch lies on the node's own disk, beside what must not be lost.
pub const SCRATCH_BYTES_MAX: u64 = 4 << 30;

/// The deepest that calls may nest: a called guest that calls another, and so on. Every level holds its memory until
/// the deepest one has returned.
pub const CALL_DEPTH_MAX: u32 = 4;

/// The most artifacts that one task may be allowed to call.
pub const CALLS_MAX: usize = 64;

/// The most origins that one task may be allowed to reach.
pub const ORIGINS_MAX: usize = 64;

/// The longest name of a context, in bytes.
const CONTEXT_NAME_BYTES_MAX: usize = 128;

/// The longest host name, in bytes (RFC 1035, section 2.3.4).
const HOST_BYTES_MAX: usize = 253;

/// What an attempt may reach. The default is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// Clocks: the time of day, and time that passes. Without it a guest can neither ask for the time nor sleep.
    pub clock: bool,
    /// Random numbers from the system. The run-time systems of most languages want some merely to start, as seeds of their hash
    /// tables.
    pub random: bool,
    /// How many bytes a private directory `/scratch` may hold, from 0 (there is none) to [`SCRATCH_BYTES_MAX`]. It is
    /// empty at the start and removed at the end.
    pub scratch_bytes: u64,
    /// One named key-value context, to be read or also written.
    pub context: Option<ContextGrant>,
    /// Log lines with a level, beside standard error.
    pub log: bool,
    /// Reports of progress.
    pub progress: bool,
    /// Other artifacts that may be called.
    pub calls: CallGrant,
    /// Where requests over HTTP may go.
    pub http: BTreeSet<HttpOrigin>,
    /// The machine's network as it is. Only a process can have it.
    pub network: bool,
}

/// Which context a guest may use, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextGrant {
    /// The context's name, from 1 to 128 bytes without control characters.
    pub name: String,
    /// What may be done with it.
    pub access: ContextAccess,
}

/// What may be done with a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextAccess {
    /// Getting and listing.
    Read,
    /// Getting, listing, setting and deleting.
    Write,
}

/// Which artifacts a guest may call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallGrant {
    /// Them, at most [`CALLS_MAX`]. A called guest may call only these too.
    pub artifacts: BTreeSet<Hash>,
    /// How deep calls may nest, from 1 (what is called calls nothing) to [`CALL_DEPTH_MAX`]. Means nothing without artifacts.
    pub depth: u32,
}

/// Where a request may go: exactly this scheme, host and port. There are no patterns: each host is named.
///
/// Its text form is that of a web origin (RFC 6454, section 6.2), `https://api.example.com` or `http://10.0.0.7:8080`; the
/// port may be left out where it is the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpOrigin {
    scheme: HttpScheme,
    host: String,
    port: u16,
}

/// How a request is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HttpScheme {
    /// Over plain TCP.
    Http,
    /// Over TLS.
    Https,
}

/// Why a text is no [`HttpOrigin`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an origin ({why}): write scheme, host and port alone, such as https://api.example.com:8443")]
pub struct OriginParseError {
    text: String,
    why: &'static str,
}

impl Grants {
    /// Checks that each grant is in its range.
    ///
    /// # Errors
    /// [`ExecutionError::LimitOutOfRange`] or [`ExecutionError::BadArguments`] names the first that is not.
    pub fn check(&self) -> Result<(), ExecutionError> {
        in_range("scratch_bytes", self.scratch_bytes, 0, SCRATCH_BYTES_MAX)?;
        in_range("http", self.http.len() as u64, 0, ORIGINS_MAX as u64)?;
        in_range("calls", self.calls.artifacts.len() as u64, 0, CALLS_MAX as u64)?;
        if !self.calls.artifacts.is_empty() {
            in_range("calls.depth", self.calls.depth.into(), 1, CALL_DEPTH_MAX.into())?;
        }
        match &self.context {
            Some(context) => check_context_name(&context.name),
            None => Ok(()),
        }
    }

    /// Refuses grants that a runtime cannot give: a task that names one means something by it.
    pub(crate) fn check_offered(&self, runtime: &'static str, offered: &[&str]) -> Result<(), ExecutionError> {
        self.check()?;
        let given = [
            ("clock", self.clock),
            ("random", self.random),
            ("scratch", self.scratch_bytes > 0),
            ("context", self.context.is_some()),
            ("log", self.log),
            ("progress", self.progress),
            ("calls", !self.calls.artifacts.is_empty()),
            ("http", !self.http.is_empty()),
            ("network", self.network),
        ];
        match given.iter().find(|(name, given)| *given && !offered.contains(name)) {
            None => Ok(()),
            Some((name, _)) => Err(ExecutionError::bad_arguments(format!(
                "the runtime {runtime:?} cannot grant {name}: leave that grant out, or choose another runtime"
            ))),
        }
    }

    /// What a called guest gets: the same, one call less deep, and no scratch of its own.
    pub(crate) fn of_callee(&self) -> Self {
        let mut grants = self.clone();
        grants.scratch_bytes = 0;
        grants.calls.depth = grants.calls.depth.saturating_sub(1);
        if grants.calls.depth == 0 {
            grants.calls.artifacts.clear();
        }
        grants
    }
}

fn in_range(limit: &'static str, value: u64, min: u64, max: u64) -> Result<(), ExecutionError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(ExecutionError::LimitOutOfRange { limit, value, min, max }) }
}

fn check_context_name(name: &str) -> Result<(), ExecutionError> {
    if name.is_empty() || name.len() > CONTEXT_NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(ExecutionError::bad_arguments(format!(
            "the name of a context has from 1 to {CONTEXT_NAME_BYTES_MAX} bytes and no control characters"
        )));
    }
    Ok(())
}

impl HttpScheme {
    /// As it stands in a URL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that is meant where none is given.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl HttpOrigin {
    /// The origin of these parts. The host is a name in ASCII, an IPv4 address, or an IPv6 address in brackets; case does not matter.
    ///
    /// # Errors
    /// [`OriginParseError`].
    pub fn new(scheme: HttpScheme, host: &str, port: u16) -> Result<Self, OriginParseError> {
        let refuse = |why| OriginParseError { text: host.chars().take(80).collect(), why };
        if port == 0 {
            return Err(refuse("port 0 is no port"));
        }
        let host = check_host(host).map_err(refuse)?;
        Ok(Self { scheme, host, port })
    }

    /// How requests are carried.
    #[must_use]
    pub fn scheme(&self) -> HttpScheme {
        self.scheme
    }

    /// The host in lower case; an IPv6 address has its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host as an address, if it is one. Only then may it lie on the node itself or in a private network.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6.parse().ok().map(IpAddr::V6),
            None => self.host.parse().ok().map(IpAddr::V4),
        }
    }
}

impl FromStr for HttpOrigin {
    type Err = OriginParseError;

    fn from_str(text: &str) -> Result<Self, OriginParseError> {
        let refuse = |why| OriginParseError { text: text.chars().take(80).collect(), why };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| refuse("it has no scheme"))?;
        let scheme = match scheme {
            "http" => HttpScheme::Http,
            "https" => HttpScheme::Https,
            _ => return Err(refuse("its scheme is neither http nor https")),
        };
        if rest.contains('@') {
            return Err(refuse("it has a user"));
        }
        if rest.contains(['/', '?', '#']) {
            return Err(refuse("it goes on after the host"));
        }
        // The colons of an IPv6 address are inside brackets.
        let colon = rest.rfind(':').filter(|colon| !rest[*colon..].contains(']'));
        let (host, port) = match colon {
            Some(colon) => (&rest[..colon], parse_port(&rest[colon + 1..]).ok_or_else(|| refuse("its port is no number from 1 to 65535"))?),
            None => (rest, scheme.default_port()),
        };
        Self::new(scheme, host, port).map_err(|error| refuse(error.why))
    }
}

/// Digits only: the standard library would take `+80`.
fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A host in its one form.
fn check_host(host: &str) -> Result<String, &'static str> {
    if let Some(v6) = host.strip_prefix('[') {
        let v6 = v6.strip_suffix(']').ok_or("its bracket is not closed")?;
        let address: Ipv6Addr = v6.parse().map_err(|_| "what is in brackets is no IPv6 address")?;
        return Ok(format!("[{address}]"));
    }
    if host.is_empty() || host.len() > HOST_BYTES_MAX {
        return Err("its host has no bytes or more than 253");
    }
    if host.contains('*') {
        return Err("there are no patterns: name each host");
    }
    let host = host.to_ascii_lowercase();
    for label in host.split('.') {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if label.is_empty() || label.len() > 63 || !label.bytes().all(allowed) || label.starts_with('-') {
            return Err("its host is no name");
        }
    }
    // `127.1` and `0x7f.1` are addresses to some resolvers: what ends like a number must be an address in its usual form.
    let last = host.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err("its host ends in a number and is no IPv4 address");
    }
    Ok(host)
}

impl fmt::Display for HttpOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.host)?;
        if self.port == self.scheme.default_port() {
            return Ok(());
        }
        write!(f, ":{}", self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_one_form() {
        for (text, form) in [
            ("https://API.example.com", "https://api.example.com"),
            ("https://api.example.com:443", "https://api.example.com"),
            ("http://api.example.com:443", "http://api.example.com:443"),
            ("http://10.0.0.7:8080", "http://10.0.0.7:8080"),
            ("http://[0:0:0:0:0:0:0:1]:80", "http://[::1]"),
            ("http://localhost", "http://localhost"),
        ] {
            let origin: HttpOrigin = text.parse().unwrap();
            assert_eq!(origin.to_string(), form);
            assert_eq!(form.parse::<HttpOrigin>().unwrap(), origin);
        }
        let v6: HttpOrigin = "http://[::1]".parse().unwrap();
        assert_eq!(v6.address(), Some("::1".parse().unwrap()));
        assert_eq!("http://a.b".parse::<HttpOrigin>().unwrap().address(), None);
    }

    #[test]
    fn what_is_more_or_less_than_an_origin_is_refused() {
        for text in [
            "",
            "api.example.com",
            "ftp://api.example.com",
            "HTTPS://api.example.com",
            "https://",
            "https://*.example.com",
            "https://*",
            "https://api.example.com/",
            "https://api.example.com/v1",
            "https://user@api.example.com",
            "https://api.example.com:",
            "https://api.example.com:0",
            "https://api.example.com:+80",
            "https://api.example.com:65536",
            "https://api..example.com",
            "https://api.example.com.",
            "https://-a.com",
            "https://exämple.com",
            "https://a b",
            "http://127.1",
            "http://0x7f.0x1",
            "http://2130706433",
            "http://127.0.0.1.5",
            "http://[::1",
            "http://[nonsense]",
            "http://::1",
        ] {
            assert!(text.parse::<HttpOrigin>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_grant_out_of_range_is_named() {
        Grants::default().check().unwrap();
        let scratch = Grants { scratch_bytes: SCRATCH_BYTES_MAX + 1, ..Grants::default() };
        let calls = CallGrant { artifacts: [Hash::of(b"")].into(), depth: CALL_DEPTH_MAX + 1 };
        let deep = Grants { calls, ..Grants::default() };
        let mut flat = deep.clone();
        flat.calls.depth = 0;
        for (grants, name) in [(scratch, "scratch_bytes"), (deep, "calls.depth"), (flat, "calls.depth")] {
            match grants.check() {
                Err(ExecutionError::LimitOutOfRange { limit, .. }) => assert_eq!(limit, name),
                other => panic!("{name}: {other:?}"),
            }
        }
        for name in ["", "a\nb", &"x".repeat(129)] {
            let context = ContextGrant { name: name.to_owned(), access: ContextAccess::Read };
            let grants = Grants { context: Some(context), ..Grants::default() };
            assert_eq!(grants.check().unwrap_err().reason(), "BAD_ARGUMENTS");
        }
    }

    #[test]
    fn what_is_called_gets_one_call_less() {
        let mut grants = Grants { clock: true, scratch_bytes: 10, ..Grants::default() };
        grants.calls = CallGrant { artifacts: [Hash::of(b"")].into(), depth: 2 };
        let callee = grants.of_callee();
        assert!(callee.clock && callee.scratch_bytes == 0 && callee.calls.artifacts.len() == 1);
        let deepest = callee.of_callee();
        assert!(deepest.calls.artifacts.is_empty());
        deepest.check().unwrap();
    }
}
