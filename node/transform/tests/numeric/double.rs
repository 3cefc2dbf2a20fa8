//! Double-double numbers (about 32 digits): an oracle that shares nothing with what it judges.

use num_complex::Complex64;

/// The unevaluated sum of two doubles.
#[derive(Clone, Copy, Default)]
pub struct Double(f64, f64);

/// π/2 to 32 digits.
const QUARTER: Double = Double(std::f64::consts::FRAC_PI_2, 6.123_233_995_736_766e-17);

impl Double {
    pub fn of(value: f64) -> Self {
        Self(value, 0.0)
    }

    pub fn value(self) -> f64 {
        self.0 + self.1
    }

    pub fn add(self, other: Self) -> Self {
        let sum = self.0 + other.0;
        let rest = sum - self.0;
        let lost = (self.0 - (sum - rest)) + (other.0 - rest) + self.1 + other.1;
        Self(sum + lost, lost - ((sum + lost) - sum))
    }

    pub fn neg(self) -> Self {
        Self(-self.0, -self.1)
    }

    pub fn mul(self, other: Self) -> Self {
        let product = self.0 * other.0;
        let lost = self.0.mul_add(other.0, -product) + self.0 * other.1 + self.1 * other.0;
        Self(product + lost, lost - ((product + lost) - product))
    }

    /// Division by a whole number below 2^53, with one step of Newton's method.
    pub fn div(self, other: f64) -> Self {
        let quotient = self.0 / other;
        let rest = self.add(Self::of(quotient).mul(Self::of(other)).neg());
        Self::of(quotient).add(Self::of(rest.value() / other))
    }
}

/// A complex number of two of them.
#[derive(Clone, Copy, Default)]
pub struct Pair {
    re: Double,
    im: Double,
}

impl Pair {
    pub fn of(value: Complex64) -> Self {
        Self { re: Double::of(value.re), im: Double::of(value.im) }
    }

    pub fn value(self) -> Complex64 {
        Complex64::new(self.re.value(), self.im.value())
    }

    pub fn add(self, other: Self) -> Self {
        Self { re: self.re.add(other.re), im: self.im.add(other.im) }
    }

    pub fn mul(self, other: Self) -> Self {
        Self { re: self.re.mul(other.re).add(self.im.mul(other.im).neg()), im: self.re.mul(other.im).add(self.im.mul(other.re)) }
    }

    /// e^(2πi·m/n).
    pub fn root_of_unity(m: i64, n: i64) -> Self {
        let m = m.rem_euclid(n);
        let quarter = (8 * m + n) / (2 * n);
        let angle = QUARTER.mul(Double::of((4 * m - quarter * n) as f64)).div(n as f64);
        let (mut sin, mut cos, mut term) = (Double::default(), Double::default(), Double::of(1.0));
        for power in 0..30 {
            let signed = if power % 4 < 2 { term } else { term.neg() };
            if power % 2 == 0 {
                cos = cos.add(signed);
            } else {
                sin = sin.add(signed);
            }
            term = term.mul(angle).div(f64::from(power + 1));
        }
        match quarter % 4 {
            0 => Self { re: cos, im: sin },
            1 => Self { re: sin.neg(), im: cos },
            2 => Self { re: cos.neg(), im: sin.neg() },
            _ => Self { re: sin, im: cos.neg() },
        }
    }
}

/// Σ x\[j\]·e^(sign·2πi·j·k/n) for k = 0 … n−1.
pub fn fourier(x: &[Complex64], sign: i64) -> Vec<Complex64> {
    let n = x.len() as i64;
    let roots: Vec<Pair> = (0..n).map(|m| Pair::root_of_unity(sign * m, n)).collect();
    let term = |j: usize, k: i64| Pair::of(x[j]).mul(roots[(j as i64 * k % n) as usize]);
    (0..n).map(|k| (0..x.len()).fold(Pair::default(), |sum, j| sum.add(term(j, k))).value()).collect()
}

#[test]
fn the_oracle_knows_sixty_degrees() {
    // The sine of 60° to 32 digits is √3/2 = 0.86602540378443864676372317075294.
    let root = Pair::root_of_unity(1, 6);
    let rest = root.im.add(Double::of(-0.866_025_403_784_438_6));
    assert!((rest.value() - 5.017_542_110_903_451_6e-17).abs() < 1e-31);
    let one = (0..6).fold(Pair::of(Complex64::ONE), |product, _| product.mul(root));
    assert!((one.re.add(Double::of(-1.0))).value().abs() < 1e-30 && one.im.value().abs() < 1e-30);
}
