//! A request of one message must arrive within a time. Its handler begins only when the message is there whole, so no deadline of a handler
//! ends a caller who dribbles; streams of messages are for as long as the caller likes, and are judged message by message.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::methods::{Intake, intake};

/// How long a request of one message may take to arrive: the longest, 8 MiB, at 300 kB/s.
pub(super) const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Gives up on requests that do not arrive.
#[derive(Clone, Copy, Debug)]
pub(super) struct PatienceLayer;

impl<S> Layer<S> for PatienceLayer {
    type Service = Patient<S>;

    fn layer(&self, inner: S) -> Patient<S> {
        Patient { inner }
    }
}

/// A service whose requests arrive in time or not at all.
#[derive(Clone)]
pub struct Patient<S> {
    inner: S,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Patient<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        // A small request is mostly there when its headers are.
        let waits = intake(request.uri().path()) == Some(Intake::One) && !request.body().is_end_stream();
        match waits {
            true => self.inner.call(request.map(|body| Body::new(Timed::new(body)))),
            false => self.inner.call(request),
        }
    }
}

/// A body that fails when it has not ended in time.
struct Timed {
    body: Body,
    until: Pin<Box<Sleep>>,
}

impl Timed {
    fn new(body: Body) -> Self {
        Self { body, until: Box::pin(tokio::time::sleep(ARRIVAL_TIMEOUT)) }
    }
}

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending() && self.until.as_mut().poll(cx).is_ready() {
            let message = "the request did not arrive whole in time: send it again, over a better connection or in smaller parts";
            return Poll::Ready(Some(Err(Status::deadline_exceeded(message))));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::future::poll_fn;

    /// A body of one byte a second, for as long as somebody reads it.
    struct Dribble(Pin<Box<Sleep>>);

    impl Dribble {
        fn pause() -> Pin<Box<Sleep>> {
            Box::pin(tokio::time::sleep(Duration::from_secs(1)))
        }
    }

    impl HttpBody for Dribble {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            std::task::ready!(self.0.as_mut().poll(cx));
            self.0 = Self::pause();
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_dribbles_is_given_up() {
        let mut body = Timed::new(Body::new(Dribble(Dribble::pause())));
        let started = tokio::time::Instant::now();
        let mut bytes = 0;
        let error = loop {
            match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                Some(Ok(frame)) => bytes += frame.into_data().unwrap().len(),
                Some(Err(status)) => break status,
                None => panic!("it has no end"),
            }
        };
        assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(started.elapsed().as_secs(), ARRIVAL_TIMEOUT.as_secs());
        assert!(bytes < 31);
    }

    #[tokio::test(start_paused = true)]
    async fn what_arrives_in_time_is_passed_on() {
        let mut body = Timed::new(Body::empty());
        assert!(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.is_none());
    }
}
