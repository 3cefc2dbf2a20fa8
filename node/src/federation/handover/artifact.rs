//! Artifacts of tasks that are handed over: the cluster that takes a task fetches what it lacks from the one that gives it, part by part, over
//! the same link.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use tarn_crdt::ClusterId;
use tarn_executor::Hash;
use tarn_proto::v1::hand_over::Message;
use tarn_proto::v1::{ArtifactPart, GetArtifactPart, Rejection, TaskSpec};

use super::exchange::{AskError, Exchange};
use crate::artifacts::{ArtifactError, Artifacts, Chunk};
use crate::peer::CHUNK_BYTES;

/// Bytes of one part.
const PART_BYTES: usize = CHUNK_BYTES;

/// How long a part may take.
const PART: Duration = Duration::from_secs(20);

/// The artifacts that a task needs, by name.
pub(super) fn named_in(spec: Option<&TaskSpec>) -> BTreeSet<String> {
    let Some(spec) = spec else { return BTreeSet::new() };
    let parts = [
        spec.wasm.as_ref().map(|part| &part.artifact),
        spec.native.as_ref().map(|part| &part.artifact),
        spec.cuda.as_ref().map(|part| &part.artifact),
        spec.cuda.as_ref().map(|part| &part.input_artifact),
        spec.transform.as_ref().map(|part| &part.input_artifact),
    ];
    let calls = spec.grants.iter().flat_map(|grants| &grants.calls);
    parts.into_iter().flatten().chain(calls).filter(|name| !name.is_empty()).cloned().collect()
}

/// What may be asked for now, by whom, and by how many offers. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Offered(Arc<Mutex<BTreeMap<(ClusterId, String), Open>>>);

/// An artifact that may be asked for: by how many offers, and its bytes from when it was asked for first.
#[derive(Default)]
struct Open {
    offers: usize,
    bytes: Option<Bytes>,
}

/// An offer under way. Dropped, its artifacts may be asked for no more.
pub(super) struct OpenOffer {
    offered: Offered,
    cluster: ClusterId,
    names: BTreeSet<String>,
}

impl Offered {
    /// From now on the cluster may ask for these.
    pub fn open(&self, cluster: ClusterId, names: BTreeSet<String>) -> OpenOffer {
        let mut entries = self.entries();
        names.iter().for_each(|name| entries.entry((cluster, name.clone())).or_default().offers += 1);
        OpenOffer { offered: self.clone(), cluster, names }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<(ClusterId, String), Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of an artifact that a cluster asks for.
    ///
    /// # Errors
    /// No task that names it is on offer to that cluster; this cluster does not have it.
    pub async fn part(&self, cluster: ClusterId, artifacts: &Artifacts, asked: GetArtifactPart) -> Result<ArtifactPart, Rejection> {
        let key = (cluster, asked.artifact);
        let Some(loaded) = self.entries().get(&key).map(|open| open.bytes.clone()) else {
            return Err(refused("ARTIFACT_NOT_OFFERED", "no task that names this artifact is on offer to your cluster"));
        };
        let bytes = match loaded {
            Some(bytes) => bytes,
            None => {
                let hash: Hash = key.1.parse().map_err(|_| refused("ARTIFACT_NAME_INVALID", "this is no artifact's name"))?;
                let bytes = artifacts.get(hash).await.map_err(|error| refused(error.reason(), &error.to_string()))?;
                if let Some(open) = self.entries().get_mut(&key) {
                    open.bytes = Some(bytes.clone());
                }
                bytes
            }
        };
        let from = usize::try_from(asked.offset).unwrap_or(usize::MAX).min(bytes.len());
        let to = bytes.len().min(from + PART_BYTES);
        Ok(ArtifactPart { bytes: bytes.slice(from..to), size: bytes.len() as u64 })
    }
}

impl Drop for OpenOffer {
    fn drop(&mut self) {
        let mut entries = self.offered.entries();
        for name in &self.names {
            let key = (self.cluster, name.clone());
            match entries.get_mut(&key) {
                Some(open) if open.offers > 1 => open.offers -= 1,
                _ => drop(entries.remove(&key)),
            }
        }
    }
}

/// Has what this cluster lacks of these fetched from the other one, and stored at a majority of the nodes here.
///
/// # Errors
/// A name that is none; the other cluster does not give it, or gives something else; what this cluster's disks refuse.
pub(super) async fn gather(artifacts: &Artifacts, exchange: &Exchange, from: ClusterId, names: BTreeSet<String>) -> Result<(), Rejection> {
    for name in names {
        let hash: Hash =
            name.parse().map_err(|_| refused("ARTIFACT_NAME_INVALID", "a task names an artifact by something that is no name"))?;
        match artifacts.get(hash).await {
            Ok(_) => continue,
            Err(ArtifactError::NotFound(_)) => {}
            Err(error) => return Err(refused(error.reason(), &error.to_string())),
        }
        let parts = stream::unfold(Some(0_u64), |offset| {
            let (exchange, name) = (exchange.clone(), name.clone());
            async move {
                let offset = offset?;
                match part(&exchange, from, &name, offset).await {
                    Ok(ArtifactPart { bytes, size }) => {
                        let next = offset + bytes.len() as u64;
                        // One that sends nothing before the end is refused, as what it sent is not the artifact.
                        let more = next < size && !bytes.is_empty();
                        Some((Ok(Chunk { artifact: if offset == 0 { name } else { String::new() }, bytes }), more.then_some(next)))
                    }
                    Err(error) => {
                        tracing::debug!(cluster = %from, artifact = name, %error, "another cluster does not give an artifact");
                        Some((Err(error), None))
                    }
                }
            }
        });
        artifacts.put(Box::pin(parts)).await.map_err(|error| refused(error.reason(), &error.to_string()))?;
    }
    Ok(())
}

async fn part(exchange: &Exchange, from: ClusterId, name: &str, offset: u64) -> Result<ArtifactPart, AskError> {
    let question = Message::GetArtifactPart(GetArtifactPart { artifact: name.to_owned(), offset });
    match exchange.ask(from, question, PART).await? {
        Message::ArtifactPart(part) => Ok(part),
        _ => Err(AskError::NoAnswer),
    }
}

fn refused(reason: &str, message: &str) -> Rejection {
    super::refused(tonic::Code::Unavailable, reason, message)
}

#[cfg(test)]
mod tests {
    use tarn_proto::v1::{Grants, WasmSpec};

    use super::*;

    #[test]
    fn all_artifacts_of_a_task_are_named() {
        let spec = TaskSpec {
            wasm: Some(WasmSpec { artifact: "a".into(), ..WasmSpec::default() }),
            grants: Some(Grants { calls: vec!["b".into(), "a".into()], ..Grants::default() }),
            ..TaskSpec::default()
        };
        assert_eq!(named_in(Some(&spec)), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        assert!(named_in(None).is_empty());
    }

    #[test]
    fn what_is_offered_may_be_asked_for_until_no_offer_names_it() {
        let (offered, them) = (Offered::default(), ClusterId([1; 16]));
        let names = BTreeSet::from(["a".to_owned()]);
        let (first, second) = (offered.open(them, names.clone()), offered.open(them, names.clone()));
        let key = (them, "a".to_owned());
        drop(first);
        assert!(offered.entries().contains_key(&key));
        assert!(!offered.entries().contains_key(&(ClusterId([2; 16]), "a".to_owned())));
        drop(second);
        assert!(offered.entries().is_empty());
    }
}
