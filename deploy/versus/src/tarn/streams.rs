//! Workers that speak the contract's stream of work themselves, and so know when each completion was acknowledged.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;
use tarn_client::proto::worker_service_client::WorkerServiceClient;
use tarn_client::proto::{
    CompleteTaskRequest, LeasedTask, RegisterWorkerRequest, WorkOpen, WorkRequest, WorkerCapabilities, work_request, work_response,
};
use tarn_client::tls::{self, Expect};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::Tarn;
use super::work::{Lane, held_by_each};
use crate::measure::Load;
use crate::peers::queue::Tasks;

/// How long an election may take, on a machine that others use too.
const LEADER_WITHIN: Duration = Duration::from_secs(30);
/// How long a registration outlives the load's time: there are no heartbeats.
const TTL_BEYOND: Duration = Duration::from_secs(120);
/// Credit is given back when this part of it has been used, not for each task: most of it is still with the node meanwhile.
const CREDIT_PARTS: u32 = 4;
/// The largest message that is read: a full page of leased tasks with large payloads.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// The most namespaces that one worker names; for more it serves all.
const NAMESPACES_NAMED_MAX: usize = 64;

/// Registers and starts the load's workers, over as many connections to the leader as it says.
pub async fn start(tarn: &Tarn, load: &Load, lane: &Lane, queue: &str, tasks: &Arc<Tasks>) -> Result<JoinSet<Result<()>>> {
    let channels = channels(tarn, load.connections.min(load.workers)).await?;
    let mut workers = JoinSet::new();
    for number in 0..load.workers {
        let mut service = WorkerServiceClient::new(channels[number % channels.len()].clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let namespaces = match lane.namespaces.len() {
            0 => vec!["default".to_owned()],
            1..=NAMESPACES_NAMED_MAX => lane.namespaces.clone(),
            _ => Vec::new(),
        };
        let registration = RegisterWorkerRequest {
            name: format!("versus-{number}"),
            capabilities: Some(WorkerCapabilities { namespaces, queues: vec![queue.to_owned()], ..Default::default() }),
            ttl_ms: u64::try_from((load.warm_up + load.time + TTL_BEYOND).as_millis())?,
            ..Default::default()
        };
        let worker_id = service.register_worker(registration).await?.into_inner().worker_id;
        workers.spawn(work(service, worker_id, u32::try_from(held_by_each(load))?, tasks.clone()));
    }
    Ok(workers)
}

/// Connections to the leader: SDK workers end up there too.
async fn channels(tarn: &Tarn, count: usize) -> Result<Vec<Channel>> {
    let client = tarn.cluster.client()?;
    let end = Instant::now() + LEADER_WITHIN;
    let leader = loop {
        match client.cluster().await?.members.into_iter().find(|member| member.leader) {
            Some(leader) => break leader,
            None if Instant::now() >= end => bail!("nobody leads within {LEADER_WITHIN:?}"),
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let address = leader.address.parse()?;
    let config = tls::client_config(&tarn.cluster.credentials()?, Expect::AnyNode);
    Ok((0..count.max(1)).map(|_| tls::connect_lazy(&address, config.clone(), &tls::ConnectOptions::default())).collect())
}

/// One stream. When each completion is acknowledged, it is noted and the next task may come.
async fn work(mut service: WorkerServiceClient<Channel>, worker_id: String, credit: u32, tasks: Arc<Tasks>) -> Result<()> {
    let (sender, receiver) = mpsc::channel(credit as usize * 2 + 2);
    for message in [work_request::Message::Open(WorkOpen { worker_id, lease_ms: 0 }), work_request::Message::Credit(credit)] {
        sender.send(WorkRequest { correlation: 0, message: Some(message) }).await?;
    }
    let mut stream = service.work(ReceiverStream::new(receiver)).await?.into_inner();
    let mut running: HashMap<u64, Bytes> = HashMap::new();
    let mut correlation = 0;
    // Completed since credit was given last.
    let mut done: u32 = 0;
    while let Some(response) = stream.message().await? {
        match response.message {
            Some(work_response::Message::Task(task)) => {
                correlation += 1;
                let (payload, complete) = completion(*task);
                running.insert(correlation, payload);
                sender.send(WorkRequest { correlation, message: Some(work_request::Message::Complete(complete)) }).await?;
            }
            Some(work_response::Message::Completed(_)) => {
                if let Some(payload) = running.remove(&response.correlation) {
                    tasks.acknowledged(&payload)?;
                }
                done += 1;
                if done >= credit.div_ceil(CREDIT_PARTS) {
                    let more = work_request::Message::Credit(std::mem::take(&mut done));
                    sender.send(WorkRequest { correlation: 0, message: Some(more) }).await?;
                }
            }
            Some(work_response::Message::Rejected(rejection)) => bail!("{}: {}", rejection.reason, rejection.message),
            Some(
                work_response::Message::Heartbeat(_)
                | work_response::Message::Failed(_)
                | work_response::Message::Notice(_)
                | work_response::Message::Draining(_),
            )
            | None => {}
        }
    }
    bail!("the node ended a stream of work")
}

fn completion(task: LeasedTask) -> (Bytes, CompleteTaskRequest) {
    let payload = task.spec.map(|spec| spec.payload).unwrap_or_default();
    let complete =
        CompleteTaskRequest { namespace: task.namespace, task_id: task.task_id, token: task.token, ..CompleteTaskRequest::default() };
    (payload, complete)
}
