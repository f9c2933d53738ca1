//! Real file systems for volumes and pools: each in a sparse file of a test's own folder, on a loop device.

use std::fs::{self, File};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use drover::engine::{PoolConfig, Reflink};

pub use super::direct::{Aligned, content, open_direct};
pub use super::random::{Random, scramble};
use super::scratch::Scratch;
use super::try_run;
pub use super::{command, run};

const DISK: &str = "disk.img";

/// A file system to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// XFS with reflinks.
    Xfs,
    /// XFS on 4096-byte sectors, as on a 4Kn disk.
    Xfs4k,
    /// btrfs.
    Btrfs,
    /// ext4, which cannot clone files.
    Ext4,
}

/// A mounted file system of its own. Dropping it frees every loop device and mount on its files, and removes it.
#[derive(Debug)]
pub struct Disk {
    folder: Scratch,
    mount: PathBuf,
}

impl Disk {
    /// Makes a file system of `size` bytes and mounts it; XFS wants 300 MiB or more.
    pub fn new(kind: Kind, size: u64) -> Self {
        let folder = Scratch::new("disk");
        let (image, mount) = (folder.join(DISK), folder.join("mnt"));
        File::create_new(&image).unwrap().set_len(size).unwrap();
        let sector = if kind == Kind::Xfs4k { "4096" } else { "512" };
        let device = run(Command::new("losetup").args(["--find", "--show", "--sector-size", sector]).arg(&image));
        make_file_system(kind, Path::new(device.trim()));
        fs::create_dir(&mount).unwrap();
        run(Command::new("mount").arg(device.trim()).arg(&mount));
        Self { folder, mount }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// A folder outside the file system, for mount points and the like.
    pub fn outside(&self, name: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A pool on it, with a device folder of its own.
    pub fn config(&self) -> PoolConfig {
        PoolConfig { device_dir: self.folder.join("dev"), ..PoolConfig::new(self.mount.join("pool")) }
    }

    /// Opens that pool.
    pub fn engine(&self) -> Reflink {
        Reflink::open(self.config()).unwrap()
    }

    /// Loop devices bound to files below our folder, the disk itself left out: volumes, and pool images that hold volumes.
    pub fn loop_devices(&self) -> Vec<String> {
        let list = run(Command::new("losetup").args(["--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE"]));
        list.lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(_, file)| Path::new(file).starts_with(&*self.folder) && Path::new(file) != self.folder.join(DISK))
            .map(|(name, _)| name.to_owned())
            .collect()
    }
}

/// Makes a file system on a device.
pub fn make_file_system(kind: Kind, device: &Path) {
    let (program, args): (_, &[_]) = match kind {
        Kind::Xfs | Kind::Xfs4k => ("mkfs.xfs", &["-q", "-m", "reflink=1,rmapbt=0"]),
        Kind::Btrfs => ("mkfs.btrfs", &["-q"]),
        Kind::Ext4 => ("mkfs.ext4", &["-q", "-F"]),
    };
    run(Command::new(program).args(args).arg(device));
}

/// A device mounted by a test, unmounted when dropped.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts `device` at the folder `at`, made when it is not there.
    pub fn new(device: &Path, at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        run(Command::new("mount").arg(device).arg(at));
        Self(at.to_owned())
    }
}

impl Deref for Mounted {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(words) = try_run(Command::new("umount").arg(&self.0)) {
            // The owner of the folder gives it back once more, and says so when it cannot.
            eprintln!("{words}");
        }
    }
}

/// Makes one test of each function for each file system that a pool can lie on.
macro_rules! on_every_pool {
    ($($promise:ident),+ $(,)?) => {
        mod xfs {
            $(#[test] fn $promise() { super::$promise($crate::support::pool::Kind::Xfs) })+
        }
        mod btrfs {
            $(#[test] fn $promise() { super::$promise($crate::support::pool::Kind::Btrfs) })+
        }
    };
}
pub(crate) use on_every_pool;
