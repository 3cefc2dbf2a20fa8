//! The plain HTTP listener: `/livez`, `/readyz` and `/metrics`, and nothing else.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Metrics, Readiness, Sampler};

#[derive(Clone)]
struct Ops {
    metrics: Arc<Metrics>,
    sampler: Arc<Sampler>,
    readiness: Readiness,
    /// Says why the node can no longer keep its promises, if so: then only a restart helps.
    fatal: Arc<dyn Fn() -> Option<Arc<str>> + Send + Sync>,
}

/// Serves until `stop`. Requests under way are answered.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    sampler: Sampler,
    readiness: Readiness,
    fatal: impl Fn() -> Option<Arc<str>> + Send + Sync + 'static,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let ops = Ops { metrics, sampler: Arc::new(sampler), readiness, fatal: Arc::new(fatal) };
    let routes =
        Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).route("/metrics", get(metrics_text)).with_state(ops);
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// Restart me? 200, or 503 once the node has stopped itself.
async fn livez(State(ops): State<Ops>) -> impl IntoResponse {
    match (ops.fatal)() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        // The reason names paths and states of this node: it stays in the log.
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "the node has stopped itself; its log says why\n".to_owned()),
    }
}

/// Send me traffic? `?verbose` tells each check's answer, `?exclude=<check>` leaves checks out.
async fn readyz(State(ops): State<Ops>, RawQuery(query): RawQuery) -> impl IntoResponse {
    let query = query.unwrap_or_default();
    let words: Vec<&str> = query.split('&').collect();
    let verbose = words.iter().any(|word| *word == "verbose" || word.starts_with("verbose="));
    let exclude: Vec<&str> = words.iter().filter_map(|word| word.strip_prefix("exclude=")).flat_map(|names| names.split(',')).collect();

    let answers = ops.readiness.answers(&exclude);
    let ready = answers.iter().all(|(_, answer)| answer.is_ok());
    let mut text = String::new();
    for (name, answer) in &answers {
        match answer {
            Ok(()) if verbose => _ = writeln!(text, "[+] {name} ok"),
            Ok(()) => {}
            Err(why) => _ = writeln!(text, "[-] {name}: {why}"),
        }
    }
    text.push_str(if ready { "ready\n" } else { "not ready\n" });
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
}

async fn metrics_text(State(ops): State<Ops>) -> impl IntoResponse {
    ops.sampler.sample(&ops.metrics);
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match ops.metrics.encode() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, content_type)], text),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], String::new()),
    }
}
