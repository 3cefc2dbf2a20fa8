//! JSON Web Tokens (RFC 7519) as signed, compact JWS (RFC 7515), read as strictly as RFC 8725 advises.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::issuers::{Issuer, Issuers};
use super::jwks::KEY_ID_BYTES_MAX;
use super::{BearerError, Identity, Method};

/// Longest header, decoded, in bytes. One with a type, an algorithm and a key id has about 100.
const HEADER_BYTES_MAX: usize = 1 << 10;

/// Longest principal, `jwt/` and name included: the kernel's limit.
const PRINCIPAL_BYTES_MAX: usize = tarn_machine::limits::PRINCIPAL_BYTES_MAX;

/// Longest `jti` that is passed on.
const TOKEN_ID_BYTES_MAX: usize = 128;

/// What stands in `typ` of the tokens that are taken: JWTs, and access tokens by RFC 9068. Others, such as log-out tokens, are made for
/// other eyes.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];

/// The fields of the header that mean something here. A field twice is refused by the parser.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    // Keys that the token brings along or points to: whoever follows them believes the forger.
    jwk: Option<IgnoredAny>,
    jku: Option<IgnoredAny>,
    x5u: Option<IgnoredAny>,
    x5c: Option<IgnoredAny>,
    // Demands on the reader that this reader does not know.
    crit: Option<IgnoredAny>,
    b64: Option<IgnoredAny>,
    zip: Option<IgnoredAny>,
    enc: Option<IgnoredAny>,
}

/// What is read before the signature is verified: only to find the key.
#[derive(Deserialize)]
struct Unverified {
    iss: String,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: Option<String>,
    aud: Option<Audience>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    jti: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// A token taken apart, with nothing verified yet.
struct Parts<'a> {
    /// Header and payload as they were signed.
    signed: &'a str,
    header: Header,
    payload: Vec<u8>,
    signature: &'a str,
}

/// Whom a JWT speaks for.
pub(super) fn verify(text: &str, issuers: &Issuers, now: SystemTime, leeway: Duration) -> Result<Identity, BearerError> {
    let parts = take_apart(text)?;
    if issuers.is_empty() {
        return Err(BearerError::NoIssuers);
    }
    check_header(&parts.header)?;
    let claimed: Unverified = json(&parts.payload).ok_or(BearerError::Claim("iss"))?;
    let issuer = issuers.find(&claimed.iss).ok_or(BearerError::Issuer)?;
    check_signature(&parts, issuer)?;
    let claims: Claims = json(&parts.payload).ok_or(BearerError::Malformed("its claims have other types than RFC 7519 says"))?;
    check_claims(claims, issuer, now, leeway)
}

fn take_apart(text: &str) -> Result<Parts<'_>, BearerError> {
    let malformed = BearerError::Malformed;
    let (signed, signature) = text.rsplit_once('.').ok_or(malformed("it has not three parts"))?;
    let (header, payload) = signed.split_once('.').ok_or(malformed("it has not three parts"))?;
    if payload.contains('.') {
        return Err(malformed("it has more than three parts"));
    }
    let decode = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).ok();
    let header =
        decode(header).filter(|header| header.len() <= HEADER_BYTES_MAX).ok_or(malformed("its header is not base64url, or too long"))?;
    let payload = decode(payload).ok_or(malformed("its payload is not base64url"))?;
    // One spelling of each signature, and no token without one.
    decode(signature).filter(|signature| !signature.is_empty()).ok_or(malformed("its signature is absent or not base64url"))?;
    Ok(Parts { signed, header: json(&header).ok_or(malformed("its header is not a JSON object with an \"alg\""))?, payload, signature })
}

fn check_header(header: &Header) -> Result<(), BearerError> {
    let refused = |why| Err(BearerError::JoseHeader(why));
    if header.jwk.is_some() || header.jku.is_some() || header.x5u.is_some() || header.x5c.is_some() {
        return refused("it brings or names a key; keys come from the issuer's key file alone");
    }
    if header.crit.is_some() || header.b64.is_some() {
        return refused("it has extensions (`crit`, `b64`) that are not understood");
    }
    if header.zip.is_some() || header.enc.is_some() {
        return refused("it is compressed or encrypted");
    }
    let known = |typ: &String| TYPES.iter().any(|known| typ.eq_ignore_ascii_case(known));
    if header.typ.as_ref().is_some_and(|typ| !known(typ)) {
        return refused("its `typ` is not that of an access token or a plain JWT");
    }
    if header.kid.as_ref().is_some_and(|kid| kid.len() > KEY_ID_BYTES_MAX) {
        return refused("its `kid` is too long");
    }
    Ok(())
}

/// The key decides the algorithm; what the header says must be the same, and is otherwise of no account.
fn check_signature(parts: &Parts<'_>, issuer: &Issuer) -> Result<(), BearerError> {
    let keys = issuer.keys();
    let key = keys.key(parts.header.kid.as_deref()).ok_or(BearerError::Key)?;
    if parts.header.alg != key.algorithm_name {
        return Err(BearerError::Algorithm);
    }
    match jsonwebtoken::crypto::verify(parts.signature, parts.signed.as_bytes(), &key.verifier, key.algorithm) {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => Err(BearerError::Signature),
    }
}

fn check_claims(claims: Claims, issuer: &Issuer, now: SystemTime, leeway: Duration) -> Result<Identity, BearerError> {
    if claims.iss != *issuer.issuer {
        return Err(BearerError::Issuer);
    }
    let for_us = match &claims.aud {
        None => return Err(BearerError::Claim("aud")),
        Some(Audience::One(audience)) => *audience == issuer.audience,
        Some(Audience::Several(audiences)) => audiences.contains(&issuer.audience),
    };
    if !for_us {
        return Err(BearerError::Audience);
    }
    let expires = time("exp", claims.exp)?.ok_or(BearerError::Claim("exp"))?;
    if now >= expires + leeway {
        return Err(BearerError::Expired);
    }
    for begins in [time("nbf", claims.nbf)?, time("iat", claims.iat)?] {
        if begins.is_some_and(|begins| begins > now + leeway) {
            return Err(BearerError::NotYetValid);
        }
    }
    let expires_at_ms = (expires + leeway).duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    Ok(Identity {
        principal: principal(issuer, claims.sub.as_deref())?,
        method: Method::Jwt,
        scopes: None,
        token_id: claims.jti.as_ref().and_then(|jti| jti.as_str()).and_then(short),
        expires_at_ms: u64::try_from(expires_at_ms).unwrap_or(u64::MAX),
    })
}

/// `jwt/<subject>`, with the issuer's name between where it has one. Printable ASCII without `*`, so that no two principals look the same
/// and none is a pattern.
fn principal(issuer: &Issuer, subject: Option<&str>) -> Result<Arc<str>, BearerError> {
    let wrong = BearerError::Claim("sub");
    let subject = subject.filter(|subject| !subject.is_empty()).ok_or(wrong.clone())?;
    if !subject.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*') {
        return Err(wrong);
    }
    let principal = match issuer.name.as_str() {
        "" => format!("jwt/{subject}"),
        name => format!("jwt/{name}/{subject}"),
    };
    match principal.len() <= PRINCIPAL_BYTES_MAX {
        true => Ok(principal.into()),
        false => Err(wrong),
    }
}

/// Seconds since the Unix epoch, which may have a fraction. Beyond a double's whole numbers there is no time that anybody means.
fn time(claim: &'static str, seconds: Option<f64>) -> Result<Option<SystemTime>, BearerError> {
    const SECONDS_MAX: f64 = tarn_machine::limits::TIME_MS_MAX as f64 / 1000.0;
    match seconds {
        None => Ok(None),
        Some(seconds) if (0.0..=SECONDS_MAX).contains(&seconds) => Ok(Some(UNIX_EPOCH + Duration::from_secs_f64(seconds))),
        Some(_) => Err(BearerError::Claim(claim)),
    }
}

fn short(id: &str) -> Option<Arc<str>> {
    let fits = (1..=TOKEN_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| id.into())
}

/// A JSON object of these fields. Nested deeper than serde_json goes, or with a field twice, it is refused.
fn json<T: DeserializeOwned>(text: &[u8]) -> Option<T> {
    // Objects alone: serde would also take an array for the fields in their order.
    text.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(text).ok()).flatten()
}
