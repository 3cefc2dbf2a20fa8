//! Every request has an id, a span and a count.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{HeaderValue, Request, Response};
use tonic::Code;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::methods::intake;
use crate::ops::Metrics;
use crate::way::fresh_id;

/// The header with a request's id, taken from the caller and given back. The node makes one where there is none.
pub const TRACE_HEADER: &str = "tarn-trace-id";

/// Longest id taken from a caller: it goes into every log line of the request.
const TRACE_BYTES_MAX: usize = 64;

/// A request's id.
#[derive(Clone, Debug)]
struct Trace(Arc<str>);

/// The id of the request with these extensions.
pub(super) fn trace_of(extensions: &tonic::Extensions) -> Arc<str> {
    extensions.get::<Trace>().map_or_else(|| "".into(), |trace| trace.0.clone())
}

/// Gives every request an id, a span and a count.
#[derive(Clone)]
pub struct TraceLayer {
    metrics: Arc<Metrics>,
}

impl TraceLayer {
    /// A layer that counts into these metrics.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced { inner, metrics: self.metrics.clone() }
    }
}

/// A service whose requests have ids.
#[derive(Clone)]
pub struct Traced<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S> Service<Request<Body>> for Traced<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let given = request.headers().get(TRACE_HEADER).and_then(|value| value.to_str().ok());
        let id: Arc<str> = match given.filter(|id| !id.is_empty() && id.len() <= TRACE_BYTES_MAX) {
            Some(id) => id.into(),
            None => fresh_id().into(),
        };
        request.extensions_mut().insert(Trace(id.clone()));
        let known = intake(request.uri().path()).is_some();
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let span = tracing::info_span!("rpc", %method, trace = %id);
        let metrics = self.metrics.clone();
        let started = Instant::now();
        let answer = self.inner.call(request);
        let traced = async move {
            let mut response = answer.await?;
            if let Ok(id) = HeaderValue::from_str(&id) {
                response.headers_mut().insert(TRACE_HEADER, id);
            }
            let code = code_of(&response);
            // An unknown method is whatever the caller wrote: it must not become a label.
            let method = if known { method } else { "unknown".to_owned() };
            let elapsed = started.elapsed();
            tracing::debug!(code = ?code, elapsed_us = elapsed.as_micros() as u64, "answered");
            metrics.answered(method, code, elapsed);
            Ok(response)
        };
        Box::pin(traced.instrument(span))
    }
}

/// The status of an answer that is known when it begins. A stream that fails later counts as begun well.
fn code_of(response: &Response<Body>) -> Code {
    let status = response.headers().get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
    status.unwrap_or(Code::Ok)
}
