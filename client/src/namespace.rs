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
        let request = proto::CreateNamespaceRequest { name: name.into(), weight, ..proto::CreateNamespaceRequest::default() };
        self.create_namespace_with(request).await
    }

    /// Creates a namespace with everything that can be said of it: quotas, isolation, environment.
    ///
    /// # Errors
    /// As [`Client::create_namespace`]; reason `CLUSTER_VERSION_TOO_LOW` where the cluster does not know these yet.
    pub async fn create_namespace_with(&self, request: proto::CreateNamespaceRequest) -> Result<proto::Namespace, Error> {
        let answer = self.command(request, rpc!(NamespaceServiceClient.create_namespace));
        named(answer.await?.namespace)
    }

    /// Changes what the request names, and leaves the rest as it is.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such namespace; see [`Error`].
    pub async fn update_namespace(&self, request: proto::UpdateNamespaceRequest) -> Result<proto::Namespace, Error> {
        let answer = self.command(request, rpc!(NamespaceServiceClient.update_namespace));
        named(answer.await?.namespace)
    }

    /// One namespace, what it uses and what it may.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such namespace; see [`Error`].
    pub async fn get_namespace(&self, name: impl Into<String>) -> Result<proto::GetNamespaceResponse, Error> {
        let request = proto::GetNamespaceRequest { name: name.into() };
        self.read(request, rpc!(NamespaceServiceClient.get_namespace)).await
    }

    /// Lists all namespaces.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_namespaces(&self) -> Result<Vec<proto::Namespace>, Error> {
        Ok(self.read(proto::ListNamespacesRequest {}, rpc!(NamespaceServiceClient.list_namespaces)).await?.namespaces)
    }

    /// Deletes an empty namespace.
    ///
    /// # Errors
    /// [`Error::Refused`] while it holds tasks that have not ended, dead letters, named leases or pending timers; see [`Error`].
    pub async fn delete_namespace(&self, name: impl Into<String>) -> Result<(), Error> {
        let request = proto::DeleteNamespaceRequest { name: name.into(), ..proto::DeleteNamespaceRequest::default() };
        self.command(request, rpc!(NamespaceServiceClient.delete_namespace)).await.map(drop)
    }

    /// Has a namespace go that may still hold something: it takes nothing new from now on, and goes by itself when what is in it has ended,
    /// or, with `cancel`, has been ended. Returns before it has gone: [`Client::get_namespace`] says what it still holds, and refuses with
    /// `NAMESPACE_NOT_FOUND` when it is gone.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such namespace; see [`Error`].
    pub async fn drain_namespace(&self, name: impl Into<String>, cancel: bool) -> Result<(), Error> {
        let request = proto::DeleteNamespaceRequest { name: name.into(), drain: true, cancel, ..proto::DeleteNamespaceRequest::default() };
        self.command(request, rpc!(NamespaceServiceClient.delete_namespace)).await.map(drop)
    }
}

fn named(namespace: Option<proto::Namespace>) -> Result<proto::Namespace, Error> {
    namespace.ok_or_else(|| Error::Transport("the node answered without the namespace".into()))
}
