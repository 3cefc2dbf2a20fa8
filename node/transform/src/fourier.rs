//! Discrete Fourier transforms along the last axis: fast (rustfft, realfft) and by the direct sum.

use std::sync::Arc;

use num_complex::Complex64;
use realfft::RealFftPlanner;
use rustfft::{Fft, FftPlanner};

use crate::array::elements;
use crate::catalogue::Transform;
use crate::exact::{Sum, cis_ratio};
use crate::inputs::{real_signal, signal, take};
use crate::params::{Fallback, Param, ParamKind};
use crate::{Array, Budget, Data, Operation, Params, Precision, TransformError};

/// The longest row of the direct sum, which takes time with the square: a quarter of a thousand million terms.
pub const DIRECT_LENGTH_MAX: usize = 1 << 14;

/// Where the factor 1/n goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// Into the inverse transform, the usual choice.
    Backward,
    /// 1/√n into both, so that they are unitary.
    Ortho,
    /// Into the forward transform.
    Forward,
}

impl Norm {
    const PARAM: Param = Param {
        name: "norm",
        kind: ParamKind::Choice(&["backward", "ortho", "forward"]),
        default: Some(Fallback::Word("backward")),
        help: "where 1/n goes: into the inverse (backward), as 1/sqrt(n) into both (ortho), into the forward transform",
    };

    fn read(params: &Params) -> Self {
        match params.word("norm") {
            "ortho" => Self::Ortho,
            "forward" => Self::Forward,
            _ => Self::Backward,
        }
    }

    /// The factor of one direction for rows of `n`.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "lengths are below 2^53")]
    pub fn factor(self, inverse: bool, n: usize) -> f64 {
        match (self, inverse) {
            (Self::Ortho, _) => 1.0 / (n as f64).sqrt(),
            (Self::Backward, true) | (Self::Forward, false) => 1.0 / n as f64,
            (Self::Backward, false) | (Self::Forward, true) => 1.0,
        }
    }
}

/// A transform of complex rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Fourier {
    /// The rows.
    pub signal: Array,
    /// Whether the sign in the exponent is plus.
    pub inverse: bool,
    /// The scaling.
    pub norm: Norm,
    /// By the direct sum instead of a fast algorithm.
    pub direct: bool,
}

/// From real rows of n to the n/2 + 1 first elements of their transform.
#[derive(Debug, Clone, PartialEq)]
pub struct RealFourier {
    /// The rows.
    pub signal: Array,
    /// The scaling.
    pub norm: Norm,
}

/// From the n/2 + 1 first elements back to real rows of n.
#[derive(Debug, Clone, PartialEq)]
pub struct RealInverse {
    /// The rows of n/2 + 1 elements.
    pub spectrum: Array,
    /// n.
    pub length: usize,
    /// The scaling.
    pub norm: Norm,
}

const ACCURACY: &str = "relative error (Euclidean norm) below 4e-16 * (1 + log2 n); single precision rounds at the end";

pub(crate) const FFT: Transform = Transform {
    name: "fft",
    summary: "fast Fourier transform along the last axis",
    formula: "X[k] = sum_j x[j] exp(-2 pi i j k / n)",
    inputs: "x: real or complex, shape (..., n)",
    output: "X: complex, shape (..., n), frequencies 0, 1, ... cycles per n samples",
    accuracy: ACCURACY,
    params: &[Norm::PARAM],
    prepare: |params, arrays| fourier(params, arrays, false, false),
};

pub(crate) const IFFT: Transform = Transform {
    name: "ifft",
    summary: "inverse fast Fourier transform along the last axis",
    formula: "x[j] = 1/n sum_k X[k] exp(+2 pi i j k / n)",
    inputs: "X: real or complex, shape (..., n)",
    output: "x: complex, shape (..., n)",
    accuracy: ACCURACY,
    params: &[Norm::PARAM],
    prepare: |params, arrays| fourier(params, arrays, true, false),
};

pub(crate) const DFT: Transform = Transform {
    name: "dft",
    summary: "Fourier transform by the direct sum: slow, an oracle for the fast ones",
    formula: "X[k] = sum_j x[j] exp(-2 pi i j k / n)",
    inputs: "x: real or complex, shape (..., n), n at most 16384",
    output: "X: complex, shape (..., n)",
    accuracy: "relative error (Euclidean norm) below 4e-16: sums are carried with twice the digits",
    params: &[Norm::PARAM],
    prepare: |params, arrays| fourier(params, arrays, false, true),
};

pub(crate) const RFFT: Transform = Transform {
    name: "rfft",
    summary: "fast Fourier transform of real rows, without the redundant half",
    formula: "X[k] = sum_j x[j] exp(-2 pi i j k / n), k = 0 ... n/2",
    inputs: "x: real, shape (..., n)",
    output: "X: complex, shape (..., n/2 + 1)",
    accuracy: ACCURACY,
    params: &[Norm::PARAM],
    prepare: |params, arrays| {
        let [signal] = take(arrays, ["x"])?;
        let norm = Norm::read(params);
        Ok(Operation::RealFourier(RealFourier { signal: real_signal(signal)?, norm }))
    },
};

pub(crate) const IRFFT: Transform = Transform {
    name: "irfft",
    summary: "inverse of rfft",
    formula: "x[j] = 1/n sum_k X[k] exp(+2 pi i j k / n) with X[n-k] = conj(X[k])",
    inputs: "X: complex, shape (..., n/2 + 1); the imaginary parts of X[0] and, for even n, X[n/2] are ignored",
    output: "x: real, shape (..., n)",
    accuracy: ACCURACY,
    params: &[
        Norm::PARAM,
        Param {
            name: "length",
            kind: ParamKind::Integer { min: 1, max: crate::ELEMENTS_MAX as u64 },
            default: Some(Fallback::Absent),
            help: "n, the samples of each row: 2 (m - 1) for m elements if absent, 2 (m - 1) + 1 for an odd one",
        },
    ],
    prepare: real_inverse,
};

fn fourier(params: &Params, arrays: Vec<Array>, inverse: bool, direct: bool) -> Result<Operation, TransformError> {
    let [array] = take(arrays, ["x"])?;
    let array = signal(array)?;
    if direct && array.row_len() > DIRECT_LENGTH_MAX {
        return Err(TransformError::TooLarge {
            what: "the row length of a direct sum",
            value: array.row_len() as u64,
            limit: DIRECT_LENGTH_MAX as u64,
        });
    }
    Ok(Operation::Fourier(Fourier { signal: array, inverse, norm: Norm::read(params), direct }))
}

fn real_inverse(params: &Params, arrays: Vec<Array>) -> Result<Operation, TransformError> {
    let [spectrum] = take(arrays, ["X"])?;
    let spectrum = signal(spectrum)?;
    let bins = spectrum.row_len();
    let length = params.optional_integer("length").unwrap_or((2 * (bins - 1)).max(1));
    if length / 2 + 1 != bins {
        return Err(TransformError::params(format!("`length` {length} wants rows of {} elements but they have {bins}", length / 2 + 1)));
    }
    let norm = Norm::read(params);
    Ok(Operation::RealInverse(RealInverse { spectrum, length, norm }))
}

impl Fourier {
    /// Computes it.
    ///
    /// # Errors
    /// Memory or cancellation.
    pub fn run(self, budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
        let (shape, precision, n) = (self.signal.shape().to_vec(), self.signal.precision(), self.signal.row_len());
        budget.afford(self.signal.len(), 40)?;
        let mut data = self.signal.into_complex();
        if self.direct {
            data = direct(&data, n, self.inverse, budget)?;
        } else {
            Plan::new(n, self.inverse).apply(&mut data, budget)?;
        }
        scale(&mut data, self.norm.factor(self.inverse, n));
        one(shape, Data::Complex(data), precision)
    }
}

impl RealFourier {
    /// Computes it.
    ///
    /// # Errors
    /// Memory or cancellation.
    pub fn run(self, budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
        let n = self.signal.row_len();
        let shape = self.signal.shape_with_row(n / 2 + 1);
        let count = elements(&shape)?;
        budget.afford(self.signal.len() + 2 * count, 16)?;
        let plan = RealFftPlanner::<f64>::new().plan_fft_forward(n);
        let (mut row, mut scratch) = (plan.make_input_vec(), plan.make_scratch_vec());
        let mut out = vec![Complex64::ZERO; count];
        let rows = self.signal.real().expect("checked to be real").chunks_exact(n);
        for (input, output) in rows.zip(out.chunks_exact_mut(n / 2 + 1)) {
            budget.check()?;
            row.copy_from_slice(input);
            plan.process_with_scratch(&mut row, output, &mut scratch).expect("the lengths are the plan's");
        }
        scale(&mut out, self.norm.factor(false, n));
        one(shape, Data::Complex(out), self.signal.precision())
    }
}

impl RealInverse {
    /// Computes it.
    ///
    /// # Errors
    /// Memory or cancellation.
    pub fn run(self, budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
        let (n, bins) = (self.length, self.length / 2 + 1);
        let shape = self.spectrum.shape_with_row(n);
        let precision = self.spectrum.precision();
        let count = elements(&shape)?;
        budget.afford(self.spectrum.len() + count, 24)?;
        let plan = RealFftPlanner::<f64>::new().plan_fft_inverse(n);
        let mut scratch = plan.make_scratch_vec();
        let mut spectrum = self.spectrum.into_complex();
        let mut out = vec![0.0; count];
        for (input, output) in spectrum.chunks_exact_mut(bins).zip(out.chunks_exact_mut(n)) {
            budget.check()?;
            // A real signal has none here, and the plan insists.
            input[0].im = 0.0;
            if n % 2 == 0 {
                input[bins - 1].im = 0.0;
            }
            plan.process_with_scratch(input, output, &mut scratch).expect("the lengths are the plan's");
        }
        let factor = self.norm.factor(true, n);
        out.iter_mut().for_each(|value| *value *= factor);
        one(shape, Data::Real(out), precision)
    }
}

/// One array as a result.
pub(crate) fn one(shape: Vec<usize>, data: Data, precision: Precision) -> Result<Vec<Array>, TransformError> {
    Ok(vec![Array::new(shape, data)?.with_precision(precision)])
}

pub(crate) fn scale(data: &mut [Complex64], factor: f64) {
    if factor != 1.0 {
        data.iter_mut().for_each(|value| *value *= factor);
    }
}

/// A planned transform of rows of one length, in place and without scaling.
pub(crate) struct Plan {
    fft: Arc<dyn Fft<f64>>,
    scratch: Vec<Complex64>,
}

impl Plan {
    pub(crate) fn new(n: usize, inverse: bool) -> Self {
        let mut planner = FftPlanner::<f64>::new();
        let fft = if inverse { planner.plan_fft_inverse(n) } else { planner.plan_fft_forward(n) };
        let scratch = vec![Complex64::ZERO; fft.get_inplace_scratch_len()];
        Self { fft, scratch }
    }

    pub(crate) fn apply(&mut self, data: &mut [Complex64], budget: &Budget<'_>) -> Result<(), TransformError> {
        for row in data.chunks_exact_mut(self.fft.len()) {
            budget.check()?;
            self.fft.process_with_scratch(row, &mut self.scratch);
        }
        Ok(())
    }
}

fn direct(data: &[Complex64], n: usize, inverse: bool, budget: &Budget<'_>) -> Result<Vec<Complex64>, TransformError> {
    let circle: Vec<Complex64> = (0..n).map(|m| if inverse { cis_ratio(m, n) } else { cis_ratio(m, n).conj() }).collect();
    let mut out = Vec::with_capacity(data.len());
    for row in data.chunks_exact(n) {
        for k in 0..n {
            budget.check()?;
            let (mut re, mut im) = (Sum::default(), Sum::default());
            let mut at = 0;
            for value in row {
                let factor = circle[at];
                re.add_product(value.re, factor.re);
                re.add_product(-value.im, factor.im);
                im.add_product(value.re, factor.im);
                im.add_product(value.im, factor.re);
                at += k;
                at -= if at >= n { n } else { 0 };
            }
            out.push(Complex64::new(re.value(), im.value()));
        }
    }
    Ok(out)
}
