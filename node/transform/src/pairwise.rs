//! Distances of all pairs of points.

use crate::array::elements;
use crate::catalogue::Transform;
use crate::fourier::one;
use crate::hyperbolic::{self, CURVATURE, check_inside};
use crate::inputs::{Points, take};
use crate::params::{Fallback, Param, ParamKind};
use crate::projective::line_angle;
use crate::sphere::{angle, check_direction};
use crate::{Budget, Data, Operation, Params, TransformError};

/// How far two points are from each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Metric {
    /// In space.
    Euclidean,
    /// In the Poincaré ball with this c.
    Poincare(f64),
    /// The angle between the vectors.
    Sphere,
    /// The angle between the lines.
    Projective,
}

/// The matrix of distances of a list of points.
#[derive(Debug, Clone, PartialEq)]
pub struct Pairwise {
    /// The points.
    pub points: Points,
    /// The metric.
    pub metric: Metric,
}

pub(crate) const METRIC: Param = Param {
    name: "metric",
    kind: ParamKind::Choice(&["euclidean", "poincare", "sphere", "projective"]),
    default: Some(Fallback::Word("euclidean")),
    help: "euclidean; poincare in the ball of `curvature`; sphere, the angle of vectors; projective, the angle of lines",
};

pub(crate) const PAIRWISE: Transform = Transform {
    name: "pairwise",
    summary: "matrix of the distances of all pairs of points",
    formula: "D[i,j] = d(x_i, x_j)",
    inputs: "x: real, shape (n, d)",
    output: "D: real, shape (n, n), symmetric, zero on the diagonal",
    accuracy: "that of the metric's own transform; euclidean: relative error below 1e-15",
    params: &[METRIC, CURVATURE],
    prepare: |params, arrays| {
        let [points] = take(arrays, ["x"])?;
        let points = Points::read(points, "x")?;
        let metric = Metric::read(params, &points)?;
        elements(&[points.count, points.count])?;
        Ok(Operation::Pairwise(Pairwise { points, metric }))
    },
};

impl Metric {
    /// Reads the metric and checks that the points are in its space.
    pub(crate) fn read(params: &Params, points: &Points) -> Result<Self, TransformError> {
        match params.word("metric") {
            "poincare" => {
                let curvature = params.number("curvature");
                check_inside(points, curvature, "x")?;
                Ok(Self::Poincare(curvature))
            }
            "sphere" => check_direction(points, "x").map(|()| Self::Sphere),
            "projective" => check_direction(points, "x").map(|()| Self::Projective),
            _ => Ok(Self::Euclidean),
        }
    }

    /// The distance of two points.
    #[must_use]
    pub fn distance(self, x: &[f64], y: &[f64]) -> f64 {
        match self {
            Self::Euclidean => x.iter().zip(y).fold(0.0_f64, |length, (x, y)| length.hypot(x - y)),
            Self::Poincare(curvature) => hyperbolic::distance(x, y, curvature),
            Self::Sphere => angle(x, y),
            Self::Projective => line_angle(x, y),
        }
    }
}

impl Pairwise {
    /// The matrix, row after row.
    ///
    /// # Errors
    /// Memory or cancellation.
    pub fn matrix(&self, budget: &Budget<'_>) -> Result<Vec<f64>, TransformError> {
        let n = self.points.count;
        budget.afford(n * n + self.points.coordinates.len(), 8)?;
        let mut out = vec![0.0; n * n];
        for i in 0..n {
            budget.check()?;
            for j in 0..i {
                let distance = self.metric.distance(self.points.point(i), self.points.point(j));
                out[i * n + j] = distance;
                out[j * n + i] = distance;
            }
        }
        Ok(out)
    }

    /// Computes it.
    ///
    /// # Errors
    /// Memory or cancellation.
    pub fn run(self, budget: &Budget<'_>) -> Result<Vec<crate::Array>, TransformError> {
        let n = self.points.count;
        one(vec![n, n], Data::Real(self.matrix(budget)?), self.points.precision)
    }
}
