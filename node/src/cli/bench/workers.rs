//! The workers of a load run: each completes at once what it leases, over one stream.

use std::sync::Arc;
use std::time::Instant;

use tarn_proto::v1::worker_service_client::WorkerServiceClient;
use tarn_proto::v1::{
    CompleteTaskRequest, LeasedTask, RegisterWorkerRequest, WorkOpen, WorkRequest, WorkResponse, WorkerCapabilities, work_request,
    work_response,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::Run;
use super::report::Samples;
use crate::cli::exit::Failure;

/// Registration outlives any run without heartbeats.
const TTL_MS: u64 = 3_600_000;

/// Credit is given back when this part of it has been used, not for each task: most of it is still with the node meanwhile.
const CREDIT_PARTS: u32 = 4;

/// Registers and starts the workers.
pub async fn start(run: &Arc<Run>, workers: usize, credit: u32, stop: &CancellationToken) -> Result<Vec<JoinHandle<Samples>>, Failure> {
    let mut handles = Vec::new();
    for number in 0..workers.max(1) {
        let mut service = WorkerServiceClient::new(run.channel(number)).max_decoding_message_size(64 << 20);
        let registration = service.register_worker(register(run, number)).await.map_err(|status| anyhow::anyhow!("{status}"))?;
        let worker_id = registration.into_inner().worker_id;
        handles.push(tokio::spawn(worker(run.clone(), service, worker_id, credit.max(1), stop.clone())));
    }
    Ok(handles)
}

fn register(run: &Run, number: usize) -> RegisterWorkerRequest {
    RegisterWorkerRequest {
        request_id: String::new(),
        name: format!("bench-{number}"),
        capabilities: Some(WorkerCapabilities {
            namespaces: vec![run.namespace.clone()],
            queues: vec![run.queue.clone()],
            ..Default::default()
        }),
        ttl_ms: TTL_MS,
    }
}

/// One stream. When each completion is acknowledged, its latency is recorded, its permit is back and the next task may come.
async fn worker(
    run: Arc<Run>,
    mut service: WorkerServiceClient<tonic::transport::Channel>,
    worker_id: String,
    credit: u32,
    stop: CancellationToken,
) -> Samples {
    let mut samples = Samples::default();
    let (sender, receiver) = mpsc::channel(credit as usize * 2 + 2);
    let open = WorkOpen { worker_id, lease_ms: 0 };
    for message in [work_request::Message::Open(open), work_request::Message::Credit(credit)] {
        let _ = sender.send(WorkRequest { correlation: 0, message: Some(message) }).await;
    }
    let mut stream = match service.work(ReceiverStream::new(receiver)).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => {
            samples.fail(&status.to_string());
            return samples;
        }
    };
    // By correlation: when the task was due.
    let mut running: std::collections::HashMap<u64, Instant> = std::collections::HashMap::new();
    let mut correlation = 0;
    // Completed since credit was given last.
    let mut done: u32 = 0;
    loop {
        let response = match stop.run_until_cancelled(stream.message()).await {
            None | Some(Ok(None)) => return samples,
            Some(Ok(Some(response))) => response,
            Some(Err(status)) => {
                samples.fail(&status.to_string());
                return samples;
            }
        };
        let WorkResponse { correlation: answered, message } = response;
        match message {
            Some(work_response::Message::Task(task)) => {
                correlation += 1;
                let due = task.spec.as_ref().and_then(|spec| run.due(&spec.payload)).unwrap_or_else(Instant::now);
                running.insert(correlation, due);
                let complete = WorkRequest { correlation, message: Some(work_request::Message::Complete(completion(*task))) };
                if sender.send(complete).await.is_err() {
                    return samples;
                }
            }
            Some(work_response::Message::Completed(_)) => {
                if let Some(due) = running.remove(&answered) {
                    samples.record(due.elapsed());
                }
                run.outstanding.add_permits(1);
                done += 1;
                if done < credit.div_ceil(CREDIT_PARTS) {
                    continue;
                }
                let more = WorkRequest { correlation: 0, message: Some(work_request::Message::Credit(std::mem::take(&mut done))) };
                if sender.send(more).await.is_err() {
                    return samples;
                }
            }
            Some(work_response::Message::Rejected(rejection)) => samples.fail(&rejection.reason),
            Some(
                work_response::Message::Heartbeat(_)
                | work_response::Message::Failed(_)
                | work_response::Message::Notice(_)
                | work_response::Message::Draining(_),
            )
            | None => {}
        }
    }
}

fn completion(task: LeasedTask) -> CompleteTaskRequest {
    CompleteTaskRequest {
        request_id: String::new(),
        namespace: task.namespace,
        task_id: task.task_id,
        token: task.token,
        ..Default::default()
    }
}
