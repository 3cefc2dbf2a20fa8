//! Reads of decisions.

use tarn_proto::v1::{ChainEnds, Decision, GetAuditSettingsRequest, GetAuditSettingsResponse, ListDecisionsRequest, ListDecisionsResponse};
use tarn_storage::Range;

use super::{PAGE_ROWS_MAX, page_size};
use crate::domain::{audit, parse_id};
use crate::error::{Fatal, Refusal};
use crate::ids::Id;
use crate::keys::{Key, first, prefix};
use crate::overlay::STATE;
use crate::rows::{ChainRow, DecisionRow, DecisionsRow};
use crate::{Machine, reject};

impl Machine {
    /// A page of records, oldest first: those of whole entries.
    ///
    /// # Errors
    ///
    /// `INVALID_PAGE_TOKEN`, `INVALID_ID`; [`Refusal::Fatal`] if they cannot be read.
    pub fn list_decisions(&self, request: &ListDecisionsRequest) -> Result<ListDecisionsResponse, Refusal> {
        let filter = Filter::new(request)?;
        let after = match request.page_token.as_str() {
            "" => request.after_index,
            token => token.parse().map_err(|_| reject::invalid_page_token())?,
        };
        // Behind those that were dropped, whose traces an engine would have to step over.
        let after = after.max(self.ix.chain.start_index);
        let (start, end) = (prefix(first::DECISIONS, &[after.saturating_add(1)]), [first::DECISIONS + 1]);
        let size = page_size(request.page_size);
        let (mut entries, mut answer) = (0, ListDecisionsResponse::default());
        answer.revision = self.applied_index();
        for (seen, entry) in self.engine.scan(STATE, Range::between(&start, &end)).enumerate() {
            let (key, bytes) = entry?;
            let (index, row) = match filter.may_match(&bytes) {
                true => decode_row(&key, &bytes)?,
                false => (index_of(&key)?, DecisionsRow::default()),
            };
            if request.until_ms != 0 && row.at_ms >= request.until_ms {
                break;
            }
            let before = answer.decisions.len();
            answer.decisions.extend(filter.matching(index, row));
            entries += usize::from(answer.decisions.len() > before);
            if entries == size || seen + 1 == PAGE_ROWS_MAX {
                answer.next_page_token = index.to_string();
                break;
            }
        }
        Ok(answer)
    }

    /// How long records are kept, and where their chain begins and ends.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn get_audit_settings(&self, _request: &GetAuditSettingsRequest) -> Result<GetAuditSettingsResponse, Refusal> {
        Ok(GetAuditSettingsResponse {
            settings: Some(audit::with_defaults(self.ix.audit_settings)),
            chain: Some(ends(&self.ix.chain)),
            records: self.ix.chain.records,
            bytes: self.ix.chain.bytes,
            revision: self.applied_index(),
        })
    }

    /// The records of one entry; none if it has none, or they were dropped.
    pub(super) fn decisions_at(&self, index: u64) -> Result<Vec<Decision>, Refusal> {
        let Some(bytes) = self.engine.get(STATE, &Key::Decisions { index }.encode())? else {
            return Ok(Vec::new());
        };
        let (index, row) = decode_row(&Key::Decisions { index }.encode(), &bytes)?;
        Ok(Filter::default().matching(index, row).collect())
    }
}

/// Where the chain begins and ends, as users see it.
pub(super) fn ends(chain: &ChainRow) -> ChainEnds {
    let hash = |bytes: &bytes::Bytes| match bytes.is_empty() {
        true => vec![0; audit::HASH_BYTES].into(),
        false => bytes.clone(),
    };
    ChainEnds {
        start_index: chain.start_index,
        start_hash: hash(&chain.start_hash),
        start_rows: chain.start_rows,
        head_index: chain.head_index,
        head_hash: hash(&chain.head_hash),
        head_rows: chain.head_rows,
    }
}

fn index_of(key: &[u8]) -> Result<u64, Fatal> {
    match Key::decode(key) {
        Some(Key::Decisions { index }) => Ok(index),
        _ => Err(Fatal::assertion(format!("the key {key:02x?} cannot be decoded"))),
    }
}

fn decode_row(key: &[u8], bytes: &[u8]) -> Result<(u64, DecisionsRow), Refusal> {
    let index = index_of(key)?;
    let row = audit::records(bytes).ok_or_else(|| {
        let message = format!("the records of entry {index} cannot be read: run `tarn audit verify`, and replace this node");
        reject::data_loss("RECORDS_DAMAGED", message)
    })?;
    Ok((index, row))
}

/// What a list asks for. Nothing asked for is everything.
#[derive(Default)]
struct Filter<'a> {
    request: Option<&'a ListDecisionsRequest>,
    task: u64,
}

impl<'a> Filter<'a> {
    fn new(request: &'a ListDecisionsRequest) -> Result<Self, Refusal> {
        let task = match request.task_id.as_str() {
            "" => 0,
            id => parse_id(id, "task_id")?,
        };
        Ok(Filter { request: Some(request), task })
    }

    /// Whether a row could have a record that matches, by its bytes alone: what it does not contain, none of its records says.
    fn may_match(&self, row: &[u8]) -> bool {
        let Some(request) = self.request else { return true };
        let texts = [&request.principal, &request.namespace, &request.request_id, &request.trace, &request.policy];
        let contains = |text: &&String| row.windows(text.len()).any(|part| part == text.as_bytes());
        texts.into_iter().filter(|text| !text.is_empty()).all(|text| contains(&text))
    }

    fn matching(&self, index: u64, row: DecisionsRow) -> impl Iterator<Item = Decision> {
        let at_ms = row.at_ms;
        let numbered = (0..).zip(row.records);
        let wanted = numbered.filter(move |(_, record)| self.matches(at_ms, record));
        wanted.map(move |(ordinal, record)| decision(index, ordinal, at_ms, record))
    }

    fn matches(&self, at_ms: u64, record: &DecisionRow) -> bool {
        let Some(request) = self.request else { return true };
        let is = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        let gate = record.gate.as_ref();
        at_ms >= request.since_ms
            && (request.kinds.is_empty() || request.kinds.contains(&record.kind))
            && is(&request.principal, &record.principal)
            && is(&request.namespace, &record.namespace)
            && is(&request.request_id, &record.request_id)
            && (is(&request.trace, gate.map_or("", |gate| &gate.trace)) || record.traces.contains(&request.trace))
            && (self.task == 0 || concerns(record.task, record.count, self.task))
            && (request.policy.is_empty() || gate.is_some_and(|gate| gate.policies.iter().any(|policy| policy.name == request.policy)))
    }
}

/// Whether a record about `count` tasks from `first` on is about this one: alone, or among those of an enqueue, whose ids follow each other.
pub(super) fn concerns(first: u64, count: u32, task: u64) -> bool {
    first != 0 && (first..first.saturating_add(count.max(1).into())).contains(&task)
}

fn decision(index: u64, ordinal: u32, at_ms: u64, row: DecisionRow) -> Decision {
    let id = |number: u64| {
        if number == 0 { String::new() } else { Id(number).to_string() }
    };
    Decision {
        index,
        ordinal,
        at_ms,
        kind: row.kind,
        task_id: id(row.task),
        worker: id(row.worker),
        principal: row.principal,
        action: row.action,
        resource: row.resource,
        namespace: row.namespace,
        reason: row.reason,
        step: row.step,
        request_id: row.request_id,
        gate: row.gate,
        attempt: row.attempt,
        scores: row.scores,
        delay_ms: row.delay_ms,
        count: row.count,
        detail: row.detail,
        traces: row.traces,
        placement: row.placement,
    }
}
