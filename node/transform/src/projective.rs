//! Projective space: homogeneous coordinates, projective maps, and the distance of points of the projective space.

use crate::array::elements;
use crate::catalogue::Transform;
use crate::exact::dot;
use crate::fourier::one;
use crate::inputs::{Points, real, take};
use crate::sphere::{angle, check_direction};
use crate::{Array, Budget, Data, Operation, Precision, TransformError};

/// What to compute for each point.
#[derive(Debug, Clone, PartialEq)]
pub enum ProjectiveMap {
    /// Appends the coordinate 1.
    Homogenise,
    /// Divides by the last coordinate and drops it.
    Dehomogenise,
    /// Homogenises, multiplies by this matrix (rows of d + 1), and dehomogenises.
    Apply(Vec<f64>),
}

/// A map of points.
#[derive(Debug, Clone, PartialEq)]
pub struct Projective {
    /// The map.
    pub map: ProjectiveMap,
    /// The points.
    pub points: Points,
    /// How the result is to be written.
    pub precision: Precision,
}

/// The angle between pairs of lines through the origin.
#[derive(Debug, Clone, PartialEq)]
pub struct ProjectiveDistance {
    /// Vectors along the first lines.
    pub from: Points,
    /// Vectors along the second lines.
    pub to: Points,
}

pub(crate) const HOMOGENISE: Transform = Transform {
    name: "homogeneous",
    summary: "homogeneous coordinates of points",
    formula: "(x, 1)",
    inputs: "x: real, shape (n, d)",
    output: "real, shape (n, d+1)",
    accuracy: "exact",
    params: &[],
    prepare: |_, arrays| {
        let [points] = take(arrays, ["x"])?;
        let points = Points::read(points, "x")?;
        elements(&[points.count, points.dimension + 1])?;
        map(ProjectiveMap::Homogenise, points)
    },
};

pub(crate) const DEHOMOGENISE: Transform = Transform {
    name: "dehomogeneous",
    summary: "points of homogeneous coordinates",
    formula: "(x[0], ..., x[d-1]) / x[d]",
    inputs: "x: real, shape (n, d+1), x[d] not 0 (such points lie at infinity)",
    output: "real, shape (n, d)",
    accuracy: "correctly rounded",
    params: &[],
    prepare: |_, arrays| {
        let [points] = take(arrays, ["x"])?;
        let points = Points::read(points, "x")?;
        if points.dimension < 2 {
            return Err(TransformError::input("x has points of one coordinate: homogeneous ones have at least two"));
        }
        map(ProjectiveMap::Dehomogenise, points)
    },
};

pub(crate) const APPLY: Transform = Transform {
    name: "projective_apply",
    summary: "projective map (homography) of points",
    formula: "y = A (x, 1), then (y[0], ..., y[d-1]) / y[d]",
    inputs: "x: real, shape (n, d); A: real, shape (d+1, d+1)",
    output: "real, shape (n, d); points that go to infinity are refused",
    accuracy: "numerator and denominator as if summed with twice the digits, then rounded",
    params: &[],
    prepare: |_, arrays| {
        let [points, matrix] = take(arrays, ["x", "A"])?;
        let points = Points::read(points, "x")?;
        let (values, shape, precision) = real(matrix, "A")?;
        let wanted = [points.dimension + 1, points.dimension + 1];
        if shape != wanted {
            return Err(TransformError::input(format!("A has the shape {shape:?} and {wanted:?} is wanted")));
        }
        let precision = precision.max(points.precision);
        let map = ProjectiveMap::Apply(values);
        Ok(Operation::Projective(Projective { map, points, precision }))
    },
};

pub(crate) const DISTANCE: Transform = Transform {
    name: "projective_distance",
    summary: "distance in real projective space: the angle between lines through the origin",
    formula: "min(a, pi - a), a the angle between x and y",
    inputs: "x: real, shape (n, d); y: real, shape (n, d); homogeneous coordinates, none of them 0",
    output: "real, shape (n), radians from 0 to pi/2",
    accuracy: "absolute error below 1e-15",
    params: &[],
    prepare: |_, arrays| {
        let (from, to) = Points::read_pair(arrays, ["x", "y"])?;
        check_direction(&from, "x")?;
        check_direction(&to, "y")?;
        Ok(Operation::ProjectiveDistance(ProjectiveDistance { from, to }))
    },
};

fn map(map: ProjectiveMap, points: Points) -> Result<Operation, TransformError> {
    let precision = points.precision;
    Ok(Operation::Projective(Projective { map, points, precision }))
}

impl Projective {
    /// Computes it.
    ///
    /// # Errors
    /// Memory, cancellation, or a point at infinity.
    pub fn run(self, budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
        let (count, dimension) = (self.points.count, self.points.dimension);
        let width = match self.map {
            ProjectiveMap::Homogenise => dimension + 1,
            ProjectiveMap::Dehomogenise => dimension - 1,
            ProjectiveMap::Apply(_) => dimension,
        };
        budget.afford(count * (dimension + width + 1), 8)?;
        let mut out = Vec::with_capacity(count * width);
        for (index, x) in self.points.iter().enumerate() {
            if index % 256 == 0 {
                budget.check()?;
            }
            let added = match &self.map {
                ProjectiveMap::Homogenise => Some([x, &[1.0]].concat()),
                ProjectiveMap::Dehomogenise => dehomogenise(x),
                ProjectiveMap::Apply(matrix) => dehomogenise(&apply(matrix, x)),
            };
            let at_infinity = || TransformError::domain(format!("x[{index}] lies at, or goes to, infinity"));
            out.extend(added.ok_or_else(at_infinity)?);
        }
        one(vec![count, width], Data::Real(out), self.precision)
    }
}

impl ProjectiveDistance {
    /// Computes it.
    ///
    /// # Errors
    /// Memory or cancellation.
    pub fn run(self, budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
        budget.afford(self.from.count * (2 * self.from.dimension + 1), 8)?;
        budget.check()?;
        let out = self.from.iter().zip(self.to.iter()).map(|(x, y)| line_angle(x, y)).collect();
        let precision = self.from.precision.max(self.to.precision);
        one(vec![self.from.count], Data::Real(out), precision)
    }
}

/// The angle between the lines along two vectors, in radians from 0 to π/2.
#[must_use]
pub fn line_angle(x: &[f64], y: &[f64]) -> f64 {
    if dot(x, y) < 0.0 {
        let opposite: Vec<f64> = y.iter().map(|y| -y).collect();
        angle(x, &opposite)
    } else {
        angle(x, y)
    }
}

fn dehomogenise(x: &[f64]) -> Option<Vec<f64>> {
    let (&last, rest) = x.split_last()?;
    let point: Vec<f64> = rest.iter().map(|x| x / last).collect();
    point.iter().all(|x| x.is_finite()).then_some(point)
}

fn apply(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    let extended = [x, &[1.0]].concat();
    matrix.chunks_exact(extended.len()).map(|row| dot(row, &extended)).collect()
}
