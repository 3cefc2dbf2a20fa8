//! Why things were decided: records, their chain, and stories in plain sentences.

use tonic::Streaming;

use crate::client::{Client, MESSAGE_BYTES_MAX, rpc};
use crate::error::Error;
use crate::page;
use crate::proto::{self, audit_service_client::AuditServiceClient};
use crate::retry::{Failure, Tries};
use futures::Stream;

impl Client {
    /// Lists records of decisions, oldest first. The filter's page size is that of one fetch.
    ///
    /// # Errors
    /// The stream ends after an error; see [`Error`].
    pub fn list_decisions(&self, filter: proto::ListDecisionsRequest) -> impl Stream<Item = Result<proto::Decision, Error>> + Send {
        let client = self.clone();
        page::items(move |page_token| {
            let (client, request) = (client.clone(), proto::ListDecisionsRequest { page_token, ..filter.clone() });
            async move {
                let answer = client.read(request, rpc!(AuditServiceClient.list_decisions)).await?;
                Ok((answer.decisions, answer.next_page_token))
            }
        })
    }

    /// Has a node walk its chain of records, up to a log index or, with 0, to the end.
    ///
    /// # Errors
    /// See [`Error`]. A chain that is not whole is no error: the answer says where it is broken.
    pub async fn verify_decisions(&self, through_index: u64) -> Result<proto::VerifyDecisionsResponse, Error> {
        let request = proto::VerifyDecisionsRequest { through_index };
        self.read(request, rpc!(AuditServiceClient.verify_decisions)).await
    }

    /// Begins to export records: those that match the filter, and with `follow` those that come.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn export_decisions(&self, filter: proto::ListDecisionsRequest, follow: bool) -> Result<Export, Error> {
        let request = proto::ExportDecisionsRequest { filter: Some(filter), follow };
        let node = self.nodes().pick();
        let mut service = AuditServiceClient::new(node.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        match service.export_decisions(request).await {
            Ok(answer) => Ok(Export { stream: answer.into_inner() }),
            Err(status) => Err(ended(Failure::of(&status))),
        }
    }

    /// How long records are kept, and where their chain begins and ends.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn audit_settings(&self) -> Result<proto::GetAuditSettingsResponse, Error> {
        let request = proto::GetAuditSettingsRequest {};
        self.read(request, rpc!(AuditServiceClient.get_audit_settings)).await
    }

    /// Says how long records are kept. A zero in a field means its default.
    ///
    /// # Errors
    /// [`Error::Refused`] for values out of their range; see [`Error`].
    pub async fn put_audit_settings(&self, settings: proto::AuditSettings) -> Result<proto::AuditSettings, Error> {
        let request = proto::PutAuditSettingsRequest { request_id: String::new(), settings: Some(settings) };
        let answer = self.command(request, rpc!(AuditServiceClient.put_audit_settings)).await?;
        Ok(answer.settings.unwrap_or_default())
    }

    /// The story of a task: why it waits or waited, why it ran where it ran, who did what with it.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such task; see [`Error`].
    pub async fn explain_task(&self, task_id: impl Into<String>, level: proto::ExplainLevel) -> Result<proto::ExplainTaskResponse, Error> {
        let request = proto::ExplainTaskRequest { namespace: self.ns(), task_id: task_id.into(), level: level.into() };
        self.read(request, rpc!(AuditServiceClient.explain_task)).await
    }

    /// The story of a request, by its request id or its trace id: whether it was let through, and if not, why.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn explain_request(&self, id: impl Into<String>, level: proto::ExplainLevel) -> Result<proto::ExplainRequestResponse, Error> {
        let request = proto::ExplainRequestRequest { id: id.into(), level: level.into() };
        self.read(request, rpc!(AuditServiceClient.explain_request)).await
    }
}

/// Records as they are exported. It does not resume by itself: each message says after which index to go on.
pub struct Export {
    stream: Streaming<proto::ExportDecisionsResponse>,
}

impl Export {
    /// The next records, and the index to resume after; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the node is gone; [`Error::Refused`] where going on is refused.
    pub async fn next(&mut self) -> Result<Option<proto::ExportDecisionsResponse>, Error> {
        self.stream.message().await.map_err(|status| ended(Failure::of(&status)))
    }
}

/// A stream that broke off, as an error.
pub(crate) fn ended(failure: Failure) -> Error {
    let mut tries = Tries::new(false);
    match tries.failed(failure, 1) {
        Ok(_) => tries.give_up(),
        Err(error) => error,
    }
}
