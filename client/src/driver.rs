//! Drivers: signed components that extend the cluster.

use std::time::Duration;

use bytes::Bytes;
use tonic::Streaming;

use crate::audit::ended;
use crate::client::{Client, Kind, MESSAGE_BYTES_MAX, request_id, rpc};
use crate::error::Error;
use crate::proto::{self, driver_service_client::DriverServiceClient};
use crate::retry::Failure;

/// A node that takes a driver compiles it first.
const COMPILE_TIME: Duration = Duration::from_secs(60);

impl Client {
    /// Installs a driver into this client's namespace. A node verifies its signature and compiles it first.
    ///
    /// # Errors
    /// [`Error::Refused`] with `DRIVER_NOT_SIGNED` or `DRIVER_SIGNATURE`, where the artifact is no driver, or where there is one of that name;
    /// see [`Error`].
    pub async fn install_driver(&self, name: &str, spec: proto::DriverSpec) -> Result<proto::Driver, Error> {
        let request =
            proto::InstallDriverRequest { request_id: request_id(), namespace: self.ns(), name: name.to_owned(), spec: Some(spec) };
        let kind = Kind::WRITE.waiting(COMPILE_TIME);
        let answer = self.call(kind, request, rpc!(DriverServiceClient.install_driver)).await?;
        Ok(*answer.driver.unwrap_or_default())
    }

    /// Makes another one of a driver, which goes on where it stands. With a generation other than 0 only if it is at that one.
    ///
    /// # Errors
    /// As [`Client::install_driver`]; [`Error::Refused`] with `DRIVER_GENERATION_DIFFERS`.
    pub async fn upgrade_driver(&self, name: &str, spec: proto::DriverSpec, expected_generation: u64) -> Result<proto::Driver, Error> {
        let request = proto::UpgradeDriverRequest {
            request_id: request_id(),
            namespace: self.ns(),
            name: name.to_owned(),
            spec: Some(spec),
            expected_generation,
        };
        let kind = Kind::WRITE.waiting(COMPILE_TIME);
        let answer = self.call(kind, request, rpc!(DriverServiceClient.upgrade_driver)).await?;
        Ok(*answer.driver.unwrap_or_default())
    }

    /// Ends a driver, and forgets what it saved.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is none; see [`Error`].
    pub async fn remove_driver(&self, name: &str) -> Result<(), Error> {
        let request = proto::RemoveDriverRequest { request_id: String::new(), namespace: self.ns(), name: name.to_owned() };
        self.command(request, rpc!(DriverServiceClient.remove_driver)).await.map(drop)
    }

    /// Lists the drivers of this client's namespace, or of all.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_drivers(&self, all_namespaces: bool) -> Result<Vec<proto::Driver>, Error> {
        let namespace = if all_namespaces { String::new() } else { self.ns() };
        let request = proto::ListDriversRequest { namespace };
        Ok(self.read(request, rpc!(DriverServiceClient.list_drivers)).await?.drivers)
    }

    /// One driver with what it saved.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is none; see [`Error`].
    pub async fn get_driver(&self, name: &str) -> Result<proto::GetDriverResponse, Error> {
        let request = proto::GetDriverRequest { namespace: self.ns(), name: name.to_owned() };
        self.read(request, rpc!(DriverServiceClient.get_driver)).await
    }

    /// Has a driver answer. Sent once: only the driver knows whether a repeat does harm.
    ///
    /// # Errors
    /// [`Error::Refused`] with what the driver said, or why it does not answer; see [`Error`].
    pub async fn call_driver(
        &self,
        name: &str,
        method: &str,
        payload: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<proto::CallDriverResponse, Error> {
        let request =
            proto::CallDriverRequest { namespace: self.ns(), name: name.to_owned(), method: method.to_owned(), payload: payload.into() };
        let mut request = tonic::Request::new(request);
        request.set_timeout(timeout);
        match self.drivers().call_driver(request).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(ended(Failure::of(&status))),
        }
    }

    /// The latest lines of a driver's log after a number, and with `follow` those that come.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn driver_logs(&self, name: &str, after: u64, follow: bool) -> Result<DriverLogs, Error> {
        let request = proto::GetDriverLogsRequest { namespace: self.ns(), name: name.to_owned(), follow, after };
        match self.drivers().get_driver_logs(request).await {
            Ok(answer) => Ok(DriverLogs { stream: answer.into_inner() }),
            Err(status) => Err(ended(Failure::of(&status))),
        }
    }

    /// Whose signatures count for drivers.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_driver_settings(&self) -> Result<proto::DriverSettings, Error> {
        let request = proto::GetDriverSettingsRequest {};
        let answer = self.read(request, rpc!(DriverServiceClient.get_driver_settings)).await?;
        Ok(answer.settings.unwrap_or_default())
    }

    /// Says whose signatures count for drivers. Those whose signer is not among them any more stop.
    ///
    /// # Errors
    /// [`Error::Refused`] for what is no key; see [`Error`].
    pub async fn put_driver_settings(&self, settings: proto::DriverSettings) -> Result<(), Error> {
        let request = proto::PutDriverSettingsRequest { request_id: String::new(), settings: Some(settings) };
        self.command(request, rpc!(DriverServiceClient.put_driver_settings)).await.map(drop)
    }

    fn drivers(&self) -> DriverServiceClient<tonic::transport::Channel> {
        DriverServiceClient::new(self.nodes().pick().channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

/// Lines of a driver's log as they come.
pub struct DriverLogs {
    stream: Streaming<proto::GetDriverLogsResponse>,
}

impl DriverLogs {
    /// The next lines; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the node is gone; [`Error::Refused`] where going on is refused.
    pub async fn next(&mut self) -> Result<Option<proto::GetDriverLogsResponse>, Error> {
        self.stream.message().await.map_err(|status| ended(Failure::of(&status)))
    }
}
