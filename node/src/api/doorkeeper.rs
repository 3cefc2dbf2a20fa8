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
use crate::gate::{Gate, Refusal};
use crate::identity::bearer::{Authenticator, BearerError, bearer_of};

/// Lets requests through that bring a good credential.
#[derive(Clone)]
pub struct Doorkeeper {
    authenticator: Arc<Authenticator>,
    consensus: Consensus,
    gate: Gate,
}

/// Why a request is not let through.
enum Closed {
    /// Who asks did not prove who they are.
    To(Rejection),
    /// It cannot be told who asks.
    Broken(Refusal),
}

impl Doorkeeper {
    /// A doorkeeper that knows this node's tokens and these issuers. The gate hears of whom it turned away.
    #[must_use]
    pub fn new(authenticator: Arc<Authenticator>, consensus: Consensus, gate: Gate) -> Self {
        Self { authenticator, consensus, gate }
    }

    fn judge(&self, request: &mut Request<Body>) -> Result<(), Closed> {
        let headers = std::mem::take(request.headers_mut());
        let metadata = MetadataMap::from_headers(headers);
        let judged = self.judge_headers(&metadata);
        *request.headers_mut() = metadata.into_headers();
        judged
    }

    fn judge_headers(&self, metadata: &MetadataMap) -> Result<(), Closed> {
        let bearer = bearer_of(metadata).map_err(|error| refused(&error))?.ok_or_else(missing)?;
        let (access, now_ms) = self
            .consensus
            .read(|machine| (machine.access(), machine.now_ms()))
            .map_err(|error| Closed::Broken(Refusal::internal(error)))?;
        self.authenticator.authenticate(bearer, &access, now_ms).map(drop).map_err(|error| refused(&error))
    }
}

fn refused(error: &BearerError) -> Closed {
    unauthenticated(error.reason(), error.to_string())
}

fn missing() -> Closed {
    let message = "this listener serves bearers: send the header `authorization: Bearer TOKEN`, with an API token from `tarn token create` \
                   or a JWT of an issuer that this cluster trusts";
    unauthenticated("BEARER_REQUIRED", message.into())
}

fn unauthenticated(reason: &str, message: String) -> Closed {
    Closed::To(Rejection { code: Code::Unauthenticated as u32, reason: reason.into(), message, ..Rejection::default() })
}

impl<S> Layer<S> for Doorkeeper {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, doorkeeper: self.clone() }
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
            Err(closed) => {
                let trace = trace_of(request.extensions());
                let refusal = match closed {
                    Closed::To(rejection) => self.doorkeeper.gate.turn_away(rejection, &trace),
                    Closed::Broken(refusal) => refusal,
                };
                Either::Right(ready(Ok(status(refusal, &trace).into_http())))
            }
        }
    }
}
