//! Artifacts between nodes, over real connections.

mod between;

use std::sync::atomic::Ordering;

use between::{TestNode, eventually, introduce, three};
use bytes::Bytes;
use futures::{StreamExt as _, future::join_all, stream};
use tarn::artifacts::{ArtifactError, Chunk};
use tarn::identity::CertificateAuthority;
use tarn_executor::{ArtifactSource as _, Hash};

fn authority() -> CertificateAuthority {
    CertificateAuthority::ephemeral("prod").unwrap()
}

/// A few chunks and a bit.
fn content(seed: u8) -> Bytes {
    (0..(5 << 20) / 2 + 7_u32).map(|index| (index % 251) as u8 ^ seed).collect()
}

async fn put(node: &TestNode, content: &Bytes) -> Result<Hash, ArtifactError> {
    let chunks: Vec<_> = content.chunks(1 << 20).map(Bytes::copy_from_slice).collect();
    let chunks = chunks.into_iter().map(|bytes| Ok::<_, ()>(Chunk { artifact: String::new(), bytes }));
    node.artifacts.put(stream::iter(chunks)).await.map(|(hash, _)| hash)
}

async fn has(node: &TestNode, hash: Hash) -> bool {
    node.artifacts.list().await.unwrap().iter().any(|info| info.hash == hash)
}

/// Where a node keeps an artifact.
fn file_of(node: &TestNode, hash: Hash) -> std::path::PathBuf {
    file_in(&node.dir, hash)
}

/// Where a node with this data folder keeps an artifact.
fn file_in(dir: &tempfile::TempDir, hash: Hash) -> std::path::PathBuf {
    let hex = hash.to_hex();
    dir.path().join("artifacts/blobs").join(&hex[..2]).join(hex)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_once_is_everywhere() {
    let nodes = three(&authority()).await;
    let content = content(1);
    let hash = put(&nodes[0], &content).await.unwrap();
    let holders = join_all(nodes.iter().map(|node| has(node, hash))).await;
    assert!(holders.iter().filter(|has| **has).count() >= 2, "a majority has it when the put is answered");
    for node in &nodes {
        eventually("every node has it", || has(node, hash)).await;
        assert_eq!(node.artifacts.get(hash).await.unwrap(), content);
    }
    assert_eq!(put(&nodes[2], &content).await.unwrap(), hash, "putting it again changes nothing");
    let streamed: Vec<_> = nodes[1].artifacts.stream_named(&hash.to_string()).await.unwrap().collect().await;
    assert_eq!(streamed.into_iter().map(Result::unwrap).collect::<Vec<_>>().concat(), content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_gets_what_it_missed() {
    let authority = authority();
    let [one, two, three] = three(&authority).await;
    let (id, address, dir) = three.kill().await;
    let content = content(2);
    let hash = put(&one, &content).await.expect("two of three are a majority");

    let three = TestNode::start_at(&authority, id, address, dir).await;
    introduce(&[&one, &two, &three]);
    three.reconcile();
    eventually("the returned node has it", || has(&three, hash)).await;
    assert_eq!(three.artifacts.get(hash).await.unwrap(), content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_notices_by_itself_that_a_peer_is_back() {
    let authority = authority();
    let [one, two, three] = three(&authority).await;
    // It starts alone: there is nobody to compare with.
    let (_, _, _) = two.kill().await;
    let (id, address, dir) = one.kill().await;
    three.reconcile();
    // It is there before the node is: whoever asks, sooner or later, is told of it.
    let hash = Hash::of(&content(3));
    let file = file_in(&dir, hash);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, content(3)).unwrap();
    let one = TestNode::start_at(&authority, id, address, dir).await;
    introduce(&[&one, &three]);
    // As consensus would: one is in touch again and again, and by that three knows that it is back.
    let (beats, to) = (one.transport(), three.peer());
    let beating = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        let within = std::time::Duration::from_secs(5);
        loop {
            let _ = tarn_raft::Transport::call(&beats, &to, tarn_raft::Method::Append, "beat".into(), within).await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }));
    eventually("it has what the returned peer has", || has(&three, hash)).await;
    drop(beating);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_know_this_node_yet_is_asked_again() {
    let authority = authority();
    let [one, two, three] = three(&authority).await;
    two.kill().await;
    let hash = Hash::of(&content(5));
    let file = file_of(&one, hash);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, content(5)).unwrap();
    introduce(&[&one]);
    three.reconcile();
    // It refuses to tell. An answer is a sign of life, so it is asked once more for that, and from then on nothing is noticed any more.
    let asked = || async { one.lists.load(Ordering::Relaxed) > 2 };
    eventually("it is asked although it has refused twice", asked).await;
    introduce(&[&one, &three]);
    eventually("it has what the peer has", || has(&three, hash)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_a_put_says_how_many() {
    let [one, two, three] = three(&authority()).await;
    two.kill().await;
    three.kill().await;
    let error = put(&one, &content(4)).await.unwrap_err();
    let ArtifactError::NotReplicated { stored, needed, voters, .. } = error else { panic!("{error}") };
    assert_eq!((stored, needed, voters), (1, 2, 3));
    assert_eq!(error.reason(), "NOT_REPLICATED");
    assert!(error.to_string().contains("1 of 3"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_fetched_again() {
    let [one, two, three] = three(&authority()).await;
    let content = content(5);
    let hash = put(&one, &content).await.unwrap();
    eventually("all have it", || async { has(&two, hash).await && has(&three, hash).await }).await;
    let file = file_of(&two, hash);
    let mut damaged = content.to_vec();
    damaged[1 << 20] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    assert_eq!(two.artifacts.get(hash).await.unwrap(), content);
    assert_eq!(std::fs::read(&file).unwrap(), content, "and it is whole on disk again");

    // A peer whose own copy is damaged is no help, the next one is.
    std::fs::write(file_of(&one, hash), "rubbish").unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(two.artifacts.get(hash).await.unwrap(), content);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_is_told_apart_from_what_nobody_can_be_asked_for() {
    let [one, two, three] = three(&authority()).await;
    let hash = Hash::of(b"nowhere");
    assert_eq!(one.artifacts.get(hash).await.unwrap_err(), ArtifactError::NotFound(hash));
    assert!(one.artifacts.load(&hash).await.unwrap().is_none());
    three.kill().await;
    // It is not at a majority, so nobody was ever told that it is stored.
    assert_eq!(one.artifacts.get(hash).await.unwrap_err(), ArtifactError::NotFound(hash));
    two.kill().await;
    let error = one.artifacts.get(hash).await.unwrap_err();
    assert_eq!(error, ArtifactError::Unreachable { artifact: hash, unreachable: 2 });
    assert!(one.artifacts.load(&hash).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_want_the_same_share_one_transfer() {
    let [one, two, three] = three(&authority()).await;
    let content = content(6);
    let hash = put(&one, &content).await.unwrap();
    eventually("all have it", || async { has(&two, hash).await && has(&three, hash).await }).await;
    std::fs::remove_file(file_of(&three, hash)).unwrap();
    let gets = join_all((0..16).map(|_| three.artifacts.get(hash))).await;
    assert!(gets.into_iter().all(|got| got.unwrap() == content));
    let pulls = one.pulls.load(Ordering::Relaxed) + two.pulls.load(Ordering::Relaxed);
    // Those who looked at the disk before the file was there, and came after the transfer had ended, may cause one more.
    assert!((1..=2).contains(&pulls), "{pulls} transfers");
}
