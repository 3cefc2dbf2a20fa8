//! Dialling other clusters. Of two clusters the one with the smaller id dials, unless only it can be dialled.

use std::time::Duration;

use tarn_client::tls::{Address, CaCertificate, ConnectOptions, connect, gateway_client_config, refusal_in};
use tarn_crdt::ClusterId;
use tarn_proto::v1::gateway_service_client::GatewayServiceClient;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::Federation;
use super::link::{Event, FRAMES_WAITING_MAX, Link, carry};
use super::members::Member;

/// How long one address may take until the other end has said who it is.
const TRY_TIMEOUT: Duration = Duration::from_secs(8);

/// A link between clusters is noticed to be dead after these two together: without anything to read for the first, and without an answer to a
/// ping for the second.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Frames of the other cluster, in bytes: those of the sync session, and what gRPC adds.
pub const FRAME_BYTES_MAX: usize = tarn_crdt::limits::FRAME_BYTES_MAX + 1_024;

/// Whether it is this cluster that dials the other.
pub(super) fn is_ours_to_dial(own: ClusterId, can_be_dialled: bool, other: ClusterId, has_addresses: bool) -> bool {
    has_addresses && (own < other || !can_be_dialled)
}

/// Tries the member's addresses, one after the other, and carries what comes until the connection ends.
///
/// # Errors
/// Why there is no connection, in words.
pub(super) async fn dial(federation: &Federation, member: &Member, hub: &mpsc::Sender<Event>) -> Result<(), String> {
    let mut last = "it has no addresses".to_owned();
    for text in &member.addresses {
        let address: Address = match text.parse() {
            Ok(address) => address,
            Err(error) => {
                last = format!("{error}");
                continue;
            }
        };
        match tokio::time::timeout(TRY_TIMEOUT, try_one(federation, member, &address)).await {
            Ok(Ok((link, ended, inbound))) => {
                carry(hub.clone(), link, ended, inbound).await;
                return Ok(());
            }
            Ok(Err(why)) => last = format!("{address}: {why}"),
            Err(_) => last = format!("{address}: no answer in {} s", TRY_TIMEOUT.as_secs()),
        }
    }
    Err(last)
}

type Opened = (Link, tokio_util::sync::CancellationToken, tonic::Streaming<tarn_proto::v1::LinkFrame>);

async fn try_one(federation: &Federation, member: &Member, address: &Address) -> Result<Opened, String> {
    let root: &std::sync::Arc<CaCertificate> = &member.root;
    let config = gateway_client_config(federation.credentials(), root.clone());
    let (keep_alive_interval, keep_alive_timeout) = KEEP_ALIVE;
    let options = ConnectOptions { keep_alive_interval, keep_alive_timeout, source: federation.source(), ..ConnectOptions::default() };
    let channel = connect(address, config, &options).await.map_err(|error| said(&error, &error.reason))?;
    let (frames, outbound) = mpsc::channel(FRAMES_WAITING_MAX);
    let hello = federation.hello().ok_or("this cluster is in no federation any more")?;
    frames.try_send(hello).map_err(|error| error.to_string())?;
    let mut client =
        GatewayServiceClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX).max_encoding_message_size(FRAME_BYTES_MAX);
    let answered = client.link(ReceiverStream::new(outbound)).await;
    let mut inbound = answered.map_err(|status| said(&status, status.message()))?.into_inner();
    let hello = inbound.next().await.transpose().map_err(|status| match status.code() {
        Code::Unavailable => status.message().to_owned(),
        _ => said(&status, status.message()),
    })?;
    federation.check_hello(hello, &[member.id])?;
    let (link, ended) = Link::new(member.id, *member.root.fingerprint(), federation.next_number(), address.to_string(), frames);
    Ok((link, ended, inbound))
}

/// The refusal in an error, if TLS had one to tell.
fn said(error: &(dyn std::error::Error + 'static), otherwise: &str) -> String {
    refusal_in(error).map_or_else(|| otherwise.to_owned(), |refusal| refusal.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two clusters that can reach each other somehow, exactly one dials.
    #[test]
    fn exactly_one_of_two_dials() {
        let (a, b) = (ClusterId([1; 16]), ClusterId([2; 16]));
        for (at_a, at_b) in [(true, true), (true, false), (false, true)] {
            let dials = [is_ours_to_dial(a, at_a, b, at_b), is_ours_to_dial(b, at_b, a, at_a)];
            assert_eq!(dials.iter().filter(|dials| **dials).count(), 1, "{at_a} {at_b}");
        }
        assert!(!is_ours_to_dial(a, false, b, false));
    }
}
