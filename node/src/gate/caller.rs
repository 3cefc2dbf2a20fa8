//! Who makes a request, and how that was proved.

use std::sync::Arc;

use tarn_proto::v1::Rule;

/// Who makes a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// Such as `user/ada`, `jwt/ada` or `node/3`: recorded with each command.
    pub principal: Arc<str>,
    /// Identifies the request in logs and answers.
    pub trace: Arc<str>,
    /// How it was proved.
    pub proof: Proof,
}

/// How a caller proved who it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Proof {
    /// The connection's client certificate.
    Certificate {
        /// Its serial number, in lower-case hexadecimal digits.
        serial: Arc<str>,
    },
    /// An API token of this cluster.
    Token {
        /// Its id.
        id: Arc<str>,
        /// What it is for; `None`: all that its principal may do.
        scopes: Option<Arc<[Rule]>>,
    },
    /// A JWT.
    Jwt {
        /// From then on it counts no more, in milliseconds since the Unix epoch.
        expires_at_ms: u64,
    },
    /// The node that runs a driver says so. It may submit to the queues of these patterns in its own namespace, and nothing else.
    Driver {
        /// Its namespace.
        namespace: Arc<str>,
        /// The patterns.
        queues: Arc<[String]>,
    },
    /// The node that takes over a task of another cluster says so, which that cluster was allowed to hand over.
    Cluster,
    /// Nothing: the node itself asks, for what it does unasked, or for a machine that joins.
    Own,
}

impl Caller {
    /// The node itself, for what it does unasked.
    #[must_use]
    pub fn node(node_id: u64) -> Self {
        Self::own(format!("node/{node_id}"))
    }

    /// The node itself, on behalf of somebody whom it has looked at already.
    pub(crate) fn own(principal: String) -> Self {
        Self { principal: principal.into(), trace: "".into(), proof: Proof::Own }
    }

    /// A driver that this node runs, with the queues that it was granted.
    pub(crate) fn driver(namespace: &str, name: &str, queues: Arc<[String]>) -> Self {
        Self {
            principal: format!("driver/{namespace}/{name}").into(),
            trace: "".into(),
            proof: Proof::Driver { namespace: namespace.into(), queues },
        }
    }

    /// Another cluster, whose tasks this one takes over.
    pub(crate) fn cluster(name: &str) -> Self {
        Self { principal: format!("cluster/{name}").into(), trace: "".into(), proof: Proof::Cluster }
    }

    /// What the credential is for, beside what the principal may do; `None`: all of it.
    #[must_use]
    pub fn scopes(&self) -> Option<&[Rule]> {
        match &self.proof {
            Proof::Token { scopes, .. } => scopes.as_deref(),
            Proof::Certificate { .. } | Proof::Jwt { .. } | Proof::Driver { .. } | Proof::Cluster | Proof::Own => None,
        }
    }

    /// How the caller proved who it is, in one word.
    #[must_use]
    pub fn method(&self) -> &'static str {
        match self.proof {
            Proof::Certificate { .. } => "certificate",
            Proof::Token { .. } => "token",
            Proof::Jwt { .. } => "jwt",
            Proof::Driver { .. } => "driver",
            Proof::Cluster => "cluster",
            Proof::Own => "node",
        }
    }
}
