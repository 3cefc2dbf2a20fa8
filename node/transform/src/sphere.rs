//! The unit sphere: putting points on it, distances along it, and the stereographic projection.

use crate::array::elements;
use crate::catalogue::Transform;
use crate::exact::{dot, norm};
use crate::fourier::one;
use crate::inputs::{Points, take};
use crate::{Array, Budget, Data, Operation, TransformError};

/// How close to the pole of projection a point may be for the inverse projection.
pub const POLE: f64 = 1e-15;

/// What to compute for each point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SphereMap {
    /// x/|x|.
    Normalise,
    /// From the plane through the equator to the sphere, by rays through the north pole.
    Stereographic,
    /// Back to the plane.
    StereographicInverse,
}

/// A map of points to or from the sphere.
#[derive(Debug, Clone, PartialEq)]
pub struct Sphere {
    /// The map.
    pub map: SphereMap,
    /// The points.
    pub points: Points,
}

/// The angle between pairs of vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct SphereDistance {
    /// x.
    pub from: Points,
    /// y.
    pub to: Points,
}

pub(crate) const NORMALISE: Transform = Transform {
    name: "sphere_normalise",
    summary: "points put on the unit sphere",
    formula: "x / |x|",
    inputs: "x: real, shape (n, d), none of them 0",
    output: "real, shape (n, d), of length 1",
    accuracy: "relative error below 1e-15",
    params: &[],
    prepare: |_, arrays| map(arrays, SphereMap::Normalise),
};

pub(crate) const DISTANCE: Transform = Transform {
    name: "sphere_distance",
    summary: "great-circle distance: the angle between vectors, whatever their lengths",
    formula: "2 atan2(| |y| x - |x| y |, | |y| x + |x| y |) (Kahan)",
    inputs: "x: real, shape (n, d); y: real, shape (n, d); none of them 0",
    output: "real, shape (n), radians from 0 to pi",
    accuracy: "absolute error below 1e-15, for small angles and those near pi too",
    params: &[],
    prepare: |_, arrays| {
        let (from, to) = Points::read_pair(arrays, ["x", "y"])?;
        check_direction(&from, "x")?;
        check_direction(&to, "y")?;
        Ok(Operation::SphereDistance(SphereDistance { from, to }))
    },
};

pub(crate) const STEREOGRAPHIC: Transform = Transform {
    name: "stereographic",
    summary: "stereographic embedding of d-dimensional points into the unit sphere in d+1 dimensions",
    formula: "(2 x, |x|^2 - 1) / (|x|^2 + 1): 0 goes to the south pole, infinity to the north pole",
    inputs: "x: real, shape (n, d)",
    output: "real, shape (n, d+1), of length 1",
    accuracy: "absolute error below 1e-15",
    params: &[],
    prepare: |_, arrays| map(arrays, SphereMap::Stereographic),
};

pub(crate) const INVERSE: Transform = Transform {
    name: "stereographic_inverse",
    summary: "inverse of the stereographic embedding",
    formula: "(x[0], ..., x[d-1]) / (1 - x[d]), after scaling to length 1",
    inputs: "x: real, shape (n, d+1), not 0 and not the north pole",
    output: "real, shape (n, d)",
    accuracy: "back and forth for |x| at most 10: relative error below 1e-13",
    params: &[],
    prepare: |_, arrays| map(arrays, SphereMap::StereographicInverse),
};

fn map(arrays: Vec<Array>, map: SphereMap) -> Result<Operation, TransformError> {
    let [points] = take(arrays, ["x"])?;
    let points = Points::read(points, "x")?;
    match map {
        SphereMap::Normalise => check_direction(&points, "x")?,
        SphereMap::Stereographic => {
            elements(&[points.count, points.dimension + 1])?;
        }
        SphereMap::StereographicInverse => check_pole(&points)?,
    }
    Ok(Operation::Sphere(Sphere { map, points }))
}

/// Refuses vectors without a direction: zero, and so short or long that the square of the length leaves the range of doubles.
pub(crate) fn check_direction(points: &Points, name: &str) -> Result<(), TransformError> {
    match points.iter().position(|point| !(1e-150..=1e150).contains(&norm(point))) {
        None => Ok(()),
        Some(index) => {
            Err(TransformError::domain(format!("{name}[{index}] has no usable direction: its length must be from 1e-150 to 1e150")))
        }
    }
}

fn check_pole(points: &Points) -> Result<(), TransformError> {
    if points.dimension < 2 {
        return Err(TransformError::input("x has points of one coordinate: the sphere needs at least two"));
    }
    check_direction(points, "x")?;
    let at_pole = |point: &[f64]| 1.0 - point[point.len() - 1] / norm(point) < POLE;
    match points.iter().position(at_pole) {
        None => Ok(()),
        Some(index) => Err(TransformError::domain(format!("x[{index}] is the north pole, which lies at infinity"))),
    }
}

impl Sphere {
    /// Computes it.
    ///
    /// # Errors
    /// Memory or cancellation.
    pub fn run(self, budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
        let count = self.points.count;
        let width = match self.map {
            SphereMap::Normalise => self.points.dimension,
            SphereMap::Stereographic => self.points.dimension + 1,
            SphereMap::StereographicInverse => self.points.dimension - 1,
        };
        budget.afford(count * (self.points.dimension + width), 8)?;
        budget.check()?;
        let mut out = Vec::with_capacity(count * width);
        for x in self.points.iter() {
            match self.map {
                SphereMap::Normalise => out.extend(normalise(x)),
                SphereMap::Stereographic => out.extend(stereographic(x)),
                SphereMap::StereographicInverse => out.extend(stereographic_inverse(x)),
            }
        }
        one(vec![count, width], Data::Real(out), self.points.precision)
    }
}

impl SphereDistance {
    /// Computes it.
    ///
    /// # Errors
    /// Memory or cancellation.
    pub fn run(self, budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
        budget.afford(self.from.count * (2 * self.from.dimension + 1), 8)?;
        budget.check()?;
        let out = self.from.iter().zip(self.to.iter()).map(|(x, y)| angle(x, y)).collect();
        let precision = self.from.precision.max(self.to.precision);
        one(vec![self.from.count], Data::Real(out), precision)
    }
}

/// x/|x|.
#[must_use]
pub fn normalise(x: &[f64]) -> Vec<f64> {
    let length = norm(x);
    x.iter().map(|x| x / length).collect()
}

/// The angle between two vectors, in radians from 0 to π.
#[must_use]
pub fn angle(x: &[f64], y: &[f64]) -> f64 {
    let (x, y) = (normalise(x), normalise(y));
    let difference: Vec<f64> = x.iter().zip(&y).map(|(x, y)| x - y).collect();
    let sum: Vec<f64> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
    2.0 * norm(&difference).atan2(norm(&sum))
}

fn stereographic(x: &[f64]) -> Vec<f64> {
    // Scaled by the largest coordinate where it is large, so that the square stays in range.
    let largest = x.iter().fold(1.0_f64, |largest, x| largest.max(x.abs()));
    let scaled: Vec<f64> = x.iter().map(|x| x / largest).collect();
    let (square, unit) = (dot(&scaled, &scaled), 1.0 / largest / largest);
    let denominator = square + unit;
    let mut out: Vec<f64> = scaled.iter().map(|x| 2.0 * x / largest / denominator).collect();
    out.push((square - unit) / denominator);
    out
}

fn stereographic_inverse(x: &[f64]) -> Vec<f64> {
    let x = normalise(x);
    let (&height, plane) = x.split_last().expect("at least two coordinates");
    // 1 − h = |plane|²/(1 + h) where the left side would cancel.
    let gap = if height > 0.5 { dot(plane, plane) / (1.0 + height) } else { 1.0 - height };
    plane.iter().map(|x| x / gap).collect()
}
