//! `DriverService`: which drivers there are, and the way to those that run.

use std::pin::Pin;
use std::time::Duration;

use tarn_proto::v1;
use tarn_proto::v1::driver_service_server::DriverService;
use tarn_proto::v1::peer_drivers_answer::Answer;
use tarn_proto::v1::peer_drivers_question::Question as Asked;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Api, Call};
use crate::drivers::Drivers;
use crate::gate::{Question, Reason, Refusal};

/// The longest payload of a call.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// The longest name of a method.
const METHOD_BYTES_MAX: usize = 128;
/// A reader of a log asks the node that runs the driver this often at least; it is answered at once when there is a line.
const LOGS_TIMEOUT: Duration = Duration::from_secs(15);
/// After a failure, a reader that follows asks again.
const AGAIN: Duration = Duration::from_secs(1);

/// The driver service.
#[derive(Clone)]
pub struct DriverApi {
    api: Api,
    drivers: Drivers,
}

impl DriverApi {
    /// The service over these drivers.
    #[must_use]
    pub fn new(api: Api, drivers: Drivers) -> Self {
        Self { api, drivers }
    }

    /// Refuses what is no driver before it is proposed, and only to who may install it.
    async fn try_out<T>(&self, request: &Request<T>, body: v1::command::Body, spec: Option<&v1::DriverSpec>) -> Result<(), Status> {
        let call = self.api.enter(request)?;
        let tried = async {
            crate::gate::permission::of_command(&body, |wish| self.api.way.still_may(&call.caller, wish))?;
            match spec {
                Some(spec) => {
                    // A key that was trusted at another node just now is known here then.
                    self.api.way.barrier(call.deadline).await?;
                    self.drivers.try_out(spec).await
                }
                None => Ok(()),
            }
        };
        match tried.await {
            Ok(()) => Ok(()),
            // The gate says it itself, and records it.
            Err(refusal) if refusal.step.is_some() => Ok(()),
            Err(refusal) => Err(call.status(refusal)),
        }
    }
}

#[tonic::async_trait]
impl DriverService for DriverApi {
    async fn install_driver(&self, mut request: Request<v1::InstallDriverRequest>) -> Result<Response<v1::InstallDriverResponse>, Status> {
        crate::way::namespace_or_default(&mut request.get_mut().namespace);
        let body = v1::command::Body::InstallDriver(request.get_ref().clone());
        self.try_out(&request, body, request.get_ref().spec.as_ref()).await?;
        self.api.command(request).await
    }

    async fn upgrade_driver(&self, mut request: Request<v1::UpgradeDriverRequest>) -> Result<Response<v1::UpgradeDriverResponse>, Status> {
        crate::way::namespace_or_default(&mut request.get_mut().namespace);
        let body = v1::command::Body::UpgradeDriver(request.get_ref().clone());
        self.try_out(&request, body, request.get_ref().spec.as_ref()).await?;
        self.api.command(request).await
    }

    async fn remove_driver(&self, request: Request<v1::RemoveDriverRequest>) -> Result<Response<v1::RemoveDriverResponse>, Status> {
        self.api.command(request).await
    }

    async fn list_drivers(&self, request: Request<v1::ListDriversRequest>) -> Result<Response<v1::ListDriversResponse>, Status> {
        let mut response = self.api.read(request, |machine, question| machine.list_drivers(question)).await?;
        self.drivers.tell(&mut response.get_mut().drivers).await;
        Ok(response)
    }

    async fn get_driver(&self, request: Request<v1::GetDriverRequest>) -> Result<Response<v1::GetDriverResponse>, Status> {
        let mut response = self.api.read(request, |machine, question| machine.get_driver(question)).await?;
        self.drivers.tell(response.get_mut().driver.as_mut_slice()).await;
        Ok(response)
    }

    async fn call_driver(&self, request: Request<v1::CallDriverRequest>) -> Result<Response<v1::CallDriverResponse>, Status> {
        let call = self.api.enter(&request)?;
        let mut question = request.into_inner();
        question.complete();
        let answered = self.called(&call, question).await;
        answered.map(Response::new).map_err(|refusal| call.status(refusal))
    }

    type GetDriverLogsStream = Pin<Box<dyn Stream<Item = Result<v1::GetDriverLogsResponse, Status>> + Send>>;

    async fn get_driver_logs(&self, request: Request<v1::GetDriverLogsRequest>) -> Result<Response<Self::GetDriverLogsStream>, Status> {
        let call = self.api.enter(&request)?;
        let mut question = request.into_inner();
        question.complete();
        let found = self.found(&call, &question).await;
        found.map_err(|refusal| call.status(refusal))?;
        let (sender, receiver) = mpsc::channel(1);
        let reader = Reader { of: self.clone(), call, question, sender };
        tokio::spawn(reader.run());
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn put_driver_settings(
        &self,
        request: Request<v1::PutDriverSettingsRequest>,
    ) -> Result<Response<v1::PutDriverSettingsResponse>, Status> {
        self.api.command(request).await
    }

    async fn get_driver_settings(
        &self,
        request: Request<v1::GetDriverSettingsRequest>,
    ) -> Result<Response<v1::GetDriverSettingsResponse>, Status> {
        self.api.read(request, |machine, question| machine.get_driver_settings(question)).await
    }
}

impl DriverApi {
    async fn called(&self, call: &Call, question: v1::CallDriverRequest) -> Result<v1::CallDriverResponse, Refusal> {
        let long = |field: &str, found: usize, max: usize| {
            let message = format!("{field} has {found} bytes: at most {max} are taken");
            Reason::InvalidArgument.refusal(message).field(field).limit(max as u64)
        };
        self.api.way.admit(&call.caller, question.wish())?;
        if question.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(long("payload", question.payload.len(), PAYLOAD_BYTES_MAX));
        }
        if question.method.len() > METHOD_BYTES_MAX {
            return Err(long("method", question.method.len(), METHOD_BYTES_MAX));
        }
        let named = v1::GetDriverRequest { namespace: question.namespace.clone(), name: question.name.clone() };
        self.api.way.barrier(call.deadline).await?;
        self.api.way.look(|machine| machine.get_driver(&named).map(drop))?;
        let left = call.deadline.saturating_duration_since(Instant::now());
        match self.ask(Asked::Call(question), left).await? {
            Answer::Call(answer) => Ok(answer),
            Answer::List(_) | Answer::Logs(_) => Err(Refusal::internal("a call of a driver was answered by something else")),
        }
    }

    /// Whether the caller may read this log, and there is one.
    async fn found(&self, call: &Call, question: &v1::GetDriverLogsRequest) -> Result<(), Refusal> {
        let named = v1::GetDriverRequest { namespace: question.namespace.clone(), name: question.name.clone() };
        let read = self.api.way.read(&call.caller, question.wish(), call.deadline, |machine| machine.get_driver(&named));
        read.await.map(drop)
    }

    async fn ask(&self, question: Asked, timeout: Duration) -> Result<Answer, Refusal> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let asked = v1::PeerDriversQuestion { question: Some(question), timeout_ms };
        let answer = self.drivers.ask(asked).await?;
        answer.answer.ok_or_else(|| Refusal::internal("the node that runs the drivers answered with nothing"))
    }
}

/// Sends a driver's log to one reader.
struct Reader {
    of: DriverApi,
    call: Call,
    question: v1::GetDriverLogsRequest,
    sender: mpsc::Sender<Result<v1::GetDriverLogsResponse, Status>>,
}

impl Reader {
    async fn run(mut self) {
        let stopping = self.of.api.stopping.clone();
        let ended = tokio::select! {
            ended = self.send_all() => ended,
            () = stopping.cancelled() => Err(Reason::NodeStopping.refusal("this node is stopping: read on at another one")),
        };
        if let Err(refusal) = ended {
            let _ = self.sender.send(Err(self.call.status(refusal))).await;
        }
    }

    async fn send_all(&mut self) -> Result<(), Refusal> {
        let mut node = 0;
        loop {
            self.of.api.way.still_may(&self.call.caller, self.question.wish())?;
            let asked = v1::PeerDriverLogs {
                namespace: self.question.namespace.clone(),
                name: self.question.name.clone(),
                after: self.question.after,
                wait: self.question.follow,
            };
            let answer = tokio::select! {
                answer = self.of.ask(Asked::Logs(asked), LOGS_TIMEOUT) => answer,
                () = self.sender.closed() => return Ok(()),
            };
            match answer {
                Ok(Answer::Logs(logs)) => {
                    // Another node's lines are numbered from the beginning.
                    let moved = node != 0 && logs.node != node;
                    node = logs.node;
                    if moved {
                        self.question.after = 0;
                        continue;
                    }
                    let Some(last) = logs.lines.last() else {
                        if self.question.follow {
                            continue;
                        }
                        return Ok(());
                    };
                    self.question.after = last.number;
                    if self.sender.send(Ok(logs)).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(_) => return Err(Refusal::internal("a question for a log was answered by something else")),
                // It is between two nodes, or about to be started.
                Err(refusal) if self.question.follow && refusal.passes() => tokio::time::sleep(AGAIN).await,
                Err(refusal) => return Err(refusal),
            }
        }
    }
}
