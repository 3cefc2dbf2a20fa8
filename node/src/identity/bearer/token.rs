//! API tokens: looked up by the hash of their secret in the replicated state.

use std::sync::Arc;

use tarn_client::{ApiToken, ApiTokenError};
use tarn_machine::Access;
use tarn_machine::ids::Id;

use super::{BearerError, Identity, Method};

/// Whom an API token was made for.
pub(super) fn look_up(text: &str, access: &Access, now_ms: u64) -> Result<Identity, BearerError> {
    let token: ApiToken = text.parse().map_err(|error| match error {
        ApiTokenError::Malformed => BearerError::Malformed("an API token is tarn_ and 60 characters a-z and 2-7"),
        ApiTokenError::Damaged => BearerError::Damaged,
    })?;
    let (id, row) = access.token(&token.secret_hash()).ok_or(BearerError::Unknown)?;
    // The kernel forgets expired tokens, but only with its next entry.
    if row.expires_at_ms <= now_ms {
        return Err(BearerError::Expired);
    }
    Ok(Identity {
        principal: row.principal.as_str().into(),
        method: Method::Token,
        scopes: Some(Arc::from(row.scopes.as_slice())).filter(|scopes: &Arc<[_]>| !scopes.is_empty()),
        token_id: Some(Id(id).to_string().into()),
        expires_at_ms: row.expires_at_ms,
    })
}
