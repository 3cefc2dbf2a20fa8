//! Looks at the key files of JWT issuers from time to time, so that new keys take effect without a restart.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::identity::bearer::{Authenticator, Reloaded};
use crate::ops::{KeyFile, KeyFileRead, Metrics};

/// Looks at the files every so often until `stop`. A file is read whole each time, which for some kilobytes in the page cache costs less
/// than it would to miss a change that left the time stamp as it was.
pub(super) async fn watch_key_files(authenticator: Arc<Authenticator>, every: Duration, metrics: Arc<Metrics>, stop: CancellationToken) {
    if !authenticator.has_issuers() {
        return;
    }
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let looking = authenticator.clone();
        // Reading a file blocks.
        if let Ok(looks) = tokio::task::spawn_blocking(move || looking.reload()).await {
            looks.into_iter().for_each(|look| tell(look, &metrics));
        }
    }
}

fn tell(look: Reloaded, metrics: &Metrics) {
    let issuer = look.issuer.to_string();
    let file = KeyFile { issuer: issuer.clone() };
    metrics.jwks_keys.get_or_create(&file).set(look.keys as u64);
    let result = match look.change {
        None => return,
        Some(Ok(())) => {
            tracing::info!(issuer, keys = look.keys, "the issuer's keys have changed and are in force");
            "ok"
        }
        Some(Err(error)) => {
            tracing::warn!(issuer, %error, "the issuer's keys stay as they were");
            "refused"
        }
    };
    metrics.jwks_reads.get_or_create(&KeyFileRead { issuer, result }).inc();
}
