//! The built-in transforms on a device, each the twin of the processor's. What has no twin here (de Hoog's inversion of the Laplace
//! transform, homology's reduction, the direct sum) is computed on the processor, in the worker.

use cudarc::cufft::result as cufft;
use cudarc::cufft::sys::cufftType;
use cudarc::driver::CudaSlice;
use tarn_transform::chirp::Chirp;
use tarn_transform::fourier::Fourier;
use tarn_transform::hilbert::Hilbert;
use tarn_transform::homology::{Cloud, Homology};
use tarn_transform::hyperbolic::{Hyperbolic, HyperbolicMap};
use tarn_transform::pairwise::{Metric, Pairwise};
use tarn_transform::projective::{Projective, ProjectiveMap};
use tarn_transform::sphere::{Sphere, SphereMap};
use tarn_transform::wavelet::{Wavelet, high_pass};
use tarn_transform::{Array, Budget, Complex64, Data, Operation, Points, Precision};

use super::super::backend::{Backend, Processor};
use super::super::message::{JobError, Launch};
use super::fft_is_present;
use super::gpu::Argument::{Float, Number};
use super::gpu::{Gpu, OnDevice};

/// How much of the host's memory what is left to the processor may have, in bytes.
const HOST_BYTES_MAX: u64 = 4 << 30;

pub(super) const FORWARD: i32 = -1;
pub(super) const INVERSE: i32 = 1;

impl Backend for Gpu {
    fn transform(&self, operation: Operation, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        let fft = fft_is_present();
        match operation {
            Operation::Fourier(fourier) if fft && !fourier.direct => self.fourier(fourier, budget),
            Operation::Hilbert(hilbert) if fft => self.hilbert(hilbert, budget),
            Operation::Chirp(chirp) if fft && chirp.is_fast() => self.chirp(chirp, budget),
            Operation::RealFourier(fourier) if fft => self.real_fourier(&fourier, budget),
            Operation::RealInverse(inverse) if fft => self.real_inverse(inverse, budget),
            Operation::ShortTime(short) if fft => self.short_time(&short, budget),
            Operation::ShortTimeInverse(short) if fft => self.short_time_inverse(short, budget),
            Operation::Laplace(laplace) if !laplace.nodes.inversion.dehoog => self.laplace(laplace, budget),
            Operation::Wavelet(wavelet) => self.wavelet(wavelet, budget),
            Operation::Hyperbolic(hyperbolic) => self.hyperbolic(&hyperbolic, budget),
            Operation::Sphere(sphere) => self.sphere(&sphere, budget),
            Operation::SphereDistance(pairs) => self.distances(&pairs.from, &pairs.to, Metric::Sphere, budget),
            Operation::ProjectiveDistance(pairs) => self.distances(&pairs.from, &pairs.to, Metric::Projective, budget),
            Operation::Projective(Projective { map: ProjectiveMap::Apply(matrix), points, precision }) => {
                self.projective(&matrix, &points, precision, budget)
            }
            Operation::Pairwise(pairwise) => {
                let n = pairwise.points.count;
                finish(vec![n, n], Data::Real(self.pairwise(&pairwise, budget)?), pairwise.points.precision)
            }
            Operation::Homology(Homology { cloud: Cloud::Points(pairwise), loops, threshold, precision }) => {
                let matrix = Cloud::Matrix(pairwise.points.count, self.pairwise(&pairwise, budget)?);
                let rest = Homology { cloud: matrix, loops, threshold, precision };
                on_processor(Operation::Homology(rest), budget)
            }
            other => on_processor(other, budget),
        }
    }

    fn kernel(&self, launch: &Launch, source: &[u8], input: &[u8], budget: &Budget<'_>) -> Result<Vec<u8>, JobError> {
        self.launch_stranger(launch, source, input, budget)
    }
}

pub(super) fn on_processor(operation: Operation, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
    let host = Budget { memory_bytes: HOST_BYTES_MAX, cancelled: budget.cancelled };
    Processor.transform(operation, &host)
}

pub(super) fn finish(shape: Vec<usize>, data: Data, precision: Precision) -> Result<Vec<Array>, JobError> {
    Ok(vec![Array::new(shape, data)?.with_precision(precision)])
}

/// Complex numbers as pairs of real ones, which is how the device has them.
pub(super) fn flat(values: &[Complex64]) -> Vec<f64> {
    values.iter().flat_map(|value| [value.re, value.im]).collect()
}

pub(super) fn paired(values: &[f64]) -> Vec<Complex64> {
    values.chunks_exact(2).map(|pair| Complex64::new(pair[0], pair[1])).collect()
}

/// A plan of cuFFT for complex rows in double precision. It is freed with this.
pub(super) struct Plan(cudarc::cufft::sys::cufftHandle);

impl Plan {
    pub(super) fn new(on_device: &OnDevice<'_>, n: usize, rows: usize) -> Result<Self, JobError> {
        let small = |value: usize| i32::try_from(value).map_err(|_| failed("a row is too long for cuFFT"));
        let estimate = cufft::estimate_1d(small(n)?, cufftType::CUFFT_Z2Z, small(rows)?).map_err(failed)?;
        on_device.account(estimate)?;
        let plan = Self(cufft::plan_1d(small(n)?, cufftType::CUFFT_Z2Z, small(rows)?).map_err(failed)?);
        // SAFETY: the stream lives as long as the attempt, and so longer than the plan.
        unsafe { cufft::set_stream(plan.0, on_device.stream.cu_stream().cast()) }.map_err(failed)?;
        Ok(plan)
    }

    /// Transforms in place, without scaling.
    pub(super) fn run(&self, on_device: &OnDevice<'_>, data: &CudaSlice<f64>, direction: i32) -> Result<(), JobError> {
        let pointer = on_device.pointer(data) as *mut cudarc::cufft::sys::cufftDoubleComplex;
        // SAFETY: the buffer holds the plan's rows of pairs of doubles, and belongs to the attempt whose stream the plan uses.
        unsafe { cufft::exec_z2z(self.0, pointer, pointer, direction) }.map_err(failed)
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: the handle came from cuFFT and is destroyed once. A failure leaks a plan in a process that ends after failures.
        let _ = unsafe { cufft::destroy(self.0) };
    }
}

pub(super) fn failed(error: impl std::fmt::Display) -> JobError {
    JobError::Device { detail: error.to_string() }
}

fn metric(metric: Metric) -> [super::gpu::Argument; 2] {
    let (number, curvature) = match metric {
        Metric::Euclidean => (0, 0.0),
        Metric::Poincare(curvature) => (1, curvature),
        Metric::Sphere => (2, 0.0),
        Metric::Projective => (3, 0.0),
    };
    [Number(number), Float(curvature)]
}

#[allow(clippy::cast_precision_loss, reason = "lengths are below 2^53")]
impl Gpu {
    fn fourier(&self, fourier: Fourier, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        let on_device = self.attempt(budget)?;
        let (shape, precision) = (fourier.signal.shape().to_vec(), fourier.signal.precision());
        let (n, count) = (fourier.signal.row_len(), fourier.signal.len());
        let data = on_device.upload(&flat(&fourier.signal.into_complex()))?;
        let direction = if fourier.inverse { INVERSE } else { FORWARD };
        // Plans live until the stream is done with them.
        let plan = Plan::new(&on_device, n, count / n)?;
        plan.run(&on_device, &data, direction)?;
        let factor = fourier.norm.factor(fourier.inverse, n);
        on_device.launch("scale", &[on_device.argument(&data), Float(factor)], 2 * count)?;
        let out = paired(&on_device.download(&data, 2 * count)?);
        finish(shape, Data::Complex(out), precision)
    }

    fn hilbert(&self, hilbert: Hilbert, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        let on_device = self.attempt(budget)?;
        let (shape, precision) = (hilbert.signal.shape().to_vec(), hilbert.signal.precision());
        let (n, count) = (hilbert.signal.row_len(), hilbert.signal.len());
        let samples = on_device.upload(hilbert.signal.real().ok_or_else(|| failed("the signal is not real"))?)?;
        let data = on_device.zeros::<f64>(2 * count)?;
        let (samples, pairs) = (on_device.argument(&samples), || on_device.argument(&data));
        on_device.launch("lift", &[Number(samples.slot()), pairs()], count)?;
        let plan = Plan::new(&on_device, n, count / n)?;
        plan.run(&on_device, &data, FORWARD)?;
        on_device.launch("analytic", &[pairs(), Number(n as u64)], count)?;
        plan.run(&on_device, &data, INVERSE)?;
        on_device.launch("restore_real", &[samples, pairs()], count)?;
        let out = paired(&on_device.download(&data, 2 * count)?);
        finish(shape, Data::Complex(out), precision)
    }

    fn chirp(&self, chirp: Chirp, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        let on_device = self.attempt(budget)?;
        let (n, points, padded) = (chirp.signal.row_len(), chirp.points, chirp.padded_len());
        let (rows, precision) = (chirp.signal.len() / n, chirp.signal.precision());
        let mut shape = chirp.signal.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = points;
        }
        let (before, kernel, after) = (chirp.before(), chirp.kernel(), chirp.after());
        let (before, after) = (on_device.upload(&flat(&before))?, on_device.upload(&flat(&after))?);
        let kernel = on_device.upload(&flat(&kernel))?;
        let single = Plan::new(&on_device, padded, 1)?;
        single.run(&on_device, &kernel, FORWARD)?;
        let signal = on_device.upload(&flat(&chirp.signal.into_complex()))?;
        let (work, out) = (on_device.zeros::<f64>(2 * rows * padded)?, on_device.zeros::<f64>(2 * rows * points)?);
        let pointer = |buffer: &CudaSlice<f64>| on_device.argument(buffer);
        let (count, wide) = (rows * padded, Number(padded as u64));
        on_device.launch("chirp_pad", &[pointer(&signal), pointer(&before), pointer(&work), Number(n as u64), wide], count)?;
        let plan = Plan::new(&on_device, padded, rows)?;
        plan.run(&on_device, &work, FORWARD)?;
        on_device.launch("chirp_multiply", &[pointer(&work), pointer(&kernel), Number(padded as u64)], count)?;
        plan.run(&on_device, &work, INVERSE)?;
        let (wide, taken) = (Number(padded as u64), Number(points as u64));
        on_device.launch("chirp_take", &[pointer(&work), pointer(&after), pointer(&out), taken, wide], rows * points)?;
        let values = on_device.download(&out, 2 * rows * points)?;
        finish(shape, Data::Complex(paired(&values)), precision)
    }

    fn wavelet(&self, wavelet: Wavelet, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        let on_device = self.attempt(budget)?;
        let (shape, precision) = (wavelet.signal.shape().to_vec(), wavelet.signal.precision());
        let (n, count) = (wavelet.signal.row_len(), wavelet.signal.len());
        let samples = wavelet.signal.real().ok_or_else(|| failed("the signal is not real"))?;
        let (mut data, mut next) = (on_device.upload(samples)?, on_device.upload(samples)?);
        let (low, high) = (on_device.upload(wavelet.filter)?, on_device.upload(&high_pass(wavelet.filter))?);
        for step in 0..wavelet.levels {
            let level = if wavelet.inverse { wavelet.levels - 1 - step } else { step };
            let part = n >> level;
            let arguments = [
                on_device.argument(&data),
                on_device.argument(&next),
                on_device.argument(&low),
                on_device.argument(&high),
                Number(wavelet.filter.len() as u64),
                Number(n as u64),
                Number(part as u64),
            ];
            if wavelet.inverse {
                on_device.launch("synthesise", &arguments, count / n * part)?;
            } else {
                on_device.launch("analyse", &arguments, count / n * (part / 2))?;
            }
            // What a level does not touch must be the same in both buffers before they change places.
            on_device.stream.memcpy_dtod(&next, &mut data).map_err(super::sort)?;
            std::mem::swap(&mut data, &mut next);
        }
        let out = on_device.download(&data, count)?;
        finish(shape, Data::Real(out), precision)
    }

    fn distances(&self, from: &Points, to: &Points, by: Metric, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        let on_device = self.attempt(budget)?;
        let (x, y) = (on_device.upload(&from.coordinates)?, on_device.upload(&to.coordinates)?);
        let out = on_device.zeros::<f64>(from.count)?;
        let [kind, curvature] = metric(by);
        let pointers = [on_device.argument(&x), on_device.argument(&y), on_device.argument(&out)];
        let [x, y, result] = pointers;
        on_device.launch("distances", &[x, y, result, Number(from.dimension as u64), kind, curvature], from.count)?;
        let values = on_device.download(&out, from.count)?;
        finish(vec![from.count], Data::Real(values), from.precision.max(to.precision))
    }

    fn pairwise(&self, pairwise: &Pairwise, budget: &Budget<'_>) -> Result<Vec<f64>, JobError> {
        let on_device = self.attempt(budget)?;
        let n = pairwise.points.count;
        let points = on_device.upload(&pairwise.points.coordinates)?;
        let out = on_device.zeros::<f64>(n * n)?;
        let [kind, curvature] = metric(pairwise.metric);
        let (x, result) = (on_device.argument(&points), on_device.argument(&out));
        let dimension = Number(pairwise.points.dimension as u64);
        on_device.launch("pairwise", &[x, result, dimension, kind, curvature, Number(n as u64)], n * n)?;
        on_device.download(&out, n * n)
    }

    fn hyperbolic(&self, map: &Hyperbolic, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        let kernel = match map.map {
            HyperbolicMap::Distance => {
                return self.distances(&map.from, &map.to, Metric::Poincare(map.curvature), budget);
            }
            HyperbolicMap::Exp => "poincare_exp",
            HyperbolicMap::Log => "poincare_log",
        };
        let on_device = self.attempt(budget)?;
        let (count, dimension) = (map.from.count, map.from.dimension);
        let (x, y) = (on_device.upload(&map.from.coordinates)?, on_device.upload(&map.to.coordinates)?);
        let out = on_device.zeros::<f64>(count * dimension)?;
        let arguments =
            [on_device.argument(&x), on_device.argument(&y), on_device.argument(&out), Number(dimension as u64), Float(map.curvature)];
        on_device.launch(kernel, &arguments, count)?;
        let values = on_device.download(&out, count * dimension)?;
        finish(vec![count, dimension], Data::Real(values), map.from.precision.max(map.to.precision))
    }

    fn sphere(&self, sphere: &Sphere, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        let (count, dimension) = (sphere.points.count, sphere.points.dimension);
        let (kernel, plane, width) = match sphere.map {
            SphereMap::Normalise => ("sphere_normalise", dimension, dimension),
            SphereMap::Stereographic => ("stereographic", dimension, dimension + 1),
            SphereMap::StereographicInverse => ("stereographic_inverse", dimension - 1, dimension - 1),
        };
        let on_device = self.attempt(budget)?;
        let points = on_device.upload(&sphere.points.coordinates)?;
        let out = on_device.zeros::<f64>(count * width)?;
        let arguments = [on_device.argument(&points), on_device.argument(&out), Number(plane as u64)];
        on_device.launch(kernel, &arguments, count)?;
        let values = on_device.download(&out, count * width)?;
        finish(vec![count, width], Data::Real(values), sphere.points.precision)
    }

    fn projective(&self, matrix: &[f64], points: &Points, precision: Precision, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        let on_device = self.attempt(budget)?;
        let (count, dimension) = (points.count, points.dimension);
        let (x, of) = (on_device.upload(&points.coordinates)?, on_device.upload(matrix)?);
        let out = on_device.zeros::<f64>(count * dimension)?;
        let pointers = [on_device.argument(&x), on_device.argument(&of), on_device.argument(&out)];
        let [x, of, result] = pointers;
        on_device.launch("projective_apply", &[x, of, result, Number(dimension as u64)], count)?;
        let values = on_device.download(&out, count * dimension)?;
        match values.iter().position(|value| !value.is_finite()) {
            None => finish(vec![count, dimension], Data::Real(values), precision),
            // The processor's sentence for it.
            Some(_) => {
                let map = ProjectiveMap::Apply(matrix.to_vec());
                on_processor(Operation::Projective(Projective { map, points: points.clone(), precision }), budget)
            }
        }
    }
}
