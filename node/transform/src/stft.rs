//! The short-time Fourier transform and its inverse by weighted overlap-add.
//!
//! The inverse is the least-squares one of Griffin and Lim, "Signal estimation from modified short-time Fourier transform", IEEE
//! Trans. Acoust. Speech Signal Process. 32 (1984): it gives the signal back exactly where the windows overlap enough, and the
//! nearest signal for spectra that no signal has.

use num_complex::Complex64;
use realfft::RealFftPlanner;

use crate::array::elements;
use crate::catalogue::Transform;
use crate::exact::cis_ratio;
use crate::fourier::one;
use crate::inputs::{real_signal, signal, take};
use crate::params::{Fallback, Param, ParamKind};
use crate::{Array, Budget, Data, ELEMENTS_MAX, Operation, Params, TransformError};

/// The longest window, in samples.
pub const WINDOW_MAX: usize = 1 << 20;

/// Below this sum of squared windows, relative to the largest, a sample cannot be told from the spectra.
const OVERLAP_MIN: f64 = 1e-10;

/// Where frames lie and what they are weighted with. Frame m covers the samples m·hop − ⌊length/2⌋ … + length − 1; outside of the
/// signal are zeros. There are ⌈n/hop⌉ + 1 frames, so that both ends lie well inside.
#[derive(Debug, Clone, PartialEq)]
pub struct Frames {
    /// The window, one weight for each sample of a frame.
    pub window: Vec<f64>,
    /// Samples from one frame to the next.
    pub hop: usize,
}

/// From real rows to spectra of frames.
#[derive(Debug, Clone, PartialEq)]
pub struct ShortTime {
    /// The rows of n samples.
    pub signal: Array,
    /// The frames.
    pub frames: Frames,
}

/// From spectra of frames back to rows.
#[derive(Debug, Clone, PartialEq)]
pub struct ShortTimeInverse {
    /// Rows of frames of length/2 + 1 elements.
    pub spectra: Array,
    /// The frames.
    pub frames: Frames,
    /// n, the samples of each row.
    pub samples: usize,
}

const WINDOW: Param = Param {
    name: "window",
    kind: ParamKind::Choice(&["hann", "hamming", "blackman", "rectangular"]),
    default: Some(Fallback::Word("hann")),
    help: "the periodic form of the window: hann 0.5 - 0.5 cos, hamming 0.54 - 0.46 cos, blackman 0.42 - 0.5 cos + 0.08 cos 2",
};
const LENGTH: Param = Param {
    name: "length",
    kind: ParamKind::Integer { min: 2, max: WINDOW_MAX as u64 },
    default: None,
    help: "samples of the window and of each frame",
};
const HOP: Param = Param {
    name: "hop",
    kind: ParamKind::Integer { min: 1, max: WINDOW_MAX as u64 },
    default: Some(Fallback::Absent),
    help: "samples from one frame to the next, at most the length; a quarter of the length if absent",
};

pub(crate) const STFT: Transform = Transform {
    name: "stft",
    summary: "short-time Fourier transform along the last axis",
    formula: "X[m,k] = sum_j w[j] x[m hop - length/2 + j] exp(-2 pi i j k / length), x zero outside",
    inputs: "x: real, shape (..., n)",
    output: "X: complex, shape (..., ceil(n/hop) + 1, length/2 + 1)",
    accuracy: "relative error (Euclidean norm) below 4e-16 * (1 + log2 length)",
    params: &[WINDOW, LENGTH, HOP],
    prepare: |params, arrays| {
        let [signal] = take(arrays, ["x"])?;
        let (signal, frames) = (real_signal(signal)?, Frames::read(params)?);
        elements(&frames.spectra_shape(&signal))?;
        Ok(Operation::ShortTime(ShortTime { signal, frames }))
    },
};

pub(crate) const ISTFT: Transform = Transform {
    name: "istft",
    summary: "inverse of stft by weighted overlap-add",
    formula: "x[t] = sum_m w[j] y_m[j] / sum_m w[j]^2, j = t - m hop + length/2, y_m = irfft(X[m])",
    inputs: "X: complex, shape (..., ceil(samples/hop) + 1, length/2 + 1)",
    output: "x: real, shape (..., samples)",
    accuracy: "forward and inverse together with at least 50 % overlap: largest error below 1e-14 of the largest sample",
    params: &[
        WINDOW,
        LENGTH,
        HOP,
        Param {
            name: "samples",
            kind: ParamKind::Integer { min: 1, max: ELEMENTS_MAX as u64 },
            default: None,
            help: "n, the samples of each row",
        },
    ],
    prepare: inverse,
};

fn inverse(params: &Params, arrays: Vec<Array>) -> Result<Operation, TransformError> {
    let [spectra] = take(arrays, ["X"])?;
    let (spectra, frames, samples) = (signal(spectra)?, Frames::read(params)?, params.integer("samples"));
    let wanted = [frames.count(samples), frames.bins()];
    let Some(outer) = spectra.shape().len().checked_sub(2).filter(|&outer| spectra.shape()[outer..] == wanted) else {
        return Err(TransformError::input(format!(
            "the spectra have the shape {:?}, and {samples} samples give (…, {}, {})",
            spectra.shape(),
            wanted[0],
            wanted[1]
        )));
    };
    elements(&[&spectra.shape()[..outer], &[samples]].concat())?;
    let weights = frames.weights(samples);
    let largest = weights.iter().copied().fold(0.0, f64::max);
    if let Some(position) = weights.iter().position(|&weight| weight <= OVERLAP_MIN * largest) {
        return Err(TransformError::params(format!("the windows leave sample {position} out: choose a smaller `hop`")));
    }
    Ok(Operation::ShortTimeInverse(ShortTimeInverse { spectra, frames, samples }))
}

impl Frames {
    fn read(params: &Params) -> Result<Self, TransformError> {
        let length = params.integer("length");
        let hop = params.optional_integer("hop").unwrap_or((length / 4).max(1));
        if hop > length {
            return Err(TransformError::params(format!("`hop` {hop} is larger than `length` {length}")));
        }
        let coefficients = match params.word("window") {
            "hann" => [0.5, 0.5, 0.0],
            "hamming" => [0.54, 0.46, 0.0],
            "blackman" => [0.42, 0.5, 0.08],
            _ => [1.0, 0.0, 0.0],
        };
        let weight = |j: usize| {
            let first = cis_ratio(j, length).re;
            // At zero the sum of the coefficients is zero but rounds to a negative one.
            (coefficients[0] - coefficients[1] * first + coefficients[2] * (2.0 * first * first - 1.0)).max(0.0)
        };
        Ok(Self { window: (0..length).map(weight).collect(), hop })
    }

    /// How many frames a row of `samples` has.
    #[must_use]
    pub fn count(&self, samples: usize) -> usize {
        samples.div_ceil(self.hop) + 1
    }

    /// How many elements the spectrum of a frame has.
    #[must_use]
    pub fn bins(&self) -> usize {
        self.window.len() / 2 + 1
    }

    /// The shape of a signal's spectra: for each row its frames, and for each frame its elements.
    #[must_use]
    pub fn spectra_shape(&self, signal: &Array) -> Vec<usize> {
        let mut shape = signal.shape_with_row(self.count(signal.row_len()));
        shape.push(self.bins());
        shape
    }

    /// Where in the row the sample `j` of frame `m` lies, if it lies in it.
    fn place(&self, m: usize, j: usize, samples: usize) -> Option<usize> {
        (m * self.hop + j).checked_sub(self.window.len() / 2).filter(|&place| place < samples)
    }

    /// The sum of squared windows at each sample of a row.
    #[must_use]
    pub fn weights(&self, samples: usize) -> Vec<f64> {
        let mut weights = vec![0.0; samples];
        for m in 0..self.count(samples) {
            for (j, w) in self.window.iter().enumerate() {
                if let Some(place) = self.place(m, j, samples) {
                    weights[place] += w * w;
                }
            }
        }
        weights
    }
}

impl ShortTime {
    /// Computes it.
    ///
    /// # Errors
    /// Memory or cancellation.
    pub fn run(self, budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
        let (n, bins, frames) = (self.signal.row_len(), self.frames.bins(), &self.frames);
        let shape = frames.spectra_shape(&self.signal);
        let count = elements(&shape)?;
        budget.afford(self.signal.len() / 2 + count + 4 * bins, 16)?;
        let plan = RealFftPlanner::<f64>::new().plan_fft_forward(frames.window.len());
        let (mut frame, mut scratch) = (plan.make_input_vec(), plan.make_scratch_vec());
        let mut out = vec![Complex64::ZERO; count];
        let mut spectra = out.chunks_exact_mut(bins);
        for row in self.signal.real().expect("checked to be real").chunks_exact(n) {
            for (m, spectrum) in (0..frames.count(n)).zip(&mut spectra) {
                budget.check()?;
                for (j, (sample, w)) in frame.iter_mut().zip(&frames.window).enumerate() {
                    *sample = frames.place(m, j, n).map_or(0.0, |place| w * row[place]);
                }
                plan.process_with_scratch(&mut frame, spectrum, &mut scratch).expect("the lengths are the plan's");
            }
        }
        one(shape, Data::Complex(out), self.signal.precision())
    }
}

impl ShortTimeInverse {
    /// Computes it.
    ///
    /// # Errors
    /// Memory or cancellation.
    #[allow(clippy::cast_precision_loss, reason = "lengths are below 2^53")]
    pub fn run(self, budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
        let (frames, n, bins, precision) = (&self.frames, self.samples, self.frames.bins(), self.spectra.precision());
        let length = frames.window.len();
        let outer = &self.spectra.shape()[..self.spectra.shape().len() - 2];
        let shape = [outer, &[n]].concat();
        let count = elements(&shape)?;
        budget.afford(self.spectra.len() + count + n + 4 * length, 16)?;
        let weights = frames.weights(n);
        let plan = RealFftPlanner::<f64>::new().plan_fft_inverse(length);
        let (mut frame, mut scratch) = (plan.make_output_vec(), plan.make_scratch_vec());
        let mut out = vec![0.0; count];
        let mut data = self.spectra.into_complex();
        let mut spectra = data.chunks_exact_mut(bins);
        for row in out.chunks_exact_mut(n) {
            for (m, spectrum) in (0..frames.count(n)).zip(&mut spectra) {
                budget.check()?;
                spectrum[0].im = 0.0;
                if length % 2 == 0 {
                    spectrum[bins - 1].im = 0.0;
                }
                plan.process_with_scratch(spectrum, &mut frame, &mut scratch).expect("the lengths are the plan's");
                for (j, (sample, w)) in frame.iter().zip(&frames.window).enumerate() {
                    if let Some(place) = frames.place(m, j, n) {
                        row[place] += w * sample / length as f64;
                    }
                }
            }
            row.iter_mut().zip(&weights).for_each(|(sample, weight)| *sample /= weight);
        }
        one(shape, Data::Real(out), precision)
    }
}
