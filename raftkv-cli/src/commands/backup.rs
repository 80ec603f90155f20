use crate::failure::Failure;
use crate::output::{Output, progress_bar};
use indicatif::HumanBytes;
use raftkv_cli::{Backup as Incoming, Client};
use serde_json::json;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use tokio::task::spawn_blocking;

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
        if !force && file.exists() {
            return Err(taken(&file));
        }
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut part = NamedTempFile::with_prefix_in(".backup-", parent).map_err(|error| unwritable(&file, error))?;
        let mut backup = client.back_up().await?;
        let header = *backup.header();
        fetch(&mut backup, header.size_bytes, &mut part, output).await.map_err(|failure| match failure {
            Failure::Io(error) => unwritable(&file, error),
            failure => failure,
        })?;
        keep(part, file.clone(), force).await?;
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

async fn fetch(backup: &mut Incoming, size: u64, part: &mut NamedTempFile, output: Output) -> Result<(), Failure> {
    let bar = progress_bar(output, size);
    while let Some(bytes) = backup.next().await? {
        part.write_all(&bytes)?;
        bar.inc(bytes.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Gives the file its name once it is on the disk.
async fn keep(part: NamedTempFile, file: PathBuf, force: bool) -> Result<(), Failure> {
    let keep = move || {
        part.as_file().sync_all().map_err(|error| unwritable(&file, error))?;
        let kept = if force { part.persist(&file) } else { part.persist_noclobber(&file) };
        match kept {
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Err(taken(&file)),
            kept => kept.map_err(|error| unwritable(&file, error.error))?,
        };
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(|error| unwritable(&file, error))
    };
    spawn_blocking(keep).await.map_err(io::Error::other)?
}

fn taken(file: &Path) -> Failure {
    Failure::Usage(format!("{} is there already: --force takes its place", file.display()))
}

fn unwritable(file: &Path, error: io::Error) -> Failure {
    io::Error::new(error.kind(), format!("{} can't be written: {error}", file.display())).into()
}
