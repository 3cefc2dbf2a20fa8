//! Why a request was refused, whether by a step of the gate, by the kernel or because the cluster could not take it.

use tarn_proto::v1;
use tarn_raft::ProposeError;
use tonic::Code;

/// Why a request was refused. Every refusal, whoever made it, is a `Rejection` of the contract, so that unary answers, the work stream
/// and the node's own worker tell it alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The step of the gate that refused; `None` if it was the kernel or the cluster.
    pub step: Option<&'static str>,
    /// The status code, the reason and the sentence.
    pub rejection: v1::Rejection,
}

/// Reasons that the node itself gives. The kernel's are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No leader took the command in time; it has no effect.
    NoLeader,
    /// The command may have taken effect or not.
    OutcomeUnknown,
    /// The node is stopping.
    NodeStopping,
    /// A read could not be made certain in time.
    DeadlineExceeded,
    /// The message is longer than the log takes.
    CommandTooLarge,
    /// The node did something wrong; its log says what.
    Internal,
    /// A field of a request that is not a command is out of its range.
    InvalidArgument,
    /// The stream broke the protocol.
    StreamProtocol,
    /// What was asked for together does not fit into one message.
    AnswersTooLarge,
    /// As many questions as a stream may hold wait for their answers.
    TooManyWaits,
}

impl Reason {
    /// The stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoLeader => "NO_LEADER",
            Self::OutcomeUnknown => "OUTCOME_UNKNOWN",
            Self::NodeStopping => "NODE_STOPPING",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::CommandTooLarge => "COMMAND_TOO_LARGE",
            Self::Internal => "INTERNAL",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::StreamProtocol => "STREAM_PROTOCOL",
            Self::AnswersTooLarge => "ANSWERS_TOO_LARGE",
            Self::TooManyWaits => "TOO_MANY_WAITS",
        }
    }

    fn code(self) -> Code {
        match self {
            Self::NoLeader | Self::NodeStopping => Code::Unavailable,
            Self::OutcomeUnknown | Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::CommandTooLarge | Self::InvalidArgument | Self::StreamProtocol => Code::InvalidArgument,
            Self::Internal => Code::Internal,
            Self::AnswersTooLarge | Self::TooManyWaits => Code::ResourceExhausted,
        }
    }

    /// A refusal for this reason; `message` tells the user what to do.
    #[must_use]
    pub fn refusal(self, message: impl Into<String>) -> Refusal {
        Refusal { step: None, rejection: self.rejection(message) }
    }

    /// The same as a bare rejection.
    #[must_use]
    pub fn rejection(self, message: impl Into<String>) -> v1::Rejection {
        v1::Rejection { code: self.code() as u32, reason: self.name().into(), message: message.into(), ..v1::Rejection::default() }
    }
}

impl Refusal {
    /// The stable reason.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.rejection.reason
    }

    /// The status code.
    #[must_use]
    pub fn code(&self) -> Code {
        Code::from_i32(i32::try_from(self.rejection.code).unwrap_or(Code::Unknown as i32))
    }

    /// Names the offending field.
    #[must_use]
    pub fn field(mut self, field: &str) -> Self {
        self.rejection.field = field.into();
        self
    }

    /// Names the limit that was hit.
    #[must_use]
    pub fn limit(mut self, limit: u64) -> Self {
        self.rejection.limit = limit;
        self
    }

    /// For a fault of this node: what happened goes to the log, and not to the caller.
    #[must_use]
    pub fn internal(what: impl std::fmt::Display) -> Self {
        tracing::error!(%what, "a request failed by this node's own fault");
        Reason::Internal.refusal("the node failed; its log says why, under the request's id")
    }

    /// Whether the same request may succeed at another moment or node.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self.code(), Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted)
    }
}

impl From<v1::Rejection> for Refusal {
    fn from(rejection: v1::Rejection) -> Self {
        Self { step: None, rejection }
    }
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::TooLarge { limit, .. } => {
                Reason::CommandTooLarge.refusal("the request is too large for one command: send smaller or fewer items").limit(limit as u64)
            }
            ProposeError::NotProposed => Reason::NoLeader
                .refusal("no leader took the command before its deadline; it has no effect: send it again, or allow more time"),
            ProposeError::OutcomeUnknown | ProposeError::Stopped { maybe_applied: true } => Reason::OutcomeUnknown
                .refusal("the command may have taken effect or not: send it again with the same request id to learn its outcome"),
            ProposeError::Stopped { maybe_applied: false } => {
                Reason::NodeStopping.refusal("this node is stopping and the command has no effect: send it to another node")
            }
        }
    }
}
