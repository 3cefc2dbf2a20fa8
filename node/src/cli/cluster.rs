//! `tarn cluster …`: the nodes, the leader, the version.

use tarn_client::Client;
use tarn_proto::v1::{self as proto, Member};

use super::exit::Failure;
use super::output::{Printer, table, time};

/// See and change the cluster.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ClusterCommand {
    /// Show who leads, how far the log is, and every member
    Status,
    /// List the members
    Members,
    /// Print the certificate that clients of the HTTPS listeners have to trust, PEM
    #[command(
        name = "web-ca",
        after_help = "Example, for a gRPC client in another language:\n  tarn cluster web-ca > web-ca.pem\n  tarn token create --name laptop"
    )]
    WebCa,
    /// Add a running node: a learner at first, a voter once it has caught up
    #[command(after_help = "\
A node that joined with `tarn node join` adds itself when it starts. This command is for the other cases:
  tarn cluster add 4 10.0.0.4:7610 --learner        a node that replicates without voting
  tarn cluster add 5 10.0.0.5:7610 --replaces 2     in place of node 2, which is lost for good")]
    Add {
        /// Its id, as in its certificate
        node_id: u64,
        /// Its address, host:port
        // Under a name of its own: `address` is that of the connection.
        #[arg(id = "member_address", value_name = "ADDRESS")]
        address: String,
        /// It stays a learner
        #[arg(long)]
        learner: bool,
        /// The voter that it replaces in the same change
        #[arg(long)]
        replaces: Option<u64>,
    },
    /// Remove a member
    #[command(after_help = "Example:\n  tarn cluster remove 3 --yes       its data stay on its disk; stop it afterwards")]
    Remove {
        /// Its id
        node_id: u64,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Hand leadership to another voter
    TransferLeader {
        /// Its id; the most advanced voter if left out
        node_id: Option<u64>,
    },
    /// Raise the machine version of the whole cluster, once every voter supports it; cannot be taken back
    Upgrade {
        /// The version
        machine_version: u32,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

const HEAD: [&str; 7] = ["node", "address", "role", "reachable", "matched", "build", "versions"];

/// Runs `tarn cluster …`.
pub async fn run(command: ClusterCommand, client: Client, printer: Printer) -> Result<(), Failure> {
    match command {
        ClusterCommand::Status => printer.message(&client.cluster().await?, status),
        ClusterCommand::Members => printer.list(&client.cluster().await?.members, &HEAD, row),
        ClusterCommand::WebCa => {
            let pem = client.cluster().await?.web_ca_certificate;
            if pem.is_empty() {
                return Err(Failure::Other(anyhow::anyhow!(
                    "the node that answered has no certificate of the cluster's web authority: its HTTPS listener is off, presents a \
                     certificate of its operator's, or waits for the node that holds the CA's key"
                )));
            }
            printer.value(&serde_json::json!({ "web_ca_certificate": pem }), || pem.trim_end().to_owned())
        }
        ClusterCommand::Add { node_id, address, learner, replaces } => {
            let request = proto::AddMemberRequest { node_id, address, learner, replaces: replaces.unwrap_or(0) };
            client.add_member(request).await?;
            printer.message(&proto::AddMemberResponse {}, |_| format!("node {node_id} is a {}", if learner { "learner" } else { "voter" }))
        }
        ClusterCommand::Remove { node_id, yes } => {
            super::confirm(&format!("Remove node {node_id} from the cluster?"), yes)?;
            client.remove_member(node_id).await?;
            printer.message(&proto::RemoveMemberResponse {}, |_| format!("node {node_id} is no member any more"))
        }
        ClusterCommand::TransferLeader { node_id } => {
            let leader_id = client.transfer_leader(node_id).await?;
            printer.message(&proto::TransferLeaderResponse { leader_id }, |_| format!("node {leader_id} leads"))
        }
        ClusterCommand::Upgrade { machine_version, yes } => {
            super::confirm(
                &format!("Raise the cluster to machine version {machine_version}? Older builds cannot run in it afterwards."),
                yes,
            )?;
            let before = client.cluster().await?.machine_version;
            let machine_version = client.upgrade_cluster(machine_version).await?;
            if before < 2 && machine_version >= 2 {
                printer.note(
                    "from now on roles are judged, and every user keeps all rights by the binding of user/* until you give out roles \
                     and end it: tarn role unbind 'user/*' admin --in '*'",
                );
            }
            printer.message(&proto::UpgradeClusterResponse { machine_version }, |_| format!("the machine version is {machine_version}"))
        }
    }
}

fn status(cluster: &proto::GetClusterResponse) -> String {
    let leader = match cluster.leader_id {
        0 => "nobody leads: a majority of the voters must be up".to_owned(),
        id => format!("node {id}"),
    };
    let lines = [
        format!("cluster          {}", cluster.cluster_id),
        format!("leader           {leader}"),
        format!("term             {}", cluster.term),
        format!("machine version  {}", cluster.machine_version),
        format!(
            "log              last {}, applied {}, snapshot {}, purged {}",
            cluster.last_log_index, cluster.applied_index, cluster.snapshot_index, cluster.purged_index
        ),
        format!("digest           {}", cluster.digest),
        format!("cluster time     {}", time(cluster.now_ms)),
        format!("answered by      node {}", cluster.answering_node_id),
    ];
    format!("{}\n\n{}", lines.join("\n"), table(&HEAD, cluster.members.iter().map(row)))
}

fn row(member: &Member) -> Vec<String> {
    let role = match (member.leader, member.voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    };
    let known = |number: u64| {
        if number == 0 { "-".to_owned() } else { number.to_string() }
    };
    vec![
        member.node_id.to_string(),
        member.address.clone(),
        role.into(),
        if member.reachable { "yes" } else { "no" }.into(),
        member.matched_index.map_or("-".into(), |index| index.to_string()),
        member.build_version.clone(),
        known(u64::from(member.machine_version_max)),
    ]
}
