//! The subcommands, one file each.

pub mod agent;
pub mod backup;
pub mod crd;
mod deadline;
pub mod manager;
mod role;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Node-local volumes with snapshots and incremental, deduplicated backups, in Longhorn's API and store format.
#[derive(Debug, Parser)]
#[command(name = "drover", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the manager: schedules, retention, placement, backup targets, deletes
    Manager(manager::ManagerArgs),
    /// Run the agent of one node: volumes, snapshots, backup and restore transfers
    Agent(agent::AgentArgs),
    /// Back up and restore image files without a cluster
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    /// Print the custom resource definitions
    Crd(crd::CrdArgs),
}

/// Runs one subcommand to its end. Errors go to stderr with their causes; 0 is success, 1 failure, 2 wrong usage.
pub fn run(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Manager(args) => block_on(manager::run(args)),
        Command::Agent(args) => block_on(agent::run(args)),
        Command::Backup(command) => block_on(backup::run(command)),
        Command::Crd(args) => crd::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drover: {}", with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn block_on(work: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

/// The error and its causes, without repeating a cause that the error's own text already tells.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = inner.source();
    }
    text
}
