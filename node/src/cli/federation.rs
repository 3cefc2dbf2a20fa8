//! `tarn federation …`: clusters that share what they know.

use std::time::Duration;

use tarn_client::Client;
use tarn_proto::v1::{
    ConflictingValue, FederatedCluster, GetFederationStatusResponse, InviteClusterResponse, LinkState, LinkStatus, ListConflictsResponse,
    SharedConflict,
};

use super::connect::parse_duration;
use super::exit::Failure;
use super::output::{Printer, duration, table, time};
use super::task::short_name;

/// Have clusters share what they know, and work on while they are cut off from each other.
#[derive(Clone, Debug, clap::Subcommand)]
#[command(after_help = "\
A federation is several clusters that keep one shared document: who is a member, and the contexts that they share.
Each writes to its own copy, whoever else is reachable, and they agree again by themselves. A node listens for other clusters if its
configuration has `federation.bind`; of two clusters, one must.

Example:
  tarn federation invite                                    at the first cluster: prints an invitation
  tarn federation join TOKEN --at 10.0.0.1:7613             at the second one
  tarn federation status                                    at either: what the other has, and how far behind it is
  tarn federation share memory                              at both: the context `memory` is the same in both from now on")]
pub enum FederationCommand {
    /// Make an invitation for one cluster; the first one founds the federation
    #[command(after_help = "Examples:
  tarn federation invite
  tarn federation invite --ttl 7d --scope context,tasks")]
    Invite {
        /// How long it is good
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
        ttl: Duration,
        /// What the new member may do: write the shared sections context, policy, agent; hand tasks over to other members (tasks)
        #[arg(long, value_name = "WHAT", value_delimiter = ',', default_value = "context,agent,tasks")]
        scope: Vec<String>,
    },
    /// Have this cluster join by an invitation; asked again at the same node, it finishes what was interrupted
    Join {
        /// The invitation
        token: String,
        /// Where the gateways of the cluster that invited listen, as host:port
        #[arg(long = "at", value_name = "HOST:PORT", required = true, value_delimiter = ',')]
        at: Vec<String>,
    },
    /// Have this cluster go; what it knows stays here, and what it wrote stays with the others
    Leave {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Withdraw the trust in a member, for the whole federation: nothing that it signs is accepted any more
    Remove {
        /// Its name or id
        cluster: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// List the members
    List,
    /// Show this cluster's copy of the shared document, and its links
    Status,
    /// Show keys that were written in two clusters at once, and changes that were refused; or choose among their values
    #[command(after_help = "Examples:
  tarn federation conflicts
  tarn federation conflicts --resolve context/default/memory/plan --value 'the better one'
  tarn federation conflicts --resolve context/default/memory/plan --delete")]
    Conflicts {
        /// Choose a value for this key
        #[arg(long, value_name = "KEY")]
        resolve: Option<String>,
        /// The value
        #[arg(long, requires = "resolve", conflicts_with = "delete")]
        value: Option<String>,
        /// Delete the key
        #[arg(long, requires = "resolve")]
        delete: bool,
    },
    /// Share a context with the federation: what any cluster that shares it puts into it, all of these see. One that is not here yet begins so
    Share {
        /// Its name
        name: String,
    },
    /// Share a context no more: what it holds stays here
    Unshare {
        /// Its name
        name: String,
    },
}

/// Runs a subcommand.
pub async fn run(command: FederationCommand, client: Client, printer: Printer) -> Result<(), Failure> {
    match command {
        FederationCommand::Invite { ttl, scope } => {
            let invitation = client.invite_cluster(ttl, scope).await?;
            printer.message(&invitation, invited)
        }
        FederationCommand::Join { token, at } => {
            let joined = client.join_federation(&token, at).await?;
            printer.message(&joined, |joined| format!("joined the federation of {}, with: {}", joined.inviter, sections(&joined.scope)))
        }
        FederationCommand::Leave { yes } => {
            super::confirm("Leave the federation? To come back, this cluster needs an invitation.", yes)?;
            client.leave_federation().await?;
            printer.value(&serde_json::json!({ "left": true }), || "left the federation".to_owned())
        }
        FederationCommand::Remove { cluster, yes } => {
            super::confirm(&format!("Withdraw the trust in {cluster}? To come back, it needs an invitation and a new key."), yes)?;
            client.remove_cluster(&cluster).await?;
            printer.value(&serde_json::json!({ "removed": cluster }), || format!("removed {cluster}"))
        }
        FederationCommand::List => {
            let head = ["cluster", "id", "may share", "introduced by", "gateways", "state"];
            printer.list(&client.list_clusters().await?, &head, member)
        }
        FederationCommand::Status => printer.message(&client.federation_status().await?, status),
        FederationCommand::Conflicts { resolve: None, .. } => printer.message(&client.federation_conflicts().await?, conflicts),
        FederationCommand::Conflicts { resolve: Some(key), value, delete } => {
            if value.is_none() && !delete {
                return Err(Failure::Usage("say which value the key is to have: --value VALUE, or --delete".to_owned()));
            }
            client.resolve_conflict(&key, value.map(String::into_bytes)).await?;
            printer.value(&serde_json::json!({ "resolved": key }), || format!("resolved {key}"))
        }
        FederationCommand::Share { name } => {
            client.share_context(&name, true).await?;
            printer.value(&serde_json::json!({ "shared": name }), || format!("{name} is shared with the federation"))
        }
        FederationCommand::Unshare { name } => {
            client.share_context(&name, false).await?;
            printer.value(&serde_json::json!({ "unshared": name }), || format!("{name} is this cluster's own again"))
        }
    }
}

fn invited(invitation: &InviteClusterResponse) -> String {
    let at: String = invitation.addresses.iter().map(|address| format!(" --at {address}")).collect();
    format!("{}\n\nAt the other cluster, until {}:\n  tarn federation join TOKEN{at}", invitation.token, time(invitation.expires_at_ms))
}

fn sections(scope: &[String]) -> String {
    if scope.is_empty() { "nothing but what is its own".to_owned() } else { scope.join(", ") }
}

fn member(cluster: &FederatedCluster) -> Vec<String> {
    let state = match (cluster.is_this, cluster.removed) {
        (_, true) => "removed",
        (true, false) => "this cluster",
        (false, false) => "member",
    };
    vec![
        cluster.name.clone(),
        cluster.cluster_id.clone(),
        sections(&cluster.scope),
        cluster.introduced_by.clone(),
        cluster.addresses.join(", "),
        state.to_owned(),
    ]
}

fn status(status: &GetFederationStatusResponse) -> String {
    if status.federation_id.is_empty() {
        return "this cluster is in no federation: `tarn federation invite` founds one, `tarn federation join` joins one".to_owned();
    }
    let rows = [
        ("federation", status.federation_id.clone()),
        ("this cluster", format!("{} ({})", status.name, status.cluster_id)),
        (
            "document",
            format!("{} keys, {} bytes, {} bytes of history, epoch {}", status.keys, status.live_bytes, status.history_bytes, status.epoch),
        ),
        ("digest", status.digest.clone()),
        ("to be signed", format!("{} writes", status.unsigned_writes)),
        ("conflicts", status.conflicts.to_string()),
        ("refused", status.refusals.to_string()),
        ("may still write", format!("{} bytes", status.room_bytes)),
        ("state", standing(status).to_owned()),
    ];
    let head = table(&["FEDERATION", ""], rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]));
    let links = table(
        &[
            "CLUSTER",
            "STATE",
            "LAG",
            "ROUND TRIP",
            "SENT",
            "RECEIVED",
            "LAST EQUAL",
            "CONFLICTS",
            "FREE SLOTS",
            "OURS THERE",
            "THEIRS HERE",
            "AT",
            "ERROR",
        ],
        status.links.iter().map(link),
    );
    format!("{head}\n\n{links}")
}

fn standing(status: &GetFederationStatusResponse) -> &'static str {
    match status.removed {
        true => "removed: the others take nothing from this cluster any more; `tarn federation leave` forgets the federation",
        false => "member",
    }
}

fn link(link: &LinkStatus) -> Vec<String> {
    let state = match link.state() {
        LinkState::Unspecified => "unknown".to_owned(),
        state => short_name(state.as_str_name(), "LINK_STATE_"),
    };
    let since = if link.equal_at_ms == 0 { "never".to_owned() } else { time(link.equal_at_ms) };
    vec![
        link.name.clone(),
        state,
        duration(link.lag_ms),
        format!("{:.1} ms", link.round_trip_us as f64 / 1_000.0),
        link.bytes_sent.to_string(),
        link.bytes_received.to_string(),
        since,
        link.conflicts.to_string(),
        link.free_slots.to_string(),
        link.tasks_there.to_string(),
        link.tasks_here.to_string(),
        link.address.clone(),
        link.last_error.clone(),
    ]
}

fn conflicts(found: &ListConflictsResponse) -> String {
    let mut blocks: Vec<String> = found.conflicts.iter().map(conflict).collect();
    if blocks.is_empty() {
        blocks.push("no key has been written in two clusters at once, or all of that is resolved".to_owned());
    }
    if found.truncated {
        blocks.push("there are more, or more values of one than are shown: resolve some of these first".to_owned());
    }
    if !found.refusals.is_empty() {
        let rows = found.refusals.iter();
        let rows = rows.map(|refused| {
            vec![time(refused.at_ms), refused.from.clone(), refused.author.clone(), refused.reason.clone(), refused.detail.clone()]
        });
        blocks.push(table(&["REFUSED AT", "SENT BY", "SIGNED BY", "REASON", "DETAIL"], rows));
    }
    blocks.join("\n\n")
}

fn conflict(conflict: &SharedConflict) -> String {
    let none = ConflictingValue::default();
    let winner = conflict.winner.as_ref().unwrap_or(&none);
    let mut lines = vec![conflict.key.clone(), format!("  won   {}: {}", winner.cluster, shown(winner))];
    lines.extend(conflict.losers.iter().map(|loser| format!("  lost  {}: {}", loser.cluster, shown(loser))));
    lines.push(format!("  why   {}", conflict.reason));
    lines.join("\n")
}

/// The start of a value.
fn shown(value: &ConflictingValue) -> String {
    const CHARS_MAX: usize = 100;
    match &value.value {
        None => "(deleted)".to_owned(),
        Some(bytes) => {
            let text: String = String::from_utf8_lossy(bytes).chars().take(CHARS_MAX).collect();
            crate::printable::line(&text).into_owned()
        }
    }
}
