//! The method of de Hoog, Knight and Stokes (1982), with one Fourier series of half period T = 2t for each time t.

use num_complex::Complex64;

/// The wanted relative error of the Fourier series, which puts the line of the nodes at −ln(this)/(2T). A smaller one moves the
/// line to the right and makes rounding errors grow as e^(γt).
const TOLERANCE: f64 = 1e-9;

/// How far right of the abscissa the nodes for `t` lie.
pub(super) fn shift(t: f64) -> f64 {
    -TOLERANCE.ln() / (4.0 * t)
}

/// f(t) from F at the 2M + 1 nodes, M at least 1.
pub(super) fn invert(t: f64, values: &[Complex64]) -> f64 {
    let fraction = continued_fraction(values);
    // z = e^(iπt/T) with T = 2t.
    let z = Complex64::I;
    (shift(t) * t).exp() / (2.0 * t) * evaluate(&fraction, z).re
}

/// The coefficients d of the continued fraction d0/(1 + d1 z/(1 + d2 z/(1 + …))) that equals the series F0/2 + F1 z + F2 z² + … as far
/// as the given terms reach, by the quotient-difference algorithm. It ends early where the fraction itself ends, as it does for
/// a geometric series.
fn continued_fraction(values: &[Complex64]) -> Vec<Complex64> {
    let terms = values.len() / 2;
    let mut fraction = vec![values[0] / 2.0];
    let mut quotients: Vec<Complex64> = values.windows(2).map(|pair| pair[1] / pair[0]).collect();
    quotients[0] *= 2.0;
    let mut differences = vec![Complex64::ZERO; 2 * terms];
    for r in 1..=terms {
        let length = 2 * (terms - r) + 1;
        fraction.push(-quotients[0]);
        let next: Vec<Complex64> = (0..length).map(|i| quotients[i + 1] - quotients[i] + differences[i + 1]).collect();
        differences = next;
        fraction.push(-differences[0]);
        if r < terms {
            quotients = (0..length - 1).map(|i| quotients[i + 1] * differences[i + 1] / differences[i]).collect();
        }
    }
    let finite = fraction.iter().position(|d| !d.is_finite()).unwrap_or(fraction.len());
    fraction.truncate(finite);
    fraction
}

/// Evaluates the fraction by its forward recurrence. A whole one ends with the paper's estimate of its infinite tail.
fn evaluate(fraction: &[Complex64], z: Complex64) -> Complex64 {
    let (mut above, mut below) = ([Complex64::ZERO, fraction[0]], [Complex64::ONE, Complex64::ONE]);
    let Some((&last, middle)) = fraction[1..].split_last() else {
        return fraction[0];
    };
    for &d in middle {
        above = [above[1], above[1] + d * z * above[0]];
        below = [below[1], below[1] + d * z * below[0]];
    }
    let before = middle.last().copied().unwrap_or(last);
    let half = 0.5 * (1.0 + (before - last) * z);
    let tail = -half * (1.0 - (1.0 + last * z / (half * half)).sqrt());
    let with_tail = |pair: [Complex64; 2]| pair[1] + tail * pair[0];
    let value = with_tail(above) / with_tail(below);
    if value.is_finite() { value } else { above[1] / below[1] }
}
