//! The services but for the workers': just enough of each.

use std::pin::Pin;

use tarn_client::{artifact_address, has_ended, proto::*};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::Router;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Fake, Record, refuse};

/// All services on one node.
pub fn router(mut server: tonic::transport::Server, fake: Fake) -> Router {
    server
        .add_service(command_service_server::CommandServiceServer::new(fake.clone()))
        .add_service(task_service_server::TaskServiceServer::new(fake.clone()))
        .add_service(worker_service_server::WorkerServiceServer::new(fake.clone()))
        .add_service(lease_service_server::LeaseServiceServer::new(fake.clone()))
        .add_service(event_service_server::EventServiceServer::new(fake.clone()))
        .add_service(artifact_service_server::ArtifactServiceServer::new(fake.clone()))
        .add_service(context_service_server::ContextServiceServer::new(fake.clone()))
        .add_service(cluster_service_server::ClusterServiceServer::new(fake))
}

/// What the gate says to the request, if it refuses it.
pub fn forbidden(request: &EnqueueRequest) -> Option<Status> {
    let forbidden = request.tasks.iter().any(|task| task.queue == "forbidden");
    forbidden.then(|| refuse(Code::PermissionDenied, "FORBIDDEN", "ask for the role"))
}

#[tonic::async_trait]
impl task_service_server::TaskService for Fake {
    async fn enqueue(&self, request: Request<EnqueueRequest>) -> Result<Response<EnqueueResponse>, Status> {
        let request = request.into_inner();
        self.carry_out("enqueue", &request.request_id.clone(), |state| {
            if request.tasks.iter().any(|task| task.queue == "BAD") {
                return Err(refuse(Code::InvalidArgument, "INVALID_QUEUE", "write the queue in lower case"));
            }
            if let Some(refusal) = forbidden(&request) {
                return Err(refusal);
            }
            let mut task_ids = Vec::new();
            for spec in request.tasks {
                let key = state.next();
                let task = Task {
                    namespace: request.namespace.clone(),
                    task_id: key.to_string(),
                    dependencies: spec.after.clone(),
                    spec: Some(spec),
                    state: TaskState::Ready.into(),
                    ..Default::default()
                };
                task_ids.push(task.task_id.clone());
                state.tasks.insert(key, Record { task, ..Default::default() });
            }
            Ok(EnqueueResponse { task_ids })
        })
        .await
    }

    async fn get_task(&self, request: Request<GetTaskRequest>) -> Result<Response<GetTaskResponse>, Status> {
        let request = request.into_inner();
        if request.wait_ms > 0 {
            let key = request.task_id.clone();
            let ended = self.until("the task ended", |state| {
                state.tasks.get(&key.parse().unwrap()).is_none_or(|record| has_ended(record.task.state()))
            });
            let _ = tokio::time::timeout(std::time::Duration::from_millis(request.wait_ms), ended).await;
        }
        self.carry_out("get_task", "", |state| {
            Ok(GetTaskResponse { task: Some(state.record(&request.task_id)?.task.clone()), revision: state.last })
        })
        .await
    }

    async fn list_tasks(&self, request: Request<ListTasksRequest>) -> Result<Response<ListTasksResponse>, Status> {
        let request = request.into_inner();
        self.carry_out("list_tasks", "", |state| {
            let after = request.page_token.parse().unwrap_or(0);
            let page: Vec<Task> = state.tasks.range(after + 1..).take(2).map(|(_, record)| record.task.clone()).collect();
            let more = page.last().filter(|last| state.tasks.range(last.task_id.parse::<u64>().unwrap() + 1..).count() > 0);
            let next_page_token = more.map(|last| last.task_id.clone()).unwrap_or_default();
            Ok(ListTasksResponse { next_page_token, tasks: page, revision: state.last })
        })
        .await
    }

    async fn cancel_task(&self, request: Request<CancelTaskRequest>) -> Result<Response<CancelTaskResponse>, Status> {
        let request = request.into_inner();
        self.carry_out("cancel_task", &request.request_id, |state| {
            let record = state.record(&request.task_id)?;
            if request.force {
                record.task.state = TaskState::Cancelled.into();
                record.task.token = 0;
            } else {
                record.task.cancel_requested = true;
            }
            Ok(CancelTaskResponse { state: record.task.state })
        })
        .await
    }

    async fn get_task_logs(&self, request: Request<GetTaskLogsRequest>) -> Result<Response<GetTaskLogsResponse>, Status> {
        let request = request.into_inner();
        self.carry_out("get_task_logs", "", |state| {
            let text = state.record(&request.task_id)?.logs.clone();
            Ok(GetTaskLogsResponse { logs: vec![AttemptLog { attempt: 1, text }] })
        })
        .await
    }
}

#[tonic::async_trait]
impl lease_service_server::LeaseService for Fake {
    async fn acquire_lease(&self, request: Request<AcquireLeaseRequest>) -> Result<Response<AcquireLeaseResponse>, Status> {
        let request = request.into_inner();
        self.carry_out("acquire_lease", &request.request_id, |state| {
            if state.leases.contains_key(&request.name) {
                return Err(refuse(Code::FailedPrecondition, "LEASE_HELD", "somebody else holds it"));
            }
            let token = state.next();
            let lease = NamedLease {
                namespace: request.namespace.clone(),
                name: request.name.clone(),
                holder: request.holder.clone(),
                token,
                ..Default::default()
            };
            state.leases.insert(request.name.clone(), lease.clone());
            Ok(AcquireLeaseResponse { lease: Some(lease) })
        })
        .await
    }

    async fn renew_lease(&self, request: Request<RenewLeaseRequest>) -> Result<Response<RenewLeaseResponse>, Status> {
        let request = request.into_inner();
        self.carry_out("renew_lease", &request.request_id, |state| {
            let lease = state.leases.get(&request.name).filter(|lease| lease.token == request.token);
            let lease = lease.ok_or_else(|| refuse(Code::FailedPrecondition, "STALE_TOKEN", "lost"))?;
            Ok(RenewLeaseResponse { lease: Some(lease.clone()) })
        })
        .await
    }

    async fn release_lease(&self, request: Request<ReleaseLeaseRequest>) -> Result<Response<ReleaseLeaseResponse>, Status> {
        let request = request.into_inner();
        self.carry_out("release_lease", &request.request_id, |state| {
            let held = state.leases.get(&request.name).is_some_and(|lease| lease.token == request.token);
            if !held {
                return Err(refuse(Code::FailedPrecondition, "STALE_TOKEN", "lost"));
            }
            state.leases.remove(&request.name);
            Ok(ReleaseLeaseResponse {})
        })
        .await
    }

    async fn get_lease(&self, _: Request<GetLeaseRequest>) -> Result<Response<GetLeaseResponse>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn list_leases(&self, _: Request<ListLeasesRequest>) -> Result<Response<ListLeasesResponse>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }
}

#[tonic::async_trait]
impl event_service_server::EventService for Fake {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        self.carry_out("watch", "", |state| match request.from_now || request.after_revision >= state.compacted {
            true => Ok(WatchResponse::default()),
            false => Err(refuse(Code::OutOfRange, "COMPACTED", "list and watch again")),
        })
        .await?;
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let fake = self.clone();
        tokio::spawn(async move {
            let (mut cut, mut changed) = (fake.cuts.subscribe(), fake.changed.subscribe());
            let mut seen = if request.from_now { fake.with(|state| state.last) } else { request.after_revision };
            // Without events at first, as a sign of life.
            let mut message = WatchResponse { events: Vec::new(), revision: seen };
            loop {
                if sender.send(Ok(message)).await.is_err() {
                    return;
                }
                let news = async {
                    loop {
                        let events: Vec<Event> = {
                            let state = fake.state.lock().unwrap();
                            state.events.iter().filter(|event| event.revision > seen).take(3).cloned().collect()
                        };
                        if let Some(last) = events.last() {
                            return WatchResponse { revision: last.revision, events };
                        }
                        changed.changed().await.unwrap();
                    }
                };
                message = tokio::select! {
                    news = news => news,
                    _ = cut.changed() => {
                        let _ = sender.send(Err(Status::unavailable("cut"))).await;
                        return;
                    }
                };
                seen = message.revision;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

#[tonic::async_trait]
impl artifact_service_server::ArtifactService for Fake {
    type GetArtifactStream = Pin<Box<dyn Stream<Item = Result<GetArtifactResponse, Status>> + Send>>;

    async fn put_artifact(&self, request: Request<Streaming<PutArtifactRequest>>) -> Result<Response<PutArtifactResponse>, Status> {
        let mut stream = request.into_inner();
        let (mut artifact, mut bytes) = (String::new(), Vec::new());
        while let Some(message) = stream.next().await {
            let message = message?;
            artifact.push_str(&message.artifact);
            bytes.extend_from_slice(&message.chunk);
        }
        assert_eq!(artifact, artifact_address(&bytes));
        self.carry_out("put_artifact", "", |state| {
            let size = bytes.len() as u64;
            state.artifacts.insert(artifact.clone(), bytes.into());
            Ok(PutArtifactResponse { artifact, bytes: size })
        })
        .await
    }

    async fn get_artifact(&self, request: Request<GetArtifactRequest>) -> Result<Response<Self::GetArtifactStream>, Status> {
        let request = request.into_inner();
        let answer = self.carry_out("get_artifact", "", |state| {
            let bytes = state.artifacts.get(&request.artifact).cloned();
            let chunk = bytes.ok_or_else(|| refuse(Code::NotFound, "ARTIFACT_NOT_FOUND", "put it first"))?;
            Ok(GetArtifactResponse { chunk })
        });
        let bytes = answer.await?.into_inner().chunk;
        let chunks: Vec<_> = bytes.chunks(1000).map(|chunk| Ok(GetArtifactResponse { chunk: bytes.slice_ref(chunk) })).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn list_artifacts(&self, _: Request<ListArtifactsRequest>) -> Result<Response<ListArtifactsResponse>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }
}

#[tonic::async_trait]
impl cluster_service_server::ClusterService for Fake {
    async fn get_cluster(&self, _: Request<GetClusterRequest>) -> Result<Response<GetClusterResponse>, Status> {
        self.carry_out("get_cluster", "", |state| {
            let member = |address: &String| Member { address: address.clone(), ..Default::default() };
            Ok(GetClusterResponse { members: state.members.iter().map(member).collect(), ..Default::default() })
        })
        .await
    }

    async fn add_member(&self, _: Request<AddMemberRequest>) -> Result<Response<AddMemberResponse>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn remove_member(&self, _: Request<RemoveMemberRequest>) -> Result<Response<RemoveMemberResponse>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn transfer_leader(&self, _: Request<TransferLeaderRequest>) -> Result<Response<TransferLeaderResponse>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn upgrade_cluster(&self, _: Request<UpgradeClusterRequest>) -> Result<Response<UpgradeClusterResponse>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn create_join_token(&self, _: Request<CreateJoinTokenRequest>) -> Result<Response<CreateJoinTokenResponse>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }
}
