//! Policies: bundles and which of them judge, what they found, and who is told.

use crate::client::{Client, rpc};
use crate::error::Error;
use crate::proto::{self, policy_service_client::PolicyServiceClient};

impl Client {
    /// Keeps a version of a bundle. The same bytes again change nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] where the bytes are no bundle, the version has other bytes already, or a signature is missing or does not fit;
    /// see [`Error`].
    pub async fn put_bundle(&self, request: proto::PutBundleRequest) -> Result<proto::PutBundleResponse, Error> {
        self.command(request, rpc!(PolicyServiceClient.put_bundle)).await
    }

    /// Lets a version of a bundle judge. A node compiles it and runs its tests first.
    ///
    /// # Errors
    /// [`Error::Refused`] with `POLICY_DOES_NOT_COMPILE` or `POLICY_TESTS_FAILED`, where there is no such version, or where another version
    /// than the expected one is active; see [`Error`].
    pub async fn activate_bundle(&self, request: proto::ActivateBundleRequest) -> Result<proto::ActivateBundleResponse, Error> {
        self.command(request, rpc!(PolicyServiceClient.activate_bundle)).await
    }

    /// Goes back to the version that was active before.
    ///
    /// # Errors
    /// [`Error::Refused`] where none was; see [`Error`].
    pub async fn rollback_bundle(&self, request: proto::RollbackBundleRequest) -> Result<proto::RollbackBundleResponse, Error> {
        self.command(request, rpc!(PolicyServiceClient.rollback_bundle)).await
    }

    /// Lets no version of a bundle judge any more. Gives the version that did.
    ///
    /// # Errors
    /// [`Error::Refused`] where none does; see [`Error`].
    pub async fn deactivate_bundle(&self, request: proto::DeactivateBundleRequest) -> Result<String, Error> {
        let answer = self.command(request, rpc!(PolicyServiceClient.deactivate_bundle));
        Ok(answer.await?.previous)
    }

    /// Forgets a version that does not judge.
    ///
    /// # Errors
    /// [`Error::Refused`] where it judges, or where there is none; see [`Error`].
    pub async fn delete_bundle(&self, request: proto::DeleteBundleRequest) -> Result<(), Error> {
        let answer = self.command(request, rpc!(PolicyServiceClient.delete_bundle));
        answer.await.map(drop)
    }

    /// Lists versions of bundles without their bytes; an empty environment or name stands for all.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_bundles(&self, environment: impl Into<String>, name: impl Into<String>) -> Result<Vec<proto::Bundle>, Error> {
        let request = proto::ListBundlesRequest { environment: environment.into(), name: name.into() };
        let answer = self.read(request, rpc!(PolicyServiceClient.list_bundles));
        Ok(answer.await?.bundles)
    }

    /// One version of a bundle with its bytes; an empty version stands for the active one.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is none; see [`Error`].
    pub async fn get_bundle(&self, request: proto::GetBundleRequest) -> Result<proto::GetBundleResponse, Error> {
        self.read(request, rpc!(PolicyServiceClient.get_bundle)).await
    }

    /// A page of violations, newest first.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_violations(&self, request: proto::ListViolationsRequest) -> Result<proto::ListViolationsResponse, Error> {
        self.read(request, rpc!(PolicyServiceClient.list_violations)).await
    }

    /// Makes or changes where violations are sent.
    ///
    /// # Errors
    /// [`Error::Refused`] for a malformed URL; see [`Error`].
    pub async fn put_policy_handler(&self, request: proto::PutPolicyHandlerRequest) -> Result<proto::PutPolicyHandlerResponse, Error> {
        self.command(request, rpc!(PolicyServiceClient.put_policy_handler)).await
    }

    /// Sends violations there no more.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such handler; see [`Error`].
    pub async fn delete_policy_handler(&self, name: impl Into<String>) -> Result<(), Error> {
        let request = proto::DeletePolicyHandlerRequest { request_id: String::new(), name: name.into() };
        let answer = self.command(request, rpc!(PolicyServiceClient.delete_policy_handler));
        answer.await.map(drop)
    }

    /// Lists where violations are sent.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_policy_handlers(&self) -> Result<Vec<proto::PolicyHandler>, Error> {
        let request = proto::ListPolicyHandlersRequest {};
        let answer = self.read(request, rpc!(PolicyServiceClient.list_policy_handlers));
        Ok(answer.await?.handlers)
    }

    /// Says who may sign bundles, and whether they must be signed.
    ///
    /// # Errors
    /// [`Error::Refused`] where an active bundle does not satisfy the settings; see [`Error`].
    pub async fn put_policy_settings(&self, settings: proto::PolicySettings) -> Result<(), Error> {
        let request = proto::PutPolicySettingsRequest { request_id: String::new(), settings: Some(settings) };
        let answer = self.command(request, rpc!(PolicyServiceClient.put_policy_settings));
        answer.await.map(drop)
    }

    /// Who may sign bundles, and whether they must be signed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_policy_settings(&self) -> Result<proto::PolicySettings, Error> {
        let request = proto::GetPolicySettingsRequest {};
        let answer = self.read(request, rpc!(PolicyServiceClient.get_policy_settings));
        Ok(answer.await?.settings.unwrap_or_default())
    }
}
