//! Wall clocks are wrong.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use super::target::{Size, drawn};
use super::{Injected, Need, Nemesis, Rhythm};
use crate::cluster::{ClockFaults, Cluster};

/// How clocks go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Once, by up to ten minutes.
    Jump,
    /// Back and forth, several times.
    Strobe,
    /// Too fast or too slow, by up to a quarter.
    Drift,
}

/// Jumps are from a tenth of a second to ten minutes, as often in each power of ten.
const JUMP_MS: (f64, f64) = (100.0, 600_000.0);
/// Drifting clocks gain or lose at most this much of a second in each.
const DRIFT: f64 = 0.25;
/// A strobe: so many jumps, this far apart.
const STROBE: (u32, Duration) = (12, Duration::from_millis(120));

/// Makes wall clocks wrong, and right again.
pub struct WrongClock {
    way: Option<Way>,
    wrong: Vec<u64>,
}

impl WrongClock {
    /// One whose way is drawn each time.
    pub fn any() -> Self {
        Self { way: None, wrong: Vec::new() }
    }

    /// One that always goes wrong in this way.
    pub fn always(way: Way) -> Self {
        Self { way: Some(way), wrong: Vec::new() }
    }
}

#[async_trait]
impl Nemesis for WrongClock {
    fn name(&self) -> &'static str {
        match self.way {
            None | Some(Way::Strobe) => "clock",
            Some(Way::Jump) => "clock-jump",
            Some(Way::Drift) => "clock-drift",
        }
    }

    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Injected> {
        let ways = [Way::Jump, Way::Strobe, Way::Drift];
        let way = self.way.or_else(|| ways.choose(rng).copied()).unwrap_or(Way::Jump);
        let size = Size::drawn(rng);
        let targets = drawn(size, cluster, rng).await;
        self.wrong.extend(&targets);
        let forward_only = cluster.options().clocks != ClockFaults::Wall;
        match way {
            Way::Jump => {
                let jumps: Vec<(u64, i64)> = targets.iter().map(|id| (*id, jump(rng, forward_only))).collect();
                for (id, milliseconds) in &jumps {
                    cluster.clock(*id)?.jump(*milliseconds)?;
                }
                let what = json!({ "size": size, "jumped_ms": jumps });
                Ok(Injected::when(!jumps.is_empty(), what))
            }
            Way::Strobe => {
                if forward_only {
                    return Ok(Injected::nothing("a clock that only goes forward does not go back and forth"));
                }
                let far = jump(rng, true);
                for nth in 0..STROBE.0 {
                    let milliseconds = if nth % 2 == 0 { far } else { -far };
                    for id in &targets {
                        cluster.clock(*id)?.jump(milliseconds)?;
                    }
                    tokio::time::sleep(STROBE.1).await;
                }
                let what = json!({ "size": size, "strobed_ms": far, "nodes": targets });
                Ok(Injected::when(!targets.is_empty(), what))
            }
            Way::Drift => {
                let least = if forward_only { 0.0 } else { -DRIFT };
                let rates: Vec<(u64, f64)> = targets.iter().map(|id| (*id, 1.0 + rng.random_range(least..DRIFT))).collect();
                for (id, rate) in &rates {
                    cluster.clock(*id)?.rate(*rate)?;
                }
                let what = json!({ "size": size, "rates": rates });
                Ok(Injected::when(!rates.is_empty(), what))
            }
        }
    }

    async fn heal(&mut self, cluster: &Cluster) -> Result<Value> {
        for id in &self.wrong {
            cluster.clock(*id)?.reset()?;
        }
        Ok(json!({ "right": std::mem::take(&mut self.wrong) }))
    }

    fn plan(&self) -> Rhythm {
        Rhythm::seconds(8, 5)
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::Clocks]
    }
}

/// A jump in milliseconds, either way unless only forward is possible.
fn jump(rng: &mut StdRng, forward: bool) -> i64 {
    let far = rng.random_range(JUMP_MS.0.ln()..JUMP_MS.1.ln()).exp() as i64;
    if forward || rng.random_bool(0.5) { far } else { -far }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn jumps_are_small_and_large_and_go_both_ways() {
        let rng = &mut StdRng::seed_from_u64(1);
        let jumps: Vec<i64> = (0..200).map(|_| jump(rng, false)).collect();
        assert!(jumps.iter().all(|far| (99..=600_000).contains(&far.abs())));
        assert!(jumps.iter().any(|far| *far < -60_000) && jumps.iter().any(|far| (1..1_000).contains(far)));
        assert!((0..200).all(|_| jump(rng, true) > 0));
    }
}
