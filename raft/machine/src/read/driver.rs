//! Reads of drivers.

use tarn_proto::v1::{
    Driver, DriverSettings, GetDriverRequest, GetDriverResponse, GetDriverSettingsRequest, GetDriverSettingsResponse, ListDriversRequest,
    ListDriversResponse,
};

use crate::Machine;
use crate::domain::driver::{message, not_found};
use crate::error::Refusal;

/// Where a driver stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DriverStanding {
    /// Grows with each upgrade.
    pub generation: u64,
    /// Grows with whatever it changes.
    pub step: u64,
    /// Whether the key that signed it is still trusted.
    pub trusted: bool,
}

impl Machine {
    /// Drivers of one namespace or of all, by namespace and name, without their states.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`.
    pub fn list_drivers(&self, request: &ListDriversRequest) -> Result<ListDriversResponse, Refusal> {
        let drivers = match request.namespace.as_str() {
            "" => self.drivers(),
            name => self.drivers_in(self.namespace(name)?, name).collect(),
        };
        Ok(ListDriversResponse { drivers, revision: self.applied_index() })
    }

    /// All drivers, by namespace and name, without their states.
    pub fn drivers(&self) -> Vec<Driver> {
        self.ix.namespace_ids.iter().flat_map(|(name, ns)| self.drivers_in(*ns, name)).collect()
    }

    fn drivers_in<'a>(&'a self, ns: u64, namespace: &'a str) -> impl Iterator<Item = Driver> + 'a {
        self.ix.drivers_of(ns).map(move |(name, index)| message(namespace, name, &index.row, &index.progress))
    }

    /// Where a driver stands; `None` if there is none. Cheap: for whoever runs it, and looks again after every entry.
    pub fn driver_standing(&self, namespace: &str, name: &str) -> Option<DriverStanding> {
        let ns = self.ix.namespace_ids.get(namespace)?;
        let index = self.ix.drivers.get(&(*ns, name.into()))?;
        let signer = index.row.spec.as_ref().map(|spec| &spec.signer);
        Some(DriverStanding {
            generation: index.row.generation,
            step: index.progress.step,
            trusted: signer.is_some_and(|signer| self.ix.trusts(signer)),
        })
    }

    /// The names of all drivers, as namespace and name, and their generations.
    pub fn driver_generations(&self) -> Vec<(String, String, u64)> {
        let all = self.ix.namespace_ids.iter().flat_map(|(namespace, ns)| {
            let here = self.ix.drivers_of(*ns);
            here.map(move |(name, index)| (namespace.to_string(), name.to_owned(), index.row.generation))
        });
        all.collect()
    }

    /// One driver with what it saved.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`, `DRIVER_NOT_FOUND`.
    pub fn get_driver(&self, request: &GetDriverRequest) -> Result<GetDriverResponse, Refusal> {
        let (ns, name) = (self.namespace(&request.namespace)?, request.name.as_str());
        let index = self.ix.drivers.get(&(ns, name.into())).ok_or_else(|| not_found(name))?;
        Ok(GetDriverResponse {
            driver: Some(message(&request.namespace, name, &index.row, &index.progress)),
            state: index.progress.state.clone(),
            revision: self.applied_index(),
        })
    }

    /// Whose signatures count.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn get_driver_settings(&self, _request: &GetDriverSettingsRequest) -> Result<GetDriverSettingsResponse, Refusal> {
        Ok(GetDriverSettingsResponse { settings: Some(self.driver_settings()), revision: self.applied_index() })
    }

    /// Whose signatures count.
    pub fn driver_settings(&self) -> DriverSettings {
        self.ix.driver_settings.clone()
    }
}
