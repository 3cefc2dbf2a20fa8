//! Calling transforms as a task does, and measuring errors.

use num_complex::Complex64;
use tarn_transform::{Array, Budget, Data, TransformError, read_arrays, run, write_arrays};

pub fn call(name: &str, params: &str, arrays: &[Array]) -> Result<Array, TransformError> {
    let budget = Budget::default();
    let input = write_arrays(arrays, &budget)?;
    let output = run(name, params, &input, &budget)?;
    let mut arrays = read_arrays(&output, &budget)?;
    assert_eq!(arrays.len(), 1);
    Ok(arrays.remove(0))
}

pub fn real(name: &str, params: &str, arrays: &[Array]) -> Vec<f64> {
    match call(name, params, arrays).unwrap().data() {
        Data::Real(values) => values.clone(),
        Data::Complex(_) => panic!("{name} gave complex numbers"),
    }
}

pub fn complex(name: &str, params: &str, arrays: &[Array]) -> Vec<Complex64> {
    let result = call(name, params, arrays).unwrap();
    assert!(matches!(result.data(), Data::Complex(_)), "{name} gave real numbers");
    result.into_complex()
}

pub fn points(rows: &[Vec<f64>]) -> Array {
    let dimension = rows.first().map_or(1, Vec::len);
    Array::new(vec![rows.len(), dimension], Data::Real(rows.concat())).unwrap()
}

/// |a − b| / |b| in the Euclidean norm.
pub fn error(a: &[Complex64], b: &[Complex64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square: f64 = a.iter().zip(b).map(|(a, b)| (a - b).norm_sqr()).sum();
    let size: f64 = b.iter().map(Complex64::norm_sqr).sum();
    if square == 0.0 { 0.0 } else { (square / size).sqrt() }
}

pub fn real_error(a: &[f64], b: &[f64]) -> f64 {
    let lift = |values: &[f64]| values.iter().map(|&value| Complex64::from(value)).collect::<Vec<_>>();
    error(&lift(a), &lift(b))
}

/// Numbers from −1 to 1 that look random (SplitMix64), the same in every run.
pub fn noise(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

pub fn complex_noise(seed: u64, count: usize) -> Vec<Complex64> {
    noise(seed, 2 * count).chunks(2).map(|pair| Complex64::new(pair[0], pair[1])).collect()
}

pub fn vector(values: &[f64]) -> Array {
    Array::vector(values.to_vec()).unwrap()
}

pub fn complex_vector(values: &[Complex64]) -> Array {
    Array::complex_vector(values.to_vec()).unwrap()
}
