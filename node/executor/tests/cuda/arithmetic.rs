//! The arithmetic of the built-in kernels, without a device: compiled as C++ for this processor, where a grid of one thread strides over all
//! elements, and held against the processor's transforms. What only a device can show (launches, memory, cuFFT) is in `device.rs`.

use std::path::PathBuf;
use std::process::Command;

use libloading::Library;
use tarn_transform::wavelet::high_pass;
use tarn_transform::{Array, Budget, Data, Operation, prepare, write_arrays};

use super::mirror::noise;

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
