//! Who a certificate speaks for, and the URI in which it says so.

use std::fmt;

/// Longest cluster id, in characters: that of a DNS label, so that it can become one.
pub const CLUSTER_ID_MAX: usize = 63;

/// Longest user name, in characters. Enough for an e-mail address as people have them.
pub const USER_NAME_MAX: usize = 64;

/// Hexadecimal digits of a join id.
const JOIN_ID_DIGITS: usize = 16;

/// The longest URI is a user's: scheme, cluster, "/user/", name.
const URI_MAX: usize = SCHEME.len() + CLUSTER_ID_MAX + "/user/".len() + USER_NAME_MAX;

const SCHEME: &str = "tarn://";

/// Stands where a joiner's URI has no cluster, so no cluster may be called so.
const JOIN: &str = "join";

/// Whoever is at the other end of a connection, as the certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The cluster's id. Empty for a joiner, who belongs to none yet.
    pub cluster: String,
    /// Which node, user or joiner.
    pub kind: PrincipalKind,
}

/// The three kinds of principal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    /// A node of the cluster. Its id is never 0, which means "none" in messages.
    Node {
        /// The node's id.
        id: u64,
    },
    /// A person or program that uses the cluster.
    User {
        /// The user's name.
        name: String,
    },
    /// The holder of a one-time join token.
    Join {
        /// Derived from the token's public key, see [`join_id`].
        id: String,
    },
}

/// Why a name or URI does not say who somebody is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// The cluster id has a forbidden form.
    #[error(
        "the cluster id {0:?} is not accepted: use 1 to {CLUSTER_ID_MAX} of a-z, 0-9 and '-', not starting or ending with '-', and not \"join\""
    )]
    ClusterId(String),
    /// The user name has a forbidden form.
    #[error(
        "the user name {0:?} is not accepted: use 1 to {USER_NAME_MAX} of a-z, 0-9, '.', '_', '-', '@' and '+', starting with a letter or digit"
    )]
    UserName(String),
    /// The node id is 0 or no number.
    #[error("the node id {0:?} is not a number from 1 to 18446744073709551615")]
    NodeId(String),
    /// The join id is not what a token makes.
    #[error("the join id {0:?} is not {JOIN_ID_DIGITS} hexadecimal digits")]
    JoinId(String),
    /// The URI is of another form altogether.
    #[error("{0:?} is not an identity: expected tarn://<cluster>/node/<id> or tarn://<cluster>/user/<name>")]
    Uri(String),
    /// The certificate has no identity URI.
    #[error("the certificate names no tarn:// identity")]
    NoUri,
    /// The certificate has more than one identity URI.
    #[error("the certificate names more than one identity")]
    TwoUris,
}

impl Principal {
    /// A node.
    pub fn node(cluster: &str, id: u64) -> Self {
        Self { cluster: cluster.to_owned(), kind: PrincipalKind::Node { id } }
    }

    /// A user.
    pub fn user(cluster: &str, name: &str) -> Self {
        Self { cluster: cluster.to_owned(), kind: PrincipalKind::User { name: name.to_owned() } }
    }

    /// The holder of a join token whose public key has this hash.
    pub fn join(spki_hash: &[u8; 32]) -> Self {
        Self { cluster: String::new(), kind: PrincipalKind::Join { id: join_id(spki_hash) } }
    }

    /// The text form, as it stands in a certificate. [`Principal::parse`] is its inverse for everything that passes
    /// [`Principal::check`].
    pub fn uri(&self) -> String {
        match &self.kind {
            PrincipalKind::Node { id } => format!("{SCHEME}{}/node/{id}", self.cluster),
            PrincipalKind::User { name } => format!("{SCHEME}{}/user/{name}", self.cluster),
            PrincipalKind::Join { id } => format!("{SCHEME}{JOIN}/{id}"),
        }
    }

    /// Checks the names that this principal is made of, before they go into a certificate.
    ///
    /// # Errors
    /// [`PrincipalError`] naming the part that is not accepted.
    pub fn check(&self) -> Result<(), PrincipalError> {
        match &self.kind {
            PrincipalKind::Node { id: 0 } => Err(PrincipalError::NodeId("0".to_owned())),
            PrincipalKind::Node { .. } => check_cluster_id(&self.cluster),
            PrincipalKind::User { name } => {
                check_cluster_id(&self.cluster)?;
                check_user_name(name)
            }
            PrincipalKind::Join { id } => check_join_id(id),
        }
    }

    /// Reads the text form. Strict: exactly one spelling per principal, so that two texts never mean the same one.
    ///
    /// # Errors
    /// [`PrincipalError`] naming the part that is not accepted.
    pub fn parse(uri: &str) -> Result<Self, PrincipalError> {
        let not_a_uri = || PrincipalError::Uri(shorten(uri));
        if uri.len() > URI_MAX {
            return Err(not_a_uri());
        }
        let rest = uri.strip_prefix(SCHEME).ok_or_else(not_a_uri)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let principal = match parts[..] {
            [JOIN, id] => Self { cluster: String::new(), kind: PrincipalKind::Join { id: id.to_owned() } },
            [cluster, "node", id] => Self::node(cluster, parse_node_id(id)?),
            [cluster, "user", name] => Self::user(cluster, name),
            _ => return Err(not_a_uri()),
        };
        principal.check()?;
        Ok(principal)
    }

    /// Reads the one identity among a certificate's URIs.
    pub(super) fn from_uris<'a>(uris: impl Iterator<Item = &'a str>) -> Result<Self, PrincipalError> {
        let mut uris = uris;
        let uri = uris.next().ok_or(PrincipalError::NoUri)?;
        if uris.next().is_some() {
            return Err(PrincipalError::TwoUris);
        }
        Self::parse(uri)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            PrincipalKind::Node { id } => write!(f, "node {id} of cluster {}", self.cluster),
            PrincipalKind::User { name } => write!(f, "user {name} of cluster {}", self.cluster),
            PrincipalKind::Join { id } => write!(f, "the holder of join token {id}"),
        }
    }
}

/// The URI in a cluster's root certificate.
pub fn ca_uri(cluster: &str) -> String {
    format!("{SCHEME}{cluster}/ca")
}

/// The cluster id out of a root certificate's URI.
pub(super) fn parse_ca_uri(uri: &str) -> Result<String, PrincipalError> {
    let cluster = uri.strip_prefix(SCHEME).and_then(|rest| rest.strip_suffix("/ca")).ok_or_else(|| PrincipalError::Uri(shorten(uri)))?;
    check_cluster_id(cluster)?;
    Ok(cluster.to_owned())
}

/// The id of a join token: the first 16 hexadecimal digits of the BLAKE3 hash of its public key (SPKI, DER). It follows from the key, so
/// that a token's holder cannot pose as another's.
pub fn join_id(spki_hash: &[u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(&spki_hash[..JOIN_ID_DIGITS / 2])
}

/// Checks a cluster id: 1 to 63 of a-z, 0-9 and '-', not at either end, and not "join".
///
/// # Errors
/// [`PrincipalError::ClusterId`].
pub fn check_cluster_id(id: &str) -> Result<(), PrincipalError> {
    let characters = id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    let length = (1..=CLUSTER_ID_MAX).contains(&id.len());
    let ends = !id.starts_with('-') && !id.ends_with('-');
    if characters && length && ends && id != JOIN { Ok(()) } else { Err(PrincipalError::ClusterId(shorten(id))) }
}

/// Checks a user name: 1 to 64 of a-z, 0-9, '.', '_', '-', '@', '+', starting with a letter or digit.
///
/// # Errors
/// [`PrincipalError::UserName`].
pub fn check_user_name(name: &str) -> Result<(), PrincipalError> {
    let characters = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'@' | b'+'));
    let length = (1..=USER_NAME_MAX).contains(&name.len());
    let start = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    if characters && length && start { Ok(()) } else { Err(PrincipalError::UserName(shorten(name))) }
}

fn check_join_id(id: &str) -> Result<(), PrincipalError> {
    let digits = id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if digits && id.len() == JOIN_ID_DIGITS { Ok(()) } else { Err(PrincipalError::JoinId(shorten(id))) }
}

/// Decimal without sign or leading zeros: one spelling per id.
fn parse_node_id(text: &str) -> Result<u64, PrincipalError> {
    let wrong = || PrincipalError::NodeId(shorten(text));
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if !canonical {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}

/// What is quoted in an error comes from outside: it is cut, and `Debug` escapes it.
fn shorten(text: &str) -> String {
    const SHOWN_MAX: usize = 80;
    if text.chars().count() <= SHOWN_MAX {
        return text.to_owned();
    }
    let start: String = text.chars().take(SHOWN_MAX).collect();
    format!("{start}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let longest = "a".repeat(CLUSTER_ID_MAX);
        for principal in [
            Principal::node("prod", 1),
            Principal::node("0123456789abcdef", u64::MAX),
            Principal::user("prod-eu-1", "ada@example.org"),
            Principal::user(&longest, &"u".repeat(USER_NAME_MAX)),
            Principal::join(&[0xab; 32]),
        ] {
            principal.check().unwrap();
            assert_eq!(Principal::parse(&principal.uri()), Ok(principal));
        }
        assert_eq!(Principal::node("prod", 3).uri(), "tarn://prod/node/3");
        assert_eq!(Principal::join(&[0xab; 32]).uri(), "tarn://join/abababababababab");
        assert_eq!(parse_ca_uri(&ca_uri("prod")).unwrap(), "prod");
    }

    #[test]
    fn every_other_spelling_is_refused() {
        for uri in [
            "",
            "tarn://",
            "tarn:///node/1",
            "tarn://prod",
            "tarn://prod/",
            "tarn://prod/node",
            "tarn://prod/node/",
            "tarn://prod/node/0",
            "tarn://prod/node/01",
            "tarn://prod/node/+1",
            "tarn://prod/node/-1",
            "tarn://prod/node/1/",
            "tarn://prod/node/1/2",
            "tarn://prod/node/1?x",
            "tarn://prod/node/0x1",
            "tarn://prod/node/18446744073709551616",
            "tarn://prod/node/１",
            "tarn://prod//node/1",
            "TARN://prod/node/1",
            "Tarn://prod/node/1",
            "tarn://Prod/node/1",
            "tarn://-prod/node/1",
            "tarn://prod-/node/1",
            "tarn://pr_od/node/1",
            "tarn://prod.eu/node/1",
            "tarn://prod/user/",
            "tarn://prod/user/.ada",
            "tarn://prod/user/Ada",
            "tarn://prod/user/a da",
            "tarn://prod/user/a%2fb",
            "tarn://prod/user/a\0b",
            "tarn://prod/user/../node/1",
            "tarn://prod/admin/1",
            "tarn://prod/ca",
            "tarn://join/",
            "tarn://join/abc",
            "tarn://join/ABABABABABABABAB",
            "tarn://join/ababababababababab",
            "tarn://join/node/1",
            "tarn://join/user/ada",
            "https://prod/node/1",
            "spiffe://prod/node/1",
            " tarn://prod/node/1",
            "tarn://prod/node/1 ",
            "tarn://prod/node/1\n",
        ] {
            assert!(Principal::parse(uri).is_err(), "{uri:?} was accepted");
        }
        let long = format!("tarn://prod/user/{}", "a".repeat(USER_NAME_MAX + 1));
        assert!(Principal::parse(&long).is_err());
        let huge = format!("tarn://{}/node/1", "a".repeat(1 << 20));
        let error = Principal::parse(&huge).unwrap_err().to_string();
        assert!(error.len() < 500, "an error must not repeat the input whole");
    }

    #[test]
    fn a_certificate_names_exactly_one_identity() {
        let parse = |uris: &[&str]| Principal::from_uris(uris.iter().copied());
        assert_eq!(parse(&[]), Err(PrincipalError::NoUri));
        assert_eq!(parse(&["tarn://a/node/1"]), Ok(Principal::node("a", 1)));
        assert_eq!(parse(&["tarn://a/node/1", "tarn://a/user/x"]), Err(PrincipalError::TwoUris));
        assert_eq!(parse(&["tarn://a/node/1", "https://example.org"]), Err(PrincipalError::TwoUris));
    }
}
