//! The Z-transform at points of a spiral: the chirp-z transform.
//!
//! Rabiner, Schafer and Rader, "The chirp z-transform algorithm", IEEE Trans. Audio Electroacoust. 17 (1969); the substitution
//! nk = (n² + k² − (k−n)²)/2 is Bluestein's (1968).

use num_complex::Complex64;

use crate::array::elements;
use crate::catalogue::Transform;
use crate::exact::cis_multiple;
use crate::fourier::{Plan, one};
use crate::inputs::{signal, take};
use crate::params::{Fallback, Param, ParamKind};
use crate::{Array, Budget, Data, ELEMENTS_MAX, Operation, Params, TransformError};

/// The most terms of one row that are summed directly when the contour grows or shrinks too much for the fast algorithm.
pub const TERMS_MAX: usize = 1 << 28;

/// Beyond this, the chirp spans more than e² and the fast algorithm's rounding errors grow with it, so that the direct sum is taken.
const CHIRP_GROWTH_MAX: f64 = 2.0;

/// X\[k\] = Σ x\[n\]·z_k⁻ⁿ at z_k = `radius`·`ratio`ᵏ·e^(2πi(`start` + k·`step`)).
#[derive(Debug, Clone, PartialEq)]
pub struct Chirp {
    /// The rows x.
    pub signal: Array,
    /// How many points there are on the contour.
    pub points: usize,
    /// |z_0|.
    pub radius: f64,
    /// |z_(k+1)| / |z_k|.
    pub ratio: f64,
    /// The angle of z_0 in turns.
    pub start: f64,
    /// The angle from one point to the next in turns.
    pub step: f64,
}

pub(crate) const CZT: Transform = Transform {
    name: "czt",
    summary: "Z-transform at points of a circle or spiral (chirp-z), along the last axis",
    formula: "X[k] = sum_n x[n] z_k^(-n), z_k = radius * ratio^k * exp(2 pi i (start + k step))",
    inputs: "x: real or complex, shape (..., n)",
    output: "X: complex, shape (..., points)",
    accuracy: "relative to the largest |X[k]|: below 1e-14 on circles of radius 1 up to 4096 samples; off the unit circle \
               relative to sum |x[n] z_k^(-n)|",
    params: &[
        Param {
            name: "points",
            kind: ParamKind::Integer { min: 1, max: ELEMENTS_MAX as u64 },
            default: Some(Fallback::Absent),
            help: "how many points; as many as samples if absent",
        },
        Param { name: "radius", kind: ParamKind::Number { min: 1e-3, max: 1e3 }, default: Some(Fallback::Number(1.0)), help: "|z_0|" },
        Param {
            name: "ratio",
            kind: ParamKind::Number { min: 0.5, max: 2.0 },
            default: Some(Fallback::Number(1.0)),
            help: "|z_(k+1)| / |z_k|; 1 for an arc of a circle",
        },
        Param {
            name: "start",
            kind: ParamKind::Number { min: -1.0, max: 1.0 },
            default: Some(Fallback::Number(0.0)),
            help: "angle of z_0 in turns (cycles per sample)",
        },
        Param {
            name: "step",
            kind: ParamKind::Number { min: -1.0, max: 1.0 },
            default: Some(Fallback::Absent),
            help: "angle from one point to the next in turns; 1/points if absent: the whole circle",
        },
    ],
    prepare,
};

#[allow(clippy::cast_precision_loss, reason = "lengths are below 2^53")]
fn prepare(params: &Params, arrays: Vec<Array>) -> Result<Operation, TransformError> {
    let [array] = take(arrays, ["x"])?;
    let array = signal(array)?;
    let points = params.optional_integer("points").unwrap_or(array.row_len());
    let chirp = Chirp {
        points,
        radius: params.number("radius"),
        ratio: params.number("ratio"),
        start: params.number("start"),
        step: params.optional_number("step").unwrap_or(1.0 / points as f64),
        signal: array,
    };
    elements(&chirp.signal.shape_with_row(points))?;
    elements(&[chirp.padded_len()])?;
    let terms = chirp.signal.row_len().saturating_mul(points);
    if !chirp.is_fast() && terms > TERMS_MAX {
        return Err(TransformError::TooLarge {
            what: "the number of samples times points on a contour with this ratio",
            value: terms as u64,
            limit: TERMS_MAX as u64,
        });
    }
    Ok(Operation::Chirp(chirp))
}

#[allow(clippy::cast_precision_loss, reason = "lengths are below 2^53")]
impl Chirp {
    /// Whether the fast algorithm keeps its accuracy on this contour; otherwise the direct sum is taken.
    #[must_use]
    pub fn is_fast(&self) -> bool {
        let longest = self.signal.row_len().max(self.points) as f64;
        (self.ratio.ln() * longest * longest / 2.0).abs() <= CHIRP_GROWTH_MAX
    }

    /// The length of the convolution that the fast algorithm makes.
    #[must_use]
    pub fn padded_len(&self) -> usize {
        (self.signal.row_len() + self.points - 1).next_power_of_two()
    }

    /// w^(k²/2) for w = ratio·e^(2πi·step): the chirp.
    #[must_use]
    pub fn chirp(&self, k: usize) -> Complex64 {
        let half_square = k as f64 * k as f64 / 2.0;
        cis_multiple(half_square, self.step) * (self.ratio.ln() * half_square).exp()
    }

    /// z_0⁻ⁿ.
    #[must_use]
    pub fn start_power(&self, n: usize) -> Complex64 {
        cis_multiple(-(n as f64), self.start) * (-(n as f64) * self.radius.ln()).exp()
    }

    /// What the samples are multiplied with before the convolution.
    #[must_use]
    pub fn before(&self) -> Vec<Complex64> {
        (0..self.signal.row_len()).map(|n| self.start_power(n) / self.chirp(n)).collect()
    }

    /// What the convolution is multiplied with after it.
    #[must_use]
    pub fn after(&self) -> Vec<Complex64> {
        (0..self.points).map(|k| self.chirp(k).inv()).collect()
    }

    /// What the samples are convolved with, around a circle of [`padded_len`](Self::padded_len), with the factor of the inverse
    /// transform in it.
    #[must_use]
    pub fn kernel(&self) -> Vec<Complex64> {
        let (n, padded) = (self.signal.row_len(), self.padded_len());
        let mut kernel = vec![Complex64::ZERO; padded];
        for k in 0..self.points.max(n) {
            let value = self.chirp(k) / padded as f64;
            if k < self.points {
                kernel[k] = value;
            }
            if (1..n).contains(&k) {
                kernel[padded - k] = value;
            }
        }
        kernel
    }

    /// Computes it.
    ///
    /// # Errors
    /// Memory or cancellation.
    pub fn run(mut self, budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
        let shape = self.signal.shape_with_row(self.points);
        let (n, precision) = (self.signal.row_len(), self.signal.precision());
        budget.afford(self.signal.len() + elements(&shape)? + 3 * self.padded_len() + 2 * n, 16)?;
        let empty = Array::vector(vec![0.0; n])?;
        let data = std::mem::replace(&mut self.signal, empty).into_complex();
        let out = if self.is_fast() { self.fast(&data, budget)? } else { self.direct(&data, budget)? };
        one(shape, Data::Complex(out), precision)
    }

    /// z_k⁻ⁿ = z_0⁻ⁿ·w^(−nk) with nk = (n² + k² − (k−n)²)/2 makes the sum a convolution with the chirp.
    fn fast(&self, data: &[Complex64], budget: &Budget<'_>) -> Result<Vec<Complex64>, TransformError> {
        let (n, padded) = (self.signal.row_len(), self.padded_len());
        let mut kernel = self.kernel();
        let (mut forward, mut back) = (Plan::new(padded, false), Plan::new(padded, true));
        forward.apply(&mut kernel, budget)?;
        let (before, after) = (self.before(), self.after());
        let mut out = Vec::with_capacity(data.len() / n * self.points);
        let mut work = vec![Complex64::ZERO; padded];
        for row in data.chunks_exact(n) {
            work.fill(Complex64::ZERO);
            work.iter_mut().zip(row.iter().zip(&before)).for_each(|(work, (x, factor))| *work = x * factor);
            forward.apply(&mut work, budget)?;
            work.iter_mut().zip(&kernel).for_each(|(work, factor)| *work *= factor);
            back.apply(&mut work, budget)?;
            out.extend(work.iter().zip(&after).map(|(work, factor)| work * factor));
        }
        Ok(out)
    }

    /// Horner's scheme at each point.
    fn direct(&self, data: &[Complex64], budget: &Budget<'_>) -> Result<Vec<Complex64>, TransformError> {
        let mut out = Vec::with_capacity(data.len() / self.signal.row_len() * self.points);
        for row in data.chunks_exact(self.signal.row_len()) {
            for k in 0..self.points {
                budget.check()?;
                let radius = (-(self.radius.ln() + k as f64 * self.ratio.ln())).exp();
                let inverse = (cis_multiple(1.0, self.start) * cis_multiple(k as f64, self.step)).conj() * radius;
                out.push(row.iter().rev().fold(Complex64::ZERO, |sum, x| sum * inverse + x));
            }
        }
        Ok(out)
    }
}
