//! The file beside an image under restore: which image it belongs to, and how far the restore is.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// `{image}.drover-restore`: one line that names the image, then the state of the restore, empty at first.
#[derive(Debug)]
pub struct Sidecar {
    path: PathBuf,
}

/// What makes an image itself, whatever is put under its name later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(Vec<u8>);

impl Identity {
    /// Of an open image.
    pub fn of(image: &File) -> io::Result<Self> {
        image.metadata().map(|meta| Self::new(&meta))
    }

    fn new(meta: &Metadata) -> Self {
        // The number of a removed file is given to the next one at once: only the time of birth tells them apart, where it is kept.
        let born = meta.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |time| time.as_nanos());
        Self(format!("drover-restore {} {} {born}\n", meta.dev(), meta.ino()).into_bytes())
    }
}

impl Sidecar {
    /// Of the image at `image`, whether or not it is there.
    pub fn beside(image: &Path) -> Self {
        Self { path: with_suffix(image, ".drover-restore") }
    }

    /// The state saved for this very image: `None` when there is none, or it is another image's.
    pub fn load(&self, image: &Identity) -> io::Result<Option<Vec<u8>>> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(bytes.strip_prefix(&image.0[..]).map(<[u8]>::to_vec)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a new state in the place of whatever is there, durably.
    pub fn save(&self, image: &Identity, state: &[u8]) -> io::Result<()> {
        let new = with_suffix(&self.path, ".new");
        let mut file = File::create(&new)?;
        file.write_all(&image.0)?;
        file.write_all(state)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        self.sync_folder()
    }

    /// The restore has ended.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        self.sync_folder()
    }

    fn sync_folder(&self) -> io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
