//! A child process in a group of its own, with a log file, that never outlives the test run.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::eventually_blocking;
use super::reaper::{self, Thing};

const LOG_LINES: usize = 60;

/// A running child and its group. Dropping it kills the group; a failing test also shows the end of its log.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, its output appended to `log`.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("failed to start {name}: {e}"));
        reaper::made(Thing::Group, child.id());
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Its process id, which is its group's id too.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal to the whole group.
    pub fn signal(&self, signal: Signal) {
        kill_process_group(self.group(), signal).unwrap_or_else(|e| panic!("failed to signal {}: {e}", self.name));
    }

    /// Sends a signal to the process alone.
    pub fn signal_alone(&self, signal: Signal) {
        kill_process(self.group(), signal).unwrap_or_else(|e| panic!("failed to signal {}: {e}", self.name));
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Kills the group at once (SIGKILL).
    pub fn kill(&mut self) {
        // A group that has ended already is as dead as asked for.
        let _ = kill_process_group(self.group(), Signal::KILL);
        self.child.wait().unwrap();
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub fn stop(&mut self, deadline: Duration) -> ExitStatus {
        if self.is_running() {
            self.signal(Signal::TERM);
        }
        self.wait(deadline)
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        eventually_blocking(deadline, &what, || {
            self.child.try_wait().unwrap().ok_or_else(|| format!("it is still running\n{}", log_tail(&self.log)))
        })
    }

    /// Asks `probe` until it is `Ok`; panics with the end of the log when the process ends first or the deadline passes.
    pub fn wait_ready<T>(&mut self, deadline: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
        let what = format!("{} is ready", self.name);
        eventually_blocking(deadline, &what, || {
            let answer = probe();
            if let (Err(_), Some(status)) = (&answer, self.child.try_wait().unwrap()) {
                panic!("{} ended with {status}\n{}", self.name, log_tail(&self.log));
            }
            answer.map_err(|error| format!("{error}\n{}", log_tail(&self.log)))
        })
    }

    /// The whole log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The most memory it ever held, in bytes (VmHWM).
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a running process has a VmHWM line");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("VmHWM is a number of kB") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        reaper::undone(Thing::Group, self.child.id());
        if std::thread::panicking() {
            eprintln!("--- end of the log of {}\n{}", self.name, log_tail(&self.log));
        }
    }
}

fn log_tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
