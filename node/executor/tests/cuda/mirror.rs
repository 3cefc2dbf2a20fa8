//! The mirror that compares two backends, and operations for it that cover every transform with a twin on the device.

use tarn_executor::cuda::{Backend, JobError, Launch, Mirror, Processor};
use tarn_transform::{Array, Budget, Complex64, Data, Operation, prepare, write_arrays};

/// Numbers from −1 to 1 that look random, the same in every run.
pub fn noise(seed: u64, count: usize) -> Vec<f64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ (seed << 20);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn real(shape: &[usize]) -> Array {
    Array::new(shape.to_vec(), Data::Real(noise(1, shape.iter().product()))).unwrap()
}

fn complex(shape: &[usize]) -> Array {
    let count: usize = shape.iter().product();
    let values = noise(2, 2 * count).chunks(2).map(|pair| Complex64::new(pair[0], pair[1])).collect();
    Array::new(shape.to_vec(), Data::Complex(values)).unwrap()
}

/// Points inside of the unit ball.
fn inside(seed: u64, count: usize, dimension: usize) -> Array {
    let values = noise(seed, count * dimension).iter().map(|x| 0.9 * x / (dimension as f64).sqrt()).collect();
    Array::new(vec![count, dimension], Data::Real(values)).unwrap()
}

/// Times from a tenth on.
pub fn times(count: usize) -> Array {
    Array::new(vec![count], Data::Real((1..=count).map(|k| k as f64 / 10.0).collect())).unwrap()
}

pub fn coefficients(values: &[f64]) -> Array {
    Array::new(vec![values.len()], Data::Real(values.to_vec())).unwrap()
}

pub fn operations() -> Vec<(&'static str, Operation)> {
    let requests: Vec<(&str, &str, Vec<Array>)> = vec![
        ("fft", "", vec![complex(&[3, 1000])]),
        ("fft", r#"{"norm": "ortho"}"#, vec![real(&[4096])]),
        ("ifft", "", vec![complex(&[2, 2, 97])]),
        ("rfft", "", vec![real(&[2, 100])]),
        ("hilbert", "", vec![real(&[2, 101])]),
        ("czt", r#"{"points": 77, "start": 0.1, "step": 0.003}"#, vec![complex(&[2, 300])]),
        ("czt", r#"{"ratio": 1.03}"#, vec![complex(&[40])]),
        ("dwt", r#"{"wavelet": "haar"}"#, vec![real(&[2, 64])]),
        ("dwt", r#"{"wavelet": "db10", "levels": 5}"#, vec![real(&[3, 96])]),
        ("idwt", r#"{"wavelet": "db4", "levels": 3}"#, vec![real(&[2, 40])]),
        ("irfft", "", vec![complex(&[3, 51])]),
        ("irfft", r#"{"length": 101, "norm": "ortho"}"#, vec![complex(&[2, 51])]),
        ("stft", r#"{"length": 16}"#, vec![real(&[100])]),
        ("stft", r#"{"length": 15, "hop": 5, "window": "blackman"}"#, vec![real(&[2, 3, 64])]),
        ("istft", r#"{"length": 16, "samples": 100}"#, vec![complex(&[26, 9])]),
        ("istft", r#"{"length": 15, "hop": 5, "samples": 63}"#, vec![complex(&[2, 14, 8])]),
        ("laplace_rational", "", vec![times(40), coefficients(&[1.0]), coefficients(&[1.0, 3.0, 2.0])]),
        ("laplace_rational", r#"{"method": "dehoog"}"#, vec![times(9), coefficients(&[1.0]), coefficients(&[1.0, 0.0, 1.0])]),
        ("poincare_distance", "", vec![inside(3, 50, 3), inside(4, 50, 3)]),
        ("poincare_exp", r#"{"curvature": 0.5}"#, vec![inside(3, 50, 3), real(&[50, 3])]),
        ("poincare_log", "", vec![inside(3, 30, 2), inside(4, 30, 2)]),
        ("sphere_normalise", "", vec![real(&[40, 4])]),
        ("sphere_distance", "", vec![real(&[40, 4]), inside(5, 40, 4)]),
        ("stereographic", "", vec![real(&[40, 3])]),
        ("stereographic_inverse", "", vec![real(&[40, 3])]),
        ("projective_distance", "", vec![real(&[40, 4]), inside(5, 40, 4)]),
        ("projective_apply", "", vec![real(&[40, 2]), real(&[3, 3])]),
        ("pairwise", "", vec![real(&[60, 5])]),
        ("pairwise", r#"{"metric": "poincare"}"#, vec![inside(6, 60, 5)]),
        ("pairwise", r#"{"metric": "projective"}"#, vec![real(&[60, 5])]),
        ("persistence", "", vec![real(&[60, 2])]),
    ];
    let budget = Budget::default();
    let ready = |(name, params, arrays): (&'static str, &str, Vec<Array>)| {
        let input = write_arrays(&arrays, &budget).unwrap();
        (name, prepare(name, params, &input, &budget).unwrap())
    };
    requests.into_iter().map(ready).collect()
}

/// Off by one part in a million everywhere.
struct Inaccurate;

impl Backend for Inaccurate {
    fn transform(&self, operation: Operation, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        let result = Processor.transform(operation, budget)?;
        let off = |array: Array| {
            let shape = array.shape().to_vec();
            let data = match array.data() {
                Data::Real(values) => Data::Real(values.iter().map(|value| value * (1.0 + 1e-6)).collect()),
                Data::Complex(values) => Data::Complex(values.iter().map(|value| value * (1.0 + 1e-6)).collect()),
            };
            Array::new(shape, data).unwrap()
        };
        Ok(result.into_iter().map(off).collect())
    }

    fn kernel(&self, _: &Launch, _: &[u8], _: &[u8], _: &Budget<'_>) -> Result<Vec<u8>, JobError> {
        unreachable!("no kernel is launched here")
    }
}

#[test]
fn the_mirror_sees_a_difference_and_nothing_else() {
    let mirror = |judged: Box<dyn Backend>, tolerance| Mirror { judged, reference: Box::new(Processor), tolerance };
    for (name, operation) in operations() {
        mirror(Box::new(Processor), 0.0).transform(operation.clone(), &Budget::default()).unwrap();
        mirror(Box::new(Inaccurate), 1e-5).transform(operation.clone(), &Budget::default()).unwrap();
        let error = mirror(Box::new(Inaccurate), 1e-7).transform(operation, &Budget::default()).unwrap_err();
        assert!(matches!(error, JobError::Fault { .. }), "{name}: {error}");
    }
}
