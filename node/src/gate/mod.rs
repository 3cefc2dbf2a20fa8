//! The gate: every request passes its steps, in order, before anything is proposed or read. Each step can refuse, and a refusal names
//! the step.
//!
//! ```text
//!   connection's certificate ─► identity ─► validation ─► handler
//!                                  └────────────┴─► Refusal { step, reason, … }
//! ```
//!
//! Invariants: no handler runs for a caller that the gate has not seen; a step looks at the request and the caller and at nothing that
//! only the leader knows.

mod identity;
mod refusal;
mod validation;

use std::sync::Arc;

use tarn_proto::v1;

pub use refusal::{Reason, Refusal};

/// Who makes a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Such as `user/ada` or `node/3`: recorded with each command.
    pub principal: Arc<str>,
    /// Identifies the request in logs and answers.
    pub trace: Arc<str>,
}

impl Caller {
    /// The node itself, for what it does unasked.
    #[must_use]
    pub fn node(node_id: u64) -> Self {
        Self {
            principal: format!("node/{node_id}").into(),
            trace: "".into(),
        }
    }
}

/// What a step judges.
pub struct Ask<'a> {
    /// Who asks.
    pub caller: &'a Caller,
    /// What would be proposed. `None` for a read.
    pub command: Option<&'a v1::Command>,
}

/// One step of the gate.
trait Step: Send + Sync {
    /// Its name, in answers, logs and metrics.
    fn name(&self) -> &'static str;

    /// Lets the request through, or says why not.
    fn admit(&self, ask: &Ask<'_>) -> Result<(), v1::Rejection>;
}

/// The steps in order. Clones share them.
#[derive(Clone)]
pub struct Gate {
    steps: Arc<[Box<dyn Step>]>,
    refused: Listener,
}

/// Hears of refusals: the step and the reason.
type Listener = Arc<dyn Fn(&'static str, &str) + Send + Sync>;

impl Gate {
    /// The gate of a node. `refused` hears of every refusal: the step and the reason.
    #[must_use]
    pub fn new(refused: impl Fn(&'static str, &str) + Send + Sync + 'static) -> Self {
        Self {
            steps: [Box::new(validation::Validation) as Box<dyn Step>].into(),
            refused: Arc::new(refused),
        }
    }

    /// The first step: who asks, by the certificate of the connection. Everything else is asked of this caller.
    ///
    /// # Errors
    /// The connection has no certificate of a user of this cluster.
    pub fn identify(&self, extensions: &tonic::Extensions, trace: Arc<str>) -> Result<Caller, Refusal> {
        identity::user(extensions)
            .map(|principal| Caller { principal, trace })
            .map_err(|rejection| self.refuse(identity::STEP, rejection))
    }

    /// The other steps.
    ///
    /// # Errors
    /// The refusal of the first step that refuses.
    pub fn admit(&self, ask: &Ask<'_>) -> Result<(), Refusal> {
        self.steps
            .iter()
            .try_for_each(|step| step.admit(ask).map_err(|rejection| self.refuse(step.name(), rejection)))
    }

    fn refuse(&self, step: &'static str, rejection: v1::Rejection) -> Refusal {
        (self.refused)(step, &rejection.reason);
        Refusal {
            step: Some(step),
            rejection,
        }
    }
}
