//! Fourier transforms, the Z-transform, the analytic signal and short-time spectra.

use std::f64::consts::TAU;

use num_complex::Complex64;
use proptest::prelude::*;
use tarn_transform::{Array, Data, Precision};

use crate::double::{self, Pair};
use crate::support::{call, complex, complex_noise, complex_vector, error, noise, real, real_error, vector};

const LENGTHS: [usize; 22] = [1, 2, 3, 4, 5, 7, 8, 12, 16, 31, 64, 97, 100, 127, 128, 243, 256, 360, 509, 512, 1000, 1024];

fn bound(n: usize) -> f64 {
    4e-16 * (1.0 + (n as f64).log2())
}

#[test]
fn each_form_agrees_with_the_sum_in_twice_the_digits() {
    for n in LENGTHS {
        let x = complex_noise(n as u64, n);
        let forward = double::fourier(&x, -1);
        let inverse: Vec<Complex64> = double::fourier(&x, 1).iter().map(|value| value / n as f64).collect();
        let array = [complex_vector(&x)];
        assert!(error(&complex("fft", "", &array), &forward) < bound(n), "fft of {n}");
        assert!(error(&complex("ifft", "", &array), &inverse) < bound(n), "ifft of {n}");
        assert!(error(&complex("dft", "", &array), &forward) < 4e-16, "dft of {n}");
        let samples = noise(n as u64, n);
        let lifted: Vec<Complex64> = samples.iter().map(|&sample| sample.into()).collect();
        let half = &double::fourier(&lifted, -1)[..n / 2 + 1];
        let have = complex("rfft", "", &[vector(&samples)]);
        assert!(error(&have, half) < bound(n), "rfft of {n}");
        let back = real("irfft", &format!("{{\"length\": {n}}}"), &[complex_vector(&have)]);
        assert!(real_error(&back, &samples) < bound(n), "irfft of {n}");
    }
}

#[test]
fn known_spectra() {
    // A pulse has a flat spectrum, a constant a pulse, a cosine of 3 cycles two lines of n/2.
    let pulse = complex("fft", "", &[vector(&[1.0, 0.0, 0.0, 0.0, 0.0])]);
    assert!(pulse.iter().all(|value| (value - 1.0).norm() < 1e-15));
    let cosine: Vec<f64> = (0..16).map(|j| (TAU * 3.0 * f64::from(j) / 16.0).cos()).collect();
    let lines = complex("fft", r#"{"norm": "forward"}"#, &[vector(&cosine)]);
    for (k, value) in lines.iter().enumerate() {
        let wanted = if k == 3 || k == 13 { 0.5 } else { 0.0 };
        assert!((value - wanted).norm() < 2e-16, "line {k} is {value}");
    }
}

#[test]
fn rows_are_transformed_alone_and_precision_is_kept() {
    let x = complex_noise(5, 6 * 20);
    let stack = Array::new(vec![2, 3, 20], Data::Complex(x.clone())).unwrap().with_precision(Precision::Single);
    let all = call("fft", "", &[stack]).unwrap();
    assert_eq!((all.shape(), all.precision()), (&[2, 3, 20][..], Precision::Single));
    let all = all.into_complex();
    for row in 0..6 {
        let alone = complex("fft", "", &[complex_vector(&x[row * 20..][..20])]);
        // The input was rounded to single precision on its way, and so was the result.
        assert!(error(&all[row * 20..][..20], &alone) < 1e-7);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn inverse_parseval_and_linearity(n in 1_usize..300, seed in any::<u64>(), factor in -3.0..3.0_f64) {
        let (x, y) = (complex_noise(seed, n), complex_noise(seed ^ 1, n));
        let spectrum = complex("fft", "", &[complex_vector(&x)]);
        prop_assert!(error(&complex("ifft", "", &[complex_vector(&spectrum)]), &x) < 2.0 * bound(n));
        let unitary = complex("fft", r#"{"norm": "ortho"}"#, &[complex_vector(&x)]);
        let energy = |values: &[Complex64]| values.iter().map(Complex64::norm_sqr).sum::<f64>();
        prop_assert!((energy(&unitary) / energy(&x) - 1.0).abs() < 1e-14);
        let mixed: Vec<Complex64> = x.iter().zip(&y).map(|(x, y)| x + y * factor).collect();
        let of_y = complex("fft", "", &[complex_vector(&y)]);
        let sum: Vec<Complex64> = spectrum.iter().zip(&of_y).map(|(x, y)| x + y * factor).collect();
        prop_assert!(error(&complex("fft", "", &[complex_vector(&mixed)]), &sum) < 2e-14);
    }
}

#[test]
fn the_chirp_transform_on_the_whole_circle_is_the_fourier_transform() {
    for n in [1, 2, 3, 17, 64, 100, 1024, 4096] {
        let x = [complex_vector(&complex_noise(n as u64, n))];
        let (have, want) = (complex("czt", "", &x), complex("fft", "", &x));
        let largest = want.iter().map(|value| value.norm()).fold(0.0, f64::max);
        let worst = have.iter().zip(&want).map(|(a, b)| (a - b).norm()).fold(0.0, f64::max);
        assert!(worst < 1e-14 * largest, "{n}: {:e}", worst / largest);
    }
}

/// An arc whose angles are exact fractions of a turn, so that the oracle can take the very same points.
#[test]
fn the_chirp_transform_zooms_into_an_arc() {
    let (n, points) = (600, 301);
    let x = complex_noise(3, n);
    let have = complex("czt", r#"{"points": 301, "start": 0.125, "step": 0.0009765625}"#, &[complex_vector(&x)]);
    let want: Vec<Complex64> = (0..points)
        .map(|k| {
            let term = |n: usize| Pair::of(x[n]).mul(Pair::root_of_unity(-(n as i64) * (128 + k), 1024));
            (0..n).fold(Pair::default(), |sum, n| sum.add(term(n))).value()
        })
        .collect();
    assert!(error(&have, &want) < 1e-14, "{:e}", error(&have, &want));
}

/// x\[n\] = aⁿ has the closed form (1 − (a/z)^N) / (1 − a/z).
#[test]
fn the_chirp_transform_off_the_circle_has_the_closed_form_of_a_geometric_series() {
    let (n, a) = (64, 0.9_f64);
    let x: Vec<f64> = (0..n).map(|n| a.powi(n)).collect();
    for (params, radius, ratio) in [
        (r#"{"radius": 1.25, "points": 20, "step": 0.03125}"#, 1.25_f64, 1.0_f64),
        (r#"{"radius": 0.95, "ratio": 1.0009765625, "points": 20, "step": 0.03125}"#, 0.95, 1.000_976_562_5),
        (r#"{"radius": 0.95, "ratio": 1.0625, "points": 20, "step": 0.03125}"#, 0.95, 1.0625),
    ] {
        for (k, have) in complex("czt", params, &[vector(&x)]).iter().enumerate() {
            let size = radius * ratio.powi(k as i32);
            let q = a / Complex64::from_polar(size, TAU * k as f64 / 32.0);
            let want = (1.0 - q.powi(n)) / (1.0 - q);
            let terms: f64 = (0..n).map(|n| (a / size).powi(n)).sum();
            assert!((have - want).norm() < 2e-14 * terms, "{params} {k}: {have} for {want}");
        }
    }
}

#[test]
fn the_analytic_signal_of_a_cosine_turns() {
    for n in [16_usize, 45, 100, 1023] {
        let angle = |j: usize| TAU * ((5 * j) % n) as f64 / n as f64;
        let x: Vec<f64> = (0..n).map(|j| angle(j).cos()).collect();
        let want: Vec<Complex64> = (0..n).map(|j| Complex64::from_polar(1.0, angle(j))).collect();
        let have = complex("hilbert", "", &[vector(&x)]);
        assert!(error(&have, &want) < 2.0 * bound(n));
        assert!(have.iter().zip(&x).all(|(value, sample)| value.re == *sample));
    }
}

#[test]
fn a_frame_is_the_spectrum_of_the_weighted_samples() {
    let (n, length, hop) = (50, 16, 6);
    let x = noise(8, n);
    let have = call("stft", r#"{"length": 16, "hop": 6}"#, &[vector(&x)]).unwrap();
    assert_eq!(have.shape(), [10, 9]);
    let have = have.into_complex();
    for m in 0..10_usize {
        let frame: Vec<Complex64> = (0..length)
            .map(|j| {
                let w = 0.5 - 0.5 * (TAU * j as f64 / length as f64).cos();
                let at = (m * hop + j).checked_sub(length / 2).filter(|&at| at < n);
                Complex64::from(at.map_or(0.0, |at| w * x[at]))
            })
            .collect();
        let want = &double::fourier(&frame, -1)[..9];
        assert!(error(&have[m * 9..][..9], want) < bound(length), "frame {m}");
    }
}

#[test]
fn overlapping_windows_give_the_signal_back() {
    for window in ["hann", "hamming", "blackman", "rectangular"] {
        for (n, length, hop) in [(1, 2, 1), (100, 16, 8), (101, 16, 4), (1000, 64, 16), (77, 15, 5)] {
            let x = noise(n as u64, n);
            let frames = format!("\"window\": \"{window}\", \"length\": {length}, \"hop\": {hop}");
            let spectra = call("stft", &format!("{{{frames}}}"), &[vector(&x)]).unwrap();
            let back = real("istft", &format!("{{{frames}, \"samples\": {n}}}"), &[spectra]);
            let worst = back.iter().zip(&x).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-14, "{window} {n} {length} {hop}: {worst:e}");
        }
    }
    let spectra = call("stft", r#"{"length": 8, "hop": 8}"#, &[vector(&noise(1, 40))]).unwrap();
    let error = call("istft", r#"{"length": 8, "hop": 8, "samples": 40}"#, &[spectra]).unwrap_err();
    assert_eq!(error.reason(), "TRANSFORM_BAD_PARAMS");
    assert!(error.to_string().contains("leave sample"), "{error}");
}
