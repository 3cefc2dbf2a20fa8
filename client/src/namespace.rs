//! Namespaces: tenants.

use crate::client::{Client, rpc};
use crate::error::Error;
use crate::proto::{self, namespace_service_client::NamespaceServiceClient};

impl Client {
    /// Creates a namespace. The weight, from 1 to 1,000, is its share of leases when several namespaces have ready tasks; 0 stands for 100.
    ///
    /// # Errors
    /// [`Error::Refused`] where the name is taken or malformed; see [`Error`].
    pub async fn create_namespace(&self, name: impl Into<String>, weight: u32) -> Result<proto::Namespace, Error> {
        let request = proto::CreateNamespaceRequest {
            request_id: String::new(),
            name: name.into(),
            weight,
        };
        let answer = self
            .command(request, rpc!(NamespaceServiceClient.create_namespace))
            .await?;
        answer
            .namespace
            .ok_or_else(|| Error::Transport("the node answered without the namespace".into()))
    }

    /// Lists all namespaces.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_namespaces(&self) -> Result<Vec<proto::Namespace>, Error> {
        Ok(self
            .read(
                proto::ListNamespacesRequest {},
                rpc!(NamespaceServiceClient.list_namespaces),
            )
            .await?
            .namespaces)
    }

    /// Deletes an empty namespace.
    ///
    /// # Errors
    /// [`Error::Refused`] while it holds tasks that have not ended, dead letters, named leases or pending timers; see [`Error`].
    pub async fn delete_namespace(&self, name: impl Into<String>) -> Result<(), Error> {
        let request = proto::DeleteNamespaceRequest {
            request_id: String::new(),
            name: name.into(),
        };
        self.command(request, rpc!(NamespaceServiceClient.delete_namespace))
            .await
            .map(drop)
    }
}
