//! Transforms of real rows on a device: without the redundant half of their spectra, and of short frames of them. cuFFT transforms complex
//! rows; that costs twice the work and memory of its real plans, and is the same path as every other transform's.

use cudarc::driver::CudaSlice;
use tarn_transform::fourier::{RealFourier, RealInverse};
use tarn_transform::stft::{ShortTime, ShortTimeInverse};
use tarn_transform::{Array, Budget, Data};

use super::super::message::JobError;
use super::gpu::Argument::{Float, Number};
use super::gpu::{Gpu, OnDevice};
use super::transforms::{FORWARD, INVERSE, Plan, failed, finish, flat, paired};

/// Rows of so many elements each.
struct Rows {
    n: usize,
    count: usize,
}

impl Rows {
    fn bins(&self) -> usize {
        self.n / 2 + 1
    }
}

impl OnDevice<'_> {
    /// The first half of the spectra of real rows.
    fn half_spectra(&self, samples: &CudaSlice<f64>, rows: &Rows, plans: &mut Vec<Plan>) -> Result<CudaSlice<f64>, JobError> {
        let (all, kept) = (rows.n * rows.count, rows.bins() * rows.count);
        let (whole, half) = (self.zeros::<f64>(2 * all)?, self.zeros::<f64>(2 * kept)?);
        self.launch("lift", &[self.argument(samples), self.argument(&whole)], all)?;
        let plan = Plan::new(self, rows.n, rows.count)?;
        plan.run(self, &whole, FORWARD)?;
        plans.push(plan);
        let (n, bins) = (Number(rows.n as u64), Number(rows.bins() as u64));
        self.launch("half_of", &[self.argument(&whole), self.argument(&half), n, bins], kept)?;
        Ok(half)
    }

    /// Real rows, times their length, from the first half of their spectra.
    fn real_rows(&self, half: &CudaSlice<f64>, rows: &Rows, plans: &mut Vec<Plan>) -> Result<CudaSlice<f64>, JobError> {
        let all = rows.n * rows.count;
        let (whole, samples) = (self.zeros::<f64>(2 * all)?, self.zeros::<f64>(all)?);
        let (n, bins) = (Number(rows.n as u64), Number(rows.bins() as u64));
        self.launch("whole_of", &[self.argument(half), self.argument(&whole), n, bins], all)?;
        let plan = Plan::new(self, rows.n, rows.count)?;
        plan.run(self, &whole, INVERSE)?;
        plans.push(plan);
        self.launch("real_parts", &[self.argument(&whole), self.argument(&samples)], all)?;
        Ok(samples)
    }
}

fn real(signal: &Array) -> Result<&[f64], JobError> {
    signal.real().ok_or_else(|| failed("the signal is not real"))
}

impl Gpu {
    pub(super) fn real_fourier(&self, fourier: &RealFourier, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        let on_device = self.attempt(budget)?;
        let n = fourier.signal.row_len();
        let rows = Rows { n, count: fourier.signal.len() / n };
        // Plans live until the stream is done with them.
        let mut plans = Vec::new();
        let half = on_device.half_spectra(&on_device.upload(real(&fourier.signal)?)?, &rows, &mut plans)?;
        let numbers = 2 * rows.bins() * rows.count;
        on_device.launch("scale", &[on_device.argument(&half), Float(fourier.norm.factor(false, n))], numbers)?;
        let out = paired(&on_device.download(&half, numbers)?);
        finish(fourier.signal.shape_with_row(rows.bins()), Data::Complex(out), fourier.signal.precision())
    }

    pub(super) fn real_inverse(&self, inverse: RealInverse, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        let on_device = self.attempt(budget)?;
        let (shape, precision) = (inverse.spectrum.shape_with_row(inverse.length), inverse.spectrum.precision());
        let rows = Rows { n: inverse.length, count: inverse.spectrum.len() / inverse.spectrum.row_len() };
        let factor = inverse.norm.factor(true, rows.n);
        let mut plans = Vec::new();
        let half = on_device.upload(&flat(&inverse.spectrum.into_complex()))?;
        let samples = on_device.real_rows(&half, &rows, &mut plans)?;
        let count = rows.n * rows.count;
        on_device.launch("scale", &[on_device.argument(&samples), Float(factor)], count)?;
        let out = on_device.download(&samples, count)?;
        finish(shape, Data::Real(out), precision)
    }

    pub(super) fn short_time(&self, short: &ShortTime, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        let on_device = self.attempt(budget)?;
        let (samples, length) = (short.signal.row_len(), short.frames.window.len());
        let per_row = short.frames.count(samples);
        let rows = Rows { n: length, count: short.signal.len() / samples * per_row };
        let (signal, window) = (on_device.upload(real(&short.signal)?)?, on_device.upload(&short.frames.window)?);
        let frames = on_device.zeros::<f64>(length * rows.count)?;
        let pointers = [&signal, &window, &frames].map(|buffer| on_device.argument(buffer));
        let [signal_at, window_at, frames_at] = pointers;
        let [samples, length, hop, per_row] = [samples, length, short.frames.hop, per_row].map(|number| Number(number as u64));
        on_device.launch("frames", &[signal_at, window_at, frames_at, samples, length, hop, per_row], rows.n * rows.count)?;
        let mut plans = Vec::new();
        let half = on_device.half_spectra(&frames, &rows, &mut plans)?;
        let out = paired(&on_device.download(&half, 2 * rows.bins() * rows.count)?);
        let shape = short.frames.spectra_shape(&short.signal);
        finish(shape, Data::Complex(out), short.signal.precision())
    }

    pub(super) fn short_time_inverse(&self, short: ShortTimeInverse, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        let on_device = self.attempt(budget)?;
        let (samples, length, precision) = (short.samples, short.frames.window.len(), short.spectra.precision());
        let outer = short.spectra.shape().len() - 2;
        let shape = [&short.spectra.shape()[..outer], &[samples]].concat();
        let count = shape.iter().product();
        let per_row = short.frames.count(samples);
        let rows = Rows { n: length, count: short.spectra.len() / short.frames.bins() };
        let half = on_device.upload(&flat(&short.spectra.into_complex()))?;
        let mut plans = Vec::new();
        let frames = on_device.real_rows(&half, &rows, &mut plans)?;
        let (window, weights) = (on_device.upload(&short.frames.window)?, on_device.upload(&short.frames.weights(samples))?);
        let out = on_device.zeros::<f64>(count)?;
        let pointers = [&frames, &window, &weights, &out].map(|buffer| on_device.argument(buffer));
        let [frames_at, window_at, weights_at, out_at] = pointers;
        let [samples, length, hop, per_row] = [samples, length, short.frames.hop, per_row].map(|number| Number(number as u64));
        on_device.launch("overlap_add", &[frames_at, window_at, weights_at, out_at, samples, length, hop, per_row], count)?;
        let values = on_device.download(&out, count)?;
        finish(shape, Data::Real(values), precision)
    }
}
