//! Discrete wavelet transforms with Daubechies' orthonormal wavelets, along the last axis, periodic at the ends.
//!
//! Mallat's pyramid: one level takes n samples to n/2 approximations and n/2 details,
//! a\[k\] = Σ h\[j\]·x\[2k + j\], d\[k\] = Σ g\[j\]·x\[2k + j\] with indices modulo n and g\[j\] = (−1)ʲ·h\[L−1−j\]; the next level takes the
//! approximations. The transform is orthogonal for every even n, also when the filter is longer than the row and wraps around.

use crate::catalogue::Transform;
use crate::fourier::one;
use crate::inputs::{real_signal, take};
use crate::params::{Fallback, Param, ParamKind};
use crate::{Array, Budget, Data, Operation, Params, TransformError};

pub(crate) mod filters;

/// The names of the wavelets, in the order of their number of vanishing moments; `haar` is `db1`.
pub const WAVELETS: &[&str] = &["haar", "db1", "db2", "db3", "db4", "db5", "db6", "db7", "db8", "db9", "db10"];

/// A wavelet transform of real rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Wavelet {
    /// The rows: samples, or for the inverse the coefficients.
    pub signal: Array,
    /// The wavelet's scaling filter h.
    pub filter: &'static [f64],
    /// How many times the approximations are taken apart, at least once.
    pub levels: usize,
    /// Back from coefficients to samples.
    pub inverse: bool,
}

const PARAMS: &[Param] = &[
    Param {
        name: "wavelet",
        kind: ParamKind::Choice(WAVELETS),
        default: None,
        help: "haar (= db1) or dbN, Daubechies' wavelet with N vanishing moments and 2N coefficients",
    },
    Param {
        name: "levels",
        kind: ParamKind::Integer { min: 1, max: 24 },
        default: Some(Fallback::Absent),
        help: "how many levels; the row length must be divisible by 2^levels. As many as that allows if absent",
    },
];

const ACCURACY: &str = "forward and inverse together: relative error (Euclidean norm) below 1e-15 * levels";

pub(crate) const DWT: Transform = Transform {
    name: "dwt",
    summary: "Haar and Daubechies wavelet transform along the last axis, periodic, orthonormal",
    formula: "a[k] = sum_j h[j] x[2k+j], d[k] = sum_j g[j] x[2k+j], g[j] = (-1)^j h[L-1-j], indices modulo the length",
    inputs: "x: real, shape (..., n), n divisible by 2^levels",
    output: "real, shape (..., n): approximations of the last level, its details, ..., details of the first level",
    accuracy: ACCURACY,
    params: PARAMS,
    prepare: |params, arrays| prepare(params, arrays, false),
};

pub(crate) const IDWT: Transform = Transform {
    name: "idwt",
    summary: "inverse of dwt",
    formula: "x[m] = sum_k h[m-2k] a[k] + g[m-2k] d[k], indices modulo the length",
    inputs: "coefficients: real, shape (..., n), laid out as dwt gives them",
    output: "x: real, shape (..., n)",
    accuracy: ACCURACY,
    params: PARAMS,
    prepare: |params, arrays| prepare(params, arrays, true),
};

fn prepare(params: &Params, arrays: Vec<Array>, inverse: bool) -> Result<Operation, TransformError> {
    let [signal] = take(arrays, ["x"])?;
    let signal = real_signal(signal)?;
    let n = signal.row_len();
    let levels_max = n.trailing_zeros() as usize;
    let levels = params.optional_integer("levels").unwrap_or(levels_max.max(1));
    if levels > levels_max {
        return Err(TransformError::input(format!(
            "rows of {n} cannot be halved {levels} times: pad them to a multiple of {}",
            1_u64 << levels
        )));
    }
    let filter = filters::named(params.word("wavelet"));
    Ok(Operation::Wavelet(Wavelet { signal, filter, levels, inverse }))
}

impl Wavelet {
    /// Computes it.
    ///
    /// # Errors
    /// Memory or cancellation.
    pub fn run(self, budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
        let n = self.signal.row_len();
        budget.afford(self.signal.len() + n, 16)?;
        let (shape, precision) = (self.signal.shape().to_vec(), self.signal.precision());
        let mut data = self.signal.real().expect("checked to be real").to_vec();
        let mut scratch = vec![0.0; n];
        let details = high_pass(self.filter);
        for row in data.chunks_exact_mut(n) {
            for level in 0..self.levels {
                budget.check()?;
                let level = if self.inverse { self.levels - 1 - level } else { level };
                let part = &mut row[..n >> level];
                let scratch = &mut scratch[..n >> level];
                if self.inverse {
                    synthesise(part, scratch, self.filter, &details);
                } else {
                    analyse(part, scratch, self.filter, &details);
                }
                part.copy_from_slice(scratch);
            }
        }
        one(shape, Data::Real(data), precision)
    }
}

/// The wavelet filter g that belongs to the scaling filter h.
#[must_use]
pub fn high_pass(filter: &[f64]) -> Vec<f64> {
    let signed = |(j, &value): (usize, &f64)| if j % 2 == 0 { value } else { -value };
    filter.iter().rev().enumerate().map(signed).collect()
}

fn analyse(samples: &[f64], out: &mut [f64], low: &[f64], high: &[f64]) {
    let n = samples.len();
    let (approximations, details) = out.split_at_mut(n / 2);
    for (k, (a, d)) in approximations.iter_mut().zip(details).enumerate() {
        (*a, *d) = (0.0, 0.0);
        for (j, (h, g)) in low.iter().zip(high).enumerate() {
            let x = samples[(2 * k + j) % n];
            *a += h * x;
            *d += g * x;
        }
    }
}

fn synthesise(coefficients: &[f64], out: &mut [f64], low: &[f64], high: &[f64]) {
    let n = coefficients.len();
    let (approximations, details) = coefficients.split_at(n / 2);
    out.fill(0.0);
    for (k, (a, d)) in approximations.iter().zip(details).enumerate() {
        for (j, (h, g)) in low.iter().zip(high).enumerate() {
            out[(2 * k + j) % n] += h * a + g * d;
        }
    }
}
