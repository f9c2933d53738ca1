//! Debian's PostgreSQL on a mounted volume, with pgbench as its users (see `scripts/pg`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::process::Process;
use super::{run, script, try_run};

const START: Duration = Duration::from_secs(60);

/// A running server. Dropping it kills it at once, as a power cut would.
#[derive(Debug)]
pub struct Postgres {
    folder: PathBuf,
    log: PathBuf,
    server: Process,
}

impl Postgres {
    /// Makes a new cluster with pgbench's tables in `folder` (a mounted volume) and starts it; `log` is outside of it.
    pub fn create(folder: &Path, scale: u32, log: &Path) -> Self {
        run(pg(folder).arg("init").arg(scale.to_string()));
        Self::start(folder, log)
    }

    /// Starts the server of a folder that holds one; returns when it has recovered and answers.
    pub fn start(folder: &Path, log: &Path) -> Self {
        let mut server = Process::spawn("postgres", pg(folder).arg("serve"), log);
        server.wait_ready(START, || try_run(pg(folder).arg("ready")));
        Self { folder: folder.to_owned(), log: log.to_owned(), server }
    }

    /// Starts pgbench in the background for so long.
    pub fn load(&self, duration: Duration) -> Process {
        let log = self.log.with_extension("pgbench.log");
        Process::spawn("pgbench", pg(&self.folder).arg("load").arg(duration.as_secs().to_string()), &log)
    }

    /// Runs SQL; its rows as text, columns parted by `|`.
    pub fn query(&self, sql: &str) -> String {
        run(pg(&self.folder).arg("query").arg(sql)).trim_end().to_owned()
    }

    /// Checks that every table and index is whole and the books balance; how many transactions they hold, or what is wrong.
    pub fn check(&self) -> Result<u64, String> {
        let transactions = try_run(pg(&self.folder).arg("check"))?;
        transactions.trim().parse().map_err(|e| format!("{transactions:?} is no count of transactions: {e}"))
    }

    /// Ends the server in an orderly way.
    pub fn stop(mut self) {
        // SIGINT is PostgreSQL's fast shutdown; to the postmaster alone, its children follow.
        self.server.signal_alone(Signal::INT);
        let status = self.server.wait(START);
        assert!(status.success(), "postgres ended with {status}");
    }
}

fn pg(folder: &Path) -> Command {
    let mut command = script("pg");
    command.arg(folder);
    command
}
