//! Where a backupstore is: the target URL a user writes, and the URL of one backup in it.
//!
//! Parses once, at the edge, with messages that say what to write instead. Knows nothing about credentials or drivers.

use std::fmt;
use std::str::FromStr;

use url::form_urlencoded;

use crate::names::{BackupName, InvalidName, VolumeName};

/// A place for a backupstore. `Display` gives the canonical URL, which parses back to the same value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// `s3://bucket@region/path/`: a bucket of an S3 service.
    S3 {
        /// The bucket.
        bucket: String,
        /// The region that requests are signed for.
        region: String,
        /// Folder inside the bucket: empty, or without a leading and with a final `/`.
        path: String,
    },
    /// `file:///dir/`: a folder of this machine, for the command line.
    File {
        /// Absolute, with a final `/`.
        path: String,
    },
}

/// Why a target URL is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetUrlError {
    /// No `scheme://` at the front.
    #[error("target URL {url:?} has no protocol: {ALLOWED}")]
    NoScheme {
        /// As given.
        url: String,
    },
    /// A protocol that this build cannot speak.
    #[error("target URL {url:?} has the unsupported protocol {scheme:?}: {ALLOWED}")]
    UnsupportedScheme {
        /// As given.
        url: String,
        /// The part before `://`.
        scheme: String,
    },
    /// S3 without a bucket.
    #[error("target URL {url:?} names no bucket: {ALLOWED}")]
    MissingBucket {
        /// As given.
        url: String,
    },
    /// S3 without a region. The region is part of every request's signature, so it cannot be guessed.
    #[error("target URL {url:?} names no region: write it behind the bucket, as in {corrected}")]
    MissingRegion {
        /// As given.
        url: String,
        /// The same URL with an example region.
        corrected: String,
    },
    /// The URL's last character is not `/`.
    #[error("target URL {url:?} does not end with '/': write {corrected}")]
    MissingSlash {
        /// As given.
        url: String,
        /// What to write.
        corrected: String,
    },
    /// A bucket name that no S3 service allows. The URL is not repeated: people paste keys in front of the `@`.
    #[error("the bucket in the target URL is not a bucket name: allowed are 3 to 255 letters, digits, '.', '-' and '_'")]
    InvalidBucket,
    /// A region with other characters than regions have.
    #[error("region {region:?} in target URL {url:?} is not a region: allowed are letters, digits, '-' and '_'")]
    InvalidRegion {
        /// As given.
        url: String,
        /// The part between `@` and `/`.
        region: String,
    },
    /// A character that a path must not have.
    #[error(
        "path {path:?} in target URL {url:?} contains {character:?}: allowed are letters, digits, '/' and any of -_.~!*'()=+:@"
    )]
    InvalidCharacter {
        /// As given.
        url: String,
        /// The path.
        path: String,
        /// The first character that is not allowed.
        character: char,
    },
    /// `//`, `.` or `..` in the path.
    #[error("path {path:?} in target URL {url:?} has an empty, '.' or '..' part")]
    InvalidPart {
        /// As given.
        url: String,
        /// The path.
        path: String,
    },
    /// A host in a file URL.
    #[error("target URL {url:?} must name an absolute folder of this machine: write file:///folder/")]
    NotAbsolute {
        /// As given.
        url: String,
    },
    /// Options behind a `?`.
    #[error("target URL {url:?} has options behind '?': {scheme} targets take none")]
    UnexpectedOptions {
        /// As given.
        url: String,
        /// The part before `://`.
        scheme: &'static str,
    },
}

const ALLOWED: &str = "write s3://bucket@region/path/ or file:///folder/";

impl FromStr for Target {
    type Err = TargetUrlError;

    fn from_str(url: &str) -> Result<Self, TargetUrlError> {
        let owned = || url.to_owned();
        let (scheme, rest) = url.split_once("://").ok_or_else(|| TargetUrlError::NoScheme { url: owned() })?;
        match scheme.to_ascii_lowercase().as_str() {
            "s3" => parse_s3(url, without_options(url, rest, "s3")?),
            "file" => parse_file(url, without_options(url, rest, "file")?),
            _ => Err(TargetUrlError::UnsupportedScheme { url: owned(), scheme: scheme.to_owned() }),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, region, path } => write!(f, "s3://{bucket}@{region}/{path}"),
            Self::File { path } => write!(f, "file://{path}"),
        }
    }
}

fn without_options<'a>(url: &str, rest: &'a str, scheme: &'static str) -> Result<&'a str, TargetUrlError> {
    match rest.contains('?') {
        true => Err(TargetUrlError::UnexpectedOptions { url: url.to_owned(), scheme }),
        false => Ok(rest),
    }
}

fn parse_s3(url: &str, rest: &str) -> Result<Target, TargetUrlError> {
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, Some(path)),
        None => (rest, None),
    };
    let (bucket, region) = authority.split_once('@').unwrap_or((authority, ""));
    if bucket.is_empty() {
        return Err(TargetUrlError::MissingBucket { url: url.to_owned() });
    }
    if !is_bucket(bucket) {
        return Err(TargetUrlError::InvalidBucket);
    }
    let slash = |path: &str| if path.is_empty() || path.ends_with('/') { "" } else { "/" };
    if region.is_empty() {
        let path = path.unwrap_or("");
        let corrected = format!("s3://{bucket}@us-east-1/{path}{}", slash(path));
        return Err(TargetUrlError::MissingRegion { url: url.to_owned(), corrected });
    }
    if !region.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Err(TargetUrlError::InvalidRegion { url: url.to_owned(), region: region.to_owned() });
    }
    let path = path.ok_or_else(|| missing_slash(url))?;
    check_path(url, path)?;
    Ok(Target::S3 { bucket: bucket.to_owned(), region: region.to_owned(), path: path.to_owned() })
}

fn parse_file(url: &str, path: &str) -> Result<Target, TargetUrlError> {
    let Some(below_root) = path.strip_prefix('/') else {
        return Err(TargetUrlError::NotAbsolute { url: url.to_owned() });
    };
    check_path(url, below_root)?;
    Ok(Target::File { path: path.to_owned() })
}

fn missing_slash(url: &str) -> TargetUrlError {
    TargetUrlError::MissingSlash { url: url.to_owned(), corrected: format!("{url}/") }
}

/// `path` is empty or a folder inside the bucket or below the root.
///
/// Only characters that need no percent-encoding are taken, so that the key is the URL's text in every implementation.
/// `$` and `,` are refused by Longhorn as well.
fn check_path(url: &str, path: &str) -> Result<(), TargetUrlError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/-_.~!*'()=+:@".contains(c);
    if let Some(character) = path.chars().find(|c| !allowed(*c)) {
        return Err(TargetUrlError::InvalidCharacter { url: url.to_owned(), path: path.to_owned(), character });
    }
    if path.is_empty() {
        return Ok(());
    }
    let Some(folder) = path.strip_suffix('/') else { return Err(missing_slash(url)) };
    if folder.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(TargetUrlError::InvalidPart { url: url.to_owned(), path: path.to_owned() });
    }
    Ok(())
}

fn is_bucket(name: &str) -> bool {
    (3..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// The URL of one backup: its target's URL with the query `?backup=NAME&volume=VOLUME`.
///
/// Options that the target's own URL carries stay in the query; keys are written in alphabetical order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackupUrl {
    /// The store that holds the backup.
    pub target: Target,
    /// The backup.
    pub backup: BackupName,
    /// The volume it is of.
    pub volume: VolumeName,
}

/// Why a backup URL is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupUrlError {
    /// A part of the query is not there.
    #[error("backup URL {url:?} names no {field}: write TARGET?backup=NAME&volume=NAME")]
    Missing {
        /// As given.
        url: String,
        /// `backup` or `volume`.
        field: &'static str,
    },
    /// A part of the query is there more than once.
    #[error("backup URL {url:?} names more than one {field}")]
    Repeated {
        /// As given.
        url: String,
        /// `backup` or `volume`.
        field: &'static str,
    },
    /// The backup's or volume's name is against the rule.
    #[error("backup URL {url:?}")]
    Name {
        /// As given.
        url: String,
        /// Which rule.
        #[source]
        source: InvalidName,
    },
    /// The part before the query is no target URL.
    #[error("backup URL {url:?} does not begin with a target URL")]
    Target {
        /// As given.
        url: String,
        /// Why not.
        #[source]
        source: TargetUrlError,
    },
}

impl FromStr for BackupUrl {
    type Err = BackupUrlError;

    fn from_str(url: &str) -> Result<Self, BackupUrlError> {
        let (target, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut backup, mut volume) = (None, None);
        let mut options = form_urlencoded::Serializer::new(String::new());
        let mut has_options = false;
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "backup" => set_once(&mut backup, value.into_owned(), url, "backup")?,
                "volume" => set_once(&mut volume, value.into_owned(), url, "volume")?,
                _ => {
                    options.append_pair(&key, &value);
                    has_options = true;
                }
            }
        }
        let target = if has_options { format!("{target}?{}", options.finish()) } else { target.to_owned() };
        Ok(Self {
            target: target.parse().map_err(|source| BackupUrlError::Target { url: url.to_owned(), source })?,
            backup: parse_name(backup, url, "backup")?,
            volume: parse_name(volume, url, "volume")?,
        })
    }
}

fn set_once(slot: &mut Option<String>, value: String, url: &str, field: &'static str) -> Result<(), BackupUrlError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(BackupUrlError::Repeated { url: url.to_owned(), field }),
    }
}

fn parse_name<T: FromStr<Err = InvalidName>>(value: Option<String>, url: &str, field: &'static str) -> Result<T, BackupUrlError> {
    let value = value.filter(|v| !v.is_empty()).ok_or_else(|| BackupUrlError::Missing { url: url.to_owned(), field })?;
    value.parse().map_err(|source| BackupUrlError::Name { url: url.to_owned(), source })
}

impl fmt::Display for BackupUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target.to_string();
        let (place, options) = target.split_once('?').unwrap_or((&target, ""));
        let mut pairs: Vec<(String, String)> = form_urlencoded::parse(options.as_bytes()).into_owned().collect();
        pairs.push(("backup".to_owned(), self.backup.to_string()));
        pairs.push(("volume".to_owned(), self.volume.to_string()));
        // A stable sort by key keeps the order of values that share one, as Longhorn's encoder does.
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        write!(f, "{place}?{query}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(url: &str) -> String {
        url.parse::<Target>().unwrap_err().to_string()
    }

    #[test]
    fn a_bucket_with_region_and_final_slash_is_taken() {
        let target = "s3://backupbucket@us-east-1/".parse::<Target>();
        let expected = Target::S3 { bucket: "backupbucket".into(), region: "us-east-1".into(), path: String::new() };
        assert_eq!(target, Ok(expected));
        let target = "S3://b.b@eu/team/a/".parse::<Target>().unwrap();
        assert_eq!(target.to_string(), "s3://b.b@eu/team/a/");
    }

    #[test]
    fn b13_a_missing_final_slash_is_refused_with_the_corrected_url() {
        for url in ["s3://bucket@us-east-1", "s3://bucket@us-east-1/team", "file:///backups"] {
            let message = refusal(url);
            assert_eq!(message, format!("target URL {url:?} does not end with '/': write {url}/"));
            assert!(format!("{url}/").parse::<Target>().is_ok());
        }
    }

    #[test]
    fn b14_a_missing_region_is_refused_with_a_corrected_url() {
        for (url, corrected) in [
            ("s3://bucket/", "s3://bucket@us-east-1/"),
            ("s3://bucket@/", "s3://bucket@us-east-1/"),
            ("s3://bucket", "s3://bucket@us-east-1/"),
            ("s3://bucket/a/b", "s3://bucket@us-east-1/a/b/"),
        ] {
            let message = refusal(url);
            assert!(message.contains("names no region") && message.ends_with(&format!("as in {corrected}")), "{message}");
            assert!(corrected.parse::<Target>().is_ok());
        }
    }

    #[test]
    fn what_else_is_refused_says_what_is_allowed() {
        for (url, words) in [
            ("backupbucket@us-east-1/", "has no protocol: write s3://bucket@region/path/ or file:///folder/"),
            ("ftp://host/", "unsupported protocol \"ftp\": write s3://"),
            ("nfs://server:/path/", "unsupported protocol \"nfs\": write s3://"),
            ("s3:///path/", "names no bucket"),
            ("s3://AKIAKEY:hunter2@us-east-1/", "not a bucket name"),
            ("s3://bucket@us east/", "\"us east\""),
            ("s3://bucket@r/a$b/", "contains '$'"),
            ("s3://bucket@r/a,b/", "contains ','"),
            ("s3://bucket@r/a%20b/", "contains '%'"),
            ("s3://bucket@r/a//b/", "empty, '.' or '..' part"),
            ("s3://bucket@r/../b/", "empty, '.' or '..' part"),
            ("s3://bucket@r//", "empty, '.' or '..' part"),
            ("s3://bucket@r/?x=y", "s3 targets take none"),
            ("file://backups/", "write file:///folder/"),
            ("file:///a/../b/", "empty, '.' or '..' part"),
        ] {
            let message = refusal(url);
            assert!(message.contains(words), "{url}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_backup_url_is_the_target_with_sorted_keys() {
        let url = BackupUrl {
            target: "s3://backupbucket@us-east-1/".parse().unwrap(),
            backup: "backup-0123456789abcdef".parse().unwrap(),
            volume: "pvc-1".parse().unwrap(),
        };
        let text = "s3://backupbucket@us-east-1/?backup=backup-0123456789abcdef&volume=pvc-1";
        assert_eq!(url.to_string(), text);
        let swapped = "s3://backupbucket@us-east-1/?volume=pvc-1&backup=backup-0123456789abcdef";
        assert_eq!(swapped.parse::<BackupUrl>(), Ok(url));
    }

    #[test]
    fn a_backup_url_that_lacks_a_part_says_which() {
        for (url, words) in [
            ("s3://bucket@r/", "names no backup"),
            ("s3://bucket@r/?backup=b1", "names no volume"),
            ("s3://bucket@r/?backup=&volume=v1", "names no backup"),
            ("s3://bucket@r/?backup=b1&volume=v1&volume=v2", "more than one volume"),
            ("s3://bucket@r?backup=b1&volume=v1", "does not begin with a target URL"),
            ("s3://bucket@r/?backup=..%2Fx&volume=v1", "backup URL"),
        ] {
            let message = url.parse::<BackupUrl>().unwrap_err().to_string();
            assert!(message.contains(words), "{url}: {message}");
        }
    }

    fn target() -> impl Strategy<Value = Target> {
        let path = || prop::collection::vec("[A-Za-z0-9_~!*'()=+:@-][A-Za-z0-9_.~!*'()=+:@-]{0,8}", 0..4);
        let folder = |parts: Vec<String>| parts.into_iter().map(|p| p + "/").collect::<String>();
        prop_oneof![
            ("[a-zA-Z0-9._-]{3,20}", "[a-zA-Z0-9_-]{1,12}", path()).prop_map(move |(bucket, region, path)| Target::S3 {
                bucket,
                region,
                path: folder(path)
            }),
            path().prop_map(move |path| Target::File { path: format!("/{}", folder(path)) }),
        ]
    }

    proptest! {
        #[test]
        fn every_target_url_parses_back(target in target()) {
            prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target));
        }

        #[test]
        fn every_backup_url_parses_back(target in target(), backup in "[a-zA-Z0-9][a-zA-Z0-9_.-]{1,30}", volume in "[a-zA-Z0-9][a-zA-Z0-9_.-]{1,30}") {
            let url = BackupUrl { target, backup: backup.parse().unwrap(), volume: volume.parse().unwrap() };
            prop_assert_eq!(url.to_string().parse::<BackupUrl>(), Ok(url));
        }

        #[test]
        fn what_is_accepted_is_canonical_up_to_the_letters_of_the_scheme(url in "(s3|file|S3)://[ -~]{0,20}/") {
            if let Ok(target) = url.parse::<Target>() {
                prop_assert_eq!(target.to_string().to_lowercase(), url.to_lowercase());
            }
        }
    }
}
