//! The contract with components, `client/proto/wit`, and what stands behind log, progress and context.

use std::time::{Duration, Instant};

use bytes::Bytes;
use wasmtime::component::{HasSelf, Linker};

use super::guest::Guest;
use crate::{ContextAccess, LogLevel, ServiceError};

wasmtime::component::bindgen!({
    path: "../../client/proto/wit",
    world: "tarn:guest/imports",
    imports: { default: async | trappable },
});

pub(super) use tarn::guest::{call, context, http, log, progress};

/// The version of the contract, as the names of interfaces carry it.
pub(super) const TASK: &str = "tarn:guest/task@0.1.0";
pub(super) const CALL: &str = "tarn:guest/call@0.1.0";
pub(super) const CLOCK: &str = "tarn:guest/clock@0.1.0";
pub(super) const DRIVER: &str = "tarn:guest/driver@0.1.0";
pub(super) const STATE: &str = "tarn:guest/state@0.1.0";
pub(super) const TASKS: &str = "tarn:guest/tasks@0.1.0";

/// The longest line of a log, in bytes.
const LINE_BYTES_MAX: usize = 8 << 10;

/// Reports of progress that follow each other faster than this are skipped.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// The longest key and value of a context, in bytes, and the most keys that are listed at once.
const KEY_BYTES_MAX: usize = 512;
const VALUE_BYTES_MAX: usize = 1 << 20;
const KEYS_MAX: u32 = 1000;

/// Offers all interfaces but `call`, which needs more than the guest's own data.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    log::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)?;
    progress::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)?;
    context::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)?;
    http::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
}

/// When a guest last reported its progress.
#[derive(Default)]
pub(super) struct Reported(Option<Instant>);

impl Reported {
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.0.is_none_or(|last| now.duration_since(last) >= PROGRESS_EVERY);
        if due {
            self.0 = Some(now);
        }
        due
    }
}

impl log::Host for Guest {
    async fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        if !self.reach().grants.log {
            return Err(self.refuse("log", "tarn:guest/log.write", "add `log` to the task's grants"));
        }
        let line = one_line(&message);
        let level = match level {
            log::Level::Trace => LogLevel::Trace,
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        self.reach().logs.append(format!("{} {line}\n", level.as_str()).as_bytes())?;
        self.reach().services.log(level, &line).await;
        Ok(())
    }
}

/// Cuts a message that a guest wrote, and keeps it from looking like several.
pub(super) fn one_line(message: &str) -> String {
    let end = message.floor_char_boundary(LINE_BYTES_MAX);
    let plain = |character: char| if character.is_control() { ' ' } else { character };
    message[..end].chars().map(plain).collect()
}

impl progress::Host for Guest {
    async fn report(&mut self, fraction: f64, message: String) -> wasmtime::Result<()> {
        if !self.reach().grants.progress {
            let advice = "add `progress` to the task's grants";
            return Err(self.refuse("progress", "tarn:guest/progress.report", advice));
        }
        if !(0.0..=1.0).contains(&fraction) {
            return Err(wasmtime::Error::msg("it reported progress that is no number from 0 to 1"));
        }
        if self.reach().reported.is_due()
            && let Err(error) = self.reach().services.progress(fraction, &one_line(&message)).await
        {
            tracing::debug!(%error, "a report of progress was lost");
        }
        Ok(())
    }
}

impl Guest {
    /// The name of the context that was granted.
    fn context(&mut self, call: &'static str, wanted: ContextAccess) -> wasmtime::Result<String> {
        match &self.reach().grants.context {
            Some(grant) if wanted == ContextAccess::Read || grant.access == ContextAccess::Write => Ok(grant.name.clone()),
            Some(_) => {
                let advice = "the task may only read it: grant `context` for writing";
                Err(self.refuse("context", format!("tarn:guest/context.{call}"), advice))
            }
            None => {
                let advice = "add `context` with a name to the task's grants";
                Err(self.refuse("context", format!("tarn:guest/context.{call}"), advice))
            }
        }
    }
}

impl context::Host for Guest {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<context::Entry>, context::Error>> {
        let name = self.context("get", ContextAccess::Read)?;
        if let Err(error) = check_key(&key) {
            return Ok(Err(error));
        }
        let found = self.reach().services.context_get(&name, &key).await;
        Ok(found.map_err(told).map(|entry| entry.map(|entry| context::Entry { value: entry.value.into(), version: entry.version })))
    }

    async fn set(&mut self, key: String, value: Vec<u8>, expected: Option<u64>) -> wasmtime::Result<Result<u64, context::Error>> {
        let name = self.context("set", ContextAccess::Write)?;
        if let Err(error) = check_key(&key) {
            return Ok(Err(error));
        }
        if value.len() > VALUE_BYTES_MAX {
            let why = format!("the value has {} bytes and the limit is {VALUE_BYTES_MAX}", value.len());
            return Ok(Err(context::Error::Refused(why)));
        }
        let set = self.reach().services.context_set(&name, &key, Bytes::from(value), expected);
        Ok(set.await.map_err(told))
    }

    async fn delete(&mut self, key: String, expected: Option<u64>) -> wasmtime::Result<Result<(), context::Error>> {
        let name = self.context("delete", ContextAccess::Write)?;
        if let Err(error) = check_key(&key) {
            return Ok(Err(error));
        }
        let deleted = self.reach().services.context_delete(&name, &key, expected);
        Ok(deleted.await.map_err(told))
    }

    async fn list_keys(
        &mut self,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> wasmtime::Result<Result<Vec<String>, context::Error>> {
        let name = self.context("list-keys", ContextAccess::Read)?;
        let too_long = prefix.len() > KEY_BYTES_MAX || after.as_ref().is_some_and(|key| key.len() > KEY_BYTES_MAX);
        if too_long || !(1..=KEYS_MAX).contains(&limit) {
            let why = format!("a prefix has at most {KEY_BYTES_MAX} bytes, and from 1 to {KEYS_MAX} keys are listed");
            return Ok(Err(context::Error::Refused(why)));
        }
        let listed = self.reach().services.context_list(&name, &prefix, after.as_deref(), limit);
        Ok(listed.await.map_err(told))
    }
}

fn check_key(key: &str) -> Result<(), context::Error> {
    if (1..=KEY_BYTES_MAX).contains(&key.len()) {
        return Ok(());
    }
    let why = format!("the key has {} bytes: it needs 1 to {KEY_BYTES_MAX}", key.len());
    Err(context::Error::Refused(why))
}

fn told(error: ServiceError) -> context::Error {
    match error {
        ServiceError::Conflict { current } => context::Error::Conflict(current),
        ServiceError::Refused(why) => context::Error::Refused(why),
        ServiceError::Unavailable(why) => context::Error::Unavailable(why),
    }
}
