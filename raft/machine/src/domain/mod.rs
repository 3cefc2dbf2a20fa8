//! The domains: what each command means. One function per command, which checks first and changes afterwards.

pub mod access;
pub mod audit;
pub mod batch;
pub mod context;
pub mod drain;
pub mod driver;
pub mod federation;
pub mod join_token;
pub mod lease;
pub mod namespace;
pub mod placement;
pub mod policy;
pub mod queue;
pub mod quota;
pub mod timer;
pub mod transfer;
pub mod version;
pub mod worker;

use crate::ids::Id;
use crate::reject;
use tarn_proto::v1::Rejection;

/// Refuses whoever is no node of the cluster.
pub fn nodes_only(principal: &str, what: &str) -> Result<(), Rejection> {
    match principal.starts_with("node/") {
        true => Ok(()),
        false => Err(reject::denied("NODES_ONLY", "", format!("only the nodes of the cluster {what}"))),
    }
}

/// The number behind an id in a request.
pub fn parse_id(text: &str, field: &str) -> Result<u64, Rejection> {
    text.parse::<Id>().map(|id| id.0).map_err(|_| reject::invalid_id(field))
}
