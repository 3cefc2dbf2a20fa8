//! The second listener's door for requests: without a bearer's credential that is good there is no service, whatever the path, and nothing of
//! the request's body is read.
//!
//! The gate behind it asks for the identity again, as it does on the first listener. So a service that forgets the gate is still not open to
//! strangers, and who has no credential can neither hold a stream open nor learn which methods there are.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::Either;
use http::{Request, Response};
use tarn_proto::v1::Rejection;
use tarn_raft::Consensus;
use tonic::Code;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tower::{Layer, Service};

use super::status::status;
use super::trace::trace_of;
use crate::gate::Refusal;
use crate::identity::bearer::{Authenticator, BearerError, bearer_of};

/// The gate's step that this is a part of.
const STEP: &str = "identity";

/// Hears of refusals: the step and the reason.
type Listener = Arc<dyn Fn(&'static str, &str) + Send + Sync>;

/// Lets requests through that bring a good credential.
#[derive(Clone)]
pub struct Doorkeeper {
    authenticator: Arc<Authenticator>,
    consensus: Consensus,
    refused: Listener,
}

impl Doorkeeper {
    /// A doorkeeper that knows this node's tokens and these issuers. `refused` hears of every refusal: the step and the reason.
    #[must_use]
    pub fn new(
        authenticator: Arc<Authenticator>,
        consensus: Consensus,
        refused: impl Fn(&'static str, &str) + Send + Sync + 'static,
    ) -> Self {
        Self {
            authenticator,
            consensus,
            refused: Arc::new(refused),
        }
    }

    fn judge(&self, request: &mut Request<Body>) -> Result<(), Refusal> {
        let headers = std::mem::take(request.headers_mut());
        let metadata = MetadataMap::from_headers(headers);
        let judged = self.judge_headers(&metadata);
        *request.headers_mut() = metadata.into_headers();
        judged
    }

    fn judge_headers(&self, metadata: &MetadataMap) -> Result<(), Refusal> {
        let bearer = bearer_of(metadata)
            .map_err(|error| refusal(&error))?
            .ok_or_else(missing)?;
        let (access, now_ms) = self
            .consensus
            .read(|machine| (machine.access(), machine.now_ms()))
            .map_err(Refusal::internal)?;
        self.authenticator
            .authenticate(bearer, &access, now_ms)
            .map(drop)
            .map_err(|error| refusal(&error))
    }
}

fn refusal(error: &BearerError) -> Refusal {
    refused(error.reason(), error.to_string())
}

fn missing() -> Refusal {
    let message = "this listener serves bearers: send the header `authorization: Bearer TOKEN`, with an API token from `tarn token create` \
                   or a JWT of an issuer that this cluster trusts";
    refused("BEARER_REQUIRED", message.into())
}

fn refused(reason: &str, message: String) -> Refusal {
    Refusal {
        step: Some(STEP),
        rejection: Rejection {
            code: Code::Unauthenticated as u32,
            reason: reason.into(),
            message,
            ..Rejection::default()
        },
    }
}

impl<S> Layer<S> for Doorkeeper {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            doorkeeper: self.clone(),
        }
    }
}

/// A service behind the door.
#[derive(Clone)]
pub struct Guarded<S> {
    inner: S,
    doorkeeper: Doorkeeper,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.doorkeeper.judge(&mut request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(refusal) => {
                (self.doorkeeper.refused)(STEP, refusal.reason());
                tracing::debug!(reason = refusal.reason(), "refused a request without a good credential");
                let trace = trace_of(request.extensions());
                Either::Right(ready(Ok(status(refusal, &trace).into_http())))
            }
        }
    }
}
