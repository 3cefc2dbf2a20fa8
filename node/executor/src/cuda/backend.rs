//! Where a device worker computes: on a CUDA device, or on the processor, which is the reference.

use std::collections::VecDeque;

use tarn_transform::{Array, Budget, Operation};

use super::message::{DeviceInfo, JobError, Launch};

/// What a worker can compute with. The two implementations give the same results within the accuracy that the catalogue states.
pub trait Backend: Send + Sync {
    /// Computes a checked transform.
    ///
    /// # Errors
    /// Any [`JobError`].
    fn transform(&self, operation: Operation, budget: &Budget<'_>) -> Result<Vec<Array>, JobError>;

    /// Launches a kernel of `source` on `input` and returns its output buffers, one behind the other.
    ///
    /// # Errors
    /// Any [`JobError`].
    fn kernel(&self, launch: &Launch, source: &[u8], input: &[u8], budget: &Budget<'_>) -> Result<Vec<u8>, JobError>;
}

/// How a worker gets at its backend.
pub trait Backends: Send + Sync {
    /// The devices there are.
    ///
    /// # Errors
    /// Why they cannot be listed, as a sentence.
    fn devices(&self) -> Result<Vec<DeviceInfo>, String>;

    /// Takes a device.
    ///
    /// # Errors
    /// Why it cannot be had, as a sentence.
    fn open(&self, device: u32, cache_dir: Option<&str>) -> Result<Box<dyn Backend>, String>;
}

/// The processor: every transform, no kernels.
#[derive(Debug, Clone, Copy, Default)]
pub struct Processor;

impl Backend for Processor {
    fn transform(&self, operation: Operation, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        Ok(operation.run(budget)?)
    }

    fn kernel(&self, _: &Launch, _: &[u8], _: &[u8], _: &Budget<'_>) -> Result<Vec<u8>, JobError> {
        Err(JobError::BadLaunch { detail: "kernels need a CUDA device".into() })
    }
}

/// Runs each operation on two backends and compares: for tests, where the processor judges a device.
pub struct Mirror {
    /// The one whose results are given.
    pub judged: Box<dyn Backend>,
    /// The reference.
    pub reference: Box<dyn Backend>,
    /// The largest difference allowed, relative to the largest element of the reference.
    pub tolerance: f64,
}

impl Mirror {
    /// Computes on both.
    ///
    /// # Errors
    /// The judged one's; or, as a fault, that the results differ.
    pub fn transform(&self, operation: Operation, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        let have = self.judged.transform(operation.clone(), budget)?;
        let want = self.reference.transform(operation, budget)?;
        match difference(&have, &want) {
            Some(difference) if difference <= self.tolerance => Ok(have),
            Some(difference) => Err(JobError::Fault { detail: format!("the results differ by {difference:e}") }),
            None => Err(JobError::Fault { detail: "the results have other shapes".into() }),
        }
    }
}

/// The largest difference of two results relative to the largest element of the second, if they have the same shapes.
fn difference(have: &[Array], want: &[Array]) -> Option<f64> {
    if have.len() != want.len() {
        return None;
    }
    let mut worst = 0.0_f64;
    for (a, b) in have.iter().zip(want) {
        if a.shape() != b.shape() {
            return None;
        }
        let (a, b) = (a.clone().into_complex(), b.clone().into_complex());
        let largest = b.iter().map(|value| value.norm()).filter(|size| size.is_finite()).fold(f64::MIN_POSITIVE, f64::max);
        let apart = a.iter().zip(&b).map(|(a, b)| if a == b { 0.0 } else { (a - b).norm() });
        worst = apart.fold(worst, |worst, apart| if apart.is_nan() { f64::INFINITY } else { worst.max(apart / largest) });
    }
    Some(worst)
}

/// The end of a text, as far as a message should carry it.
pub(super) fn tail(text: &str, characters: usize) -> String {
    let mut last: VecDeque<char> = VecDeque::new();
    for character in text.chars() {
        last.push_back(if character.is_control() { ' ' } else { character });
        if last.len() > characters {
            last.pop_front();
        }
    }
    last.into_iter().collect()
}
