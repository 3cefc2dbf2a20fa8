//! Reads of what a namespace may have and has.

use std::collections::BTreeMap;
use std::sync::Arc;

use tarn_proto::v1::{GetNamespaceRequest, GetNamespaceResponse, NamespaceUsage, QuotaUse};

use crate::Machine;
use crate::domain::namespace;
use crate::error::Refusal;
use crate::index::NamespaceIndex;

/// What the gate needs to know of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Which policies judge what is asked of it.
    pub environment: Arc<str>,
    /// Requests that name it, in the whole cluster. 0: no limit.
    pub requests_per_minute: u64,
}

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

    /// What the gate needs to know of this namespace; `None` if there is none of the name. Cheap: for every request.
    pub fn tenant(&self, name: &str) -> Option<Tenant> {
        let index = self.ix.namespaces.get(self.ix.namespace_ids.get(name)?)?;
        Some(Tenant {
            environment: index.row.environment_name().into(),
            requests_per_minute: index.row.requests_per_minute,
        })
    }

    /// What every namespace uses, and its quotas, by name. Cheap: for metrics.
    pub fn usage(&self) -> BTreeMap<Arc<str>, (NamespaceUsage, Vec<QuotaUse>)> {
        let all = self.ix.namespaces.values();
        all.map(|index| (index.name.clone(), (usage(index), quotas(index))))
            .collect()
    }
}

fn usage(index: &NamespaceIndex) -> NamespaceUsage {
    let waiting =
        |count: fn(&crate::index::QueueIndex) -> usize| index.queues.values().map(count).sum::<usize>() as u64;
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
    }
}

fn quotas(index: &NamespaceIndex) -> Vec<QuotaUse> {
    let (row, quota) = (&index.row, |quota: &str, limit, used| QuotaUse {
        quota: quota.to_owned(),
        limit,
        used,
    });
    vec![
        quota("max_running", row.max_running, index.running),
        quota("max_queued", row.max_queued, index.unended()),
        quota("max_stored_bytes", row.max_stored_bytes, index.stored_bytes),
        quota("requests_per_minute", row.requests_per_minute, 0),
    ]
}
