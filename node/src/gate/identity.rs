//! Who asks? The listener knows the connection's certificate; the public API is for users.

use std::sync::Arc;

use tarn_client::tls::PrincipalKind;
use tarn_proto::v1;
use tonic::Code;

use crate::identity::{Denied, PeerIdentity};

/// The step's name.
pub(super) const STEP: &str = "identity";

/// The user behind a request, as commands record it: `user/<name>`.
pub(super) fn user(extensions: &tonic::Extensions) -> Result<Arc<str>, v1::Rejection> {
    let Some(peer) = extensions.get::<PeerIdentity>() else {
        return Err(rejection(Code::Unauthenticated, &Denied::Unknown));
    };
    let principal = peer.principal();
    match &principal.kind {
        PrincipalKind::User { name } => Ok(format!("user/{name}").into()),
        PrincipalKind::Node { .. } | PrincipalKind::Join { .. } => {
            let denied = Denied::UserRequired {
                caller: principal.to_string(),
            };
            tracing::warn!(peer = %peer, reason = denied.reason(), "refused a request: {denied}");
            Err(rejection(Code::PermissionDenied, &denied))
        }
    }
}

fn rejection(code: Code, denied: &Denied) -> v1::Rejection {
    v1::Rejection {
        code: code as u32,
        reason: denied.reason().into(),
        message: denied.to_string(),
        ..v1::Rejection::default()
    }
}
