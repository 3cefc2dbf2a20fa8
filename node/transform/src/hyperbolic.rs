//! Hyperbolic space as the Poincaré ball of curvature −c: the points x with c·|x|² < 1.
//!
//! Formulas: Ungar, "A Gyrovector Space Approach to Hyperbolic Geometry" (2008); Ganea, Bécigneul and Hofmann, "Hyperbolic neural
//! networks" (2018), equations 2 to 4. Distances use the inverse hyperbolic sine, which loses nothing for close points, and
//! 1 − c|x|² is computed with twice the digits, which loses nothing near the boundary.

use crate::catalogue::Transform;
use crate::exact::{dot, norm, one_minus_square};
use crate::fourier::one;
use crate::inputs::Points;
use crate::params::{Fallback, Param, ParamKind};
use crate::{Array, Budget, Data, Operation, Params, TransformError};

/// How close to the boundary a result may come: 1 − √c·|x|. What would lie beyond is put there.
pub const BOUNDARY: f64 = 1e-15;

/// What to compute for each pair of points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HyperbolicMap {
    /// The distance of x and y.
    Distance,
    /// Where the geodesic that leaves x with velocity v is after time 1.
    Exp,
    /// The velocity with which to leave x to be at y after time 1.
    Log,
}

/// A map of pairs of points in the ball.
#[derive(Debug, Clone, PartialEq)]
pub struct Hyperbolic {
    /// The map.
    pub map: HyperbolicMap,
    /// c, minus the curvature.
    pub curvature: f64,
    /// x, in the ball.
    pub from: Points,
    /// y in the ball, or v, which is any vector.
    pub to: Points,
}

pub(crate) const CURVATURE: Param = Param {
    name: "curvature",
    kind: ParamKind::Number { min: 1e-6, max: 1e6 },
    default: Some(Fallback::Number(1.0)),
    help: "c, minus the sectional curvature: the ball has the radius 1/sqrt(c)",
};

pub(crate) const DISTANCE: Transform = Transform {
    name: "poincare_distance",
    summary: "hyperbolic distance of pairs of points in the Poincare ball",
    formula: "d(x, y) = 2/sqrt(c) arsinh(sqrt(c) |x-y| / sqrt((1 - c|x|^2)(1 - c|y|^2)))",
    inputs: "x: real, shape (n, d); y: real, shape (n, d); inside of the ball",
    output: "d: real, shape (n), in units of length for curvature -c",
    accuracy: "relative error below 1e-14, up to the boundary",
    params: &[CURVATURE],
    prepare: |params, arrays| prepare(params, arrays, HyperbolicMap::Distance),
};

pub(crate) const EXP: Transform = Transform {
    name: "poincare_exp",
    summary: "exponential map of the Poincare ball: from points along tangent vectors",
    formula: "exp_x(v) = x (+) tanh(sqrt(c) |v| / (1 - c|x|^2)) v / (sqrt(c) |v|), (+) the Moebius addition",
    inputs: "x: real, shape (n, d), inside of the ball; v: real, shape (n, d), in coordinates of the ball",
    output: "y: real, shape (n, d); at most 1 - 1e-15 of the radius",
    accuracy: "log after exp: relative error below 1e-10 for |v| at most 5 in hyperbolic length and x within 0.9 of the radius",
    params: &[CURVATURE],
    prepare: |params, arrays| prepare(params, arrays, HyperbolicMap::Exp),
};

pub(crate) const LOG: Transform = Transform {
    name: "poincare_log",
    summary: "logarithmic map of the Poincare ball: the tangent vector that leads from x to y",
    formula: "log_x(y) = d(x, y) (1 - c|x|^2)/2 u, u the direction of (-x) (+) y",
    inputs: "x: real, shape (n, d); y: real, shape (n, d); inside of the ball",
    output: "v: real, shape (n, d), in coordinates of the ball",
    accuracy: "the length of v: relative error below 1e-14",
    params: &[CURVATURE],
    prepare: |params, arrays| prepare(params, arrays, HyperbolicMap::Log),
};

fn prepare(params: &Params, arrays: Vec<Array>, map: HyperbolicMap) -> Result<Operation, TransformError> {
    let names = if map == HyperbolicMap::Exp { ["x", "v"] } else { ["x", "y"] };
    let (from, to) = Points::read_pair(arrays, names)?;
    let curvature = params.number("curvature");
    check_inside(&from, curvature, "x")?;
    if map != HyperbolicMap::Exp {
        check_inside(&to, curvature, "y")?;
    }
    Ok(Operation::Hyperbolic(Hyperbolic { map, curvature, from, to }))
}

/// Refuses points on or outside of the boundary.
pub(crate) fn check_inside(points: &Points, curvature: f64, name: &str) -> Result<(), TransformError> {
    let inside = |point: &[f64]| one_minus_square(point, curvature) > 0.0;
    match points.iter().position(|point| !inside(point)) {
        None => Ok(()),
        Some(index) => {
            Err(TransformError::domain(format!("{name}[{index}] is not inside of the ball of radius {}", 1.0 / curvature.sqrt())))
        }
    }
}

impl Hyperbolic {
    /// Computes it.
    ///
    /// # Errors
    /// Memory or cancellation.
    pub fn run(self, budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
        let (count, dimension, c) = (self.from.count, self.from.dimension, self.curvature);
        budget.afford(count * dimension, 24)?;
        let precision = self.from.precision.max(self.to.precision);
        let mut out = Vec::with_capacity(if self.map == HyperbolicMap::Distance { count } else { count * dimension });
        for (index, (x, y)) in self.from.iter().zip(self.to.iter()).enumerate() {
            if index % 1024 == 0 {
                budget.check()?;
            }
            match self.map {
                HyperbolicMap::Distance => out.push(distance(x, y, c)),
                HyperbolicMap::Exp => out.extend(exp(x, y, c)),
                HyperbolicMap::Log => out.extend(log(x, y, c)),
            }
        }
        let shape = if self.map == HyperbolicMap::Distance { vec![count] } else { vec![count, dimension] };
        one(shape, Data::Real(out), precision)
    }
}

/// The distance of two points of the ball.
#[must_use]
pub fn distance(x: &[f64], y: &[f64], c: f64) -> f64 {
    let difference: Vec<f64> = x.iter().zip(y).map(|(x, y)| x - y).collect();
    // Each root by itself: the product of two tiny numbers would underflow sooner.
    let scale = one_minus_square(x, c).sqrt() * one_minus_square(y, c).sqrt();
    2.0 / c.sqrt() * (c.sqrt() * norm(&difference) / scale).asinh()
}

/// The Möbius addition x ⊕ y.
#[must_use]
pub fn add(x: &[f64], y: &[f64], c: f64) -> Vec<f64> {
    // With s = c|x+y|², p = 1 − c|x|² and q = 1 − c|y|² the usual quotient is (s·x + p·(x+y)) / (s + p·q): no term of it cancels but
    // x + y, which is exact where it matters.
    let sum: Vec<f64> = x.iter().zip(y).map(|(x, y)| x + y).collect();
    let (apart, of_x) = (c * dot(&sum, &sum), one_minus_square(x, c));
    let denominator = apart + of_x * one_minus_square(y, c);
    x.iter().zip(&sum).map(|(x, sum)| (apart * x + of_x * sum) / denominator).collect()
}

/// The exponential map at x.
#[must_use]
pub fn exp(x: &[f64], v: &[f64], c: f64) -> Vec<f64> {
    let (root, length) = (c.sqrt(), norm(v));
    if length == 0.0 {
        return x.to_vec();
    }
    let reach = (root * length / one_minus_square(x, c)).tanh().min(1.0 - BOUNDARY) / (root * length);
    let step: Vec<f64> = v.iter().map(|v| v * reach).collect();
    let mut end = add(x, &step, c);
    let beyond = root * norm(&end) / (1.0 - BOUNDARY);
    if beyond > 1.0 {
        end.iter_mut().for_each(|coordinate| *coordinate /= beyond);
    }
    end
}

/// The logarithmic map at x.
#[must_use]
pub fn log(x: &[f64], y: &[f64], c: f64) -> Vec<f64> {
    let back: Vec<f64> = x.iter().map(|x| -x).collect();
    let direction = add(&back, y, c);
    let length = norm(&direction);
    if length == 0.0 {
        return vec![0.0; x.len()];
    }
    let factor = distance(x, y, c) * one_minus_square(x, c) / 2.0 / length;
    direction.iter().map(|direction| direction * factor).collect()
}
