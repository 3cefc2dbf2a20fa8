//! Values that are right alone but not together.

use std::collections::BTreeSet;

use super::{BootstrapMember, Config, Origin, Problem, Shown};
use crate::identity::bearer::KeySet;
use crate::identity::web::WEB_NAMES_MAX;

/// Longest name of an issuer: it stands in each of its principals, which have 256 bytes.
const ISSUER_NAME_BYTES_MAX: usize = 64;

/// Names that a node's web certificate has by itself: its host and the loopback ones.
const OWN_NAMES_MAX: usize = 4;

/// What contradicts what. Every value is of the right type and in its range by now.
pub(super) fn across(config: &Config, values: &[Shown]) -> Vec<Problem> {
    let origin = |key: &str| values.iter().find(|value| value.key == key).map_or(Origin::Default, |value| value.origin.clone());
    let mut problems = Vec::new();
    let mut refuse = |key: &str, message: String| {
        problems.push(Problem { origin: origin(key), key: key.into(), message });
    };

    let raft = &config.raft;
    if raft.election_min_ms < 3 * raft.heartbeat_ms {
        let least = 3 * raft.heartbeat_ms;
        refuse("raft.election_min_ms", format!("must be at least three heartbeats, {least}, or one late heartbeat costs the leader"));
    }
    if raft.election_max_ms <= raft.election_min_ms {
        refuse("raft.election_max_ms", format!("must be more than raft.election_min_ms, {}", raft.election_min_ms));
    }

    if config.https.certificate.is_empty() != config.https.key.is_empty() {
        refuse("https.certificate", "https.certificate and https.key are given together or not at all".into());
    }
    let names_max = WEB_NAMES_MAX - OWN_NAMES_MAX;
    if config.https.names.len() > names_max {
        refuse("https.names", format!("has more than {names_max} names"));
    }

    let mut issuers = BTreeSet::new();
    let mut names = BTreeSet::new();
    for settings in &config.auth.jwt.0 {
        if !issuers.insert(&settings.issuer) {
            refuse("auth.jwt", format!("has the issuer {:?} twice", settings.issuer));
        }
        if !names.insert(&settings.name) || (settings.name.is_empty() && config.auth.jwt.0.len() > 1) {
            refuse(
                "auth.jwt",
                format!(
                    "with several issuers, each needs a `name` of its own, or one could speak for the subjects of another: give one to {:?}",
                    settings.issuer
                ),
            );
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if settings.name.len() > ISSUER_NAME_BYTES_MAX || !settings.name.bytes().all(plain) {
            refuse(
                "auth.jwt",
                format!("names have up to {ISSUER_NAME_BYTES_MAX} letters, digits and -_., and {:?} is none", settings.name),
            );
        }
        if let Err(error) = KeySet::check_file(&settings.jwks_file) {
            refuse("auth.jwt", error.to_string());
        }
    }

    let mut ids = BTreeSet::new();
    for member in &config.cluster.bootstrap {
        match member {
            BootstrapMember::Itself if config.cluster.bootstrap.len() > 1 => {
                refuse("cluster.bootstrap", "\"self\" stands alone: in a cluster of several, name each by id and address".into());
            }
            BootstrapMember::Itself => {}
            BootstrapMember::Node { id, .. } if !ids.insert(*id) => refuse("cluster.bootstrap", format!("names node {id} twice")),
            BootstrapMember::Node { .. } => {}
        }
    }
    if config.node.id != 0 && !ids.is_empty() && !ids.contains(&config.node.id) {
        refuse("cluster.bootstrap", format!("does not name this node, {}", config.node.id));
    }

    let advertise = &config.listen.advertise;
    let port = advertise.rsplit_once(':').and_then(|(host, port)| port.parse::<u16>().ok().filter(|_| !host.is_empty()));
    if !advertise.is_empty() && port.is_none_or(|port| port == 0) {
        refuse("listen.advertise", "must be a host and a port that others can dial, such as \"10.0.0.1:7610\"".into());
    }
    if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&config.log.level) {
        refuse("log.level", format!("is not a filter: {error}"));
    }
    problems
}
