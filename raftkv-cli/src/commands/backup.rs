use crate::failure::Failure;
use crate::output::{Output, progress_bar};
use crate::whole_file::WholeFile;
use indicatif::HumanBytes;
use raftkv_cli::{Backup as Incoming, Client};
use serde_json::json;
use std::path::PathBuf;

/// Copy the state into a file
///
/// A plain SQLite file with all tables and keys, as fresh as --consistency says, made while the cluster goes on. With
/// `--consistency stale` any node gives what it has. The file is there when it is whole, or not at all; `raftkv-server --restore FILE` begins a
/// new cluster with it.
#[derive(clap::Args)]
pub(crate) struct Backup {
    /// Where to put it
    file: PathBuf,
    /// Take the place of a file that is there
    #[arg(short, long)]
    force: bool,
}

impl Backup {
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let Self { file, force } = self;
        let mut whole = WholeFile::create(file.clone(), force)?;
        let mut backup = client.back_up().await?;
        let header = *backup.header();
        fetch(&mut backup, header.size_bytes, &mut whole, output).await?;
        whole.keep().await?;
        let of = header.header.unwrap_or_default();
        let size = HumanBytes(header.size_bytes);
        let text = || {
            let revision = of.revision;
            format!(
                "revision {revision} of cluster {:016x}, from node {}: {size} in {}",
                header.cluster_id,
                of.node_id,
                file.display()
            )
        };
        Ok(output.print(text, text, || {
            json!({
                "file": file.display().to_string(),
                "size_bytes": header.size_bytes,
                // As text: many readers of JSON keep 53 bits of a number.
                "cluster_id": header.cluster_id.to_string(),
                "node_id": of.node_id,
                "revision": of.revision,
                "applied_index": of.applied_index,
            })
        })?)
    }
}

async fn fetch(backup: &mut Incoming, size: u64, whole: &mut WholeFile, output: Output) -> Result<(), Failure> {
    let bar = progress_bar(output, size);
    while let Some(bytes) = backup.next().await? {
        whole.write(&bytes)?;
        bar.inc(bytes.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}
