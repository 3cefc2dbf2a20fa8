//! The analytic signal by the discrete Hilbert transform, along the last axis.
//!
//! Marple, "Computing the discrete-time analytic signal via FFT", IEEE Trans. Signal Process. 47 (1999).

use crate::catalogue::Transform;
use crate::fourier::{Plan, one, scale};
use crate::inputs::{real_signal, take};
use crate::{Array, Budget, Data, Operation, TransformError};

/// The analytic signal of real rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Hilbert {
    /// The rows.
    pub signal: Array,
}

pub(crate) const HILBERT: Transform = Transform {
    name: "hilbert",
    summary: "analytic signal x + i H(x) along the last axis, the row taken as one period",
    formula: "Z[k] = X[k] for k = 0 and k = n/2, 2 X[k] for 0 < k < n/2, 0 for k > n/2; z = ifft(Z)",
    inputs: "x: real, shape (..., n)",
    output: "z: complex, shape (..., n); its real part is x, its modulus the envelope, its angle the phase",
    accuracy: "relative error (Euclidean norm) below 8e-16 * (1 + log2 n)",
    params: &[],
    prepare: |_, arrays| {
        let [signal] = take(arrays, ["x"])?;
        Ok(Operation::Hilbert(Hilbert { signal: real_signal(signal)? }))
    },
};

impl Hilbert {
    /// The factor of the spectrum's element `k` of `n`.
    #[must_use]
    pub fn factor(k: usize, n: usize) -> f64 {
        if k == 0 || 2 * k == n {
            1.0
        } else if 2 * k < n {
            2.0
        } else {
            0.0
        }
    }

    /// Computes it.
    ///
    /// # Errors
    /// Memory or cancellation.
    #[allow(clippy::cast_precision_loss, reason = "lengths are below 2^53")]
    pub fn run(self, budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
        let (shape, precision, n) = (self.signal.shape().to_vec(), self.signal.precision(), self.signal.row_len());
        budget.afford(self.signal.len() + n, 32)?;
        let samples = self.signal.real().expect("checked to be real").to_vec();
        let mut data = self.signal.into_complex();
        Plan::new(n, false).apply(&mut data, budget)?;
        for row in data.chunks_exact_mut(n) {
            row.iter_mut().enumerate().for_each(|(k, value)| *value *= Self::factor(k, n));
        }
        Plan::new(n, true).apply(&mut data, budget)?;
        scale(&mut data, 1.0 / n as f64);
        // The real part is the signal; that it came back by way of its spectrum only added noise.
        data.iter_mut().zip(samples).for_each(|(value, sample)| value.re = sample);
        one(shape, Data::Complex(data), precision)
    }
}
