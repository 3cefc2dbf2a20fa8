//! What the machine can do at this moment, by fixed work that has nothing to do with tarn.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::machine::appends;
use crate::measure::median;

/// How long all cores hash, and how long the disk is tried.
const TIME: Duration = Duration::from_millis(250);
/// What is hashed each time: it fits into a core's cache.
const BYTES: usize = 256 << 10;

/// See the module's page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// GiB a second that all cores together hash with BLAKE3.
    pub processors: f64,
    /// Thousands of appends of 4 KiB a second, each synced, by the median.
    pub disk: f64,
}

impl Calibration {
    /// Measures, for half a second; the disk is that of `folder`.
    ///
    /// # Errors
    /// If the disk cannot be written.
    pub async fn take(folder: &Path) -> Result<Calibration> {
        let folder = folder.to_owned();
        let taken = tokio::task::spawn_blocking(move || {
            let disk = 1e3 / median(appends(&folder, TIME)?).max(f64::MIN_POSITIVE);
            anyhow::Ok(Calibration { processors: hashed(TIME), disk })
        });
        taken.await?
    }

    /// Both together: what waits for processors and disk in turn goes by their geometric mean.
    pub fn both(&self) -> f64 {
        (self.processors * self.disk).sqrt()
    }

    /// Between this and another.
    pub fn mean(&self, other: &Calibration) -> Calibration {
        Calibration { processors: f64::midpoint(self.processors, other.processors), disk: f64::midpoint(self.disk, other.disk) }
    }

    /// A few words for those who wait.
    pub fn line(&self) -> String {
        format!("[{:.1} GiB/s hashed, {:.1}k syncs/s]", self.processors, self.disk)
    }
}

/// GiB a second that all cores hash.
fn hashed(time: Duration) -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let began = Instant::now();
    let blocks: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|core| scope.spawn(move || hash_for(time, core))).collect();
        threads.into_iter().map(|thread| thread.join().expect("hashing does not panic")).sum()
    });
    blocks as f64 * BYTES as f64 / f64::from(1 << 30) / began.elapsed().as_secs_f64()
}

fn hash_for(time: Duration, seed: usize) -> usize {
    let (end, mut block) = (Instant::now() + time, vec![0_u8; BYTES]);
    block[..size_of::<usize>()].copy_from_slice(&seed.to_le_bytes());
    let mut blocks = 0;
    while Instant::now() < end {
        // Each hash goes into the next, so that none can be left out.
        let hash = blake3::hash(&block);
        block[..blake3::OUT_LEN].copy_from_slice(hash.as_bytes());
        blocks += 1;
    }
    blocks
}
