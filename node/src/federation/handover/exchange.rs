//! Questions between clusters, over whatever link there is at the time, in both directions.
//!
//! A question waits for its answer only as long as the link on which it went: what comes after that is nobody's. Everything that is asked is
//! safe to repeat, so whoever asked decides whether to ask again.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tarn_crdt::ClusterId;
use tarn_proto::v1::hand_over::Message;
use tarn_proto::v1::{HandOver, LinkFrame, Rejection, link_frame};
use tokio::sync::mpsc::{self, WeakSender};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

/// Questions to one cluster that wait for their answers. More wait for their turn. Each may hold a task's payload, so this bounds memory.
const ASKED_MAX: usize = 16;

/// Frames for which this room leaves a place on each link: the hub's.
const PLACES_LEFT: usize = 32;

/// Questions and notices of other clusters that wait to be taken up: twice what one of them may ask at once. What is more is dropped, and asked
/// again.
const HEARD_MAX: usize = 4 * ASKED_MAX;

/// How often whoever waits for an answer looks whether the link is still the same.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(in crate::federation) enum AskError {
    /// Whether the other cluster has heard the question, nobody knows.
    #[error("there is no link to the other cluster now")]
    NoLink,
    /// The same.
    #[error("the other cluster did not answer in time")]
    NoAnswer,
    /// It heard it, and will not.
    #[error("{}: {}", .0.reason, .0.message)]
    Refused(Rejection),
}

/// Something that another cluster said, and that is no answer.
pub(in crate::federation) struct Heard {
    /// Who.
    pub cluster: ClusterId,
    /// To be answered under; 0: a notice.
    pub correlation: u64,
    /// What.
    pub message: Message,
}

/// The questions under way. Clones share them.
#[derive(Clone, Default)]
pub(in crate::federation) struct Exchange {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    peers: Mutex<BTreeMap<ClusterId, Peer>>,
    heard: Mutex<Option<mpsc::Sender<Heard>>>,
    numbers: AtomicU64,
}

/// A cluster to which there is a link, or was.
struct Peer {
    /// The link's number, and its way out: gone as soon as the hub drops the link.
    link: (u64, WeakSender<LinkFrame>),
    turns: Arc<Semaphore>,
    waiting: HashMap<u64, oneshot::Sender<Message>>,
}

impl Exchange {
    /// A link stands; an earlier one to the same cluster counts no more, nor what was asked over it.
    pub fn up(&self, cluster: ClusterId, link: u64, frames: WeakSender<LinkFrame>) {
        let peer = Peer { link: (link, frames), turns: Arc::new(Semaphore::new(ASKED_MAX)), waiting: HashMap::new() };
        self.peers().insert(cluster, peer);
    }

    /// Where questions and notices go from now on.
    pub fn listen(&self) -> mpsc::Receiver<Heard> {
        let (sender, heard) = mpsc::channel(HEARD_MAX);
        *self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        heard
    }

    /// Whether there is a link now.
    pub fn is_up(&self, cluster: ClusterId) -> bool {
        self.peers().get(&cluster).is_some_and(|peer| peer.link.1.upgrade().is_some())
    }

    /// Takes what came over a link.
    pub fn take(&self, cluster: ClusterId, HandOver { correlation, message }: HandOver) {
        let Some(message) = message else { return };
        if is_answer(&message) {
            let waits = self.peers().get_mut(&cluster).and_then(|peer| peer.waiting.remove(&correlation));
            // Whoever asked may have given up.
            if let Some(waits) = waits {
                let _ = waits.send(message);
            }
            return;
        }
        let heard = self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let dropped = heard.is_none_or(|heard| heard.try_send(Heard { cluster, correlation, message }).is_err());
        if dropped {
            tracing::debug!(%cluster, correlation, "another cluster's question is dropped: it asks again");
        }
    }

    /// Says something that is no question: an answer under its correlation, or a notice under 0. Whether it arrives, nobody knows.
    pub fn say(&self, cluster: ClusterId, correlation: u64, message: Message) -> bool {
        let frames = self.peers().get(&cluster).and_then(|peer| peer.link.1.upgrade());
        frames.is_some_and(|frames| send(&frames, correlation, message).is_ok())
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask(&self, cluster: ClusterId, question: Message, within: Duration) -> Result<Message, AskError> {
        let deadline = Instant::now() + within;
        let turns = self.peers().get(&cluster).map(|peer| peer.turns.clone()).ok_or(AskError::NoLink)?;
        let _turn = timeout_at(deadline, turns.acquire()).await.map_err(|_| AskError::NoAnswer)?;
        let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let (link, answered) = {
            let mut peers = self.peers();
            let peer = peers.get_mut(&cluster).ok_or(AskError::NoLink)?;
            let frames = peer.link.1.upgrade().ok_or(AskError::NoLink)?;
            send(&frames, number, question)?;
            let (waits, answered) = oneshot::channel();
            peer.waiting.insert(number, waits);
            (peer.link.0, answered)
        };
        let answer = self.answer(cluster, link, deadline, answered).await;
        if let Some(peer) = self.peers().get_mut(&cluster) {
            peer.waiting.remove(&number);
        }
        match answer? {
            Message::Refused(rejection) => Err(AskError::Refused(rejection)),
            answer => Ok(answer),
        }
    }

    async fn answer(
        &self,
        cluster: ClusterId,
        link: u64,
        deadline: Instant,
        mut answered: oneshot::Receiver<Message>,
    ) -> Result<Message, AskError> {
        loop {
            let turn = deadline.min(Instant::now() + LOOK_EVERY);
            match timeout_at(turn, &mut answered).await {
                Ok(answer) => return answer.map_err(|_| AskError::NoLink),
                Err(_) if Instant::now() >= deadline => return Err(AskError::NoAnswer),
                Err(_) => {}
            }
            let same = self.peers().get(&cluster).is_some_and(|peer| peer.link.0 == link && peer.link.1.upgrade().is_some());
            if !same {
                return Err(AskError::NoLink);
            }
        }
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<ClusterId, Peer>> {
        self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_answer(message: &Message) -> bool {
    matches!(message, Message::Transfer(_) | Message::ArtifactPart(_) | Message::Refused(_))
}

/// Sends, unless the link's last places would be taken: a link on which the hub finds none passes for broken.
fn send(frames: &mpsc::Sender<LinkFrame>, correlation: u64, message: Message) -> Result<(), AskError> {
    if frames.capacity() <= PLACES_LEFT {
        return Err(AskError::NoLink);
    }
    let frame = link_frame::Frame::HandOver(HandOver { correlation, message: Some(message) });
    frames.try_send(LinkFrame { frame: Some(frame) }).map_err(|_| AskError::NoLink)
}

#[cfg(test)]
mod tests {
    use tarn_proto::v1::{FetchTask, TransferAnswer};

    use super::*;

    const THEM: ClusterId = ClusterId([7; 16]);
    const LONG: Duration = Duration::from_secs(30);

    fn fetch() -> Message {
        Message::Fetch(FetchTask { transfer_id: "t".into() })
    }

    fn answer(now_ms: u64) -> Message {
        Message::Transfer(TransferAnswer { now_ms, ..TransferAnswer::default() })
    }

    fn asked(frame: LinkFrame) -> u64 {
        let Some(link_frame::Frame::HandOver(HandOver { correlation, message: Some(Message::Fetch(_)) })) = frame.frame else {
            panic!("no question")
        };
        correlation
    }

    fn told(correlation: u64, message: Message) -> HandOver {
        HandOver { correlation, message: Some(message) }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_finds_its_question_and_only_that() {
        let exchange = Exchange::default();
        assert_eq!(exchange.ask(THEM, fetch(), LONG).await, Err(AskError::NoLink));
        let (frames, mut sent) = mpsc::channel(8 + PLACES_LEFT);
        exchange.up(THEM, 1, frames.downgrade());
        let asking = tokio::spawn({
            let exchange = exchange.clone();
            async move { exchange.ask(THEM, fetch(), LONG).await }
        });
        let number = asked(sent.recv().await.unwrap());
        exchange.take(THEM, told(number + 1, answer(1)));
        exchange.take(ClusterId([8; 16]), told(number, answer(2)));
        exchange.take(THEM, told(number, answer(3)));
        assert_eq!(asking.await.unwrap(), Ok(answer(3)));
        exchange.take(THEM, told(number, answer(4)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_ends_with_its_link_or_its_time() {
        let exchange = Exchange::default();
        let (frames, mut sent) = mpsc::channel(8 + PLACES_LEFT);
        exchange.up(THEM, 1, frames.downgrade());
        assert_eq!(exchange.ask(THEM, fetch(), Duration::from_secs(1)).await, Err(AskError::NoAnswer));
        let asking = |within| {
            let exchange = exchange.clone();
            tokio::spawn(async move { exchange.ask(THEM, fetch(), within).await })
        };
        let first = asking(LONG);
        sent.recv().await.unwrap();
        let number = asked(sent.recv().await.unwrap());
        let (again, _sent) = mpsc::channel(8 + PLACES_LEFT);
        exchange.up(THEM, 2, again.downgrade());
        exchange.take(THEM, told(number, answer(1)));
        assert_eq!(first.await.unwrap(), Err(AskError::NoLink), "what comes over another link is no answer");
        drop(again);
        assert!(!exchange.is_up(THEM));
        assert_eq!(exchange.ask(THEM, fetch(), LONG).await, Err(AskError::NoLink));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_places_of_a_link_are_left_to_the_hub() {
        let (exchange, (frames, _sent)) = (Exchange::default(), mpsc::channel(PLACES_LEFT + 3));
        exchange.up(THEM, 1, frames.downgrade());
        let said = (0..10).filter(|_| exchange.say(THEM, 0, fetch())).count();
        assert_eq!((said, frames.capacity()), (3, PLACES_LEFT));
        assert_eq!(exchange.ask(THEM, fetch(), LONG).await, Err(AskError::NoLink));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_up_is_dropped_and_memory_is_bounded() {
        let exchange = Exchange::default();
        exchange.take(THEM, told(1, fetch()));
        let mut heard = exchange.listen();
        (0..10 * HEARD_MAX as u64).for_each(|number| exchange.take(THEM, told(number, fetch())));
        exchange.take(THEM, HandOver::default());
        let mut taken = 0;
        while heard.try_recv().is_ok() {
            taken += 1;
        }
        assert_eq!(taken, HEARD_MAX);
        let (frames, mut sent) = mpsc::channel(1_000);
        exchange.up(THEM, 1, frames.downgrade());
        let asking: Vec<_> = (0..5 * ASKED_MAX)
            .map(|_| {
                tokio::spawn({
                    let exchange = exchange.clone();
                    async move { exchange.ask(THEM, fetch(), LONG).await }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut numbers = Vec::new();
        while let Ok(frame) = sent.try_recv() {
            numbers.push(asked(frame));
        }
        assert_eq!(numbers.len(), ASKED_MAX);
        let refused = Rejection { reason: "NO".into(), ..Rejection::default() };
        exchange.take(THEM, told(numbers[0], Message::Refused(refused.clone())));
        assert_eq!(asked(sent.recv().await.unwrap()), numbers[ASKED_MAX - 1] + 1, "the next one has its turn");
        let mut ended = Vec::new();
        for one in asking {
            ended.push(one.await.unwrap());
        }
        assert_eq!(ended.iter().filter(|end| **end == Err(AskError::Refused(refused.clone()))).count(), 1);
    }
}
