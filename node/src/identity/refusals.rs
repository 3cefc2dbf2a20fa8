//! Counts and logs what the listener refused, and why.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tarn_client::tls::{Refusal, RefusalKind};

/// Most lines per second. Anybody who reaches the port can cause refusals; this many tell an operator what goes on, and leave the disk to
/// the work. What is not logged is still counted, and the next line says how many were left out.
const LINES_PER_SECOND: u32 = 20;

type Observer = Box<dyn Fn(SocketAddr, &Refusal) + Send + Sync>;

/// Counts refusals by kind and writes a warning for each, up to a rate.
#[derive(Default)]
pub struct Refusals {
    counts: [AtomicU64; RefusalKind::ALL.len()],
    rate: Mutex<Rate>,
    observer: Option<Observer>,
}

impl Refusals {
    /// Counters at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counters at zero that also tell an observer of each refusal, after the log line. The observer must not block.
    pub fn with_observer(observer: impl Fn(SocketAddr, &Refusal) + Send + Sync + 'static) -> Self {
        Self { observer: Some(Box::new(observer)), ..Self::default() }
    }

    /// How often each kind was refused since the start, in the order of [`RefusalKind::ALL`].
    pub fn counts(&self) -> impl Iterator<Item = (RefusalKind, u64)> + '_ {
        RefusalKind::ALL.iter().map(|kind| (*kind, self.counts[*kind as usize].load(Ordering::Relaxed)))
    }

    /// Counts and logs one refused handshake.
    pub(super) fn record(&self, remote: SocketAddr, refusal: &Refusal) {
        self.counts[refusal.kind as usize].fetch_add(1, Ordering::Relaxed);
        self.log(remote, refusal);
        if let Some(observer) = &self.observer {
            observer(remote, refusal);
        }
    }

    fn log(&self, remote: SocketAddr, refusal: &Refusal) {
        let reason = refusal.kind.label();
        // Load balancers and port checks connect and go away again: no reason to wake anybody.
        if refusal.kind == RefusalKind::Closed {
            tracing::debug!(peer = %remote, reason, "refused a connection: {refusal}");
            return;
        }
        let admitted = self.rate.lock().expect("nothing panics while it holds this lock").admit(Instant::now());
        match admitted {
            Some(0) => tracing::warn!(peer = %remote, reason, "refused a connection: {refusal}"),
            Some(left_out) => {
                tracing::warn!(peer = %remote, reason, left_out, "refused a connection: {refusal}");
            }
            None => {}
        }
    }
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.counts().map(|(kind, count)| (kind.label(), count))).finish()
    }
}

/// How many lines the present second has seen.
#[derive(Default)]
struct Rate {
    second: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Rate {
    /// Whether a line may be written now, and if so, how many were left out before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let same_second = self.second.is_some_and(|start| now.duration_since(start) < Duration::from_secs(1));
        if !same_second {
            self.second = Some(now);
            self.lines = 0;
        }
        if self.lines >= LINES_PER_SECOND {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_a_place_each() {
        for (place, kind) in RefusalKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, place);
        }
    }

    #[test]
    fn a_flood_is_counted_but_not_logged_line_by_line() {
        let mut rate = Rate::default();
        let start = Instant::now();
        for _ in 0..LINES_PER_SECOND {
            assert_eq!(rate.admit(start), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(rate.admit(start), None);
        }
        let later = start + Duration::from_secs(1);
        assert_eq!(rate.admit(later), Some(1000));
        assert_eq!(rate.admit(later), Some(0));

        let refusals = Refusals::new();
        let remote = "127.0.0.1:1".parse().unwrap();
        for _ in 0..100 {
            refusals.record(remote, &Refusal::of(RefusalKind::NotTls));
        }
        let count = refusals.counts().find(|(kind, _)| *kind == RefusalKind::NotTls);
        assert_eq!(count, Some((RefusalKind::NotTls, 100)));
    }
}
