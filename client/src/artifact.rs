//! Artifacts: content-addressed bytes, such as WASM modules.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::client::{Client, Kind, rpc};
use crate::error::Error;
use crate::proto::{self, artifact_service_client::ArtifactServiceClient};

/// How much goes into one message: half of what a node takes, so that messages never come near the limit.
const CHUNK_BYTES: usize = 512 << 10;
/// The largest artifact, which also bounds what a download holds in memory.
const ARTIFACT_BYTES_MAX: usize = 64 << 20;
/// How much longer than a small call moving an artifact may take: 64 MiB over a slow line.
const TRANSFER_TIME: Duration = Duration::from_secs(120);

/// The address of these bytes: `blake3:` and 64 hexadecimal digits.
pub fn artifact_address(bytes: &[u8]) -> String {
    format!("blake3:{}", blake3::hash(bytes).to_hex())
}

impl Client {
    /// Stores bytes, up to 64 MiB, on a majority of the nodes and returns their address. Storing the same bytes again changes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] where the bytes are too many; see [`Error`].
    pub async fn put_artifact(&self, bytes: impl Into<Bytes>) -> Result<String, Error> {
        let bytes = bytes.into();
        let address = artifact_address(&bytes);
        let request = (address.clone(), bytes);
        let kind = Kind::WRITE.waiting(TRANSFER_TIME);
        let answer = self.call(kind, request, |channel, request| Box::pin(upload(channel, request))).await?;
        if answer.artifact == address {
            Ok(address)
        } else {
            Err(Error::Transport(format!("the node stored {} where {address} was sent", answer.artifact)))
        }
    }

    /// Reads an artifact. The bytes are those that the address names: a node that has others is passed over.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such artifact; see [`Error`].
    pub async fn get_artifact(&self, address: impl Into<String>) -> Result<Bytes, Error> {
        let request = proto::GetArtifactRequest { artifact: address.into() };
        let kind = Kind::READ.waiting(TRANSFER_TIME);
        self.call(kind, request, |channel, request| Box::pin(download(channel, request))).await
    }

    /// Lists the artifacts that the answering node has.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_artifacts(&self) -> Result<Vec<proto::ArtifactInfo>, Error> {
        Ok(self.read(proto::ListArtifactsRequest {}, rpc!(ArtifactServiceClient.list_artifacts)).await?.artifacts)
    }
}

/// The messages that carry these bytes; one at least, which carries the address.
fn chunks(address: String, bytes: &Bytes) -> Vec<proto::PutArtifactRequest> {
    let count = bytes.len().div_ceil(CHUNK_BYTES).max(1);
    let mut messages: Vec<_> = (0..count)
        .map(|index| {
            let end = bytes.len().min((index + 1) * CHUNK_BYTES);
            proto::PutArtifactRequest { artifact: String::new(), chunk: bytes.slice(index * CHUNK_BYTES..end) }
        })
        .collect();
    messages[0].artifact = address;
    messages
}

async fn upload(channel: Channel, request: tonic::Request<(String, Bytes)>) -> Result<Response<proto::PutArtifactResponse>, Status> {
    let request = request.map(|(address, bytes)| stream::iter(chunks(address, &bytes)));
    ArtifactServiceClient::new(channel).put_artifact(request).await
}

async fn download(channel: Channel, request: tonic::Request<proto::GetArtifactRequest>) -> Result<Response<Bytes>, Status> {
    let address = request.get_ref().artifact.clone();
    let mut stream = ArtifactServiceClient::new(channel).get_artifact(request).await?.into_inner();
    let mut bytes = BytesMut::new();
    while let Some(message) = stream.message().await? {
        if bytes.len() + message.chunk.len() > ARTIFACT_BYTES_MAX {
            return Err(Status::unavailable("the node sends more than an artifact can hold"));
        }
        bytes.extend_from_slice(&message.chunk);
    }
    if artifact_address(&bytes) != address {
        // Unavailable, so that another node is asked.
        return Err(Status::unavailable("the node sent bytes that the address does not name"));
    }
    Ok(Response::new(bytes.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_join_to_the_whole() {
        for size in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let bytes = Bytes::from(vec![7; size]);
            let messages = chunks("address".into(), &bytes);
            assert_eq!(messages[0].artifact, "address");
            assert!(messages[1..].iter().all(|message| message.artifact.is_empty()));
            assert!(messages.iter().all(|message| message.chunk.len() <= CHUNK_BYTES));
            assert_eq!(messages.iter().map(|message| message.chunk.len()).sum::<usize>(), size);
        }
    }
}
