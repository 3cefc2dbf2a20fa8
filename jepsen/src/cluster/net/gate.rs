//! What every connection of the proxy looks at before it passes something on.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Harm, Harms, Link, Slowness};

/// TCP's first retransmission time-out on a fast network: Linux never waits less.
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// So many repeats in a row are lost at most: a stall of 12 seconds, after which any protocol has given up on the piece.
const LOSSES_MAX: u32 = 6;

/// The harm done to each link, and chance.
pub(super) struct Gate {
    harms: watch::Sender<Harms>,
    chance: Mutex<StdRng>,
}

/// When a piece arrives, or that it breaks its connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// At this time at the earliest.
    At(Instant),
    /// The connection breaks.
    Broken,
}

impl Gate {
    pub(super) fn new(seed: u64) -> Self {
        Self { harms: watch::Sender::new(Harms::new()), chance: Mutex::new(StdRng::seed_from_u64(seed)) }
    }

    pub(super) fn set(&self, harms: &Harms) {
        self.harms.send_replace(harms.clone());
    }

    /// Returns as soon as all these links are whole.
    pub(super) async fn open(&self, links: &[Link]) {
        let mut harms = self.harms.subscribe();
        let whole = |harms: &Harms| links.iter().all(|link| harms.get(link).is_none_or(|harm| !harm.cut));
        if harms.wait_for(whole).await.is_err() {
            // The sender lives in `self`, so it cannot have gone; a link that cannot be asked about passes nothing.
            std::future::pending::<()>().await;
        }
    }

    /// When a piece of `bytes` that enters the link now leaves it, if the one before left it at `before`.
    pub(super) fn passage(&self, link: Link, bytes: usize, before: Instant) -> Passage {
        let now = Instant::now();
        let slowness = self.harms.borrow().get(&link).and_then(|harm: &Harm| harm.slow);
        match slowness {
            // What entered while the link was slow stays in front.
            None => Passage::At(before.max(now)),
            Some(slowness) => passage(&slowness, bytes, now, before, &mut self.chance()),
        }
    }

    fn chance(&self) -> MutexGuard<'_, StdRng> {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn passage(slowness: &Slowness, bytes: usize, now: Instant, before: Instant, chance: &mut StdRng) -> Passage {
    if chance.random_bool(slowness.reset.clamp(0.0, 1.0)) {
        return Passage::Broken;
    }
    let mut late = slowness.delay;
    if !slowness.jitter.is_zero() {
        late = (late + slowness.jitter.mul_f64(chance.random_range(0.0..2.0))).saturating_sub(slowness.jitter);
    }
    let mut losses = 0;
    while losses < LOSSES_MAX && chance.random_bool(slowness.loss.clamp(0.0, 1.0)) {
        late += RETRANSMISSION * (1 << losses);
        losses += 1;
    }
    let wire = slowness.bytes_per_second.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64));
    Passage::At((now + late).max(before) + wire)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(slowness: Slowness, bytes: usize, now: Instant, before: Instant) -> Passage {
        passage(&slowness, bytes, now, before, &mut StdRng::seed_from_u64(7))
    }

    #[test]
    fn delay_jitter_and_width_add_up_and_order_is_kept() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let late = Slowness::late(ms(50), Duration::ZERO);
        assert_eq!(at(late, 10, now, now), Passage::At(now + ms(50)));
        assert_eq!(at(late, 10, now, now + ms(80)), Passage::At(now + ms(80)));
        let narrow = Slowness { bytes_per_second: Some(1_000), ..late };
        assert_eq!(at(narrow, 100, now, now), Passage::At(now + ms(150)));
        let mut chance = StdRng::seed_from_u64(1);
        let jittery = Slowness::late(ms(50), ms(20));
        let times: Vec<Duration> = (0..200)
            .map(|_| match passage(&jittery, 1, now, now, &mut chance) {
                Passage::At(time) => time - now,
                Passage::Broken => panic!("it has no resets"),
            })
            .collect();
        assert!(times.iter().all(|late| (ms(30)..=ms(70)).contains(late)));
        assert!(times.iter().any(|late| *late < ms(40)) && times.iter().any(|late| *late > ms(60)));
    }

    #[test]
    fn a_lost_piece_waits_for_its_repeats_and_a_reset_breaks() {
        let now = Instant::now();
        let whole = Slowness::late(Duration::ZERO, Duration::ZERO);
        let lost = Slowness { loss: 1.0, ..whole };
        assert_eq!(at(lost, 1, now, now), Passage::At(now + RETRANSMISSION * 63));
        let broken = Slowness { reset: 1.0, ..whole };
        assert_eq!(at(broken, 1, now, now), Passage::Broken);
    }
}
