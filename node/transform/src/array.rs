//! Arrays of numbers with a shape.

use num_complex::Complex64;

use crate::TransformError;

/// The most elements of one array. A Fourier transform of so many complex numbers takes about a second and half a gibibyte.
pub const ELEMENTS_MAX: usize = 1 << 24;

/// The most axes of one array.
pub const AXES_MAX: usize = 8;

/// How numbers are written. Everything is computed in double precision; single precision halves the bytes on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// 32-bit floats.
    Single,
    /// 64-bit floats.
    Double,
}

/// The elements of an [`Array`], the last axis running fastest.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Real numbers.
    Real(Vec<f64>),
    /// Complex numbers.
    Complex(Vec<Complex64>),
}

/// Numbers with a shape, at most [`ELEMENTS_MAX`] of them along at most [`AXES_MAX`] axes. No axes is one number.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    shape: Vec<usize>,
    data: Data,
    precision: Precision,
}

impl Array {
    /// An array of double precision.
    ///
    /// # Errors
    /// [`TransformError::BadInput`] when the shape does not hold as many elements as there are, has too many axes or elements.
    pub fn new(shape: Vec<usize>, data: Data) -> Result<Self, TransformError> {
        let count = elements(&shape)?;
        let have = match &data {
            Data::Real(values) => values.len(),
            Data::Complex(values) => values.len(),
        };
        if count != have {
            return Err(TransformError::input(format!("the shape {shape:?} has {count} elements but there are {have}")));
        }
        Ok(Self { shape, data, precision: Precision::Double })
    }

    /// A list of real numbers.
    ///
    /// # Errors
    /// More than [`ELEMENTS_MAX`].
    pub fn vector(values: Vec<f64>) -> Result<Self, TransformError> {
        Self::new(vec![values.len()], Data::Real(values))
    }

    /// A list of complex numbers.
    ///
    /// # Errors
    /// More than [`ELEMENTS_MAX`].
    pub fn complex_vector(values: Vec<Complex64>) -> Result<Self, TransformError> {
        Self::new(vec![values.len()], Data::Complex(values))
    }

    /// The same array, to be written in `precision`.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// The length of each axis.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements.
    #[must_use]
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// How it was or will be written.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The length of the last axis; 1 without axes.
    #[must_use]
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// How many elements it has.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.data {
            Data::Real(values) => values.len(),
            Data::Complex(values) => values.len(),
        }
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its elements if they are real.
    #[must_use]
    pub fn real(&self) -> Option<&[f64]> {
        match &self.data {
            Data::Real(values) => Some(values),
            Data::Complex(_) => None,
        }
    }

    /// Its elements as complex numbers.
    #[must_use]
    pub fn into_complex(self) -> Vec<Complex64> {
        match self.data {
            Data::Real(values) => values.into_iter().map(Complex64::from).collect(),
            Data::Complex(values) => values,
        }
    }

    /// The shape with another last axis.
    #[must_use]
    pub fn shape_with_row(&self, row: usize) -> Vec<usize> {
        let mut shape = self.shape.clone();
        match shape.last_mut() {
            Some(last) => *last = row,
            None => shape.push(row),
        }
        shape
    }

    /// Where the first element is that is not a finite number.
    pub(crate) fn first_not_finite(&self) -> Option<usize> {
        match &self.data {
            Data::Real(values) => values.iter().position(|value| !value.is_finite()),
            Data::Complex(values) => values.iter().position(|value| !value.is_finite()),
        }
    }
}

/// How many elements a shape has.
pub(crate) fn elements(shape: &[usize]) -> Result<usize, TransformError> {
    if shape.len() > AXES_MAX {
        return Err(TransformError::TooLarge { what: "the number of axes of an array", value: shape.len() as u64, limit: AXES_MAX as u64 });
    }
    // Every axis is bounded by itself, so that an empty array cannot hide an axis whose later arithmetic overflows.
    let largest = shape.iter().copied().max().unwrap_or(1);
    let count = shape.iter().try_fold(1_usize, |product, &axis| product.checked_mul(axis));
    match count {
        Some(count) if count.max(largest) <= ELEMENTS_MAX => Ok(count),
        _ => Err(TransformError::TooLarge {
            what: "the number of elements of an array",
            value: count.unwrap_or(usize::MAX).max(largest) as u64,
            limit: ELEMENTS_MAX as u64,
        }),
    }
}
