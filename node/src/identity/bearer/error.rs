//! Why a bearer's credential is refused. Nothing of the credential is repeated.

use super::BEARER_BYTES_MAX;

/// Why a credential is refused. To the caller each is UNAUTHENTICATED.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// The request's headers are not as they should be.
    #[error("the request brings no credential that can be read: {0}")]
    Header(&'static str),
    /// Longer than any credential is.
    #[error("the token is longer than the {BEARER_BYTES_MAX} bytes that are looked at: ask for one with fewer claims")]
    TooLong,
    /// Neither an API token nor a JWT.
    #[error("this is neither an API token of tarn nor a signed JWT: {0}")]
    Malformed(&'static str),
    /// An API token with a typing error.
    #[error("this API token is damaged: copy it again, whole, as `tarn token create` printed it")]
    Damaged,
    /// An API token that the cluster does not know.
    #[error("this API token is unknown here: it was revoked, has expired, or belongs to another cluster; make a new one")]
    Unknown,
    /// An API token, or a JWT, whose time is up.
    #[error("this token has expired: get a new one")]
    Expired,
    /// A JWT, and no issuer is configured.
    #[error("this cluster takes no JWTs: use an API token, or have an issuer configured under [[auth.jwt]]")]
    NoIssuers,
    /// Of an issuer that is not configured.
    #[error("the JWT is of an issuer that this cluster does not trust")]
    Issuer,
    /// The header asks for something that is not done.
    #[error("the JWT's header is not accepted: {0}")]
    JoseHeader(&'static str),
    /// The header names an algorithm that is not the key's.
    #[error(
        "the JWT is signed with another algorithm than its key is for: EdDSA, ES256 and RS256 are taken, each with its own kind of key"
    )]
    Algorithm,
    /// No such key.
    #[error("the JWT is signed with a key that its issuer's key file does not have: get a new token, or have the file renewed")]
    Key,
    /// The signature is wrong.
    #[error("the JWT's signature is wrong")]
    Signature,
    /// For somebody else.
    #[error("the JWT is for another audience than this cluster")]
    Audience,
    /// Not valid yet.
    #[error("the JWT is not valid yet: compare the clocks of its issuer and of this node")]
    NotYetValid,
    /// A claim that is missing or has no sense.
    #[error("the JWT's claim {0} is missing or is not of the form that is taken")]
    Claim(&'static str),
}

impl BearerError {
    /// A stable, machine-readable reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Header(_) => "AUTHORIZATION_INVALID",
            Self::TooLong => "TOKEN_TOO_LONG",
            Self::Malformed(_) => "TOKEN_MALFORMED",
            Self::Damaged => "TOKEN_DAMAGED",
            Self::Unknown => "TOKEN_UNKNOWN",
            Self::Expired => "TOKEN_EXPIRED",
            Self::NoIssuers => "JWT_NOT_CONFIGURED",
            Self::Issuer => "JWT_ISSUER_UNKNOWN",
            Self::JoseHeader(_) => "JWT_HEADER_REFUSED",
            Self::Algorithm => "JWT_ALGORITHM_REFUSED",
            Self::Key => "JWT_KEY_UNKNOWN",
            Self::Signature => "JWT_SIGNATURE_INVALID",
            Self::Audience => "JWT_AUDIENCE_WRONG",
            Self::NotYetValid => "JWT_NOT_YET_VALID",
            Self::Claim(_) => "JWT_CLAIM_INVALID",
        }
    }
}
