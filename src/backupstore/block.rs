//! One block: its checksum, and its form in the store.
//!
//! A reader believes nothing but the checksum: method names in configs are a first guess.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha512};

use super::lz4;

/// The first 32 bytes of the SHA-512 of a block's uncompressed bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checksum([u8; 32]);

impl Checksum {
    /// The checksum of `data`.
    pub fn of(data: &[u8]) -> Self {
        let mut short = [0; 32];
        short.copy_from_slice(&Sha512::digest(data)[..32]);
        Self(short)
    }

    /// The checksum of `size` zero bytes; at no cost for the two sizes that Longhorn writes.
    pub fn of_zeros(size: u64) -> Self {
        match size {
            0x20_0000 => Self(ZEROS_2_MIB),
            0x100_0000 => Self(ZEROS_16_MIB),
            other => Self::of(&vec![0; usize::try_from(other).unwrap_or(usize::MAX)]),
        }
    }
}

const ZEROS_2_MIB: [u8; 32] = [
    0x73, 0x18, 0x59, 0x02, 0x92, 0x15, 0x87, 0x3f, 0xda, 0xc1, 0xc9, 0xf2, 0xf8, 0xbd, 0x25, 0xa3, 0x34, 0xab, 0xf0, 0xf3, 0xa9,
    0xe1, 0xb0, 0x57, 0xcf, 0x2c, 0xac, 0xc2, 0x82, 0x6d, 0x86, 0xb0,
];
const ZEROS_16_MIB: [u8; 32] = [
    0x7e, 0x20, 0x8b, 0x53, 0xe5, 0xc5, 0x41, 0xb2, 0x39, 0x06, 0xef, 0x8e, 0xd8, 0xf5, 0xe1, 0x2e, 0x4f, 0x1b, 0x47, 0x0f, 0xbd,
    0x0d, 0x3e, 0x90, 0x7b, 0x1f, 0xc0, 0xc0, 0xb8, 0xd7, 0x8e, 0xb1,
];

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not 64 lower case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a checksum: 64 lower case hex digits are expected")]
pub struct InvalidChecksum(String);

impl FromStr for Checksum {
    type Err = InvalidChecksum;

    fn from_str(text: &str) -> Result<Self, InvalidChecksum> {
        let invalid = || InvalidChecksum(text.to_owned());
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| invalid())?;
        Ok(Self(bytes))
    }
}

/// How a backup's blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// LZ4 frames.
    Lz4,
    /// gzip members.
    Gzip,
    /// Not at all.
    None,
}

impl Compression {
    /// Every method.
    pub const ALL: [Self; 3] = [Self::Lz4, Self::Gzip, Self::None];

    /// As configs name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Gzip => "gzip",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A compression method that the format does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("compression method {0:?} is not known: allowed are lz4, gzip and none")]
pub struct UnknownCompression(String);

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(name: &str) -> Result<Self, UnknownCompression> {
        Self::ALL.into_iter().find(|method| method.as_str() == name).ok_or_else(|| UnknownCompression(name.to_owned()))
    }
}

/// Whether `data` is all zeros.
pub fn is_zero(data: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    data.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

/// The form of `data` in the store.
pub fn encode(method: Compression, data: &[u8]) -> io::Result<Bytes> {
    Ok(match method {
        Compression::Lz4 => lz4::encode(data)?.into(),
        Compression::None => Bytes::copy_from_slice(data),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::with_capacity(data.len() / 2), flate2::Compression::default());
            encoder.write_all(data)?;
            encoder.finish()?.into()
        }
    })
}

/// Why no method turns an object into the block it is named after.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// Some method gave a block of the right size, with another checksum.
    #[error("its content has checksum {found}")]
    Checksum {
        /// Of what is there.
        found: Checksum,
    },
    /// No method gave a block of the right size.
    #[error("its {stored} bytes are no block of {size} bytes: {reason}")]
    Encoding {
        /// Bytes in the store.
        stored: usize,
        /// Bytes a block has.
        size: usize,
        /// What the backup's own method found wrong.
        reason: String,
    },
}

/// Puts the block with `checksum` that `stored` holds into `block`, whose length is the block size.
///
/// `method` is tried first, then what the first bytes look like.
pub fn decode(method: Compression, stored: &[u8], checksum: Checksum, block: &mut [u8]) -> Result<(), Corrupt> {
    let size = block.len();
    let others = Compression::ALL.into_iter().filter(|other| *other != method && looks_like(*other, stored, size));
    let mut failure = None;
    for method in std::iter::once(method).chain(others) {
        let problem = match decode_as(method, stored, block) {
            Ok(()) => match Checksum::of(block) {
                found if found == checksum => return Ok(()),
                found => Corrupt::Checksum { found },
            },
            Err(error) => Corrupt::Encoding { stored: stored.len(), size: block.len(), reason: error.to_string() },
        };
        failure.get_or_insert(problem);
    }
    Err(failure.unwrap_or(Corrupt::Encoding { stored: stored.len(), size: block.len(), reason: "no method fits".to_owned() }))
}

fn looks_like(method: Compression, stored: &[u8], size: usize) -> bool {
    match method {
        Compression::Lz4 => lz4::is_frame(stored),
        Compression::Gzip => stored.starts_with(&[0x1f, 0x8b]),
        Compression::None => stored.len() == size,
    }
}

fn decode_as(method: Compression, stored: &[u8], block: &mut [u8]) -> io::Result<()> {
    match method {
        Compression::Lz4 => lz4::decode(stored, block),
        Compression::Gzip => read_exactly(MultiGzDecoder::new(stored), block),
        Compression::None if stored.len() == block.len() => {
            block.copy_from_slice(stored);
            Ok(())
        }
        Compression::None => Err(io::Error::other("it is not stored uncompressed")),
    }
}

/// Fills `block` from `reader`, which must end there.
fn read_exactly(mut reader: impl Read, block: &mut [u8]) -> io::Result<()> {
    reader.read_exact(block)?;
    match reader.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::other("it holds more than one block")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_constant_checksums_of_zeros_are_right() {
        for size in [2 << 20, 16 << 20, 4096] {
            assert_eq!(Checksum::of_zeros(size), Checksum::of(&vec![0; size as usize]), "{size}");
        }
    }

    #[test]
    fn a_checksum_is_64_lower_case_digits() {
        let text = Checksum::of(b"a").to_string();
        assert_eq!(text.parse::<Checksum>().map(|c| c.to_string()), Ok(text.clone()));
        for bad in [&text[1..], &text.to_uppercase(), "", &format!("{text}00"), &text.replace(&text[..1], "g")] {
            assert!(bad.parse::<Checksum>().is_err(), "{bad}");
        }
    }

    #[test]
    fn zeros_are_found_whatever_the_length() {
        for length in [0, 1, 4095, 4096, 4097, 10_000] {
            let mut data = vec![0; length];
            assert!(is_zero(&data));
            if let Some(last) = data.last_mut() {
                *last = 1;
                assert!(!is_zero(&data));
            }
        }
    }

    /// Random, repeating and empty stretches, as volumes have them.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        let stretch = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..3000),
            (any::<u8>(), 0usize..5000).prop_map(|(byte, length)| vec![byte; length]),
            (proptest::collection::vec(any::<u8>(), 1..40), 0usize..200).prop_map(|(word, times)| word.repeat(times)),
        ];
        proptest::collection::vec(stretch, 0..6).prop_map(|stretches| stretches.concat())
    }

    proptest! {
        #[test]
        fn every_method_gives_the_block_back_whatever_method_is_expected(data in content(), wrote in 0usize..3, expected in 0usize..3) {
            let stored = encode(Compression::ALL[wrote], &data).unwrap();
            let mut block = vec![0xaa; data.len()];
            prop_assert_eq!(decode(Compression::ALL[expected], &stored, Checksum::of(&data), &mut block), Ok(()));
            prop_assert_eq!(block, data);
        }

        #[test]
        fn a_changed_byte_is_never_taken_for_the_block(data in content(), method in 0usize..3, at: prop::sample::Index, flip in 1u8..) {
            let mut stored = encode(Compression::ALL[method], &data).unwrap().to_vec();
            if stored.is_empty() {
                return Ok(());
            }
            let at = at.index(stored.len());
            stored[at] ^= flip;
            let mut block = vec![0; data.len()];
            // A flip in a header field that says nothing about the content may leave the block as it was.
            if decode(Compression::ALL[method], &stored, Checksum::of(&data), &mut block).is_ok() {
                prop_assert_eq!(block, data);
            }
        }

        #[test]
        fn a_cut_or_longer_object_is_no_block(data in content(), method in 0usize..3, cut in 1usize..40) {
            let stored = encode(Compression::ALL[method], &data).unwrap();
            let mut block = vec![0; data.len()];
            let checksum = Checksum::of(&data);
            let shorter = &stored[..stored.len().saturating_sub(cut)];
            // No bytes at all are valid for a block of no bytes, which no volume has.
            if shorter.len() < stored.len() && !data.is_empty() {
                prop_assert!(decode(Compression::ALL[method], shorter, checksum, &mut block).is_err());
            }
            let longer = [&stored[..], &vec![7; cut]].concat();
            prop_assert!(decode(Compression::ALL[method], &longer, checksum, &mut block).is_err());
        }
    }
}
