//! Talbot's inversion of the Laplace transform on a device: one thread for each time.

use tarn_transform::laplace::{Function, Laplace};
use tarn_transform::{Array, Budget, Complex64, Data, Operation};

use super::super::message::JobError;
use super::gpu::Argument::{Float, Number};
use super::gpu::Gpu;
use super::transforms::{finish, flat, on_processor};

impl Gpu {
    pub(super) fn laplace(&self, laplace: Laplace, budget: &Budget<'_>) -> Result<Vec<Array>, JobError> {
        let on_device = self.attempt(budget)?;
        let (nodes, terms) = (&laplace.nodes, laplace.nodes.inversion.nodes_per_time());
        let (times, count) = (on_device.upload(&nodes.times)?, nodes.times.len());
        let (values, out) = (on_device.zeros::<f64>(2 * count * terms)?, on_device.zeros::<f64>(count)?);
        let values = match &laplace.function {
            Function::Values(given) => on_device.upload(&flat(given))?,
            Function::Rational { numerator, denominator } => {
                let places: Vec<Complex64> = nodes.times.iter().flat_map(|&t| nodes.of(t)).collect();
                let (places, above, below) =
                    (on_device.upload(&flat(&places))?, on_device.upload(numerator)?, on_device.upload(denominator)?);
                let pointers = [&places, &above, &below, &values].map(|buffer| on_device.argument(buffer));
                let [places_at, above_at, below_at, values_at] = pointers;
                let [above, below] = [numerator.len(), denominator.len()].map(|terms| Number(terms as u64));
                on_device.launch("rational", &[places_at, above_at, below_at, values_at, above, below], count * terms)?;
                values
            }
        };
        let pointers = [&times, &values, &out].map(|buffer| on_device.argument(buffer));
        let [times_at, values_at, out_at] = pointers;
        let abscissa = Float(nodes.inversion.abscissa);
        on_device.launch("talbot", &[times_at, values_at, out_at, Number(terms as u64), abscissa], count)?;
        let found = on_device.download(&out, count)?;
        if found.iter().all(|value| value.is_finite()) {
            return finish(vec![count], Data::Real(found), nodes.precision);
        }
        // The processor's sentence for it.
        on_processor(Operation::Laplace(laplace), budget)
    }
}
