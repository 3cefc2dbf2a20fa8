//! Clients that do one thing after another: puts, gets, calls.

use std::sync::Arc;

use anyhow::Result;

use crate::measure::{Load, Samples};
use crate::peers::pace::{self, Client};

/// Runs the load's clients until its end. `operation` is called with the client's number and with how many it has done before.
///
/// # Errors
/// The first error of an operation: none is expected of a cluster that nothing happens to.
pub async fn clients<F, Fut>(load: &Load, operation: F) -> Result<Samples>
where
    F: Fn(usize, u64) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let operation = Arc::new(operation);
    let clients = (0..load.clients).map(|number| Repeated { operation: operation.clone(), number, done: 0 });
    pace::drive(load, clients.collect()).await
}

/// A client that does one thing after another.
struct Repeated<F> {
    operation: Arc<F>,
    number: usize,
    done: u64,
}

impl<F, Fut> Client for Repeated<F>
where
    F: Fn(usize, u64) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    async fn operate(&mut self) -> Result<()> {
        (self.operation)(self.number, self.done).await?;
        self.done += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::usage::Meter;

    fn load(clients: usize, rate: Option<u32>) -> Load {
        Load {
            time: Duration::from_millis(200),
            warm_up: Duration::ZERO,
            clients,
            connections: 1,
            workers: 1,
            outstanding: 8,
            rate,
            payload: 16,
            meter: Meter::default(),
        }
    }

    /// A server that stalls is not helped by clients that wait for it: what was due meanwhile is measured from when it was due.
    #[tokio::test]
    async fn a_stall_is_seen_by_all_that_was_due_meanwhile() {
        let load = load(1, Some(100));
        let samples = clients(&load, |_, done| async move {
            tokio::time::sleep(Duration::from_millis(if done == 0 { 100 } else { 0 })).await;
            Ok(())
        });
        let samples = samples.await.expect("no error");
        let late = samples.micros.iter().filter(|micros| **micros > 15_000).count();
        assert!(late >= 7, "{:?}", samples.micros);
    }

    #[tokio::test]
    async fn an_error_ends_the_load() {
        let load = load(2, None);
        let failed = clients(&load, |client, _| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            anyhow::ensure!(client == 0, "refused");
            Ok(())
        });
        assert!(failed.await.expect_err("one client fails").to_string().contains("refused"));
    }
}
