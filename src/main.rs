//! The `drover` binary: parse, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    drover::cli::run(drover::cli::Cli::parse())
}
