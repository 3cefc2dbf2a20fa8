//! Compiles the contract with a pure-Rust protobuf compiler, so that building needs no protoc.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir("tarn/v1")?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    println!("cargo:rerun-if-changed=tarn/v1");

    let descriptors = protox::compile(&files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("tarn.descriptors.bin"), descriptors.encode_to_vec())?;

    let grpc = std::env::var_os("CARGO_FEATURE_GRPC").is_some();
    let mut messages = tonic_prost_build::Config::new();
    // Ordered maps, because the kernel iterates over messages; names, because the command line prints any message as JSON.
    messages.bytes(["."]).btree_map(["."]).enable_type_names();
    // It holds a secret: `src/secret.rs` prints it without.
    messages.skip_debug([".tarn.v1.FederationIdentity"]);
    // Large beside all other answers, and rare: they must not make every outcome as large.
    for rare in ["InstallDriverResponse.driver", "UpgradeDriverResponse.driver"] {
        messages.boxed(format!(".tarn.v1.{rare}"));
    }
    // The same for commands and for what workers hear.
    for rare in ["ScheduleTimerRequest.action", "AcceptTransfer.transfer", "Command.gate", "WorkResponse.message.task"] {
        messages.boxed(format!(".tarn.v1.{rare}"));
    }
    tonic_prost_build::configure().build_client(grpc).build_server(grpc).compile_fds_with_config(descriptors, messages)?;
    Ok(())
}
