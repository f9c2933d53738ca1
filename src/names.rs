//! Names that cross module borders, parsed once at the edge and passed on as types.
//!
//! Owns the one rule that every name in a store or a pool must satisfy; knows nothing of Kubernetes.

use std::fmt;
use std::str::FromStr;

/// A name that breaks the rule of the backupstore format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{kind} name {name:?} is not allowed: it must begin with a letter or digit, go on with letters, digits, '_', '.' or '-', and be 2 to 250 characters long"
)]
pub struct InvalidName {
    kind: &'static str,
    name: String,
}

/// The rule of the backupstore format: `^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`, and short enough for a file name with our prefixes.
fn is_valid(name: &str) -> bool {
    let bytes = name.as_bytes();
    (2..=250).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes[1..].iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(name: &str) -> Result<Self, InvalidName> {
                if is_valid(name) {
                    Ok(Self(name.to_owned()))
                } else {
                    Err(InvalidName { kind: $kind, name: name.to_owned() })
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type!(
    /// A volume, in a pool and in a store.
    VolumeName,
    "volume"
);
name_type!(
    /// A snapshot of one volume.
    SnapshotName,
    "snapshot"
);
name_type!(
    /// A backup of one volume, unique within that volume's folder of the store.
    BackupName,
    "backup"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_its_folder_is_refused() {
        for bad in ["", "a", ".", "..", "../x", "a/b", "-a", ".hidden", "a b", "ä1", "a\n"] {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad:?}");
        }
        for good in ["ab", "UPPER.case_name-1", "pvc-0b7c8a9e", "0x"] {
            assert_eq!(good.parse::<VolumeName>().map(|n| n.to_string()), Ok(good.to_owned()));
        }
    }
}
