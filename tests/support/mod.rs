//! What the integration tests stand on: real servers, file systems and processes, each gone when its test is.
//!
//! Everything that starts something has a deadline and panics with the tail of its log; everything cleans up in
//! `Drop`, and the [`reaper`] does it when even that cannot run. Ports and folders are the test run's own, so
//! two runs can share a machine.

// The helpers of the tests may panic: that is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// A server's handle offers what a test may ask of it, whether or not one asks today.
#![allow(dead_code)]

pub mod cluster;
pub mod direct;
pub mod image;
pub mod minio;
pub mod pool;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod random;
pub mod reaper;
pub mod roles;
pub mod scratch;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A loopback port that no other test takes while this process lives.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<Vec<ports::Port>> = Mutex::new(Vec::new());
    let port = ports::Port::free();
    let number = port.number();
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner).push(port);
    number
}

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Asks again until the answer is `Ok`; panics at the deadline with what was waited for and the last `Err`.
pub async fn eventually<T, E: Display>(deadline: Duration, what: &str, mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    let from = Instant::now();
    loop {
        match ask().await {
            Ok(value) => return value,
            Err(error) if from.elapsed() >= deadline => panic!("{what}: not within {deadline:?}: {error}"),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// [`eventually`] for calls that block.
pub fn eventually_blocking<T, E: Display>(deadline: Duration, what: &str, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let from = Instant::now();
    loop {
        match ask() {
            Ok(value) => return value,
            Err(error) if from.elapsed() >= deadline => panic!("{what}: not within {deadline:?}: {error}"),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// The repository's own folder.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A command that is one of the repository's `scripts/`, with the test servers' folder in its environment.
pub fn script(name: &str) -> Command {
    let mut command = Command::new(repository().join("scripts").join(name));
    command.env("DROVER_TOOLS", tools());
    command
}

/// The folder of the pinned test servers, built first when they are not there yet.
pub fn tools() -> &'static Path {
    static TOOLS: OnceLock<PathBuf> = OnceLock::new();
    TOOLS.get_or_init(|| run(&mut Command::new(repository().join("tests/tools/build"))).trim_end().into())
}

/// A command with arguments.
pub fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs a command to its end and returns its stdout; panics with its words when it fails.
pub fn run(command: &mut Command) -> String {
    try_run(command).unwrap_or_else(|words| panic!("{words}"))
}

/// Runs a command to its end: stdout, or what it said on stderr when it failed.
pub fn try_run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("failed to start {:?}: {e}", command.get_program()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!("{command:?} ended with {}: {}{}", output.status, text(&output.stderr), text(&output.stdout)))
}

/// `count` random hex digits, for names that no other run has.
pub fn random_hex(count: usize) -> String {
    let mut bytes = vec![0; count.div_ceil(2)];
    getrandom::fill(&mut bytes).unwrap();
    let mut text = hex::encode(bytes);
    text.truncate(count);
    text
}
