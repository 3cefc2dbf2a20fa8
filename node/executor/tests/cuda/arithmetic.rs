//! The arithmetic of the built-in kernels, without a device: compiled as C++ for this processor, where a grid of one thread strides over all
//! elements, and held against the processor's transforms. What only a device can show (launches, memory, cuFFT) is in `device.rs`.

use std::path::PathBuf;
use std::process::Command;

use libloading::Library;
use tarn_transform::wavelet::high_pass;
use tarn_transform::{Array, Budget, Complex64, Data, Operation, prepare, write_arrays};

use super::mirror::{coefficients, noise, times};

/// What CUDA's compiler provides and this one does not.
const SHIM: &str = "
#include <cmath>
using namespace std;
#define __global__
#define __device__ static
struct Extent { unsigned x, y, z; };
static Extent blockIdx{0, 0, 0}, blockDim{1, 1, 1}, threadIdx{0, 0, 0}, gridDim{1, 1, 1};
struct double2 { double x, y; };
static double2 make_double2(double x, double y) { return {x, y}; }
static double __dadd_rn(double a, double b) { return a + b; }
static double __dsub_rn(double a, double b) { return a - b; }
static double __dmul_rn(double a, double b) { return a * b; }
static double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
";

fn kernels(name: &str) -> Library {
    let dir = tempfile::tempdir().unwrap();
    let (shim, library) = (dir.path().join("shim.h"), dir.path().join("kernels.so"));
    std::fs::write(&shim, SHIM).unwrap();
    let source = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"))
        .join("src/cuda/kernels")
        .join(format!("{name}.cu"));
    let mut compiler = Command::new("clang++");
    compiler.args(["-O1", "-ffp-contract=off", "-shared", "-fPIC", "-x", "c++", "-include"]);
    compiler.arg(&shim).arg(&source).arg("-o").arg(&library);
    assert!(compiler.status().expect("clang++ is installed, as building tarn needs").success());
    // SAFETY: the library was just built from our source and has no initialisers beyond C++'s own.
    unsafe { Library::new(&library) }.unwrap()
}

/// Calls a kernel. Its parameter types are those of the arguments given.
macro_rules! launch {
    ($library:expr, $name:literal, $($argument:expr => $kind:ty),+) => {{
        // SAFETY: each call below gives the parameter types that the kernel declares, and pointers to as many elements as it touches.
        unsafe {
            let kernel = $library.get::<unsafe extern "C" fn($($kind),+)>($name).unwrap();
            kernel($($argument),+);
        }
    }};
}

type In = *const f64;
type Out = *mut f64;

fn array(rows: usize, row: usize, values: &[f64]) -> Array {
    Array::new(vec![rows, row], Data::Real(values.to_vec())).unwrap()
}

fn processor(name: &str, params: &str, arrays: &[Array]) -> Vec<f64> {
    let budget = Budget::default();
    let input = write_arrays(arrays, &budget).unwrap();
    let operation: Operation = prepare(name, params, &input, &budget).unwrap();
    operation.run(&budget).unwrap().remove(0).real().unwrap().to_vec()
}

fn assert_close(name: &str, have: &[f64], want: &[f64]) {
    assert_eq!(have.len(), want.len(), "{name}");
    let largest = want.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    let worst = have.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-14 * largest, "{name}: {worst:e} of {largest:e}");
}

const COUNT: usize = 40;
const N: u64 = COUNT as u64;

#[test]
fn distances_of_every_metric() {
    let geometry = kernels("geometry");
    let half = |seed: u64| noise(seed, 3 * COUNT).iter().map(|x| x / 2.0).collect::<Vec<_>>();
    let (x, y) = (half(1), half(2));
    for (number, metric) in (0_u32..).zip(["euclidean", "poincare", "sphere", "projective"]) {
        let mut all = vec![0.0; COUNT * COUNT];
        launch!(geometry, "pairwise", x.as_ptr() => In, all.as_mut_ptr() => Out, 3 => u32, number => u32, 0.7 => f64, N => u64, N * N => u64);
        let params = format!("{{\"metric\": \"{metric}\", \"curvature\": 0.7}}");
        assert_close(metric, &all, &processor("pairwise", &params, &[array(COUNT, 3, &x)]));
    }
    let transforms = [(1_u32, "poincare_distance", r#"{"curvature": 0.7}"#), (2, "sphere_distance", ""), (3, "projective_distance", "")];
    for (number, name, params) in transforms {
        let mut out = vec![0.0; COUNT];
        launch!(geometry, "distances", x.as_ptr() => In, y.as_ptr() => In, out.as_mut_ptr() => Out, 3 => u32, number => u32, 0.7 => f64, N => u64);
        assert_close(name, &out, &processor(name, params, &[array(COUNT, 3, &x), array(COUNT, 3, &y)]));
    }
}

#[test]
fn maps_of_points() {
    let geometry = kernels("geometry");
    let half = |seed: u64| noise(seed, 3 * COUNT).iter().map(|x| x / 2.0).collect::<Vec<_>>();
    let (x, y) = (half(1), half(2));
    let (rows_x, rows_y) = (array(COUNT, 3, &x), array(COUNT, 3, &y));
    let curved = r#"{"curvature": 0.7}"#;
    let mut out = vec![0.0; 3 * COUNT];
    launch!(geometry, "poincare_exp", x.as_ptr() => In, y.as_ptr() => In, out.as_mut_ptr() => Out, 3 => u32, 0.7 => f64, N => u64);
    assert_close("exp", &out, &processor("poincare_exp", curved, &[rows_x.clone(), rows_y.clone()]));
    launch!(geometry, "poincare_log", x.as_ptr() => In, y.as_ptr() => In, out.as_mut_ptr() => Out, 3 => u32, 0.7 => f64, N => u64);
    assert_close("log", &out, &processor("poincare_log", curved, &[rows_x.clone(), rows_y]));
    launch!(geometry, "sphere_normalise", x.as_ptr() => In, out.as_mut_ptr() => Out, 3 => u32, N => u64);
    assert_close("normalise", &out, &processor("sphere_normalise", "", std::slice::from_ref(&rows_x)));
    let mut on = vec![0.0; 4 * COUNT];
    launch!(geometry, "stereographic", x.as_ptr() => In, on.as_mut_ptr() => Out, 3 => u32, N => u64);
    assert_close("stereographic", &on, &processor("stereographic", "", std::slice::from_ref(&rows_x)));
    launch!(geometry, "stereographic_inverse", on.as_ptr() => In, out.as_mut_ptr() => Out, 3 => u32, N => u64);
    assert_close("stereographic and back", &out, &x);
    let matrix = noise(3, 16);
    launch!(geometry, "projective_apply", x.as_ptr() => In, matrix.as_ptr() => In, out.as_mut_ptr() => Out, 3 => u32, N => u64);
    assert_close("projective", &out, &processor("projective_apply", "", &[rows_x, array(4, 4, &matrix)]));
}

/// One level at a time, as the host code launches them; also with filters longer than the row.
#[test]
fn wavelets() {
    let library = kernels("wavelet");
    for (wavelet, n) in [("haar", 8), ("db4", 40), ("db7", 4), ("db10", 96)] {
        let params = format!("{{\"wavelet\": \"{wavelet}\", \"levels\": 1}}");
        let (rows, x) = (3_usize, noise(4, 3 * n));
        let budget = Budget::default();
        let input = write_arrays(&[array(rows, n, &x)], &budget).unwrap();
        let Operation::Wavelet(operation) = prepare("dwt", &params, &input, &budget).unwrap() else { unreachable!() };
        let (low, high) = (operation.filter, high_pass(operation.filter));
        let (taps, wide) = (low.len() as u32, n as u64);
        let (mut out, mut back) = (vec![0.0; 3 * n], vec![0.0; 3 * n]);
        launch!(library, "analyse", x.as_ptr() => In, out.as_mut_ptr() => Out, low.as_ptr() => In, high.as_ptr() => In, taps => u32, wide => u64, wide => u64, 3 * wide / 2 => u64);
        assert_close(wavelet, &out, &processor("dwt", &params, &[array(rows, n, &x)]));
        launch!(library, "synthesise", out.as_ptr() => In, back.as_mut_ptr() => Out, low.as_ptr() => In, high.as_ptr() => In, taps => u32, wide => u64, wide => u64, 3 * wide => u64);
        assert_close(wavelet, &back, &x);
    }
}

/// The transform of complex rows, which on a device is cuFFT's, without scaling.
fn fourier(rows: usize, n: usize, values: &[f64], inverse: bool) -> Vec<f64> {
    let pairs = values.chunks_exact(2).map(|pair| Complex64::new(pair[0], pair[1])).collect();
    let signal = Array::new(vec![rows, n], Data::Complex(pairs)).unwrap();
    let (name, factor) = if inverse { ("ifft", n as f64) } else { ("fft", 1.0) };
    let budget = Budget::default();
    let input = write_arrays(&[signal], &budget).unwrap();
    let out = prepare(name, "", &input, &budget).unwrap().run(&budget).unwrap().remove(0).into_complex();
    out.iter().flat_map(|value| [value.re * factor, value.im * factor]).collect()
}

fn complex(name: &str, params: &str, array: Array) -> Vec<f64> {
    let budget = Budget::default();
    let input = write_arrays(&[array], &budget).unwrap();
    let out = prepare(name, params, &input, &budget).unwrap().run(&budget).unwrap().remove(0).into_complex();
    out.iter().flat_map(|value| [value.re, value.im]).collect()
}

/// Frames, half of their spectra, and all of it back, in the steps in which the host code launches them.
#[test]
fn short_frames_there_and_back() {
    let spectrum = kernels("spectrum");
    for (length, hop, samples) in [(16_usize, 4_usize, 100_usize), (15, 5, 64), (8, 8, 8)] {
        let rows = 2;
        let params = format!(r#"{{"length": {length}, "hop": {hop}, "window": "hamming"}}"#);
        let x = noise(7, rows * samples);
        let budget = Budget::default();
        let input = write_arrays(&[array(rows, samples, &x)], &budget).unwrap();
        let Operation::ShortTime(short) = prepare("stft", &params, &input, &budget).unwrap() else { unreachable!() };
        let (per_row, bins, window) = (short.frames.count(samples), short.frames.bins(), &short.frames.window);
        let count = rows * per_row;
        let [n, b, frames_of, wide, step] = [length, bins, per_row, samples, hop].map(|number| number as u64);
        let (all, kept) = (n * count as u64, b * count as u64);

        let mut frames = vec![0.0; length * count];
        launch!(spectrum, "frames", x.as_ptr() => In, window.as_ptr() => In, frames.as_mut_ptr() => Out, wide => u64, n => u64, step => u64, frames_of => u64, all => u64);
        let mut lifted = vec![0.0; 2 * length * count];
        launch!(spectrum, "lift", frames.as_ptr() => In, lifted.as_mut_ptr() => Out, all => u64);
        let spectra = fourier(count, length, &lifted, false);
        let mut half = vec![0.0; 2 * bins * count];
        launch!(spectrum, "half_of", spectra.as_ptr() => In, half.as_mut_ptr() => Out, n => u64, b => u64, kept => u64);
        assert_close("stft", &half, &complex("stft", &params, array(rows, samples, &x)));

        let mut whole = vec![0.0; 2 * length * count];
        launch!(spectrum, "whole_of", half.as_ptr() => In, whole.as_mut_ptr() => Out, n => u64, b => u64, all => u64);
        assert_close("both halves", &whole, &spectra);
        let back = fourier(count, length, &whole, true);
        launch!(spectrum, "real_parts", back.as_ptr() => In, frames.as_mut_ptr() => Out, all => u64);
        let weights = short.frames.weights(samples);
        let mut out = vec![0.0; rows * samples];
        launch!(spectrum, "overlap_add", frames.as_ptr() => In, window.as_ptr() => In, weights.as_ptr() => In, out.as_mut_ptr() => Out, wide => u64, n => u64, step => u64, frames_of => u64, (rows * samples) as u64 => u64);
        assert_close("istft", &out, &x);
    }
}

/// A real row has no imaginary part at frequency zero and, of even length, at half of the rate: what is given there does not count.
#[test]
fn what_a_real_row_cannot_have_is_left_out() {
    let spectrum = kernels("spectrum");
    for n in [10_usize, 11] {
        let (rows, bins) = (3, n / 2 + 1);
        let half = noise(9, 2 * rows * bins);
        let mut whole = vec![0.0; 2 * rows * n];
        let (all, wide, b) = ((rows * n) as u64, n as u64, bins as u64);
        launch!(spectrum, "whole_of", half.as_ptr() => In, whole.as_mut_ptr() => Out, wide => u64, b => u64, all => u64);
        let back = fourier(rows, n, &whole, true);
        let mut out = vec![0.0; rows * n];
        launch!(spectrum, "real_parts", back.as_ptr() => In, out.as_mut_ptr() => Out, all => u64);
        let have: Vec<f64> = out.iter().map(|value| value / n as f64).collect();
        let pairs = half.chunks_exact(2).map(|pair| Complex64::new(pair[0], pair[1])).collect();
        let given = Array::new(vec![rows, bins], Data::Complex(pairs)).unwrap();
        assert_close("irfft", &have, &processor("irfft", &format!(r#"{{"length": {n}}}"#), &[given]));
    }
}

#[test]
fn laplace_by_talbot() {
    let library = kernels("laplace");
    let (t, above, below) = (times(40), [1.0, 5.0], [1.0, 3.0, 2.0]);
    let params = r#"{"abscissa": 0.3}"#;
    let nodes = complex("laplace_nodes", params, t.clone());
    let terms = nodes.len() as u64 / 2 / N;
    let (mut values, mut out) = (vec![0.0; nodes.len()], vec![0.0; COUNT]);
    launch!(library, "rational", nodes.as_ptr() => In, above.as_ptr() => In, below.as_ptr() => In, values.as_mut_ptr() => Out, 2 => u64, 3 => u64, N * terms => u64);
    launch!(library, "talbot", t.real().unwrap().as_ptr() => In, values.as_ptr() => In, out.as_mut_ptr() => Out, terms => u64, 0.3 => f64, N => u64);
    let want = processor("laplace_rational", params, &[t.clone(), coefficients(&above), coefficients(&below)]);
    // The sum cancels all but a few digits of its terms.
    let largest = want.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    for (k, (have, want)) in out.iter().zip(&want).enumerate() {
        assert!((have - want).abs() < 1e-10 * largest, "t[{k}]: {have} and {want}");
    }
    // (s + 5) / ((s + 1) (s + 2)) is 4 exp(-t) - 3 exp(-2 t).
    for (t, have) in t.real().unwrap().iter().zip(&out) {
        assert!((have - (4.0 * (-t).exp() - 3.0 * (-2.0 * t).exp())).abs() < 1e-9, "{t}: {have}");
    }
}
