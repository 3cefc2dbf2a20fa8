//! What transforms ask of their input arrays.

use crate::{Array, Data, Precision, TransformError};

/// Takes exactly the arrays with these names, in this order.
pub(crate) fn take<const N: usize>(arrays: Vec<Array>, names: [&str; N]) -> Result<[Array; N], TransformError> {
    let count = arrays.len();
    arrays.try_into().map_err(|_| TransformError::input(format!("there are {count} arrays and {N} are wanted: {}", names.join(", "))))
}

/// Asks for at least one axis and no empty one.
pub(crate) fn signal(array: Array) -> Result<Array, TransformError> {
    if array.shape().is_empty() || array.is_empty() {
        return Err(TransformError::input(format!(
            "the signal has the shape {:?}: give at least one sample along at least one axis",
            array.shape()
        )));
    }
    Ok(array)
}

/// Asks for real numbers.
pub(crate) fn real(array: Array, name: &str) -> Result<(Vec<f64>, Vec<usize>, Precision), TransformError> {
    let (shape, precision) = (array.shape().to_vec(), array.precision());
    match array.real() {
        Some(values) => Ok((values.to_vec(), shape, precision)),
        None => Err(TransformError::input(format!("{name} is complex: give real numbers"))),
    }
}

/// A real signal: each row along the last axis is one.
pub(crate) fn real_signal(array: Array) -> Result<Array, TransformError> {
    let array = signal(array)?;
    match array.data() {
        Data::Real(_) => Ok(array),
        Data::Complex(_) => Err(TransformError::input("the signal is complex: give real numbers")),
    }
}

/// Points in a space of some dimension, one a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Points {
    /// How many points there are.
    pub count: usize,
    /// How many coordinates each has, at least one.
    pub dimension: usize,
    /// The coordinates, point after point.
    pub coordinates: Vec<f64>,
    /// How the result is to be written.
    pub precision: Precision,
}

impl Points {
    pub(crate) fn read(array: Array, name: &str) -> Result<Self, TransformError> {
        let (coordinates, shape, precision) = real(array, name)?;
        let &[count, dimension] = shape.as_slice() else {
            return Err(TransformError::input(format!("{name} has the shape {shape:?}: give two axes, points and coordinates")));
        };
        if dimension == 0 {
            return Err(TransformError::input(format!("{name} has points without coordinates")));
        }
        Ok(Self { count, dimension, coordinates, precision })
    }

    /// Two lists of as many points of the same dimension.
    pub(crate) fn read_pair(arrays: Vec<Array>, names: [&str; 2]) -> Result<(Self, Self), TransformError> {
        let [a, b] = take(arrays, names)?;
        let (a, b) = (Self::read(a, names[0])?, Self::read(b, names[1])?);
        if (a.count, a.dimension) != (b.count, b.dimension) {
            return Err(TransformError::input(format!(
                "{} has {} points of dimension {} and {} has {} of {}: give as many of the same dimension",
                names[0], a.count, a.dimension, names[1], b.count, b.dimension
            )));
        }
        Ok((a, b))
    }

    /// The coordinates of one point.
    #[must_use]
    pub fn point(&self, index: usize) -> &[f64] {
        &self.coordinates[index * self.dimension..][..self.dimension]
    }

    /// The points in order.
    pub fn iter(&self) -> impl Iterator<Item = &[f64]> {
        self.coordinates.chunks_exact(self.dimension)
    }
}
