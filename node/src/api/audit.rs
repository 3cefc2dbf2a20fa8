//! `AuditService`: what was decided and why.
//!
//! Records of a namespace are for who may read `audit/*` there; those of the whole cluster, the chain and the settings for who may in all
//! namespaces. The story of a task is for who may read the task, and whoever has a role may have their own requests explained.

use std::pin::Pin;
use std::time::Duration;

use tarn_proto::v1::audit_service_server::AuditService;
use tarn_proto::v1::{self, Decision, ListDecisionsRequest};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::call::{Api, Call};
use crate::explain::{self, Level};
use crate::gate::permission::{ALL, ANYWHERE};
use crate::gate::{Question, Reason, Refusal, Wish};

/// Rows that one look at the state walks over, so that no look holds up what is applied.
const WALK_ROWS: usize = 2_048;

/// Without records, a sign of life goes out this often.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Looks at the state are at least this far apart while an export follows.
const LOOK_APART: Duration = Duration::from_millis(50);

/// Messages of an export that wait for the client to read.
const OUTGOING_MAX: usize = 4;

/// Longest id that is looked for.
const ID_BYTES_MAX: usize = tarn_machine::limits::REQUEST_ID_BYTES_MAX;

/// Records of which a request's story is made.
const RECORDS_MAX: usize = 100;

/// Refused decisions of one story whose objections are looked for.
const OBJECTIONS_MAX: usize = 8;

/// Refusals and violations are recorded in the background: those of one request lie less than this apart.
const RECORDED_WITHIN_MS: u64 = 10_000;

/// `AuditService` of one node.
#[derive(Clone)]
pub struct AuditApi {
    api: Api,
    node_id: u64,
}

impl AuditApi {
    /// The service of the node with this id.
    #[must_use]
    pub fn new(api: Api, node_id: u64) -> Self {
        Self { api, node_id }
    }
}

#[tonic::async_trait]
impl AuditService for AuditApi {
    type ExportDecisionsStream = Pin<Box<dyn Stream<Item = Result<v1::ExportDecisionsResponse, Status>> + Send>>;

    async fn list_decisions(&self, request: Request<ListDecisionsRequest>) -> Result<Response<v1::ListDecisionsResponse>, Status> {
        self.api.read(request, |machine, question| machine.list_decisions(question)).await
    }

    async fn verify_decisions(
        &self,
        request: Request<v1::VerifyDecisionsRequest>,
    ) -> Result<Response<v1::VerifyDecisionsResponse>, Status> {
        let call = self.api.enter(&request)?;
        let answer = self.verify(&call, &request.into_inner()).await;
        answer.map(Response::new).map_err(|refusal| call.status(refusal))
    }

    async fn export_decisions(
        &self,
        request: Request<v1::ExportDecisionsRequest>,
    ) -> Result<Response<Self::ExportDecisionsStream>, Status> {
        let call = self.api.enter(&request)?;
        let request = request.into_inner();
        let filter = request.filter.unwrap_or_default();
        self.begin_export(&call, &filter).await.map_err(|refusal| call.status(refusal))?;
        let (sender, receiver) = mpsc::channel(OUTGOING_MAX);
        let export = Export { position: filter.after_index, api: self.api.clone(), call, filter, follow: request.follow, sender };
        tokio::spawn(export.run());
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn get_audit_settings(
        &self,
        request: Request<v1::GetAuditSettingsRequest>,
    ) -> Result<Response<v1::GetAuditSettingsResponse>, Status> {
        self.api.read(request, |machine, question| machine.get_audit_settings(question)).await
    }

    async fn put_audit_settings(
        &self,
        request: Request<v1::PutAuditSettingsRequest>,
    ) -> Result<Response<v1::PutAuditSettingsResponse>, Status> {
        self.api.command(request).await
    }

    async fn explain_task(&self, request: Request<v1::ExplainTaskRequest>) -> Result<Response<v1::ExplainTaskResponse>, Status> {
        let call = self.api.enter(&request)?;
        let answer = self.story(&call, request.into_inner()).await;
        answer.map(Response::new).map_err(|refusal| call.status(refusal))
    }

    async fn explain_request(&self, request: Request<v1::ExplainRequestRequest>) -> Result<Response<v1::ExplainRequestResponse>, Status> {
        let call = self.api.enter(&request)?;
        let answer = self.request_story(&call, &request.into_inner()).await;
        answer.map(Response::new).map_err(|refusal| call.status(refusal))
    }
}

/// What it takes to see the records of a namespace; of the whole cluster if it is empty.
fn records_of(namespace: &str) -> Wish<'_> {
    Wish { verb: "read", kind: "audit", name: "records", namespace: Some(if namespace.is_empty() { ALL } else { namespace }) }
}

/// What takes somebody who has any role at all: whoever may look at the cluster may have their own requests explained.
const SOMEWHERE: Wish<'static> = Wish { verb: "read", kind: "cluster", name: ALL, namespace: ANYWHERE };

impl AuditApi {
    async fn verify(&self, call: &Call, question: &v1::VerifyDecisionsRequest) -> Result<v1::VerifyDecisionsResponse, Refusal> {
        let through = question.through_index;
        let way = &self.api.way;
        let begin = way.read(&call.caller, question.wish(), call.deadline, |machine| Ok(machine.chain_walk(through)));
        let mut walk = begin.await?;
        while !way.look(|machine| Ok(machine.walk_chain(&mut walk, WALK_ROWS)))? {
            in_time(call)?;
            tokio::task::yield_now().await;
        }
        Ok(walk.report(self.node_id))
    }

    /// Refuses what can never be answered, so that the caller learns it at once.
    async fn begin_export(&self, call: &Call, filter: &ListDecisionsRequest) -> Result<(), Refusal> {
        let wish = records_of(&filter.namespace);
        let first = ListDecisionsRequest { page_size: 1, page_token: String::new(), ..filter.clone() };
        let begin = self.api.way.read(&call.caller, wish, call.deadline, |machine| machine.list_decisions(&first));
        begin.await.map(drop)
    }

    async fn story(&self, call: &Call, mut question: v1::ExplainTaskRequest) -> Result<v1::ExplainTaskResponse, Refusal> {
        question.complete();
        let level = Level::from(question.level());
        let way = &self.api.way;
        if level == Level::Audit {
            way.admit(&call.caller, records_of(&question.namespace))?;
        }
        let (namespace, task_id) = (question.namespace.as_str(), question.task_id.as_str());
        let read = way.read(&call.caller, question.wish(), call.deadline, |machine| routed_story(machine, namespace, task_id));
        let mut story = read.await?;
        self.hide_others(call, &mut story);
        if level < Level::Audit {
            // What policies read, and how requests came in, is for auditors.
            for decision in &mut story.decisions {
                if let Some(gate) = &mut decision.gate {
                    gate.facts.clear();
                    gate.input_digest.clear();
                }
            }
        }
        Ok(v1::ExplainTaskResponse { sentences: explain::task(&story, level), story: Some(story) })
    }

    /// Tenants do not learn each other's names: only who may see all namespaces is told which others have work.
    fn hide_others(&self, call: &Call, story: &mut v1::TaskStory) {
        let all = Wish { verb: "read", kind: "namespace", name: ALL, namespace: Some(ALL) };
        if self.api.way.may(&call.caller, all) {
            return;
        }
        let own = story.task.as_ref().map(|task| task.namespace.clone()).unwrap_or_default();
        for share in story.waiting.iter_mut().flat_map(|waiting| &mut waiting.shares) {
            if share.namespace != own {
                "another namespace".clone_into(&mut share.namespace);
                (share.ready, share.pass) = (0, 0);
            }
        }
    }

    async fn request_story(&self, call: &Call, question: &v1::ExplainRequestRequest) -> Result<v1::ExplainRequestResponse, Refusal> {
        let way = &self.api.way;
        let everybodys = way.may(&call.caller, records_of(""));
        if !everybodys {
            way.admit(&call.caller, SOMEWHERE)?;
        }
        if question.id.is_empty() || question.id.len() > ID_BYTES_MAX {
            return Err(Reason::InvalidArgument
                .refusal("name a request id or a trace id: a refusal's answer and the node's log tell them")
                .field("id")
                .limit(ID_BYTES_MAX as u64));
        }
        way.barrier(call.deadline).await?;
        let by = |request_id: &str, trace: &str| ListDecisionsRequest {
            request_id: request_id.to_owned(),
            trace: trace.to_owned(),
            page_size: RECORDS_MAX as u32,
            ..ListDecisionsRequest::default()
        };
        let mut decisions = self.search(call, by(&question.id, "")).await?;
        decisions.extend(self.search(call, by("", &question.id)).await?);
        decisions.retain(|decision| everybodys || *decision.principal == *call.caller.principal);
        decisions.sort_by_key(|decision| (decision.index, decision.ordinal));
        decisions.dedup_by_key(|decision| (decision.index, decision.ordinal));
        decisions.truncate(RECORDS_MAX);
        let violations = self.objections(&decisions)?;
        Ok(v1::ExplainRequestResponse {
            sentences: explain::request(&question.id, &decisions, &violations, Level::from(question.level())),
            decisions,
        })
    }

    /// What policies found about the time at which they refused one of these.
    fn objections(&self, decisions: &[Decision]) -> Result<Vec<v1::Violation>, Refusal> {
        let by_policy = |decision: &&Decision| decision.step == "policy" && !decision.request_id.is_empty();
        let mut found = Vec::new();
        for decision in decisions.iter().filter(by_policy).take(OBJECTIONS_MAX) {
            let question = v1::ListViolationsRequest {
                since_ms: decision.at_ms.saturating_sub(RECORDED_WITHIN_MS),
                until_ms: decision.at_ms.saturating_add(RECORDED_WITHIN_MS),
                page_size: RECORDS_MAX as u32,
                ..v1::ListViolationsRequest::default()
            };
            let page = self.api.way.look(|machine| machine.list_violations(&question))?;
            found.extend(page.violations.into_iter().filter(|found| found.request_id == decision.request_id));
        }
        Ok(found)
    }

    /// All records that match, up to [`RECORDS_MAX`]. Looks through what is kept, a page at a time.
    async fn search(&self, call: &Call, mut filter: ListDecisionsRequest) -> Result<Vec<Decision>, Refusal> {
        let mut found = Vec::new();
        loop {
            let page = self.api.way.look(|machine| machine.list_decisions(&filter))?;
            found.extend(page.decisions);
            if page.next_page_token.is_empty() || found.len() >= RECORDS_MAX {
                return Ok(found);
            }
            filter.page_token = page.next_page_token;
            in_time(call)?;
            tokio::task::yield_now().await;
        }
    }
}

fn in_time(call: &Call) -> Result<(), Refusal> {
    if Instant::now() < call.deadline {
        return Ok(());
    }
    Err(Reason::DeadlineExceeded.refusal("there is more to look through than the time allowed: allow more with --deadline"))
}

/// One export, for as long as its client reads.
struct Export {
    api: Api,
    call: Call,
    filter: ListDecisionsRequest,
    follow: bool,
    /// Everything up to this index was sent.
    position: u64,
    sender: mpsc::Sender<Result<v1::ExportDecisionsResponse, Status>>,
}

impl Export {
    async fn run(mut self) {
        let stopping = self.api.stopping.clone();
        let ended = tokio::select! {
            refusal = self.send_all() => refusal,
            () = stopping.cancelled() => {
                Some(Reason::NodeStopping.refusal("this node is stopping: go on at another one, after the last index"))
            }
        };
        if let Some(refusal) = ended {
            let _ = self.sender.send(Err(self.call.status(refusal))).await;
        }
    }

    /// Sends until there is nothing more, the client is gone, or there is a reason to stop.
    async fn send_all(&mut self) -> Option<Refusal> {
        let mut applied = self.api.way.consensus().applied();
        let mut alive_at = Instant::now();
        loop {
            applied.mark_unchanged();
            loop {
                let (decisions, more) = match self.page() {
                    Ok(page) => page,
                    Err(refusal) => return Some(refusal),
                };
                if !decisions.is_empty() || Instant::now() >= alive_at {
                    alive_at = Instant::now() + HEARTBEAT;
                    let index = self.position;
                    let message = v1::ExportDecisionsResponse { decisions, index };
                    self.sender.send(Ok(message)).await.ok()?;
                }
                if !more {
                    break;
                }
                tokio::task::yield_now().await;
            }
            if !self.follow {
                return None;
            }
            tokio::select! {
                () = self.sender.closed() => return None,
                () = tokio::time::sleep_until(alive_at) => {}
                changed = applied.changed() => {
                    changed.ok()?;
                    tokio::time::sleep(LOOK_APART).await;
                }
            }
        }
    }

    /// The next records, and whether there are more.
    fn page(&mut self) -> Result<(Vec<Decision>, bool), Refusal> {
        // The stream may have been opened long ago: rights are judged anew.
        self.api.way.still_may(&self.call.caller, records_of(&self.filter.namespace))?;
        let question = ListDecisionsRequest { after_index: self.position, page_token: String::new(), page_size: 0, ..self.filter.clone() };
        let position = self.position;
        let (page, dropped) = self.api.way.look(|machine| {
            let chain = machine.get_audit_settings(&v1::GetAuditSettingsRequest {})?.chain;
            let dropped = chain.map_or(0, |chain| chain.start_index);
            Ok((machine.list_decisions(&question)?, dropped))
        })?;
        if position > 0 && dropped > position {
            return Err(dropped_meanwhile(dropped));
        }
        let more = !page.next_page_token.is_empty();
        self.position = page.next_page_token.parse().unwrap_or(page.revision).max(position);
        Ok((page.decisions, more))
    }
}

fn dropped_meanwhile(index: u64) -> Refusal {
    let mut refusal = Reason::InvalidArgument.refusal(format!(
        "records up to index {index} were dropped before they were exported: go on after it, and keep records for longer with `tarn audit settings`"
    ));
    "RECORDS_DROPPED".clone_into(&mut refusal.rejection.reason);
    refusal.limit(index)
}

/// The story of a task, with what workers lack if it waits for the router.
fn routed_story(machine: &tarn_machine::Machine, namespace: &str, task_id: &str) -> Result<v1::TaskStory, tarn_machine::Refusal> {
    let mut story = machine.task_story(namespace, task_id)?;
    if let (Some(waiting), Some(task)) = (&mut story.waiting, &story.task) {
        waiting.lacks = crate::router::lacks(machine, task);
    }
    Ok(story)
}
