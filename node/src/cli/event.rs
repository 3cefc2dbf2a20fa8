//! Printing events as they happen.

use tarn_client::Client;
use tarn_proto::v1::Event;

use super::exit::Failure;
use super::output::{Printer, time};
use super::task::short_name;

/// Prints events until the user ends it.
pub async fn watch(
    client: Client,
    queue: Option<String>,
    subject: Option<String>,
    after: Option<u64>,
    printer: Printer,
) -> Result<(), Failure> {
    let mut watch = client.watch();
    if let Some(queue) = queue {
        watch = watch.queue(queue);
    }
    if let Some(subject) = subject {
        watch = watch.subject(subject);
    }
    if let Some(revision) = after {
        watch = watch.after(revision);
    }
    let mut events = watch.start();
    loop {
        tokio::select! {
            event = events.next() => printer.item(&event?, line)?,
            _ = tokio::signal::ctrl_c() => {
                printer.note(&format!("go on with --after {}", events.revision()));
                return Ok(());
            }
        }
    }
}

fn line(event: &Event) -> String {
    let kind = short_name(event.kind().as_str_name(), "EVENT_KIND_");
    let mut text = format!("{}  {:<8}  {kind:<22}  {}", time(event.at_ms), event.revision, event.subject);
    for (title, value) in [("queue", &event.queue), ("worker", &event.worker), ("detail", &event.detail)] {
        if !value.is_empty() {
            text.push_str(&format!("  {title}={value}"));
        }
    }
    if event.attempt > 0 {
        text.push_str(&format!("  attempt={}", event.attempt));
    }
    text
}
