//! The two kinds of config in a store, `volume.cfg` and `backup_NAME.cfg`, as they are written and read.
//!
//! Read whatever the letter case of the field names, null or absent is a field's zero value; fields of later versions are kept
//! when a config is written again.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::{Deserialize, Deserializer, MapAccess};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::block::{Checksum, Compression, UnknownCompression};
use super::json::{self, Counter, Doubled, Fields, value};

/// Label of a backup: the random id of the snapshot it was made of.
pub const SNAPSHOT_ID: &str = "drover.io/snapshot-id";
/// Label of a backup: bytes of the volume at that snapshot. `Size` counts blocks, and `volume.cfg` knows the newest size only.
pub const VOLUME_SIZE: &str = "drover.io/volume-size";
/// Label of a backup in progress: the lock of its writer.
pub const WRITER: &str = "drover.io/writer";

/// Key of [`BackupConfig::parameters`]: a Kubernetes quantity.
pub const BLOCK_SIZE_PARAMETER: &str = "backup-block-size";
/// Key of [`BackupConfig::parameters`]: `full` or `incremental`.
pub const MODE_PARAMETER: &str = "backup-mode";

const DEFAULT_BLOCK_SIZE: u64 = 2 << 20;
/// No block is larger: keeps a damaged config from asking for all memory.
const MAX_BLOCK_SIZE: u64 = 64 << 20;

/// Labels and parameters: `None` is written as null.
pub type StringMap = Option<BTreeMap<String, String>>;

/// `volume.cfg`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeConfig {
    /// The volume's name.
    pub name: String,
    /// Bytes of the volume at its newest backup.
    #[serde(serialize_with = "counter")]
    pub size: u64,
    /// What the newest backup said about the volume.
    pub labels: StringMap,
    /// When the volume was made, RFC 3339.
    pub created_time: String,
    /// The backup that was made last, or empty.
    pub last_backup_name: String,
    /// When that backup's snapshot was taken, RFC 3339, or empty.
    pub last_backup_at: String,
    /// Blocks in the store.
    #[serde(serialize_with = "counter")]
    pub block_count: u64,
    /// Longhorn's backing image, or empty.
    #[serde(serialize_with = "doubled")]
    pub backing_image_name: String,
    /// Its checksum, or empty.
    #[serde(serialize_with = "doubled")]
    pub backing_image_checksum: String,
    /// How the newest backup compresses.
    #[serde(serialize_with = "doubled")]
    pub compression_method: String,
    /// The volume's StorageClass, or empty.
    #[serde(serialize_with = "doubled")]
    pub storage_class_name: String,
    /// `v1` or `v2`; empty means `v1`.
    #[serde(serialize_with = "doubled")]
    pub data_engine: String,
    /// Fields of later versions, kept.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

impl VolumeConfig {
    /// When the volume was made.
    pub fn created_at(&self) -> Option<Timestamp> {
        self.created_time.parse().ok()
    }

    /// When the newest backup's snapshot was taken.
    pub fn last_backup_at(&self) -> Option<Timestamp> {
        self.last_backup_at.parse().ok()
    }
}

/// `backup_NAME.cfg`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct BackupConfig {
    /// The backup's name.
    pub name: String,
    /// The volume's name.
    pub volume_name: String,
    /// The snapshot it was made of.
    pub snapshot_name: String,
    /// When that was taken, RFC 3339.
    pub snapshot_created_at: String,
    /// When the backup was complete, RFC 3339. Empty: it is in progress.
    pub created_time: String,
    /// Number of blocks times block size: what the backup takes before compression, not the volume's size.
    #[serde(rename = "Size", serialize_with = "counter")]
    pub data_size: u64,
    /// Labels of the user and ours.
    pub labels: StringMap,
    /// Block size and mode.
    pub parameters: StringMap,
    /// Whether there was an earlier backup to compare with.
    pub is_incremental: bool,
    /// `lz4`, `gzip` or `none`; empty means `gzip`.
    pub compression_method: String,
    /// Bytes written to the store for blocks that were not there.
    #[serde(serialize_with = "counter")]
    pub newly_uploaded_data_size: u64,
    /// Bytes written to the store for blocks that were there.
    #[serde(serialize_with = "counter")]
    pub re_uploaded_data_size: u64,
    /// Longhorn's bookkeeping: `{}` after a full backup, else null.
    pub processing_blocks: Value,
    /// The volume at that snapshot, ascending: every offset that is not here reads as zeros.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<Block>,
    /// Not used for volumes.
    pub single_file: SingleFile,
    /// Fields of later versions, kept.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// One block of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Byte offset in the volume.
    pub offset: u64,
    /// Names the block's object.
    pub checksum: Checksum,
}

/// Longhorn's field for backups of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct SingleFile {
    /// Empty for volumes.
    pub file_path: String,
}

impl BackupConfig {
    /// Whether a writer is at work on it, or died at it.
    pub fn is_in_progress(&self) -> bool {
        self.created_time.is_empty()
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// The random id of the snapshot, when we made the backup.
    pub fn snapshot_id(&self) -> Option<&str> {
        self.label(SNAPSHOT_ID).filter(|id| !id.is_empty())
    }

    /// Bytes of the volume at that snapshot, when we made the backup.
    pub fn volume_size(&self) -> Option<u64> {
        self.label(VOLUME_SIZE)?.parse().ok()
    }

    /// When the snapshot was taken.
    pub fn snapshot_created_at(&self) -> Option<Timestamp> {
        self.snapshot_created_at.parse().ok()
    }

    /// When the backup was complete; `None` while in progress.
    pub fn created_at(&self) -> Option<Timestamp> {
        self.created_time.parse().ok()
    }

    /// How its blocks are compressed.
    pub fn compression(&self) -> Result<Compression, UnknownCompression> {
        if self.compression_method.is_empty() { Ok(Compression::Gzip) } else { self.compression_method.parse() }
    }

    /// Bytes of a block; `None` when the parameter is no usable size.
    pub fn block_size(&self) -> Option<u64> {
        let text = self.parameters.as_ref().and_then(|p| p.get(BLOCK_SIZE_PARAMETER)).map_or("", String::as_str).trim();
        let size = if text.is_empty() { 0 } else { parse_quantity(text)? };
        match size {
            0 => Some(DEFAULT_BLOCK_SIZE),
            size if size % 512 == 0 && size <= MAX_BLOCK_SIZE => Some(size),
            _ => None,
        }
    }
}

/// A whole Kubernetes quantity: `2097152`, `16Mi`.
fn parse_quantity(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match &text[digits.len()..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// A time as configs hold it: UTC, whole seconds.
pub fn format_time(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

impl Fields for VolumeConfig {
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "name" => self.name = value(map)?,
            "size" => self.size = value::<_, Counter>(map)?.0,
            "labels" => self.labels = map.next_value()?,
            "createdtime" => self.created_time = value(map)?,
            "lastbackupname" => self.last_backup_name = value(map)?,
            "lastbackupat" => self.last_backup_at = value(map)?,
            "blockcount" => self.block_count = value::<_, Counter>(map)?.0,
            "backingimagename" => self.backing_image_name = value::<_, Doubled>(map)?.0,
            "backingimagechecksum" => self.backing_image_checksum = value::<_, Doubled>(map)?.0,
            "compressionmethod" => self.compression_method = value::<_, Doubled>(map)?.0,
            "storageclassname" => self.storage_class_name = value::<_, Doubled>(map)?.0,
            "dataengine" => self.data_engine = value::<_, Doubled>(map)?.0,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn unknown(&mut self, name: String, value: Value) {
        self.unknown.insert(name, value);
    }
}

impl Fields for BackupConfig {
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "name" => self.name = value(map)?,
            "volumename" => self.volume_name = value(map)?,
            "snapshotname" => self.snapshot_name = value(map)?,
            "snapshotcreatedat" => self.snapshot_created_at = value(map)?,
            "createdtime" => self.created_time = value(map)?,
            "size" => self.data_size = value::<_, Counter>(map)?.0,
            "labels" => self.labels = map.next_value()?,
            "parameters" => self.parameters = map.next_value()?,
            "isincremental" => self.is_incremental = value(map)?,
            "compressionmethod" => self.compression_method = value(map)?,
            "newlyuploadeddatasize" => self.newly_uploaded_data_size = value::<_, Counter>(map)?.0,
            "reuploadeddatasize" => self.re_uploaded_data_size = value::<_, Counter>(map)?.0,
            "processingblocks" => self.processing_blocks = map.next_value()?,
            "blocks" => self.blocks = value(map)?,
            "singlefile" => self.single_file = value(map)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn unknown(&mut self, name: String, value: Value) {
        self.unknown.insert(name, value);
    }
}

impl Fields for SingleFile {
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "filepath" => self.file_path = value(map)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn unknown(&mut self, _: String, _: Value) {}
}

/// A block as it is read: a field may be missing until all were seen.
#[derive(Default)]
struct BlockFields {
    offset: u64,
    checksum: String,
}

impl Fields for BlockFields {
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "offset" => self.offset = value(map)?,
            "blockchecksum" => self.checksum = value(map)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn unknown(&mut self, _: String, _: Value) {}
}

impl<'de> Deserialize<'de> for Block {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let BlockFields { offset, checksum } = json::fields(deserializer)?;
        Ok(Self { offset, checksum: checksum.parse().map_err(serde::de::Error::custom)? })
    }
}

impl Serialize for Block {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Wire {
            offset: u64,
            block_checksum: String,
        }
        Wire { offset: self.offset, block_checksum: self.checksum.to_string() }.serialize(serializer)
    }
}

macro_rules! deserialize_fields {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                json::fields(deserializer)
            }
        }
    )*};
}
deserialize_fields!(VolumeConfig, BackupConfig, SingleFile);

macro_rules! stored_form {
    ($($type:ty),*) => {$(
        impl $type {
            /// Reads a config's bytes in the store; what follows the JSON object is ignored.
            pub fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
                json::from_slice(bytes)
            }

            /// The config's bytes in the store: one line, fields in Longhorn's order.
            pub fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
                json::to_vec(self)
            }
        }
    )*};
}
stored_form!(VolumeConfig, BackupConfig);

fn counter<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    Counter(*number).serialize(serializer)
}

fn doubled<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    Doubled(text.to_owned()).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten<T: Serialize + serde::de::DeserializeOwned>(text: &str) -> String {
        String::from_utf8(json::to_vec(&json::from_slice::<T>(text.as_bytes()).unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn a_volume_config_of_longhorn_is_rewritten_byte_for_byte() {
        let text = r#"{"Name":"interop-16mi","Size":"50331648","Labels":{"lab":"a\u003cb"},"CreatedTime":"2026-11-23T05:12:59Z","LastBackupName":"backup-0012f7cdfb787394","LastBackupAt":"2026-11-23T05:16:05Z","BlockCount":"6","BackingImageName":"\"\"","BackingImageChecksum":"\"\"","CompressionMethod":"\"lz4\"","StorageClassName":"\"\"","DataEngine":"\"v1\""}"#;
        assert_eq!(rewritten::<VolumeConfig>(text), text);
    }

    #[test]
    fn plain_null_and_absent_strings_are_written_doubled() {
        let text = r#"{"NAME":"v","size":12,"CompressionMethod":"lz4","StorageClassName":null,"BackingImageName":""}"#;
        let written = rewritten::<VolumeConfig>(text);
        assert!(written.starts_with(r#"{"Name":"v","Size":"12","Labels":null,"CreatedTime":"","#), "{written}");
        assert!(written.ends_with(r#""BackingImageName":"\"\"","BackingImageChecksum":"\"\"","CompressionMethod":"\"lz4\"","StorageClassName":"\"\"","DataEngine":"\"\""}"#), "{written}");
    }

    #[test]
    fn fields_of_later_versions_are_kept() {
        let written = rewritten::<VolumeConfig>(r#"{"Name":"v","Future":{"b":1,"a":["<"]}}"#);
        assert!(
            written.ends_with(r#","Future":{"a":["\u003c"],"b":1}}"#)
                || written.ends_with(r#","Future":{"b":1,"a":["\u003c"]}}"#)
        );
        let written = rewritten::<BackupConfig>(r#"{"Name":"b","Future":7}"#);
        assert!(written.ends_with(r#""SingleFile":{"FilePath":""},"Future":7}"#), "{written}");
    }

    #[test]
    fn a_backup_config_is_written_in_order_and_without_an_empty_block_list() {
        let marker = BackupConfig {
            name: "b-1".into(),
            volume_name: "v-1".into(),
            compression_method: "lz4".into(),
            ..BackupConfig::default()
        };
        assert!(marker.is_in_progress());
        let written = String::from_utf8(json::to_vec(&marker).unwrap()).unwrap();
        let expected = r#"{"Name":"b-1","VolumeName":"v-1","SnapshotName":"","SnapshotCreatedAt":"","CreatedTime":"","Size":"0","Labels":null,"Parameters":null,"IsIncremental":false,"CompressionMethod":"lz4","NewlyUploadedDataSize":"0","ReUploadedDataSize":"0","ProcessingBlocks":null,"SingleFile":{"FilePath":""}}"#;
        assert_eq!(written, expected);
    }

    #[test]
    fn blocks_are_read_in_any_letter_case_and_a_bad_checksum_fails_the_config() {
        let checksum = Checksum::of(b"x");
        let text = format!(r#"{{"blocks":[{{"BLOCKCHECKSUM":"{checksum}","offset":2097152,"Extra":[1]}}]}}"#);
        let config = json::from_slice::<BackupConfig>(text.as_bytes()).unwrap();
        assert_eq!(config.blocks, [Block { offset: 2 << 20, checksum }]);
        assert!(json::from_slice::<BackupConfig>(br#"{"Blocks":[{"Offset":0,"BlockChecksum":"zz"}]}"#).is_err());
    }

    #[test]
    fn the_block_size_is_a_quantity_and_2_mib_without_one() {
        let with = |text: &str| BackupConfig {
            parameters: Some([(BLOCK_SIZE_PARAMETER.to_owned(), text.to_owned())].into()),
            ..BackupConfig::default()
        };
        assert_eq!(BackupConfig::default().block_size(), Some(2 << 20));
        for (text, size) in [("", 2 << 20), ("0", 2 << 20), ("16Mi", 16 << 20), ("2097152", 2 << 20), ("4Ki", 4096)] {
            assert_eq!(with(text).block_size(), Some(size), "{text}");
        }
        for bad in ["x", "1", "-2Mi", "1Ti", "9999999999999999999Gi", "1Gi"] {
            assert_eq!(with(bad).block_size(), None, "{bad}");
        }
    }

    #[test]
    fn times_are_whole_seconds_in_utc() {
        assert_eq!(format_time("2026-11-23T06:12:59.987+01:00".parse().unwrap()), "2026-11-23T05:12:59Z");
    }
}
