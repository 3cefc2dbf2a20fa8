//! Numerical inversion of the Laplace transform F(s) = ∫₀^∞ f(t)·e^(−st) dt.
//!
//! Both methods are sums over F at a few complex nodes for each time t, so that a task either gives F as a rational function, or asks
//! for the nodes first, evaluates its own F there, and gives the values.
//!
//! - **talbot**: the fixed Talbot method of Abate and Valkó, "Multi-precision Laplace transform inversion", Int. J. Numer. Meth.
//!   Engng 60 (2004). Nodes s_k = r·θ_k·(cot θ_k + i), θ_k = kπ/M, r = 2M/(5t). For F without singularities far from the real axis.
//! - **dehoog**: de Hoog, Knight and Stokes, "An improved method for numerical inversion of Laplace transforms", SIAM J. Sci. Stat.
//!   Comput. 3 (1982): the Fourier series on the line Re s = γ, accelerated as a continued fraction by the quotient-difference
//!   algorithm with their remainder. For oscillating f, and less accurately for f with jumps.

use std::f64::consts::PI;

use num_complex::Complex64;

use crate::catalogue::Transform;
use crate::fourier::one;
use crate::inputs::{real, take};
use crate::params::{Fallback, Param, ParamKind};
use crate::{Array, Budget, Data, Operation, Params, Precision, TransformError};

mod dehoog;

/// The most coefficients of a polynomial.
pub const COEFFICIENTS_MAX: usize = 64;

/// How F is sampled and summed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Inversion {
    /// Whether de Hoog's method is taken instead of Talbot's.
    pub dehoog: bool,
    /// M: there are M nodes for each time with Talbot, 2M + 1 with de Hoog.
    pub terms: usize,
    /// All singularities of F have a real part of at most this.
    pub abscissa: f64,
}

/// Where to evaluate F.
#[derive(Debug, Clone, PartialEq)]
pub struct LaplaceNodes {
    /// The method.
    pub inversion: Inversion,
    /// The times t > 0.
    pub times: Vec<f64>,
    /// How to write the result.
    pub precision: Precision,
}

/// f from what F is at the nodes, or from a rational F.
#[derive(Debug, Clone, PartialEq)]
pub struct Laplace {
    /// The nodes.
    pub nodes: LaplaceNodes,
    /// F.
    pub function: Function,
}

/// F.
#[derive(Debug, Clone, PartialEq)]
pub enum Function {
    /// Its values at the nodes, time after time.
    Values(Vec<Complex64>),
    /// The quotient of two polynomials, the coefficient of the highest power first.
    Rational {
        /// The upper one, of lower degree.
        numerator: Vec<f64>,
        /// The lower one.
        denominator: Vec<f64>,
    },
}

const PARAMS: &[Param] = &[
    Param {
        name: "method",
        kind: ParamKind::Choice(&["talbot", "dehoog"]),
        default: Some(Fallback::Word("talbot")),
        help: "talbot for F whose singularities lie near the real axis, dehoog for oscillating f or f with jumps",
    },
    Param {
        name: "terms",
        kind: ParamKind::Integer { min: 4, max: 60 },
        default: Some(Fallback::Integer(24)),
        help: "M: M nodes for each time with talbot, 2 M + 1 with dehoog; more than 24 to 30 adds rounding errors",
    },
    Param {
        name: "abscissa",
        kind: ParamKind::Number { min: -1e6, max: 1e6 },
        default: Some(Fallback::Number(0.0)),
        help: "no singularity of F has a larger real part; 0 for f that does not grow",
    },
];

const ACCURACY: &str = "M = 24, relative to the largest |f|: talbot 1e-10 for f that decays or is a power of t, 1e-6 for sin(t) up to \
                        t = 10; dehoog 1e-8 for sin(t) up to t = 25, 5e-3 for a step at least a tenth of t away from its jump. Later \
                        than about four periods of its fastest oscillation, neither method sees f";

pub(crate) const NODES: Transform = Transform {
    name: "laplace_nodes",
    summary: "where to evaluate F(s) for laplace_invert",
    formula: "talbot: s_k = abscissa + r theta (cot theta + i), theta = k pi / M, r = 2 M / (5 t); dehoog: s_k = gamma + i pi k / (2 t)",
    inputs: "t: real, shape (n), times > 0",
    output: "s: complex, shape (n, M) or (n, 2 M + 1)",
    accuracy: "each node to 4e-16",
    params: PARAMS,
    prepare: |params, arrays| {
        let [times] = take(arrays, ["t"])?;
        Ok(Operation::LaplaceNodes(LaplaceNodes::read(params, times)?))
    },
};

pub(crate) const INVERT: Transform = Transform {
    name: "laplace_invert",
    summary: "inverse Laplace transform from values of F at the nodes that laplace_nodes gave",
    formula: "f(t) = 1/(2 pi i) integral F(s) exp(s t) ds, by Abate and Valko (2004) or de Hoog, Knight and Stokes (1982)",
    inputs: "t: real, shape (n); F: complex, F(s) at the nodes, the shape of the nodes",
    output: "f: real, shape (n)",
    accuracy: ACCURACY,
    params: PARAMS,
    prepare: |params, arrays| {
        let [times, values] = take(arrays, ["t", "F"])?;
        let nodes = LaplaceNodes::read(params, times)?;
        let wanted = [nodes.times.len(), nodes.inversion.nodes_per_time()];
        if values.shape() != wanted {
            return Err(TransformError::input(format!("F has the shape {:?}, the nodes have {wanted:?}", values.shape())));
        }
        let function = Function::Values(values.into_complex());
        Ok(Operation::Laplace(Laplace { nodes, function }))
    },
};

pub(crate) const RATIONAL: Transform = Transform {
    name: "laplace_rational",
    summary: "inverse Laplace transform of a rational function",
    formula: "F(s) = (b[0] s^m + ... + b[m]) / (a[0] s^n + ... + a[n]), m < n",
    inputs: "t: real, shape (k), times > 0; b: real, shape (m+1); a: real, shape (n+1), a[0] not 0",
    output: "f: real, shape (k)",
    accuracy: ACCURACY,
    params: PARAMS,
    prepare: |params, arrays| {
        let [times, numerator, denominator] = take(arrays, ["t", "b", "a"])?;
        let nodes = LaplaceNodes::read(params, times)?;
        let function = rational(numerator, denominator)?;
        Ok(Operation::Laplace(Laplace { nodes, function }))
    },
};

fn list(array: Array, name: &str, max: usize) -> Result<(Vec<f64>, Precision), TransformError> {
    let (values, shape, precision) = real(array, name)?;
    if shape.len() != 1 || values.is_empty() || values.len() > max {
        return Err(TransformError::input(format!("{name} has the shape {shape:?}: give one axis of 1 to {max}")));
    }
    Ok((values, precision))
}

fn rational(numerator: Array, denominator: Array) -> Result<Function, TransformError> {
    let (numerator, _) = list(numerator, "b", COEFFICIENTS_MAX)?;
    let (denominator, _) = list(denominator, "a", COEFFICIENTS_MAX)?;
    if denominator[0] == 0.0 || numerator.len() >= denominator.len() {
        return Err(TransformError::domain("F must vanish at infinity: a[0] must not be 0 and b must have fewer coefficients than a"));
    }
    Ok(Function::Rational { numerator, denominator })
}

impl Inversion {
    /// How many nodes there are for each time.
    #[must_use]
    pub fn nodes_per_time(&self) -> usize {
        if self.dehoog { 2 * self.terms + 1 } else { self.terms }
    }

    /// Node `k` for the time `t`.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "at most 121 nodes")]
    pub fn node(&self, k: usize, t: f64) -> Complex64 {
        let terms = self.terms as f64;
        let (k, from) = (k as f64, self.abscissa);
        if self.dehoog {
            return Complex64::new(from + dehoog::shift(t), PI * k / (2.0 * t));
        }
        let r = 2.0 * terms / (5.0 * t);
        let theta = k * PI / terms;
        let contour = if k == 0.0 { Complex64::ONE } else { theta * Complex64::new(1.0 / theta.tan(), 1.0) };
        from + r * contour
    }

    /// f(t) from F at the nodes for `t`.
    fn invert(&self, t: f64, values: &[Complex64]) -> f64 {
        let reduced = if self.dehoog { dehoog::invert(t, values) } else { self.talbot(t, values) };
        (self.abscissa * t).exp() * reduced
    }

    #[allow(clippy::cast_precision_loss, reason = "at most 60 terms")]
    fn talbot(&self, t: f64, values: &[Complex64]) -> f64 {
        let terms = self.terms as f64;
        let r = 2.0 * terms / (5.0 * t);
        let mut sum = 0.5 * (r * t).exp() * values[0].re;
        for (k, value) in values.iter().enumerate().skip(1) {
            let theta = k as f64 * PI / terms;
            let cot = 1.0 / theta.tan();
            let sigma = theta + (theta * cot - 1.0) * cot;
            let node = r * theta * Complex64::new(cot, 1.0);
            sum += ((t * node).exp() * value * Complex64::new(1.0, sigma)).re;
        }
        r / terms * sum
    }
}

impl LaplaceNodes {
    fn read(params: &Params, times: Array) -> Result<Self, TransformError> {
        let inversion =
            Inversion { dehoog: params.word("method") == "dehoog", terms: params.integer("terms"), abscissa: params.number("abscissa") };
        let (times, precision) = list(times, "t", crate::ELEMENTS_MAX / inversion.nodes_per_time())?;
        if let Some(position) = times.iter().position(|&t| !(1e-100..=1e100).contains(&t)) {
            return Err(TransformError::domain(format!("t[{position}] is not a time from 1e-100 to 1e100")));
        }
        Ok(Self { inversion, times, precision })
    }

    /// The nodes of one time.
    pub fn of(&self, t: f64) -> impl Iterator<Item = Complex64> + '_ {
        (0..self.inversion.nodes_per_time()).map(move |k| self.inversion.node(k, t))
    }

    /// Computes all nodes.
    ///
    /// # Errors
    /// Memory or cancellation.
    pub fn run(self, budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
        let shape = vec![self.times.len(), self.inversion.nodes_per_time()];
        budget.afford(shape[0] * shape[1], 16)?;
        let mut nodes = Vec::with_capacity(shape[0] * shape[1]);
        for &t in &self.times {
            budget.check()?;
            nodes.extend(self.of(t));
        }
        one(shape, Data::Complex(nodes), self.precision)
    }
}

impl Laplace {
    /// Computes f at each time.
    ///
    /// # Errors
    /// Memory, cancellation, or a pole at a node.
    pub fn run(self, budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
        let (nodes, width) = (&self.nodes, self.nodes.inversion.nodes_per_time());
        let mut out = Vec::with_capacity(nodes.times.len());
        let mut values = Vec::with_capacity(width);
        for (index, &t) in nodes.times.iter().enumerate() {
            budget.check()?;
            values.clear();
            match &self.function {
                Function::Values(all) => values.extend_from_slice(&all[index * width..][..width]),
                Function::Rational { numerator, denominator } => {
                    values.extend(nodes.of(t).map(|s| polynomial(numerator, s) / polynomial(denominator, s)));
                }
            }
            if !values.iter().all(|value| value.is_finite()) {
                return Err(TransformError::domain(format!(
                    "F is not finite at a node for t[{index}]: raise `abscissa` above the real parts of its poles"
                )));
            }
            out.push(nodes.inversion.invert(t, &values));
        }
        one(vec![out.len()], Data::Real(out), nodes.precision)
    }
}

fn polynomial(coefficients: &[f64], s: Complex64) -> Complex64 {
    coefficients.iter().fold(Complex64::ZERO, |sum, &coefficient| sum * s + coefficient)
}
