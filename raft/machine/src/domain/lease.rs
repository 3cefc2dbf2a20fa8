//! Named leases: locks with a holder, an end, and a token that only grows.

use tarn_invariants::{debug_holds, leases};
use tarn_proto::v1::{
    AcquireLeaseRequest, AcquireLeaseResponse, EventKind, NamedLease, ReleaseLeaseRequest, ReleaseLeaseResponse, RenewLeaseRequest,
    RenewLeaseResponse,
};

use crate::error::{Fatal, Refusal};
use crate::index::Wake;
use crate::keys::Key;
use crate::limits;
use crate::overlay::Rows;
use crate::reject;
use crate::rows::NamedLeaseRow;
use crate::task::spec::or_default;
use crate::txn::Txn;

/// The command: takes the lease if nobody holds it.
pub fn acquire_lease(txn: &mut Txn<'_>, request: AcquireLeaseRequest) -> Result<AcquireLeaseResponse, Refusal> {
    let ns = txn.open_namespace(&request.namespace)?;
    let previous = load(txn, ns, &request.name)?;
    match &previous {
        Some(row) if row.expires_at_ms > txn.now => {
            let message = format!(
                "lease {:?} is held by {:?} until {} unless renewed: wait for its release",
                request.name, row.holder, row.expires_at_ms
            );
            return Err(reject::precondition("LEASE_HELD", "name", message).into());
        }
        // Its time is up, though the wake that would say so has not had its turn.
        Some(_) => expire(txn, ns, &request.name)?,
        None if txn.ix.namespace(ns)?.named_leases >= limits::NAMED_LEASES_MAX => {
            let message = "this namespace has too many named leases: release some, or wait until some expire";
            return Err(reject::full("TOO_MANY_LEASES", "name", limits::NAMED_LEASES_MAX, message).into());
        }
        None => {}
    }
    let row = NamedLeaseRow {
        holder: request.holder,
        token: txn.next_id(),
        acquired_at_ms: txn.now,
        expires_at_ms: txn.now + or_default(request.ttl_ms, limits::LEASE_MS_DEFAULT),
    };
    if let Some(previous) = &previous {
        // The time was asked above; that the token is higher is for the numbering of commands to keep.
        debug_holds!(leases::no_overlap(holding(&request.name, previous), holding(&request.name, &row)));
    }
    txn.ix.namespace_mut(ns)?.named_leases += 1;
    txn.ix.wakes.insert(wake(ns, &request.name, &row));
    txn.rows.put(Key::NamedLease { ns, name: &request.name }, &row);
    tell(txn, EventKind::LeaseAcquired, &request.namespace, &request.name, &row);
    Ok(AcquireLeaseResponse { lease: Some(message(&request.namespace, &request.name, row)) })
}

/// The command: moves the end of a lease that the asker still holds.
pub fn renew_lease(txn: &mut Txn<'_>, request: RenewLeaseRequest) -> Result<RenewLeaseResponse, Refusal> {
    let ns = txn.namespace(&request.namespace)?;
    let mut row = held(txn, ns, &request.name, request.token)?;
    txn.ix.wakes.remove(&wake(ns, &request.name, &row));
    row.expires_at_ms = txn.now + or_default(request.ttl_ms, limits::LEASE_MS_DEFAULT);
    txn.ix.wakes.insert(wake(ns, &request.name, &row));
    txn.rows.put(Key::NamedLease { ns, name: &request.name }, &row);
    Ok(RenewLeaseResponse { lease: Some(message(&request.namespace, &request.name, row)) })
}

/// The command: gives a lease up that the asker still holds.
pub fn release_lease(txn: &mut Txn<'_>, request: ReleaseLeaseRequest) -> Result<ReleaseLeaseResponse, Refusal> {
    let ns = txn.namespace(&request.namespace)?;
    let row = held(txn, ns, &request.name, request.token)?;
    remove(txn, ns, &request.name, &row)?;
    tell(txn, EventKind::LeaseReleased, &request.namespace, &request.name, &row);
    Ok(ReleaseLeaseResponse {})
}

/// The lease was not renewed in time.
pub fn expire(txn: &mut Txn<'_>, ns: u64, name: &str) -> Result<(), Fatal> {
    let Some(row) = load(txn, ns, name)? else {
        return Err(Fatal::assertion(format!("an index has the named lease {name:?}, which does not exist")));
    };
    let namespace = txn.namespace_name(ns)?;
    remove(txn, ns, name, &row)?;
    tell(txn, EventKind::LeaseExpired, &namespace, name, &row);
    Ok(())
}

/// The lease as clients see it.
pub fn message(namespace: &str, name: &str, row: NamedLeaseRow) -> NamedLease {
    NamedLease {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        holder: row.holder,
        token: row.token,
        acquired_at_ms: row.acquired_at_ms,
        expires_at_ms: row.expires_at_ms,
    }
}

fn holding<'a>(name: &'a str, row: &'a NamedLeaseRow) -> leases::Holding<'a> {
    leases::Holding { name, holder: &row.holder, token: row.token, from: row.acquired_at_ms, until: row.expires_at_ms }
}

fn load(txn: &Txn<'_>, ns: u64, name: &str) -> Result<Option<NamedLeaseRow>, Fatal> {
    txn.rows.row(Key::NamedLease { ns, name })
}

/// The lease, if this is its token. Whoever comes with another has lost it, be it held by somebody else now or by nobody.
fn held(txn: &Txn<'_>, ns: u64, name: &str, token: u64) -> Result<NamedLeaseRow, Refusal> {
    let row = load(txn, ns, name)?.filter(|row| row.token == token && row.expires_at_ms > txn.now);
    Ok(row.ok_or_else(|| reject::stale_token("this lease"))?)
}

fn remove(txn: &mut Txn<'_>, ns: u64, name: &str, row: &NamedLeaseRow) -> Result<(), Fatal> {
    txn.ix.namespace_mut(ns)?.named_leases -= 1;
    txn.ix.wakes.remove(&wake(ns, name, row));
    txn.rows.delete(Key::NamedLease { ns, name });
    Ok(())
}

fn wake(ns: u64, name: &str, row: &NamedLeaseRow) -> (u64, Wake) {
    (row.expires_at_ms, Wake::NamedLease { ns, name: name.into() })
}

fn tell(txn: &mut Txn<'_>, kind: EventKind, namespace: &str, name: &str, row: &NamedLeaseRow) {
    let event = txn.event(kind, name);
    event.namespace = namespace.to_owned();
    event.detail = row.holder.clone();
}
