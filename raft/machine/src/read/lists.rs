//! Reads of everything but tasks.

use tarn_proto::v1::{
    GetLeaseRequest, GetLeaseResponse, GetQueueRequest, GetQueueResponse, GetTimerRequest, GetTimerResponse, ListLeasesRequest,
    ListLeasesResponse, ListNamespacesRequest, ListNamespacesResponse, ListQueuesRequest, ListQueuesResponse, ListTimersRequest,
    ListTimersResponse, ListWorkersRequest, ListWorkersResponse, QueueStats, Worker,
};
use tarn_storage::Range;

use super::{page_size, page_start};
use crate::domain::{lease, namespace, parse_id, timer, worker};
use crate::error::{Fatal, Refusal};
use crate::ids::Id;
use crate::index::{Group, QueueIndex};
use crate::keys::{Key, first, prefix};
use crate::overlay::{Rows, STATE, decode};
use crate::rows::{NamedLeaseRow, TimerRow};
use crate::{Machine, check, reject};

impl Machine {
    /// The queues of a namespace, or of all, by name.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`.
    pub fn list_queues(&self, request: &ListQueuesRequest) -> Result<ListQueuesResponse, Refusal> {
        let wanted: Vec<u64> = match request.namespace.as_str() {
            "" => self.ix.namespace_ids.values().copied().collect(),
            name => vec![self.namespace(name)?],
        };
        let mut queues = Vec::new();
        for ns in wanted {
            let namespace = self.ix.namespace(ns)?;
            for id in namespace.queue_ids.values() {
                queues.push(self.stats(&namespace.name, self.ix.queue(ns, *id)?));
            }
        }
        Ok(ListQueuesResponse { queues, revision: self.applied_index() })
    }

    /// One queue.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`, `QUEUE_NOT_FOUND`.
    pub fn get_queue(&self, request: &GetQueueRequest) -> Result<GetQueueResponse, Refusal> {
        let ns = self.namespace(&request.namespace)?;
        let id = self.ix.namespace(ns)?.queue_ids.get(request.queue.as_str());
        let id = *id.ok_or_else(|| reject::queue_not_found(&request.queue))?;
        let stats = self.stats(&request.namespace, self.ix.queue(ns, id)?);
        Ok(GetQueueResponse { stats: Some(stats), revision: self.applied_index() })
    }

    fn stats(&self, namespace: &str, queue: &QueueIndex) -> QueueStats {
        let oldest = queue.groups.values().filter_map(Group::oldest_ms).min();
        QueueStats {
            namespace: namespace.to_owned(),
            queue: queue.name.to_string(),
            blocked: queue.blocked.len() as u64,
            delayed: queue.delayed.len() as u64,
            ready: queue.ready,
            running: queue.running,
            dead: queue.dead.len() as u64,
            oldest_ready_ms: oldest.map_or(0, |since| self.now_ms().saturating_sub(since)),
        }
    }

    /// All workers, oldest first.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn list_workers(&self, _request: &ListWorkersRequest) -> Result<ListWorkersResponse, Refusal> {
        let workers = self.ix.workers.iter().map(|(id, row)| Worker {
            worker_id: Id(*id).to_string(),
            name: row.name.clone(),
            capabilities: row.capabilities.clone(),
            state: worker::state(row).into(),
            registered_at_ms: row.registered_at_ms,
            heartbeat_at_ms: row.heartbeat_at_ms,
            expires_at_ms: row.expires_at_ms,
            running: self.ix.held_by(*id) as u32,
            registered_by: row.registered_by.clone(),
        });
        Ok(ListWorkersResponse { workers: workers.collect(), revision: self.applied_index() })
    }

    /// One named lease.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`; `LEASE_NOT_FOUND` if nobody holds it.
    pub fn get_lease(&self, request: &GetLeaseRequest) -> Result<GetLeaseResponse, Refusal> {
        let ns = self.namespace(&request.namespace)?;
        check::name("name", &request.name)?;
        let row: Option<NamedLeaseRow> = self.rows().row(Key::NamedLease { ns, name: &request.name })?;
        let row = row.ok_or_else(|| {
            let message = format!("nobody holds the lease {:?}: acquire it", request.name);
            reject::not_found("LEASE_NOT_FOUND", "name", message)
        })?;
        let lease = lease::message(&request.namespace, &request.name, row);
        Ok(GetLeaseResponse { lease: Some(lease), revision: self.applied_index() })
    }

    /// A page of the named leases of a namespace, by name.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`, `INVALID_PAGE_TOKEN`.
    pub fn list_leases(&self, request: &ListLeasesRequest) -> Result<ListLeasesResponse, Refusal> {
        let ns = self.namespace(&request.namespace)?;
        let token = request.page_token.as_str();
        if !token.is_empty() {
            check::name("page_token", token).map_err(|_| reject::invalid_page_token())?;
        }
        let size = page_size(request.page_size);
        let (start, end) = (Key::NamedLease { ns, name: token }.encode(), prefix(first::NAMED_LEASE, &[ns + 1]));
        let mut answer = ListLeasesResponse { revision: self.applied_index(), ..ListLeasesResponse::default() };
        for entry in self.engine.scan(STATE, Range::between(&start, &end)) {
            let (key, row) = entry?;
            let Some(key @ Key::NamedLease { name, .. }) = Key::decode(&key) else {
                return Err(Fatal::assertion("a key of a named lease cannot be decoded").into());
            };
            if name == token {
                continue;
            }
            answer.leases.push(lease::message(&request.namespace, name, decode(&key, &row)?));
            if answer.leases.len() == size {
                answer.next_page_token = name.to_owned();
                break;
            }
        }
        Ok(answer)
    }

    /// One timer, pending or fired.
    ///
    /// # Errors
    ///
    /// `INVALID_ID`, `NAMESPACE_NOT_FOUND`, `TIMER_NOT_FOUND`.
    pub fn get_timer(&self, request: &GetTimerRequest) -> Result<GetTimerResponse, Refusal> {
        let ns = self.namespace(&request.namespace)?;
        let id = parse_id(&request.timer_id, "timer_id")?;
        let row: Option<TimerRow> = match self.rows().row(Key::PendingTimer { ns, id })? {
            None => self.rows().row(Key::FiredTimer { ns, id })?,
            pending => pending,
        };
        let row = row.ok_or_else(|| reject::timer_not_found(&request.timer_id))?;
        let timer = timer::message(&request.namespace, id, row);
        Ok(GetTimerResponse { timer: Some(timer), revision: self.applied_index() })
    }

    /// A page of timers, pending and fired, oldest first.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`, `INVALID_PAGE_TOKEN`.
    pub fn list_timers(&self, request: &ListTimersRequest) -> Result<ListTimersResponse, Refusal> {
        let ns = self.namespace(&request.namespace)?;
        let after = page_start(&request.page_token)?;
        let size = page_size(request.page_size);
        let mut timers = Vec::new();
        for kind in [first::PENDING_TIMER, first::FIRED_TIMER] {
            let (start, end) = (prefix(kind, &[ns, after.saturating_add(1)]), prefix(kind, &[ns + 1]));
            for entry in self.engine.scan(STATE, Range::between(&start, &end)).take(size) {
                let (key, row) = entry?;
                let Some(key @ (Key::PendingTimer { id, .. } | Key::FiredTimer { id, .. })) = Key::decode(&key) else {
                    return Err(Fatal::assertion("a key of a timer cannot be decoded").into());
                };
                timers.push(timer::message(&request.namespace, id, decode(&key, &row)?));
            }
        }
        // Each kind gave the first of its own, so the first of both are among them.
        timers.sort_by(|a, b| a.timer_id.cmp(&b.timer_id));
        timers.truncate(size);
        let next_page_token = match timers.last() {
            Some(last) if timers.len() == size => last.timer_id.clone(),
            _ => String::new(),
        };
        Ok(ListTimersResponse { timers, next_page_token, revision: self.applied_index() })
    }

    /// All namespaces, by name.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn list_namespaces(&self, _request: &ListNamespacesRequest) -> Result<ListNamespacesResponse, Refusal> {
        let namespaces = self.ix.namespace_ids.values().filter_map(|ns| self.ix.namespaces.get(ns));
        let namespaces = namespaces.map(|index| namespace::message(&index.name, &index.row, self.version()));
        Ok(ListNamespacesResponse { namespaces: namespaces.collect(), revision: self.applied_index() })
    }
}
