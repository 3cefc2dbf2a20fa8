//! Who a request is from that brings a bearer's credential: an API token of this cluster, or a JWT of an issuer that the cluster trusts.
//!
//! ```text
//!   authorization: Bearer … ─► length ─┬─ tarn_…      ─► token: hash ─► the state's tokens ─► principal, scopes
//!                                      └─ a JWT       ─► jwt: header ─► issuer, key (jwks) ─► signature ─► claims ─► jwt/<subject>
//!
//!   issuers     the configured issuers; their key files, read again when they change
//!   jwks        a JWKS file: which keys are taken, and why others are refused
//!   error       why a credential is refused
//! ```
//!
//! Invariants: the algorithm of a signature is the key's and never the token's to choose; nothing that a token says is used before its
//! signature is verified, but for finding the key; no key comes from anywhere but the configured files; the principals of tokens by other
//! issuers begin with `jwt/`, so that no issuer can speak for a user of the cluster's own certificates, or for a node.

mod error;
mod issuers;
mod jwks;
mod jwt;
mod token;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tarn_client::API_TOKEN_PREFIX;
use tarn_machine::Access;
use tarn_proto::v1::Rule;
use tonic::metadata::MetadataMap;

pub use error::BearerError;
use issuers::Issuers;
pub use issuers::{IssuerSettings, Reloaded};
pub use jwks::{JwksError, KeySet};

/// The longest credential that is looked at, in bytes. JWTs with a few dozen groups have 2,000 to 4,000.
pub const BEARER_BYTES_MAX: usize = 8 << 10;

/// How somebody proved who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// With an API token of this cluster.
    Token,
    /// With a JWT.
    Jwt,
}

/// Who a credential speaks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Such as `user/ada`, whom an API token was made for, or `jwt/ada`.
    pub principal: Arc<str>,
    /// How it was proven.
    pub method: Method,
    /// What the credential is for; the principal's roles must allow it too. `None`: all that they allow.
    pub scopes: Option<Arc<[Rule]>>,
    /// The API token's id, or the JWT's `jti`, where it has one that is short and printable.
    pub token_id: Option<Arc<str>>,
    /// From then on the credential is refused, in milliseconds since the Unix epoch.
    pub expires_at_ms: u64,
}

/// Tells who bearers are.
pub struct Authenticator {
    issuers: Issuers,
    leeway: Duration,
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
}

impl Authenticator {
    /// Trusts these issuers, whose key files are read now. Times in JWTs are compared to this machine's clock, which may be off by
    /// `leeway`.
    ///
    /// # Errors
    /// A key file that cannot be used; the message names it and says why.
    pub fn new(issuers: &[IssuerSettings], leeway: Duration) -> Result<Self, JwksError> {
        Self::with_clock(issuers, leeway, SystemTime::now)
    }

    /// As [`Authenticator::new`], by another clock.
    ///
    /// # Errors
    /// As [`Authenticator::new`].
    pub fn with_clock(
        issuers: &[IssuerSettings],
        leeway: Duration,
        clock: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Result<Self, JwksError> {
        Ok(Self { issuers: Issuers::load(issuers)?, leeway, clock: Box::new(clock) })
    }

    /// Who presents this credential, the text that follows `Bearer `. `access` is the state's present list of tokens, and `now_ms` the
    /// machine's time, by which API tokens expire; JWTs expire by this node's clock.
    ///
    /// # Errors
    /// [`BearerError`]: every one is UNAUTHENTICATED to the caller.
    pub fn authenticate(&self, bearer: &str, access: &Access, now_ms: u64) -> Result<Identity, BearerError> {
        if bearer.len() > BEARER_BYTES_MAX {
            return Err(BearerError::TooLong);
        }
        if bearer.starts_with(API_TOKEN_PREFIX) {
            return token::look_up(bearer, access, now_ms);
        }
        jwt::verify(bearer, &self.issuers, (self.clock)(), self.leeway)
    }

    /// Reads every issuer's key file again. A file that has changed and is good takes effect at once and for all; of one that is bad, or
    /// gone, the keys that were read before stay in force. Tells what was done; reads files, so call it where that may block.
    pub fn reload(&self) -> Vec<Reloaded> {
        self.issuers.reload()
    }

    /// Whether there is anything to reload.
    #[must_use]
    pub fn has_issuers(&self) -> bool {
        !self.issuers.is_empty()
    }
}

/// The bearer's credential in a request's headers, without `Bearer `; `None` where there is no `authorization` header.
///
/// # Errors
/// A second header, another scheme than `Bearer`, or text that is not ASCII.
pub fn bearer_of(metadata: &MetadataMap) -> Result<Option<&str>, BearerError> {
    let mut headers = metadata.get_all("authorization").iter();
    let Some(header) = headers.next() else {
        return Ok(None);
    };
    if headers.next().is_some() {
        return Err(BearerError::Header("it has two authorization headers: send one"));
    }
    let text = header.to_str().map_err(|_| BearerError::Header("its authorization header is not ASCII"))?;
    let (scheme, credential) = text.split_once(' ').ok_or(BearerError::Header("its authorization header is not `Bearer` and a token"))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(BearerError::Header("its authorization header is of another scheme than `Bearer`"));
    }
    Ok(Some(credential.trim_matches(' ')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authorization_header_is_read_strictly() {
        let of = |values: &[&'static [u8]]| {
            let mut headers = http::HeaderMap::new();
            for value in values {
                headers.append("authorization", http::HeaderValue::from_bytes(value).unwrap());
            }
            bearer_of(&MetadataMap::from_headers(headers)).map(|credential| credential.map(str::to_owned))
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[b"Bearer abc"]), Ok(Some("abc".into())));
        assert_eq!(of(&[b"bearer  abc"]), Ok(Some("abc".into())));
        assert_eq!(of(&[b"Bearer "]), Ok(Some(String::new())));
        for refused in [&[b"Bearer a" as &[u8], b"Bearer a"] as &[&[u8]], &[b"Basic YTpi"], &[b"Bearer"], &[b""], &[b"Bearer \xff"]] {
            assert!(matches!(of(refused), Err(BearerError::Header(_))), "{refused:?}");
        }
    }
}
