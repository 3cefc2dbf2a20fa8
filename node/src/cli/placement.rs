//! Where a submitted task is to run, as far as that is left to the router.

use std::time::Duration;

use tarn_client::proto;

use super::connect::parse_duration;

/// What the router is to mind.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Where it runs")]
pub struct PlacementArgs {
    /// Let the router choose among the runtimes that can run it: the cheapest that isolates strongly enough. Name several with --wasm,
    /// --native, --transform and --cuda to give it more to choose from
    #[arg(long, group = "device")]
    auto: bool,
    /// Let the router choose among these, the best first: a later one is taken while those before are busy or lost
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', group = "device")]
    runtimes: Vec<String>,
    /// Let the router choose among runtimes that isolate at least so strongly
    #[arg(long, value_enum)]
    isolation: Option<Isolation>,
    /// How long to hold out for a busy runtime before the next one is taken, such as 10s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    patience: Option<Duration>,
    /// An artifact that must lie on the node already, by its address
    #[arg(long = "data", value_name = "ADDRESS")]
    data: Vec<String>,
    /// An artifact that should lie on the node, by its address
    #[arg(long = "near", value_name = "ADDRESS")]
    near: Vec<String>,
    /// A label that the worker should carry
    #[arg(long = "prefer", value_name = "LABEL")]
    prefers: Vec<String>,
    /// The least compute capability of a CUDA device, such as 9.0
    #[arg(long, value_name = "X.Y", value_parser = parse_capability)]
    capability: Option<u32>,
    /// Let another cluster of the federation run it where nobody here has room for it
    #[arg(long)]
    any_cluster: bool,
}

/// How strongly an attempt is kept apart from its machine and its neighbours.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Isolation {
    /// A process of its own: native, cuda
    Process,
    /// A sandbox without ambient authority: wasm
    Sandbox,
    /// A virtual machine of its own: microvm
    Machine,
}

impl PlacementArgs {
    /// What the flags say; `None` if the task itself names its runtime.
    pub fn describe(&self) -> Option<proto::Placement> {
        let placement = proto::Placement {
            runtimes: self.runtimes.clone(),
            isolation: match self.isolation {
                None => proto::IsolationLevel::Unspecified,
                Some(Isolation::Process) => proto::IsolationLevel::Process,
                Some(Isolation::Sandbox) => proto::IsolationLevel::Sandbox,
                Some(Isolation::Machine) => proto::IsolationLevel::Machine,
            }
            .into(),
            data: self.data.clone(),
            near: self.near.clone(),
            prefers: self.prefers.clone(),
            patience_ms: self.patience.map(|patience| u64::try_from(patience.as_millis()).unwrap_or(u64::MAX)),
            device_capability: self.capability.unwrap_or(0),
            any_cluster: self.any_cluster,
        };
        (self.auto || placement != proto::Placement::default()).then_some(placement)
    }
}

/// `9.0` as 90.
fn parse_capability(text: &str) -> Result<u32, String> {
    let read = |part: &str| part.parse::<u32>().ok();
    let parts = text.split_once('.').and_then(|(major, minor)| Some((read(major)?, read(minor)?)));
    match parts {
        Some((major @ 1..=99, minor @ 0..=9)) => Ok(10 * major + minor),
        _ => Err("write major and minor number, such as 9.0".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_two_numbers() {
        assert_eq!(parse_capability("9.0"), Ok(90));
        assert_eq!(parse_capability("12.1"), Ok(121));
        for bad in ["", "9", "9.10", "0.5", "nine.0", "9.", "100.0"] {
            assert!(parse_capability(bad).is_err(), "{bad}");
        }
    }
}
