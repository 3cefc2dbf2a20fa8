//! Reads of what a namespace may have and has.

use std::collections::BTreeMap;
use std::sync::Arc;

use tarn_proto::v1::{GetNamespaceRequest, GetNamespaceResponse, NamespaceUsage, QuotaUse};

use crate::Machine;
use crate::domain::namespace;
use crate::error::Refusal;
use crate::index::{NamespaceIndex, Tenants};

impl Machine {
    /// One namespace, and what it uses.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`.
    pub fn get_namespace(&self, request: &GetNamespaceRequest) -> Result<GetNamespaceResponse, Refusal> {
        let ns = self.namespace(&request.name)?;
        let index = self.ix.namespace(ns)?;
        Ok(GetNamespaceResponse {
            namespace: Some(namespace::message(&index.name, &index.row, self.version())),
            usage: Some(usage(index)),
            quotas: quotas(index),
            revision: self.applied_index(),
        })
    }

    /// What the gate needs to know of each namespace, as it is now. Holding it does not hold up anything: what changes is copied.
    pub fn tenants(&self) -> Arc<Tenants> {
        self.ix.tenants.clone()
    }

    /// What every namespace uses, and its quotas, by name. Cheap: for metrics.
    pub fn usage(&self) -> BTreeMap<Arc<str>, (NamespaceUsage, Vec<QuotaUse>)> {
        let all = self.ix.namespaces.values();
        all.map(|index| (index.name.clone(), (usage(index), quotas(index)))).collect()
    }
}

fn usage(index: &NamespaceIndex) -> NamespaceUsage {
    let waiting = |count: fn(&crate::index::QueueIndex) -> usize| index.queues.values().map(count).sum::<usize>() as u64;
    NamespaceUsage {
        blocked: waiting(|queue| queue.blocked.len()),
        delayed: waiting(|queue| queue.delayed.len()),
        ready: index.ready,
        running: index.running,
        dead: index.dead,
        ended: index.ended,
        stored_bytes: index.stored_bytes,
        pending_timers: index.pending_timers,
        named_leases: index.named_leases,
        queues: index.queues.len() as u64,
        contexts: index.contexts,
    }
}

fn quotas(index: &NamespaceIndex) -> Vec<QuotaUse> {
    let (row, quota) = (&index.row, |quota: &str, limit, used| QuotaUse { quota: quota.to_owned(), limit, used });
    vec![
        quota("max_running", row.max_running, index.running),
        quota("max_queued", row.max_queued, index.unended()),
        quota("max_stored_bytes", row.max_stored_bytes, index.stored_bytes),
        quota("requests_per_minute", row.requests_per_minute, 0),
    ]
}
