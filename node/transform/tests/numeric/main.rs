//! Holds the transforms to what their entries in the catalogue promise.

mod double;
mod fourier;
mod garbage;
mod geometry;
mod homology;
mod laplace;
mod support;
mod wavelet;
