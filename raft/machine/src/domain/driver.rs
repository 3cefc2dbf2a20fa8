//! Drivers: which there are, and how far each has come. What a driver is and who signed it, the gate has found out before; running it is the
//! leader's node's part.
//!
//! What one call of a driver changed is one command: the events that it handled, the state that it saved and the tasks that it enqueued. A
//! command that does not go on from where the driver stands is refused as a whole, so of two nodes that run the same driver only one gets
//! on, and whatever crashes, no task is enqueued twice and no event is left out.

use std::ops::Bound;

use tarn_proto::v1::{
    AdvanceDriver, Driver, DriverAdvanced, DriverSpec, EnqueueRequest, EventKind, InstallDriverRequest, InstallDriverResponse,
    PutDriverSettingsRequest, PutDriverSettingsResponse, Rejection, RemoveDriverRequest, RemoveDriverResponse, UpgradeDriverRequest,
    UpgradeDriverResponse,
};

use super::queue::admit;
use crate::error::Refusal;
use crate::index::driver::DriverIndex;
use crate::keys::Key;
use crate::limits;
use crate::reject;
use crate::rows::{DriverProgressRow, DriverRow};
use crate::txn::Txn;

/// The command: a new driver. It is told of what happens from here on.
pub fn install(txn: &mut Txn<'_>, by: &str, request: InstallDriverRequest) -> Result<InstallDriverResponse, Refusal> {
    let ns = txn.open_namespace(&request.namespace)?;
    let (name, spec) = (request.name.as_str(), request.spec.unwrap_or_default());
    if txn.ix.drivers.contains_key(&(ns, name.into())) {
        let message = format!("there is a driver {name:?} in this namespace already: upgrade it, or choose another name");
        return Err(reject::exists("DRIVER_EXISTS", "name", message).into());
    }
    require_signed(txn, &spec)?;
    require_room(txn, ns)?;
    let row = DriverRow { spec: Some(spec), generation: 1, installed_at_ms: txn.now, installed_by: by.to_owned(), ..DriverRow::default() };
    // What this very entry brings is not for it. Steps begin at an id, so that no step of one driver is ever that of another with its name.
    let step = txn.next_id();
    let progress = DriverProgressRow { cursor: txn.index, step, ..DriverProgressRow::default() };
    txn.rows.put(Key::Driver { ns, name }, &row);
    txn.rows.put(Key::DriverProgress { ns, name }, &progress);
    let driver = Some(message(&request.namespace, name, &row, &progress));
    txn.ix.drivers.insert((ns, name.into()), DriverIndex { row, progress });
    changed(txn, &request.namespace, name, "installed");
    Ok(InstallDriverResponse { driver: driver.map(Box::new) })
}

/// The command: the driver becomes another one, which goes on where this one stands.
pub fn upgrade(txn: &mut Txn<'_>, by: &str, request: UpgradeDriverRequest) -> Result<UpgradeDriverResponse, Refusal> {
    let (ns, name) = (txn.open_namespace(&request.namespace)?, request.name.as_str());
    let found = find(txn, ns, name)?;
    let generation = found.row.generation;
    if request.expected_generation != 0 && request.expected_generation != generation {
        let message =
            format!("the driver {name:?} is at generation {generation}, and {} was expected: look again", request.expected_generation);
        return Err(reject::precondition("DRIVER_GENERATION_DIFFERS", "expected_generation", message).into());
    }
    let (spec, progress) = (request.spec.unwrap_or_default(), found.progress.clone());
    require_signed(txn, &spec)?;
    let row = DriverRow {
        spec: Some(spec),
        generation: generation + 1,
        upgraded_at_ms: txn.now,
        upgraded_by: by.to_owned(),
        ..find(txn, ns, name)?.row.clone()
    };
    txn.rows.put(Key::Driver { ns, name }, &row);
    let driver = Some(message(&request.namespace, name, &row, &progress));
    txn.ix.drivers.insert((ns, name.into()), DriverIndex { row, progress });
    changed(txn, &request.namespace, name, "upgraded");
    Ok(UpgradeDriverResponse { driver: driver.map(Box::new) })
}

/// The command: the driver is gone, with what it saved.
pub fn remove(txn: &mut Txn<'_>, request: RemoveDriverRequest) -> Result<RemoveDriverResponse, Refusal> {
    let (ns, name) = (txn.namespace(&request.namespace)?, request.name.as_str());
    find(txn, ns, name)?;
    forget(txn, ns, name);
    changed(txn, &request.namespace, name, "removed");
    Ok(RemoveDriverResponse {})
}

/// The command: what one call of a driver changed.
pub fn advance(txn: &mut Txn<'_>, principal: &str, request: AdvanceDriver) -> Result<DriverAdvanced, Refusal> {
    let (ns, name) = (txn.namespace(&request.namespace)?, request.name.as_str());
    if principal.strip_prefix("driver/").and_then(|rest| rest.split_once('/')) != Some((&request.namespace, name)) {
        let message = "a driver gets on by its own calls alone, which the node that runs it tells of";
        return Err(reject::denied("NODES_ONLY", "", message).into());
    }
    let found = find(txn, ns, name)?;
    let mut progress = found.progress.clone();
    let (before, after) = ((progress.cursor, progress.ordinal), (request.cursor, request.cursor_ordinal));
    // What a user waits for is answered by the one that was asked, also when another takes its place meanwhile.
    let finishes = request.generation + 1 == found.row.generation && after == before;
    if request.step != progress.step || !(request.generation == found.row.generation || finishes) {
        let message = format!("the driver is at generation {} and step {} by now: go on from there", found.row.generation, progress.step);
        return Err(reject::precondition("DRIVER_MOVED_ON", "step", message).into());
    }
    if after < before || request.cursor >= txn.index {
        let message = "the cursor goes forward, and not beyond what has happened";
        return Err(reject::invalid("INVALID_CURSOR", "cursor", message).into());
    }
    let mut task_ids = Vec::new();
    if !request.tasks.is_empty() {
        let wanted = EnqueueRequest { namespace: request.namespace, tasks: request.tasks, ..EnqueueRequest::default() };
        task_ids = admit::enqueue(txn, wanted, &[])?.task_ids;
    }
    (progress.cursor, progress.ordinal) = after;
    progress.step += 1;
    progress.state = request.state.unwrap_or(progress.state);
    txn.rows.put(Key::DriverProgress { ns, name }, &progress);
    let step = progress.step;
    if let Some(index) = txn.ix.drivers.get_mut(&(ns, name.into())) {
        index.progress = progress;
    }
    Ok(DriverAdvanced { step, task_ids })
}

/// The command: whose signatures count from here on. Drivers whose signer is not among them any more stay, and are not run.
pub fn put_settings(txn: &mut Txn<'_>, request: PutDriverSettingsRequest) -> Result<PutDriverSettingsResponse, Refusal> {
    let settings = request.settings.unwrap_or_default();
    if settings != txn.ix.driver_settings {
        txn.rows.put(Key::DriverSettings, &settings);
        let detail = format!("{} signers", settings.signers.len());
        txn.event(EventKind::DriverChanged, "settings").detail = detail;
        txn.ix.driver_settings = settings;
    }
    Ok(PutDriverSettingsResponse {})
}

/// The drivers of a namespace go with it.
pub fn forget_namespace(txn: &mut Txn<'_>, ns: u64) {
    let names: Vec<_> = txn.ix.drivers_of(ns).map(|(name, _)| name.to_owned()).collect();
    names.iter().for_each(|name| forget(txn, ns, name));
}

/// A driver as users see it.
pub fn message(namespace: &str, name: &str, row: &DriverRow, progress: &DriverProgressRow) -> Driver {
    Driver {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        spec: row.spec.clone(),
        generation: row.generation,
        cursor: progress.cursor,
        cursor_ordinal: progress.ordinal,
        step: progress.step,
        state_bytes: progress.state.len() as u64,
        installed_at_ms: row.installed_at_ms,
        installed_by: row.installed_by.clone(),
        upgraded_at_ms: row.upgraded_at_ms,
        upgraded_by: row.upgraded_by.clone(),
        status: None,
    }
}

pub fn not_found(name: &str) -> Rejection {
    let message = format!("there is no driver {name:?} in this namespace: list the drivers, or install it first");
    reject::not_found("DRIVER_NOT_FOUND", "name", message)
}

fn find<'a>(txn: &'a Txn<'_>, ns: u64, name: &str) -> Result<&'a DriverIndex, Rejection> {
    txn.ix.drivers.get(&(ns, name.into())).ok_or_else(|| not_found(name))
}

fn forget(txn: &mut Txn<'_>, ns: u64, name: &str) {
    txn.rows.delete(Key::Driver { ns, name });
    txn.rows.delete(Key::DriverProgress { ns, name });
    txn.ix.drivers.remove(&(ns, name.into()));
}

/// Refuses what no trusted key signed. That the signature is right was the gate's to see, which says whose it is.
fn require_signed(txn: &Txn<'_>, spec: &DriverSpec) -> Result<(), Rejection> {
    if spec.signature.is_empty() {
        let message = "a driver must be signed: sign the artifact with `tarn driver sign`";
        return Err(reject::precondition("DRIVER_NOT_SIGNED", "spec.signature", message));
    }
    if !txn.ix.trusts(&spec.signer) {
        let message = "the signature fits none of the keys that this cluster trusts: the artifact is another one, or another key \
                       signed it; `tarn driver settings` lists the keys";
        return Err(reject::precondition("DRIVER_SIGNATURE", "spec.signature", message));
    }
    Ok(())
}

fn require_room(txn: &Txn<'_>, ns: u64) -> Result<(), Rejection> {
    let of_namespace = txn.ix.drivers_of(ns).count() >= limits::DRIVERS_OF_NAMESPACE_MAX;
    if !of_namespace && txn.ix.drivers.len() < limits::DRIVERS_MAX {
        return Ok(());
    }
    let (whose, limit) = match of_namespace {
        true => ("namespace", limits::DRIVERS_OF_NAMESPACE_MAX),
        false => ("cluster", limits::DRIVERS_MAX),
    };
    let message = format!("the {whose} has too many drivers: remove one that is not needed");
    Err(reject::full("TOO_MANY_DRIVERS", "name", limit as u64, message))
}

fn changed(txn: &mut Txn<'_>, namespace: &str, name: &str, detail: &str) {
    let event = txn.event(EventKind::DriverChanged, format!("driver/{name}"));
    event.namespace = namespace.to_owned();
    event.detail = detail.to_owned();
}

impl crate::Indices {
    /// Whether this is the hash of a key whose signatures count.
    pub(crate) fn trusts(&self, signer: &[u8]) -> bool {
        self.driver_settings.signers.iter().any(|known| blake3::hash(&known.public_key).as_bytes() == signer)
    }

    /// The drivers of a namespace, by name.
    pub(crate) fn drivers_of(&self, ns: u64) -> impl Iterator<Item = (&str, &DriverIndex)> {
        let from = self.drivers.range((Bound::Included((ns, "".into())), Bound::Unbounded));
        from.take_while(move |((of, _), _)| *of == ns).map(|((_, name), index)| (&**name, index))
    }
}
