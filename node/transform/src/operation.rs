//! A transform with checked parameters and input, ready to be computed.

use crate::chirp::Chirp;
use crate::fourier::{Fourier, RealFourier, RealInverse};
use crate::hilbert::Hilbert;
use crate::homology::Homology;
use crate::hyperbolic::Hyperbolic;
use crate::laplace::{Laplace, LaplaceNodes};
use crate::pairwise::Pairwise;
use crate::projective::{Projective, ProjectiveDistance};
use crate::sphere::{Sphere, SphereDistance};
use crate::stft::{ShortTime, ShortTimeInverse};
use crate::wavelet::Wavelet;
use crate::{Array, Budget, TransformError};

/// A transform with checked parameters and input. [`prepare`](crate::prepare) makes one; [`run`](Self::run) computes it on the
/// processor, and another backend may take it apart and compute it elsewhere.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each variant carries the type that says what it is")]
pub enum Operation {
    Fourier(Fourier),
    RealFourier(RealFourier),
    RealInverse(RealInverse),
    Chirp(Chirp),
    LaplaceNodes(LaplaceNodes),
    Laplace(Laplace),
    Wavelet(Wavelet),
    Hilbert(Hilbert),
    ShortTime(ShortTime),
    ShortTimeInverse(ShortTimeInverse),
    Hyperbolic(Hyperbolic),
    Sphere(Sphere),
    SphereDistance(SphereDistance),
    Projective(Projective),
    ProjectiveDistance(ProjectiveDistance),
    Pairwise(Pairwise),
    Homology(Homology),
}

impl Operation {
    /// Computes it on this processor, on this thread.
    ///
    /// # Errors
    /// What the transform may run into beside bad parameters and input: memory, cancellation, or a result that does not exist.
    pub fn run(self, budget: &Budget<'_>) -> Result<Vec<Array>, TransformError> {
        budget.check()?;
        match self {
            Self::Fourier(operation) => operation.run(budget),
            Self::RealFourier(operation) => operation.run(budget),
            Self::RealInverse(operation) => operation.run(budget),
            Self::Chirp(operation) => operation.run(budget),
            Self::LaplaceNodes(operation) => operation.run(budget),
            Self::Laplace(operation) => operation.run(budget),
            Self::Wavelet(operation) => operation.run(budget),
            Self::Hilbert(operation) => operation.run(budget),
            Self::ShortTime(operation) => operation.run(budget),
            Self::ShortTimeInverse(operation) => operation.run(budget),
            Self::Hyperbolic(operation) => operation.run(budget),
            Self::Sphere(operation) => operation.run(budget),
            Self::SphereDistance(operation) => operation.run(budget),
            Self::Projective(operation) => operation.run(budget),
            Self::ProjectiveDistance(operation) => operation.run(budget),
            Self::Pairwise(operation) => operation.run(budget),
            Self::Homology(operation) => operation.run(budget),
        }
    }
}
