//! A test's own folder, whose mounts and loop devices are given back with it.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::reaper::{self, Thing};

/// A new, empty folder. Dropping it unmounts, detaches and removes all that is in it.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes the folder below the system's temporary folder; `what` is part of its name.
    pub fn new(what: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("drover-it-{what}-{}", super::random_hex(8)));
        fs::create_dir(&folder).unwrap();
        reaper::made(Thing::Tree, folder.display());
        // PostgreSQL's user must be able to walk through, not to look around.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o711)).unwrap();
        Self(folder)
    }
}

impl Deref for Scratch {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut command = std::process::Command::new(super::repository().join("scripts/release-tree"));
        match super::try_run(command.arg(&self.0)) {
            Ok(_) => reaper::undone(Thing::Tree, self.0.display()),
            // A panic while another one unwinds would abort the whole run; the reaper tries once more at its end.
            Err(words) if std::thread::panicking() => eprintln!("{words}"),
            Err(words) => panic!("{words}"),
        }
    }
}
