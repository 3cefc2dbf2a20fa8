//! How the router weighs workers against each other.

use crate::client::{Client, rpc};
use crate::error::Error;
use crate::proto::{self, scheduler_service_client::SchedulerServiceClient};

impl Client {
    /// What an operator has set. What is not set has its default, which the contract names.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn scheduler_settings(&self) -> Result<proto::SchedulerSettings, Error> {
        let request = proto::GetSchedulerSettingsRequest {};
        let answer = self.read(request, rpc!(SchedulerServiceClient.get_scheduler_settings)).await?;
        Ok(answer.settings.unwrap_or_default())
    }

    /// Sets all of it: what is not set goes back to its default.
    ///
    /// # Errors
    /// [`Error::Refused`] for values out of their range; see [`Error`].
    pub async fn put_scheduler_settings(&self, settings: proto::SchedulerSettings) -> Result<(), Error> {
        let request = proto::PutSchedulerSettingsRequest { request_id: String::new(), settings: Some(settings) };
        self.command(request, rpc!(SchedulerServiceClient.put_scheduler_settings)).await.map(drop)
    }
}
