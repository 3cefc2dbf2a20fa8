//! The list of transforms, each with what it takes, gives and promises.

use crate::{
    Array, Operation, Param, Params, TransformError, chirp, fourier, hilbert, homology, hyperbolic, laplace, pairwise, projective, sphere,
    stft, wavelet,
};

/// One transform, described for people and programs.
#[derive(Debug, Clone, Copy)]
pub struct Transform {
    /// Its name in [`run`](crate::run).
    pub name: &'static str,
    /// What it is, in a line.
    pub summary: &'static str,
    /// What it computes, with its normalisation.
    pub formula: &'static str,
    /// The arrays it takes, in order.
    pub inputs: &'static str,
    /// The array it gives.
    pub output: &'static str,
    /// How accurate the result is in double precision; the tests hold it to this.
    pub accuracy: &'static str,
    /// Its parameters.
    pub params: &'static [Param],
    pub(crate) prepare: fn(&Params, Vec<Array>) -> Result<Operation, TransformError>,
}

/// All transforms, related ones together.
pub static CATALOGUE: &[Transform] = &[
    fourier::FFT,
    fourier::IFFT,
    fourier::RFFT,
    fourier::IRFFT,
    fourier::DFT,
    chirp::CZT,
    laplace::NODES,
    laplace::INVERT,
    laplace::RATIONAL,
    wavelet::DWT,
    wavelet::IDWT,
    hilbert::HILBERT,
    stft::STFT,
    stft::ISTFT,
    hyperbolic::DISTANCE,
    hyperbolic::EXP,
    hyperbolic::LOG,
    sphere::NORMALISE,
    sphere::DISTANCE,
    sphere::STEREOGRAPHIC,
    sphere::INVERSE,
    projective::HOMOGENISE,
    projective::DEHOMOGENISE,
    projective::APPLY,
    projective::DISTANCE,
    pairwise::PAIRWISE,
    homology::PERSISTENCE,
];

/// The transform of this name.
///
/// # Errors
/// [`TransformError::Unknown`].
pub fn find(name: &str) -> Result<&'static Transform, TransformError> {
    CATALOGUE.iter().find(|transform| transform.name == name).ok_or_else(|| TransformError::Unknown {
        name: name.chars().take(40).collect(),
        known: CATALOGUE.iter().map(|transform| transform.name).collect::<Vec<_>>().join(", "),
    })
}
