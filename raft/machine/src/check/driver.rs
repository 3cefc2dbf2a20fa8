//! What of a command about drivers can be refused without the state.

use tarn_proto::v1::{AdvanceDriver, DriverSettings, DriverSpec, EventKind};

use super::policy::{exactly, signers};
use super::{Check, artifact, count, invalid, is_plain, known, length, name, pattern, range_or_zero, tasks};
use crate::limits;

pub(super) fn put(namespace: &str, driver: &str, spec: Option<&DriverSpec>) -> Check {
    name("namespace", namespace)?;
    name("name", driver)?;
    let Some(spec) = spec else {
        return Err(invalid("NO_DRIVER", "spec", "say what the driver is: name its artifact and the signature of it"));
    };
    artifact("spec.artifact", &spec.artifact)?;
    exactly("spec.signature", spec.signature.len(), limits::SIGNATURE_BYTES)?;
    exactly("spec.signer", spec.signer.len(), 32)?;
    length("CONFIG_TOO_LARGE", "spec.config", spec.config.len(), limits::DRIVER_CONFIG_BYTES_MAX)?;
    count("TOO_MANY_EVENTS", "spec.events", spec.events.len(), limits::DRIVER_EVENTS_MAX)?;
    let is_kind = |kind: &i32| EventKind::try_from(*kind).is_ok_and(|kind| kind != EventKind::Unspecified);
    known("spec.events", spec.events.iter().all(is_kind))?;
    let limits = spec.limits.unwrap_or_default();
    range_or_zero("spec.limits.memory_bytes", limits.memory_bytes, limits::DRIVER_MEMORY_BYTES)?;
    range_or_zero("spec.limits.call_ms", limits.call_ms, limits::DRIVER_CALL_MS)?;
    range_or_zero("spec.limits.fuel", limits.fuel, limits::DRIVER_FUEL)?;
    let grants = spec.grants.clone().unwrap_or_default();
    let (http, queues) = ("spec.grants.http", "spec.grants.queues");
    count("TOO_MANY_ORIGINS", http, grants.http.len(), limits::DRIVER_ORIGINS_MAX)?;
    for origin in &grants.http {
        length("ORIGIN_TOO_LONG", http, origin.len(), limits::HOLDER_BYTES_MAX)?;
        if !is_plain(origin) || !(origin.starts_with("http://") || origin.starts_with("https://")) {
            let message = "an origin is such as https://hooks.example.com, in plain ASCII";
            return Err(invalid("INVALID_ORIGIN", http, message));
        }
    }
    count("TOO_MANY_PATTERNS", queues, grants.queues.len(), limits::PATTERNS_MAX)?;
    grants.queues.iter().try_for_each(|text| pattern(queues, text))
}

pub(super) fn advance(r: &AdvanceDriver) -> Check {
    name("namespace", &r.namespace)?;
    name("name", &r.name)?;
    let state = r.state.as_ref().map_or(0, |state| state.len());
    length("STATE_TOO_LARGE", "state", state, limits::DRIVER_STATE_BYTES_MAX)?;
    count("TOO_MANY_TASKS", "tasks", r.tasks.len(), limits::DRIVER_TASKS_MAX)?;
    if r.tasks.is_empty() { Ok(()) } else { tasks(&r.tasks) }
}

pub(super) fn settings(settings: Option<&DriverSettings>) -> Check {
    match settings {
        Some(settings) => signers(&settings.signers),
        None => Err(invalid("NO_SETTINGS", "settings", "say what the settings are to be")),
    }
}
