//! The `scripts/reaper` of this test run: told of every process group and folder, it undoes them when this process ends without doing so
//! itself: killed, or holding them in statics that are never dropped.

use std::fmt::Display;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// A thing the reaper undoes.
#[derive(Debug, Clone, Copy)]
pub enum Thing {
    /// A process group, killed.
    Group,
    /// A folder: its mounts and loop devices given back, then removed.
    Tree,
}

/// Tells the reaper of a thing that was made.
pub fn made(thing: Thing, value: impl Display) {
    tell('+', thing, &value);
}

/// Tells the reaper that a thing was undone.
pub fn undone(thing: Thing, value: impl Display) {
    tell('-', thing, &value);
}

fn tell(sign: char, thing: Thing, value: &dyn Display) {
    static REAPER: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    let pipe = REAPER.get_or_init(|| Mutex::new(start()));
    let word = match thing {
        Thing::Group => "group",
        Thing::Tree => "tree",
    };
    // A test that failed while it held the lock has not broken the pipe.
    let mut pipe = pipe.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(pipe, "{sign}{word} {value}").expect("the reaper reads until its parent ends");
}

// It outlives this process on purpose: that is its job.
#[allow(clippy::zombie_processes)]
fn start() -> ChildStdin {
    // In a group of its own, so that Ctrl-C does not end it together with those it has to clean up after.
    let mut child = Command::new(super::repository().join("scripts/reaper"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("scripts/reaper starts");
    child.stdin.take().expect("its stdin is a pipe")
}
