//! Drivers, whole: there are few of them.

use tarn_storage::Engine;

use super::Indices;
use super::rebuild::{each, misplaced};
use crate::error::Fatal;
use crate::keys::{Key, first};
use crate::overlay::Rows;
use crate::rows::{DriverProgressRow, DriverRow};

/// A driver and how far it has come.
#[derive(Clone, Debug, PartialEq)]
pub struct DriverIndex {
    pub row: DriverRow,
    pub progress: DriverProgressRow,
}

/// Fills the index from the rows.
pub(super) fn fill(engine: &dyn Engine, indices: &mut Indices) -> Result<(), Fatal> {
    indices.driver_settings = engine.row(Key::DriverSettings)?.unwrap_or_default();
    each(engine, first::DRIVER, |key, row: DriverRow| {
        let Key::Driver { ns, name } = key else {
            return Err(misplaced(key));
        };
        let progress = engine.row(Key::DriverProgress { ns, name })?.ok_or_else(|| misplaced(key))?;
        indices.drivers.insert((ns, name.into()), DriverIndex { row, progress });
        Ok(())
    })
}
