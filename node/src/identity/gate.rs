//! Per request: is the caller a user, a node, a joiner?
//!
//! The listener has established who the caller is; these functions decide whether that kind of caller may use a service. A service for
//! users is no service for nodes and the other way round, so that a stolen key of one kind does not open the other.

use tarn_client::tls::PrincipalKind;
use tonic::{Request, Status};

use super::peer::PeerIdentity;

/// Why a caller of the wrong kind is turned away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The request did not come through the listener.
    #[error("the caller is unknown: this service is reached through the mutually authenticated listener only")]
    Unknown,
    /// A service for users.
    #[error("this service needs a user's certificate, but the caller is {caller}: connect with one from `tarn ca issue`")]
    UserRequired {
        /// Who called.
        caller: String,
    },
    /// A service for nodes.
    #[error("this service is for the cluster's own nodes, but the caller is {caller}")]
    NodeRequired {
        /// Who called.
        caller: String,
    },
    /// The join service.
    #[error("this service is for machines that join with a token, but the caller is {caller}")]
    JoinerRequired {
        /// Who called.
        caller: String,
    },
}

impl Denied {
    /// A stable, machine-readable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unknown => "CALLER_UNKNOWN",
            Self::UserRequired { .. } => "USER_CERTIFICATE_REQUIRED",
            Self::NodeRequired { .. } => "NODE_CERTIFICATE_REQUIRED",
            Self::JoinerRequired { .. } => "JOIN_TOKEN_REQUIRED",
        }
    }
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unknown => Status::unauthenticated(denied.to_string()),
            Denied::UserRequired { .. } | Denied::NodeRequired { .. } | Denied::JoinerRequired { .. } => {
                Status::permission_denied(denied.to_string())
            }
        }
    }
}

/// The caller, who must be a user.
///
/// # Errors
/// PERMISSION_DENIED for nodes and joiners; UNAUTHENTICATED for a request that did not come through the listener.
pub fn require_user<T>(request: &Request<T>) -> Result<PeerIdentity, Status> {
    require(request, |kind, caller| match kind {
        PrincipalKind::User { .. } => None,
        PrincipalKind::Node { .. } | PrincipalKind::Join { .. } => Some(Denied::UserRequired { caller }),
    })
}

/// The caller, who must be a node.
///
/// # Errors
/// PERMISSION_DENIED for users and joiners; UNAUTHENTICATED for a request that did not come through the listener.
pub fn require_node<T>(request: &Request<T>) -> Result<PeerIdentity, Status> {
    require(request, |kind, caller| match kind {
        PrincipalKind::Node { .. } => None,
        PrincipalKind::User { .. } | PrincipalKind::Join { .. } => Some(Denied::NodeRequired { caller }),
    })
}

/// The caller, who must hold a join token. [`PeerIdentity::spki_hash`] is what the cluster knows the token by.
///
/// # Errors
/// PERMISSION_DENIED for users and nodes; UNAUTHENTICATED for a request that did not come through the listener.
pub fn require_joiner<T>(request: &Request<T>) -> Result<PeerIdentity, Status> {
    require(request, |kind, caller| match kind {
        PrincipalKind::Join { .. } => None,
        PrincipalKind::User { .. } | PrincipalKind::Node { .. } => Some(Denied::JoinerRequired { caller }),
    })
}

/// An interceptor for a whole service: [`require_user`] for every call.
///
/// # Errors
/// As [`require_user`].
pub fn users_only(request: Request<()>) -> Result<Request<()>, Status> {
    require_user(&request)?;
    Ok(request)
}

/// An interceptor for a whole service: [`require_node`] for every call.
///
/// # Errors
/// As [`require_node`].
pub fn nodes_only(request: Request<()>) -> Result<Request<()>, Status> {
    require_node(&request)?;
    Ok(request)
}

/// Asks `judge` about the caller; logs and answers its objection.
fn require<T>(request: &Request<T>, judge: impl FnOnce(&PrincipalKind, String) -> Option<Denied>) -> Result<PeerIdentity, Status> {
    let Some(identity) = request.extensions().get::<PeerIdentity>() else {
        tracing::warn!(reason = Denied::Unknown.reason(), "refused a request: {}", Denied::Unknown);
        return Err(Denied::Unknown.into());
    };
    let principal = identity.principal();
    if let Some(denied) = judge(&principal.kind, principal.to_string()) {
        tracing::warn!(peer = %identity, reason = denied.reason(), "refused a request: {denied}");
        return Err(denied.into());
    }
    Ok(identity.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;
    use tarn_client::tls::{LeafInfo, Principal};
    use tonic::Code;

    fn request_of(principal: Principal) -> Request<()> {
        let leaf = LeafInfo {
            principal,
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            serial: "01".to_owned(),
            spki_hash: [0; 32],
        };
        let mut request = Request::new(());
        request.extensions_mut().insert(PeerIdentity::new(leaf, "127.0.0.1:1".parse().unwrap()));
        request
    }

    #[test]
    fn each_kind_enters_its_own_door_only() {
        let user = request_of(Principal::user("prod", "ada"));
        let node = request_of(Principal::node("prod", 3));
        let joiner = request_of(Principal::join(&[1; 32]));
        let code = |result: Result<PeerIdentity, Status>| result.map(|_| ()).map_err(|status| status.code());

        for (request, wanted) in [(&user, [true, false, false]), (&node, [false, true, false]), (&joiner, [false, false, true])] {
            let got = [require_user(request), require_node(request), require_joiner(request)];
            for (got, wanted) in got.into_iter().zip(wanted) {
                let wanted = if wanted { Ok(()) } else { Err(Code::PermissionDenied) };
                assert_eq!(code(got), wanted);
            }
        }
        let status = require_node(&user).unwrap_err();
        assert!(status.message().contains("user ada"), "{}", status.message());
        assert!(users_only(user).is_ok());
        assert!(nodes_only(node).is_ok());
    }

    #[test]
    fn a_request_from_nowhere_is_unauthenticated() {
        let request = Request::new(());
        for result in [require_user(&request), require_node(&request), require_joiner(&request)] {
            assert_eq!(result.unwrap_err().code(), Code::Unauthenticated);
        }
    }
}
