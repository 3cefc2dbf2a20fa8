//! Values that are right alone but not together.

use std::collections::BTreeSet;

use super::{BootstrapMember, Config, Origin, Problem, Shown};

/// What contradicts what. Every value is of the right type and in its range by now.
pub(super) fn across(config: &Config, values: &[Shown]) -> Vec<Problem> {
    let origin = |key: &str| {
        values
            .iter()
            .find(|value| value.key == key)
            .map_or(Origin::Default, |value| value.origin.clone())
    };
    let mut problems = Vec::new();
    let mut refuse = |key: &str, message: String| {
        problems.push(Problem {
            origin: origin(key),
            key: key.into(),
            message,
        });
    };

    let raft = &config.raft;
    if raft.election_min_ms < 3 * raft.heartbeat_ms {
        let least = 3 * raft.heartbeat_ms;
        refuse(
            "raft.election_min_ms",
            format!("must be at least three heartbeats, {least}, or one late heartbeat costs the leader"),
        );
    }
    if raft.election_max_ms <= raft.election_min_ms {
        refuse(
            "raft.election_max_ms",
            format!("must be more than raft.election_min_ms, {}", raft.election_min_ms),
        );
    }

    let mut ids = BTreeSet::new();
    for member in &config.cluster.bootstrap {
        match member {
            BootstrapMember::Itself if config.cluster.bootstrap.len() > 1 => {
                refuse(
                    "cluster.bootstrap",
                    "\"self\" stands alone: in a cluster of several, name each by id and address".into(),
                );
            }
            BootstrapMember::Itself => {}
            BootstrapMember::Node { id, .. } if !ids.insert(*id) => {
                refuse("cluster.bootstrap", format!("names node {id} twice"))
            }
            BootstrapMember::Node { .. } => {}
        }
    }
    if config.node.id != 0 && !ids.is_empty() && !ids.contains(&config.node.id) {
        refuse(
            "cluster.bootstrap",
            format!("does not name this node, {}", config.node.id),
        );
    }

    let advertise = &config.listen.advertise;
    let port = advertise
        .rsplit_once(':')
        .and_then(|(host, port)| port.parse::<u16>().ok().filter(|_| !host.is_empty()));
    if !advertise.is_empty() && port.is_none_or(|port| port == 0) {
        refuse(
            "listen.advertise",
            "must be a host and a port that others can dial, such as \"10.0.0.1:7610\"".into(),
        );
    }
    if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&config.log.level) {
        refuse("log.level", format!("is not a filter: {error}"));
    }
    problems
}
