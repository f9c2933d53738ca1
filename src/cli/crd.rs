//! `drover crd`: the custom resource definitions, to the terminal or into files.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

/// Flags of `drover crd`.
#[derive(Debug, Args)]
pub struct CrdArgs {
    /// Write one file a kind into this folder, instead of all of them to the terminal
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Prints the definitions or writes them. A file that is already right is written anew, others in the folder stay.
pub fn run(args: CrdArgs) -> Result<(), Box<dyn std::error::Error>> {
    let manifests = crate::crd::manifests()?;
    let Some(folder) = args.out else {
        let mut out = std::io::stdout().lock();
        for manifest in manifests {
            writeln!(out, "---\n{}", manifest.yaml.trim_end())?;
        }
        return Ok(());
    };
    let context = |path: &PathBuf, error: std::io::Error| format!("failed to write {}: {error}", path.display());
    std::fs::create_dir_all(&folder).map_err(|error| context(&folder, error))?;
    for manifest in manifests {
        let path = folder.join(manifest.file_name);
        std::fs::write(&path, manifest.yaml).map_err(|error| context(&path, error))?;
    }
    Ok(())
}
