//! Laplace pairs with closed forms.

use num_complex::Complex64;
use tarn_transform::Array;

use crate::support::{call, complex, real, vector};

/// f at each time by way of the nodes, as a task with its own F goes.
fn invert(params: &str, times: &[f64], f: impl Fn(Complex64) -> Complex64) -> Vec<f64> {
    let nodes = call("laplace_nodes", params, &[vector(times)]).unwrap();
    let shape = nodes.shape().to_vec();
    let values = nodes.into_complex().into_iter().map(f).collect();
    let values = Array::new(shape, tarn_transform::Data::Complex(values)).unwrap();
    real("laplace_invert", params, &[vector(times), values])
}

fn worst(have: &[f64], times: &[f64], want: impl Fn(f64) -> f64) -> f64 {
    let wanted: Vec<f64> = times.iter().map(|&t| want(t)).collect();
    let largest = wanted.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    have.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest
}

/// A name, F and f.
type LaplacePair = (&'static str, fn(Complex64) -> Complex64, fn(f64) -> f64);

const TIMES: [f64; 7] = [0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0];

#[test]
fn talbot_on_functions_that_decay_or_are_powers() {
    let pairs: [LaplacePair; 6] = [
        ("1/(s+1)", |s| 1.0 / (s + 1.0), |t| (-t).exp()),
        ("1/(s+1)^3", |s| (s + 1.0).powi(-3), |t| t * t / 2.0 * (-t).exp()),
        ("1/s", |s| s.inv(), |_| 1.0),
        ("1/s^2", |s| s.powi(-2), |t| t),
        ("1/sqrt s", |s| s.sqrt().inv(), |t| 1.0 / (std::f64::consts::PI * t).sqrt()),
        ("exp(-2 sqrt s)", |s| (-2.0 * s.sqrt()).exp(), |t| (-1.0 / t).exp() / (std::f64::consts::PI * t.powi(3)).sqrt()),
    ];
    for (name, f, want) in pairs {
        let error = worst(&invert("", &TIMES, f), &TIMES, want);
        assert!(error < 1e-10, "{name}: {error:e}");
    }
}

#[test]
fn oscillations() {
    let sine = |s: Complex64| 1.0 / (s * s + 1.0);
    let error = worst(&invert("", &TIMES, sine), &TIMES, f64::sin);
    assert!(error < 1e-6, "talbot: {error:e}");
    let times: Vec<f64> = (1..=50).map(|k| f64::from(k) / 2.0).collect();
    let error = worst(&invert(r#"{"method": "dehoog"}"#, &times, sine), &times, f64::sin);
    assert!(error < 1e-8, "dehoog: {error:e}");
}

#[test]
fn a_step_at_one_away_from_its_jump() {
    let step = |s: Complex64| (-s).exp() / s;
    let times = [0.2, 0.5, 0.9, 1.12, 1.5, 2.0, 3.0, 5.0];
    let have = invert(r#"{"method": "dehoog"}"#, &times, step);
    let error = worst(&have, &times, |t| if t < 1.0 { 0.0 } else { 1.0 });
    assert!(error < 5e-3, "{error:e}: {have:?}");
}

#[test]
fn rational_functions_by_their_coefficients() {
    // (s + 3) / ((s + 1)(s + 2)) = 2/(s + 1) − 1/(s + 2)
    let arrays = [vector(&TIMES), vector(&[1.0, 3.0]), vector(&[1.0, 3.0, 2.0])];
    let want = |t: f64| 2.0 * (-t).exp() - (-2.0 * t).exp();
    for (method, bound) in [("talbot", 1e-10), ("dehoog", 1e-7)] {
        let have = real("laplace_rational", &format!("{{\"method\": \"{method}\"}}"), &arrays);
        let error = worst(&have, &TIMES, want);
        assert!(error < bound, "{method}: {error:e}");
    }
    // A growing one needs its abscissa with de Hoog: 1/(s − 1).
    let arrays = [vector(&TIMES[..6]), vector(&[1.0]), vector(&[1.0, -1.0])];
    let have = real("laplace_rational", r#"{"method": "dehoog", "abscissa": 1}"#, &arrays);
    assert!(worst(&have, &TIMES[..6], f64::exp) < 1e-7);
}

#[test]
fn what_has_no_answer_is_refused() {
    let one = [vector(&[1.0])];
    let improper = [one[0].clone(), vector(&[1.0, 2.0]), vector(&[1.0, 3.0])];
    assert_eq!(call("laplace_rational", "", &improper).unwrap_err().reason(), "TRANSFORM_OUT_OF_DOMAIN");
    assert_eq!(call("laplace_nodes", "", &[vector(&[0.0])]).unwrap_err().reason(), "TRANSFORM_OUT_OF_DOMAIN");
    let wrong = [one[0].clone(), vector(&[1.0])];
    assert_eq!(call("laplace_invert", "", &wrong).unwrap_err().reason(), "TRANSFORM_BAD_INPUT");
    assert_eq!(complex("laplace_nodes", r#"{"terms": 5, "method": "dehoog"}"#, &one).len(), 11);
}
