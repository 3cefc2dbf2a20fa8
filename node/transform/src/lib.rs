//! Transforms of numeric arrays: what a task can ask for by name, without bringing a program.
//!
//! ```text
//! name ─────────► catalogue ─┐
//! JSON ─────────► params ────┼─► Operation ─► run on this processor ─► arrays ─► NPY bytes
//! NPY bytes ────► arrays ────┘       └──────► another backend (CUDA)
//! ```
//!
//! [`run`] is the one entry point for tasks: a name of the [`CATALOGUE`], parameters as a JSON object, and one or more arrays in
//! numpy's NPY format, one after the other. The result is an array in the same format:
//!
//! ```python
//! buffer = io.BytesIO(); numpy.save(buffer, x)          # the input; save further arrays behind it
//! result = numpy.load(io.BytesIO(output))               # the output
//! ```
//!
//! Arrays are `float32`, `float64`, `complex64` or `complex128`, little-endian and in C order. Everything is computed in double
//! precision; the result is written as precisely as the most precise input. An element that is not finite is refused.
//!
//! Each transform is one file that states its formula, units, normalisation and accuracy in its entry of the catalogue; the tests hold
//! it to that accuracy against results with twice the digits, against closed forms and published values. What follows from the request
//! alone is checked in [`prepare`], before anything is computed.
//!
//! ```
//! use tarn_transform::{Array, Budget, run, write_arrays};
//!
//! let budget = Budget::default();
//! let input = write_arrays(&[Array::vector(vec![1.0, 0.0, 0.0, 0.0])?], &budget)?;
//! let output = run("fft", r#"{"norm": "ortho"}"#, &input, &budget)?;
//! let spectrum = tarn_transform::read_arrays(&output, &budget)?.remove(0).into_complex();
//! assert!(spectrum.iter().all(|value| value.re == 0.5 && value.im == 0.0));
//! # Ok::<(), tarn_transform::TransformError>(())
//! ```

mod array;
mod budget;
mod catalogue;
mod error;
mod exact;
mod inputs;
mod npy;
mod operation;
mod params;

pub mod chirp;
pub mod fourier;
pub mod hilbert;
pub mod homology;
pub mod hyperbolic;
pub mod laplace;
pub mod pairwise;
pub mod projective;
pub mod sphere;
pub mod stft;
pub mod wavelet;

pub use array::{AXES_MAX, Array, Data, ELEMENTS_MAX, Precision};
pub use budget::{Budget, MEMORY_BYTES_DEFAULT};
pub use catalogue::{CATALOGUE, Transform, find};
pub use error::TransformError;
pub use inputs::Points;
pub use npy::{ARRAYS_MAX, read_arrays, write_arrays};
pub use num_complex::Complex64;
pub use operation::Operation;
pub use params::{Fallback, PARAMS_BYTES_MAX, Param, ParamKind, Params};

/// Computes the transform `name` of `input` on this processor, on this thread.
///
/// # Errors
/// Every [`TransformError`]. No bytes, parameters or names make it panic.
pub fn run(name: &str, params: &str, input: &[u8], budget: &Budget<'_>) -> Result<Vec<u8>, TransformError> {
    let result = prepare(name, params, input, budget)?.run(budget)?;
    write_arrays(&result, budget)
}

/// Checks everything about a request that can be checked without computing it.
///
/// # Errors
/// Every [`TransformError`] but cancellation.
pub fn prepare(name: &str, params: &str, input: &[u8], budget: &Budget<'_>) -> Result<Operation, TransformError> {
    let transform = find(name)?;
    let params = Params::read(params, transform.params)?;
    let arrays = read_arrays(input, budget)?;
    for (index, array) in arrays.iter().enumerate() {
        if let Some(position) = array.first_not_finite() {
            let detail = format!("array {index}: element {position} is not a finite number");
            return Err(TransformError::BadInput { detail });
        }
    }
    (transform.prepare)(&params, arrays)
}
