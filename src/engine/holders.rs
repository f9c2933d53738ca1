//! Who has a block device in use: mounts in every mount namespace, and open files of every process that can be seen.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, major, makedev, minor};

use super::device;
use super::error::{Context, Result};

/// One line of a mountinfo file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub id: u64,
    /// Device number of the mounted file system.
    pub device: u64,
    /// Where it is mounted, as its namespace's root process sees it.
    pub point: PathBuf,
    source: PathBuf,
    file_system: String,
}

impl Mount {
    /// Whether the file system lies on the block device `rdev`.
    fn is_on(&self, rdev: u64) -> bool {
        // btrfs has device numbers of its own; there the source tells.
        self.device == rdev || (self.file_system == "btrfs" && device::number_at(&self.source) == Some(rdev))
    }
}

/// Mounts of the block device `rdev` in the namespace of a process: "self", or a process id. None when that process is not to be looked into.
pub(super) fn mounts_of(rdev: u64, process: &str) -> Result<Vec<Mount>> {
    let path = format!("/proc/{process}/mountinfo");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(parse_mountinfo(&text).filter(|mount| mount.is_on(rdev)).collect()),
        Err(error) if is_hidden(&error) => Ok(Vec::new()),
        Err(error) => Err(error).context(|| format!("read {path}")),
    }
}

/// A process that ended meanwhile, or that may not be looked into.
fn is_hidden(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::NOENT | Errno::SRCH | Errno::ACCESS | Errno::PERM | Errno::INVAL | Errno::NOTDIR | Errno::STALE)
    )
}

/// Lines that cannot be read are left out: newer kernels may add kinds of mounts, but not on our devices.
fn parse_mountinfo(text: &str) -> impl Iterator<Item = Mount> {
    text.lines().filter_map(parse_mount)
}

/// `36 35 98:0 /root /point options optional… - type source options`
fn parse_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ');
    let id = before.next()?.parse().ok()?;
    let (major, minor) = before.nth(1)?.split_once(':')?;
    let point = unescape(before.nth(1)?);
    let mut after = after.split(' ');
    let file_system = after.next()?.to_owned();
    let source = unescape(after.next()?);
    Some(Mount { id, device: makedev(major.parse().ok()?, minor.parse().ok()?), point, source, file_system })
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'\\').then(|| text.get(at + 1..at + 4)).flatten();
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(plain))
}

/// Says who uses the block device, `None` when nobody that can be seen.
pub(super) fn of_device(rdev: u64) -> Result<Option<String>> {
    let mut namespaces = HashSet::new();
    for process in super::meta::names(Path::new("/proc"))? {
        if !process.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let namespace = fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
        let is_new = namespace.is_none_or(|namespace| namespaces.insert(namespace));
        if is_new && let Some(mount) = mounts_of(rdev, &process)?.first() {
            return Ok(Some(format!("mounted at {} (seen by process {})", mount.point.display(), describe(&process))));
        }
        if has_open(&process, rdev)? {
            return Ok(Some(format!("open in process {}", describe(&process))));
        }
    }
    Ok(None)
}

fn describe(process: &str) -> String {
    let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    format!("{process} {}", name.trim())
}

fn has_open(process: &str, rdev: u64) -> Result<bool> {
    let dir = PathBuf::from(format!("/proc/{process}/fd"));
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if is_hidden(&error) => return Ok(false),
        Err(error) => return Err(error).context(|| format!("list {}", dir.display())),
    };
    for entry in entries {
        match entry {
            Ok(entry) if is_device(&entry.path(), rdev) => return Ok(true),
            Ok(_) => {}
            Err(error) if is_hidden(&error) => return Ok(false),
            Err(error) => return Err(error).context(|| format!("list {}", dir.display())),
        }
    }
    Ok(false)
}

/// Never waits for a file server: what is cached of an open file tells its type.
fn is_device(descriptor: &Path, rdev: u64) -> bool {
    // Sockets, pipes and the like have no path; they are most of a server's descriptors.
    if !fs::read_link(descriptor).is_ok_and(|target| target.has_root()) {
        return false;
    }
    rustix::fs::statx(CWD, descriptor, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE).is_ok_and(|found| {
        rustix::fs::FileType::from_raw_mode(u32::from(found.stx_mode)).is_block_device()
            && (found.stx_rdev_major, found.stx_rdev_minor) == (major(rdev), minor(rdev))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountinfo_line_is_read_field_by_field() {
        let text = "36 35 7:3 /root /mnt/a\\040b\\134c rw,noatime shared:1 master:2 - ext4 /dev/loop3 rw\nnonsense\n";
        let mounts: Vec<_> = parse_mountinfo(text).collect();
        assert_eq!(
            mounts,
            [Mount {
                id: 36,
                device: makedev(7, 3),
                point: "/mnt/a b\\c".into(),
                source: "/dev/loop3".into(),
                file_system: "ext4".into(),
            }]
        );
        assert!(mounts[0].is_on(makedev(7, 3)));
        assert!(!mounts[0].is_on(makedev(7, 4)));
    }
}
