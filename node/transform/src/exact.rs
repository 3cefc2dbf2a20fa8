//! Arithmetic that keeps what rounding drops: a result as the unevaluated sum of two doubles.
//!
//! The building blocks are error-free transformations (Dekker 1971; Knuth, TAOCP 2, 4.2.2); the dot product is Dot2 of Ogita,
//! Rump and Oishi, "Accurate sum and dot product", SIAM J. Sci. Comput. 26 (2005). Results are as if computed with twice the
//! digits and then rounded.

use std::f64::consts::FRAC_PI_2;

use num_complex::Complex64;

/// `a + b` and what rounding dropped.
pub(crate) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let rest = sum - a;
    (sum, (a - (sum - rest)) + (b - rest))
}

/// `a · b` and what rounding dropped, barring underflow.
pub(crate) fn two_product(a: f64, b: f64) -> (f64, f64) {
    let product = a * b;
    (product, a.mul_add(b, -product))
}

/// A sum with a second double that carries the rounding errors.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sum {
    high: f64,
    low: f64,
}

impl Sum {
    pub(crate) fn add(&mut self, value: f64) {
        let (high, rest) = two_sum(self.high, value);
        self.high = high;
        self.low += rest;
    }

    pub(crate) fn add_product(&mut self, a: f64, b: f64) {
        let (product, rest) = two_product(a, b);
        self.add(product);
        self.low += rest;
    }

    pub(crate) fn value(self) -> f64 {
        self.high + self.low
    }
}

/// The sum of products of two lists.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sum = Sum::default();
    a.iter().zip(b).for_each(|(&a, &b)| sum.add_product(a, b));
    sum.value()
}

/// The Euclidean length. Exact scaling by powers of two is left out: components beyond 1e150 or below 1e-150 lose accuracy.
pub(crate) fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// `1 − c·|x|²`, accurate also where |x| is close to 1/√c.
pub(crate) fn one_minus_square(x: &[f64], c: f64) -> f64 {
    let mut square = Sum::default();
    x.iter().for_each(|&x| square.add_product(x, x));
    let (high, rest) = two_product(c, square.high);
    let (difference, lost) = two_sum(1.0, -high);
    difference + (lost - rest - c * square.low)
}

/// e^(2πi·m/n), with the angle reduced in whole numbers, so that both parts are correct to about one unit in the last place.
pub(crate) fn cis_ratio(m: usize, n: usize) -> Complex64 {
    let (m, n) = (m as u128 % n as u128, n as u128);
    // m/n of a turn is the nearest quarter and at most an eighth beside it.
    let quarter = (8 * m + n) / (2 * n);
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_wrap, reason = "n is at most a few times 2^24")]
    let rest = (4 * m as i128 - quarter as i128 * n as i128) as f64 / n as f64;
    turn_quarters(rest * FRAC_PI_2, quarter)
}

/// e^(2πi·k·step): the product is reduced to one turn before it is rounded, so that large k lose nothing.
pub(crate) fn cis_multiple(k: f64, step: f64) -> Complex64 {
    let (product, rest) = two_product(k, step);
    let turns = (product - product.round()) + rest;
    let quarter = (4.0 * turns).round();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "-2 to 2, made positive")]
    let quarters = (quarter + 4.0) as u128;
    turn_quarters((4.0 * turns - quarter) * FRAC_PI_2, quarters)
}

fn turn_quarters(angle: f64, quarters: u128) -> Complex64 {
    let (sin, cos) = angle.sin_cos();
    match quarters % 4 {
        0 => Complex64::new(cos, sin),
        1 => Complex64::new(-sin, cos),
        2 => Complex64::new(-cos, -sin),
        _ => Complex64::new(sin, -cos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancelled_digits_come_back() {
        assert_eq!(dot(&[1e16, 1.0, -1e16], &[1.0, 1.0, 1.0]), 1.0);
        // 1 − (1 − 2⁻⁴⁰)² = 2⁻³⁹ − 2⁻⁸⁰
        let x = 1.0 - 2f64.powi(-40);
        assert_eq!(one_minus_square(&[x], 1.0), 2f64.powi(-39) - 2f64.powi(-80));
    }

    #[test]
    fn points_on_the_circle_are_exact_at_the_quarters_and_close_elsewhere() {
        assert_eq!(cis_ratio(3, 4), Complex64::new(0.0, -1.0));
        assert_eq!(cis_ratio(6, 4), Complex64::new(-1.0, 0.0));
        assert_eq!(cis_multiple(3.0, 0.25).im, -1.0);
        let eighth = cis_ratio(1, 8);
        assert!((eighth.re - 0.5f64.sqrt()).abs() < 2e-16 && (eighth.im - 0.5f64.sqrt()).abs() < 2e-16);
        // (2^40 + 1) steps of 2^-20 turns are 2^20 turns and 2^-20 more.
        let point = cis_multiple(2f64.powi(40) + 1.0, 2f64.powi(-20));
        assert_eq!(point, cis_ratio(1, 1 << 20));
    }
}
