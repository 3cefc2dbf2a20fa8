//! Access: roles, bindings, tokens, revocations. Who may do what is judged at the gate; here is what it is judged by.
//!
//! Nothing in here asks whether the asker may change it: that was the gate's question too. A role that somebody has cannot be deleted, and a
//! binding names a role that exists, so that nobody's rights depend on a name that is free for anybody to define.

use std::sync::Arc;

use tarn_proto::v1::{
    Binding, DeleteBindingRequest, DeleteBindingResponse, DeleteRoleRequest, DeleteRoleResponse, EventKind, PutBindingRequest,
    PutBindingResponse, PutRoleRequest, PutRoleResponse, PutTokenRequest, PutTokenResponse, RevokeCertificateRequest,
    RevokeCertificateResponse, RevokeTokenRequest, RevokeTokenResponse, Token,
};

use super::parse_id;
use crate::error::{Fatal, Refusal};
use crate::ids::Id;
use crate::index::access::{binding_parts, insert_revocation, insert_token, remove_token};
use crate::index::{Access, Wake};
use crate::keys::Key;
use crate::limits;
use crate::reject;
use crate::rows::{RevocationRow, RoleRow, TokenRow};
use crate::task::spec::or_default;
use crate::txn::Txn;

/// The roles that come with tarn. Their rules belong to the gate, so that they can name what a later build adds.
pub const BUILT_IN_ROLES: [&str; 6] = ["admin", "operator", "developer", "worker", "viewer", "auditor"];

/// The command: makes a role or replaces its rules.
pub fn put_role(txn: &mut Txn<'_>, request: PutRoleRequest) -> Result<PutRoleResponse, Refusal> {
    let name = request.name.as_str();
    refuse_built_in(name)?;
    let roles = &txn.ix.access.roles;
    if !roles.contains_key(name) && roles.len() >= limits::ROLES_MAX {
        let message = "the cluster has too many roles: delete one that nobody has";
        return Err(reject::full("TOO_MANY_ROLES", "name", limits::ROLES_MAX as u64, message).into());
    }
    let row = RoleRow { rules: request.rules };
    txn.rows.put(Key::Role { name }, &row);
    changed(txn, format!("role/{name}"), "put");
    access(txn).roles.insert(name.into(), row.rules);
    Ok(PutRoleResponse {})
}

/// The command: deletes a role that nobody has.
pub fn delete_role(txn: &mut Txn<'_>, request: DeleteRoleRequest) -> Result<DeleteRoleResponse, Refusal> {
    let name = request.name.as_str();
    refuse_built_in(name)?;
    if !txn.ix.access.roles.contains_key(name) {
        return Err(role_not_found(name, "name").into());
    }
    if txn.ix.access.is_bound(name) {
        let message = format!("somebody has the role {name:?}: delete its bindings first");
        return Err(reject::precondition("ROLE_IN_USE", "name", message).into());
    }
    txn.rows.delete(Key::Role { name });
    changed(txn, format!("role/{name}"), "deleted");
    access(txn).roles.remove(name);
    Ok(DeleteRoleResponse {})
}

/// Every user may do everything: as it was before there were roles.
pub fn everybody() -> PutBindingRequest {
    PutBindingRequest {
        binding: Some(Binding { principal: "user/*".to_owned(), role: "admin".to_owned(), namespace: "*".to_owned() }),
        ..PutBindingRequest::default()
    }
}

/// The command: gives a role to a principal.
pub fn put_binding(txn: &mut Txn<'_>, request: PutBindingRequest) -> Result<PutBindingResponse, Refusal> {
    let Binding { principal, role, namespace } = request.binding.unwrap_or_default();
    let known = &txn.ix.access;
    if !BUILT_IN_ROLES.contains(&role.as_str()) && !known.roles.contains_key(role.as_str()) {
        return Err(role_not_found(&role, "binding.role").into());
    }
    if is_bound(known, &principal, &role, &namespace) {
        return Ok(PutBindingResponse {});
    }
    if known.bindings.get(principal.as_str()).map_or(0, |of_one| of_one.len()) >= limits::BINDINGS_OF_ONE_MAX {
        let message = format!("{principal} has too many bindings: give it a role that joins them");
        let limit = limits::BINDINGS_OF_ONE_MAX as u64;
        return Err(reject::full("TOO_MANY_BINDINGS", "binding.principal", limit, message).into());
    }
    if known.bound >= limits::BINDINGS_MAX {
        let message = "the cluster has too many bindings: delete some that are not needed";
        return Err(reject::full("TOO_MANY_BINDINGS", "", limits::BINDINGS_MAX as u64, message).into());
    }
    let parts = binding_parts(&principal, &role, &namespace);
    txn.rows.put_bytes(Key::Binding { parts: &parts }, []);
    changed(txn, format!("binding/{principal}"), &format!("{role} in {namespace}"));
    access(txn).bind(&principal, &role, &namespace);
    Ok(PutBindingResponse {})
}

/// The command: takes a role from a principal.
pub fn delete_binding(txn: &mut Txn<'_>, request: DeleteBindingRequest) -> Result<DeleteBindingResponse, Refusal> {
    let Binding { principal, role, namespace } = request.binding.unwrap_or_default();
    if !is_bound(&txn.ix.access, &principal, &role, &namespace) {
        let message = format!("{principal} has no binding of the role {role:?} in {namespace:?}: list its bindings");
        return Err(reject::not_found("BINDING_NOT_FOUND", "binding", message).into());
    }
    let parts = binding_parts(&principal, &role, &namespace);
    txn.rows.delete(Key::Binding { parts: &parts });
    changed(txn, format!("binding/{principal}"), &format!("no {role} in {namespace}"));
    access(txn).unbind(&principal, &role, &namespace);
    Ok(DeleteBindingResponse {})
}

/// A namespace goes: bindings that name it alone go too, or they would count for the next of that name. At most so many; says how many.
pub fn forget_namespace(txn: &mut Txn<'_>, namespace: &str, max: usize) -> usize {
    let bound = txn.ix.access.bound_to(namespace).take(max);
    let doomed: Vec<_> = bound.map(|(principal, role)| (principal.clone(), role.clone())).collect();
    for (principal, role) in &doomed {
        let parts = binding_parts(principal, role, namespace);
        txn.rows.delete(Key::Binding { parts: &parts });
        changed(txn, format!("binding/{principal}"), &format!("no {role} in {namespace}"));
        access(txn).unbind(principal, role, namespace);
    }
    doomed.len()
}

/// The command: makes a token known.
pub fn put_token(txn: &mut Txn<'_>, maker: &str, request: PutTokenRequest) -> Result<PutTokenResponse, Refusal> {
    let invalid = "secret_hash is a BLAKE3 hash of 32 bytes";
    let hash = <[u8; 32]>::try_from(request.secret_hash.as_ref()).map_err(|_| reject::invalid("INVALID_HASH", "secret_hash", invalid))?;
    if txn.ix.access.secrets.contains_key(&hash) {
        let message = "there is a token with this secret already: make another secret";
        return Err(reject::exists("TOKEN_EXISTS", "secret_hash", message).into());
    }
    if txn.ix.access.tokens.len() >= limits::TOKENS_MAX {
        let message = "the cluster has too many tokens: revoke some that are not needed";
        return Err(reject::full("TOO_MANY_TOKENS", "", limits::TOKENS_MAX as u64, message).into());
    }
    let made = |row: &&TokenRow| row.created_by == maker;
    if txn.ix.access.tokens.values().filter(made).count() >= limits::TOKENS_OF_ONE_MAX {
        let message = "you have made too many tokens: revoke some that are not needed";
        return Err(reject::full("TOO_MANY_TOKENS", "", limits::TOKENS_OF_ONE_MAX as u64, message).into());
    }
    let id = txn.next_id();
    let row = TokenRow {
        secret_hash: request.secret_hash,
        name: request.name,
        principal: request.principal,
        scopes: request.scopes,
        created_at_ms: txn.now,
        expires_at_ms: txn.now + or_default(request.ttl_ms, limits::TOKEN_MS_DEFAULT),
        created_by: maker.to_owned(),
    };
    txn.rows.put(Key::Token { id }, &row);
    changed(txn, format!("token/{}", Id(id)), "made");
    let token = Some(token(id, &row));
    insert_token(txn.ix, id, row)?;
    Ok(PutTokenResponse { token })
}

/// The command: nobody is let in with this token any more.
pub fn revoke_token(txn: &mut Txn<'_>, request: RevokeTokenRequest) -> Result<RevokeTokenResponse, Refusal> {
    let id = parse_id(&request.token_id, "token_id")?;
    if !txn.ix.access.tokens.contains_key(&id) {
        let message = format!("there is no token {}: it has expired or was revoked, or check the id", Id(id));
        return Err(reject::not_found("TOKEN_NOT_FOUND", "token_id", message).into());
    }
    changed(txn, format!("token/{}", Id(id)), "revoked");
    remove_token(txn.ix, id)?;
    txn.rows.delete(Key::Token { id });
    Ok(RevokeTokenResponse {})
}

/// The token's time is up.
pub fn expire_token(txn: &mut Txn<'_>, id: u64) -> Result<(), Fatal> {
    remove_token(txn.ix, id)?;
    txn.rows.delete(Key::Token { id });
    changed(txn, format!("token/{}", Id(id)), "expired");
    Ok(())
}

/// The command: a certificate counts no more. Revoking it again changes nothing.
pub fn revoke_certificate(txn: &mut Txn<'_>, by: &str, request: RevokeCertificateRequest) -> Result<RevokeCertificateResponse, Refusal> {
    let serial = request.serial.as_str();
    if txn.ix.access.revoked.contains_key(serial) {
        return Ok(RevokeCertificateResponse {});
    }
    if txn.ix.access.revoked.len() >= limits::REVOCATIONS_MAX {
        let message = "too many certificates are revoked: tell when each expires, so that it can be forgotten then";
        return Err(reject::full("TOO_MANY_REVOCATIONS", "", limits::REVOCATIONS_MAX as u64, message).into());
    }
    let longest = txn.now + limits::REVOCATION_MS_DEFAULT;
    let row = RevocationRow {
        reason: request.reason,
        revoked_by: by.to_owned(),
        revoked_at_ms: txn.now,
        expires_at_ms: match request.expires_at_ms {
            0 => longest,
            // Already expired: nobody takes it, and it is forgotten with the next entry.
            at => at.clamp(txn.now, longest),
        },
    };
    txn.rows.put(Key::Revocation { serial }, &row);
    changed(txn, format!("certificate/{serial}"), "revoked");
    insert_revocation(txn.ix, serial, row);
    Ok(RevokeCertificateResponse {})
}

/// The revoked certificate has expired.
pub fn expire_revocation(txn: &mut Txn<'_>, serial: &Arc<str>) -> Result<(), Fatal> {
    let Some(row) = access(txn).revoked.remove(serial) else {
        return Err(Fatal::assertion("an index has a revocation that does not exist"));
    };
    let wake = Wake::Revocation { serial: serial.clone() };
    txn.ix.wakes.remove(&(row.expires_at_ms, wake));
    txn.rows.delete(Key::Revocation { serial });
    Ok(())
}

/// A token as users see it.
pub fn token(id: u64, row: &TokenRow) -> Token {
    Token {
        token_id: Id(id).to_string(),
        name: row.name.clone(),
        principal: row.principal.clone(),
        scopes: row.scopes.clone(),
        created_at_ms: row.created_at_ms,
        expires_at_ms: row.expires_at_ms,
        created_by: row.created_by.clone(),
    }
}

fn access<'a>(txn: &'a mut Txn<'_>) -> &'a mut Access {
    Arc::make_mut(&mut txn.ix.access)
}

fn is_bound(access: &Access, principal: &str, role: &str, namespace: &str) -> bool {
    let of_one = access.bindings.get(principal);
    of_one.is_some_and(|of_one| of_one.contains(&(role.into(), namespace.into())))
}

fn changed(txn: &mut Txn<'_>, subject: String, detail: &str) {
    txn.event(EventKind::AccessChanged, subject).detail = detail.to_owned();
}

fn refuse_built_in(name: &str) -> Result<(), Refusal> {
    if !BUILT_IN_ROLES.contains(&name) {
        return Ok(());
    }
    let message = format!("the role {name:?} comes with tarn and cannot be changed: make one of another name");
    Err(reject::precondition("ROLE_BUILT_IN", "name", message).into())
}

fn role_not_found(name: &str, field: &str) -> tarn_proto::v1::Rejection {
    let message = format!("there is no role {name:?}: make it first, or list the roles");
    reject::not_found("ROLE_NOT_FOUND", field, message)
}
