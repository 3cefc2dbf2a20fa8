//! `ArtifactService`.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use tarn_proto::v1;
use tarn_proto::v1::artifact_service_server::ArtifactService;
use tonic::{Request, Response, Status, Streaming};

use super::call::{Api, Call};
use crate::artifacts::{ArtifactError, Artifacts, Chunk};
use crate::gate::permission::{ALL, ANYWHERE};
use crate::gate::{Question, Wish};

/// The artifact service.
#[derive(Clone)]
pub struct ArtifactApi {
    api: Api,
    artifacts: Artifacts,
}

impl ArtifactApi {
    /// The service over these artifacts.
    #[must_use]
    pub fn new(api: Api, artifacts: Artifacts) -> Self {
        Self { api, artifacts }
    }
}

#[tonic::async_trait]
impl ArtifactService for ArtifactApi {
    async fn put_artifact(&self, request: Request<Streaming<v1::PutArtifactRequest>>) -> Result<Response<v1::PutArtifactResponse>, Status> {
        let new = Wish { verb: "create", kind: "artifact", name: ALL, namespace: ANYWHERE };
        let call = self.api.enter_for(&request, new)?;
        let chunks = request.into_inner().map(|message| message.map(|message| Chunk { artifact: message.artifact, bytes: message.chunk }));
        let (artifact, bytes) = self.artifacts.put(chunks).await.map_err(|error| refused(&call, &error))?;
        let (resource, size) = (format!("artifact/{artifact}"), format!("{bytes} bytes"));
        self.api.way.carried_out(&call.caller, "PutArtifact", resource, size);
        Ok(Response::new(v1::PutArtifactResponse { artifact: artifact.to_string(), bytes }))
    }

    type GetArtifactStream = Pin<Box<dyn Stream<Item = Result<v1::GetArtifactResponse, Status>> + Send>>;

    async fn get_artifact(&self, request: Request<v1::GetArtifactRequest>) -> Result<Response<Self::GetArtifactStream>, Status> {
        let call = self.api.enter_for(&request, request.get_ref().wish())?;
        let name = request.into_inner().artifact;
        let chunks = self.artifacts.stream_named(&name).await.map_err(|error| refused(&call, &error))?;
        let messages = chunks.map(|chunk| chunk.map(|chunk| v1::GetArtifactResponse { chunk }));
        Ok(Response::new(Box::pin(messages)))
    }

    async fn list_artifacts(&self, request: Request<v1::ListArtifactsRequest>) -> Result<Response<v1::ListArtifactsResponse>, Status> {
        let call = self.api.enter_for(&request, request.get_ref().wish())?;
        let list = self.artifacts.list().await.map_err(|error| refused(&call, &error))?;
        let infos = list.into_iter();
        let artifacts = infos.map(|info| v1::ArtifactInfo { artifact: info.hash.to_string(), bytes: info.size_bytes });
        Ok(Response::new(v1::ListArtifactsResponse { artifacts: artifacts.collect() }))
    }
}

fn refused(call: &Call, error: &ArtifactError) -> Status {
    call.status(error.rejection().into())
}
