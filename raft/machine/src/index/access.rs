//! Roles, bindings, tokens and revocations: all that the gate needs to judge a request, in memory and in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tarn_proto::v1::Rule;
use tarn_storage::Engine;

use super::rebuild::{each, each_bytes, misplaced};
use super::{Indices, Wake};
use crate::error::Fatal;
use crate::keys::{Key, first};
use crate::rows::{RevocationRow, RoleRow, TokenRow};

/// A role, and the pattern of the namespaces in which it holds.
pub type RoleIn = (Arc<str>, Arc<str>);

/// Who may do what, as the log has it. The rules of built-in roles are the gate's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    /// The rules of each role that is not built in.
    pub roles: BTreeMap<Arc<str>, Vec<Rule>>,
    /// What each principal has.
    pub bindings: BTreeMap<Arc<str>, BTreeSet<RoleIn>>,
    /// Tokens that have not expired.
    pub tokens: BTreeMap<u64, TokenRow>,
    /// The token with this hash of its secret.
    pub secrets: BTreeMap<[u8; 32], u64>,
    /// Revoked certificates, by serial number.
    pub revoked: BTreeMap<Arc<str>, RevocationRow>,
    /// How many bindings there are in all.
    pub(crate) bound: usize,
}

impl Access {
    /// The token whose secret has this hash, and its id. The caller looks at its end.
    pub fn token(&self, secret_hash: &[u8; 32]) -> Option<(u64, &TokenRow)> {
        let id = *self.secrets.get(secret_hash)?;
        Some((id, self.tokens.get(&id)?))
    }

    pub(crate) fn bind(&mut self, principal: &str, role: &str, namespace: &str) -> bool {
        let of_one = self.bindings.entry(principal.into()).or_default();
        let new = of_one.insert((role.into(), namespace.into()));
        self.bound += usize::from(new);
        new
    }

    pub(crate) fn unbind(&mut self, principal: &str, role: &str, namespace: &str) {
        if let Some(of_one) = self.bindings.get_mut(principal) {
            self.bound -= usize::from(of_one.remove(&(role.into(), namespace.into())));
            if of_one.is_empty() {
                self.bindings.remove(principal);
            }
        }
    }

    /// Bindings that name this namespace and no other, as (principal, role).
    pub(crate) fn bound_to(&self, namespace: &str) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        let all = self.bindings.iter();
        all.flat_map(move |(principal, of_one)| {
            let here = of_one.iter().filter(move |(_, bound)| **bound == *namespace);
            here.map(move |(role, _)| (principal, role))
        })
    }

    /// Whether somebody has this role.
    pub(crate) fn is_bound(&self, role: &str) -> bool {
        self.bindings.values().flatten().any(|(bound, _)| **bound == *role)
    }
}

/// One binding as the name in its key.
pub fn binding_parts(principal: &str, role: &str, namespace: &str) -> String {
    format!("{principal}\0{role}\0{namespace}")
}

/// Puts a token in, and when it ends.
pub fn insert_token(indices: &mut Indices, id: u64, row: TokenRow) -> Result<(), Fatal> {
    let hash = secret_hash(&row)?;
    indices.wakes.insert((row.expires_at_ms, Wake::Token { id }));
    let access = Arc::make_mut(&mut indices.access);
    access.secrets.insert(hash, id);
    access.tokens.insert(id, row);
    Ok(())
}

/// Takes a token out.
pub fn remove_token(indices: &mut Indices, id: u64) -> Result<(), Fatal> {
    let access = Arc::make_mut(&mut indices.access);
    let Some(row) = access.tokens.remove(&id) else {
        return Err(Fatal::assertion("an index has a token that does not exist"));
    };
    access.secrets.remove(&secret_hash(&row)?);
    indices.wakes.remove(&(row.expires_at_ms, Wake::Token { id }));
    Ok(())
}

/// Puts a revocation in, and when it is forgotten.
pub fn insert_revocation(indices: &mut Indices, serial: &str, row: RevocationRow) {
    let serial: Arc<str> = serial.into();
    let wake = Wake::Revocation { serial: serial.clone() };
    indices.wakes.insert((row.expires_at_ms, wake));
    Arc::make_mut(&mut indices.access).revoked.insert(serial, row);
}

fn secret_hash(row: &TokenRow) -> Result<[u8; 32], Fatal> {
    let hash = row.secret_hash.as_ref().try_into();
    hash.map_err(|_| Fatal::assertion("a token's hash has not 32 bytes"))
}

/// Fills the index from the rows.
pub(super) fn fill(engine: &dyn Engine, indices: &mut Indices) -> Result<(), Fatal> {
    each(engine, first::ROLE, |key, row: RoleRow| {
        let Key::Role { name } = key else {
            return Err(misplaced(key));
        };
        Arc::make_mut(&mut indices.access).roles.insert(name.into(), row.rules);
        Ok(())
    })?;
    each_bytes(engine, first::BINDING, |key, _| {
        let Key::Binding { parts } = key else {
            return Err(misplaced(key));
        };
        let Some((principal, (role, namespace))) =
            parts.split_once('\0').and_then(|(principal, rest)| Some((principal, rest.split_once('\0')?)))
        else {
            return Err(misplaced(key));
        };
        Arc::make_mut(&mut indices.access).bind(principal, role, namespace);
        Ok(())
    })?;
    each(engine, first::TOKEN, |key, row: TokenRow| {
        let Key::Token { id } = key else {
            return Err(misplaced(key));
        };
        insert_token(indices, id, row)
    })?;
    each(engine, first::REVOCATION, |key, row: RevocationRow| {
        let Key::Revocation { serial } = key else {
            return Err(misplaced(key));
        };
        insert_revocation(indices, serial, row);
        Ok(())
    })
}
