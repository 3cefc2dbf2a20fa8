//! `tarn artifact …`: content-addressed bytes, such as WASM modules.

use std::path::PathBuf;

use anyhow::Context as _;
use tarn_client::Client;
use tarn_proto::v1 as proto;

use super::exit::Failure;
use super::output::Printer;

/// Put and get content-addressed bytes, such as WASM modules.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ArtifactCommand {
    /// Store a file and print its address
    Put {
        /// The file
        file: PathBuf,
    },
    /// Fetch an artifact
    Get {
        /// Its address
        artifact: String,
        /// Where to write it; standard output if left out
        #[arg(long)]
        to: Option<PathBuf>,
    },
    /// List the artifacts that the answering node has
    List,
}

/// Runs `tarn artifact …`.
pub async fn run(command: ArtifactCommand, client: Client, printer: Printer) -> Result<(), Failure> {
    match command {
        ArtifactCommand::Put { file } => {
            let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let answer = proto::PutArtifactResponse { bytes: bytes.len() as u64, artifact: client.put_artifact(bytes).await? };
            printer.message(&answer, |answer| answer.artifact.clone())
        }
        ArtifactCommand::Get { artifact, to } => {
            let bytes = client.get_artifact(artifact).await?;
            match to {
                Some(path) => Ok(std::fs::write(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?),
                None => printer.bytes(&bytes),
            }
        }
        ArtifactCommand::List => printer
            .list(&client.list_artifacts().await?, &["artifact", "bytes"], |info| vec![info.artifact.clone(), info.bytes.to_string()]),
    }
}
