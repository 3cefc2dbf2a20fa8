//! Who asks? A bearer's credential says it, where the request has one; else the connection's certificate does. The public API is for users.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tarn_client::tls::PrincipalKind;
use tarn_machine::ids::Id;
use tarn_proto::v1;
use tonic::Code;
use tonic::metadata::MetadataMap;

use super::{Ask, Caller, Proof, Snapshot, Step};
use crate::identity::bearer::{Authenticator, BearerError, Method, bearer_of};
use crate::identity::{Denied, PeerIdentity};

/// The step's name.
pub(super) const STEP: &str = "identity";

/// The user behind a request.
pub(super) fn caller(
    bearers: &Authenticator,
    extensions: &tonic::Extensions,
    metadata: &MetadataMap,
    state: &Snapshot,
    trace: Arc<str>,
) -> Result<Caller, v1::Rejection> {
    let bearer = bearer_of(metadata).map_err(|error| unauthenticated(&error))?;
    let (principal, proof) = match bearer {
        Some(bearer) => by_bearer(bearers, bearer, state)?,
        None => by_certificate(extensions)?,
    };
    Ok(Caller { principal, trace, proof })
}

fn by_bearer(bearers: &Authenticator, bearer: &str, state: &Snapshot) -> Result<(Arc<str>, Proof), v1::Rejection> {
    let identity = bearers.authenticate(bearer, &state.access, state.now_ms).map_err(|error| {
        tracing::warn!(reason = error.reason(), "refused a credential: {error}");
        unauthenticated(&error)
    })?;
    let proof = match identity.method {
        Method::Token => Proof::Token { id: identity.token_id.unwrap_or_default(), scopes: identity.scopes },
        Method::Jwt => Proof::Jwt { expires_at_ms: identity.expires_at_ms },
    };
    Ok((identity.principal, proof))
}

fn by_certificate(extensions: &tonic::Extensions) -> Result<(Arc<str>, Proof), v1::Rejection> {
    let Some(peer) = extensions.get::<PeerIdentity>() else {
        return Err(denied(Code::Unauthenticated, &Denied::Unknown));
    };
    let principal = peer.principal();
    match &principal.kind {
        PrincipalKind::User { name } => {
            let serial = peer.serial().into();
            Ok((format!("user/{name}").into(), Proof::Certificate { serial }))
        }
        PrincipalKind::Node { .. } | PrincipalKind::Join { .. } => {
            let refusal = Denied::UserRequired { caller: principal.to_string() };
            tracing::warn!(peer = %peer, reason = refusal.reason(), "refused a request: {refusal}");
            Err(denied(Code::PermissionDenied, &refusal))
        }
    }
}

/// Is the caller's credential still good? Asked for each request, because connections and streams live long, and what was revoked since must
/// not.
pub(super) struct StillGood;

impl Step for StillGood {
    fn name(&self) -> &'static str {
        STEP
    }

    fn admit(&self, ask: &Ask<'_>) -> Result<(), v1::Rejection> {
        still_good(ask.caller, ask.state)
    }
}

/// Refuses a credential that was good when it came and is not any more.
pub(super) fn still_good(caller: &Caller, state: &Snapshot) -> Result<(), v1::Rejection> {
    let access = &state.access;
    match &caller.proof {
        Proof::Own | Proof::Driver { .. } | Proof::Cluster => Ok(()),
        Proof::Certificate { serial } if access.revoked.contains_key(serial) => {
            Err(revoked("CERTIFICATE_REVOKED", "this certificate was revoked: ask for a new one from `tarn ca issue`"))
        }
        Proof::Certificate { .. } => Ok(()),
        Proof::Token { id, .. } => match id.parse::<Id>() {
            Ok(id) if access.tokens.contains_key(&id.0) => Ok(()),
            _ => Err(unauthenticated(&BearerError::Unknown)),
        },
        Proof::Jwt { expires_at_ms } if *expires_at_ms > wall_ms() => Ok(()),
        Proof::Jwt { .. } => Err(unauthenticated(&BearerError::Expired)),
    }
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn unauthenticated(error: &BearerError) -> v1::Rejection {
    v1::Rejection {
        code: Code::Unauthenticated as u32,
        reason: error.reason().into(),
        message: error.to_string(),
        ..v1::Rejection::default()
    }
}

fn revoked(reason: &str, message: &str) -> v1::Rejection {
    v1::Rejection { code: Code::Unauthenticated as u32, reason: reason.into(), message: message.into(), ..v1::Rejection::default() }
}

fn denied(code: Code, denied: &Denied) -> v1::Rejection {
    v1::Rejection { code: code as u32, reason: denied.reason().into(), message: denied.to_string(), ..v1::Rejection::default() }
}
