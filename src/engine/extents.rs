//! What the file system's extent maps prove about images.
//!
//! Two stretches of two images are equal when both read as zeros, or when both are written and lie at the same physical address. An extent
//! whose address the file system does not vouch for proves nothing. This holds only while both images are there: a map saved from a removed
//! image proves nothing at all, because its space is used again.

use std::collections::VecDeque;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;

use super::error::{Context, Result};
use super::sys::{self, FIEMAP_FLAG_SYNC, FiemapExtent, FiemapPage};

/// Ranges are reported in units of this, which bounds how many there can be. No block of a store is smaller.
const UNIT: u64 = 64 << 10;

/// Flags of extents whose physical address is not where the plain bytes lie.
const OPAQUE: u32 = sys::FIEMAP_EXTENT_UNKNOWN
    | sys::FIEMAP_EXTENT_DELALLOC
    | sys::FIEMAP_EXTENT_ENCODED
    | sys::FIEMAP_EXTENT_DATA_ENCRYPTED
    | sys::FIEMAP_EXTENT_NOT_ALIGNED
    | sys::FIEMAP_EXTENT_DATA_INLINE
    | sys::FIEMAP_EXTENT_DATA_TAIL;

/// What a stretch of an image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Reads as zeros: a hole, or allocated and never written.
    Zeros,
    /// Written, its first byte at this physical address.
    At(u64),
    /// Something, but its address proves nothing.
    Opaque,
}

impl Content {
    /// The same stretch from `bytes` further on.
    fn advanced(self, bytes: u64) -> Self {
        match self {
            Self::At(address) => Self::At(address + bytes),
            other => other,
        }
    }

    fn proves_equal(self, other: Self) -> bool {
        self == other && self != Self::Opaque
    }
}

/// A stretch of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    start: u64,
    end: u64,
    content: Content,
}

impl From<&FiemapExtent> for Segment {
    fn from(extent: &FiemapExtent) -> Self {
        let content = if extent.flags & OPAQUE != 0 {
            Content::Opaque
        } else if extent.flags & sys::FIEMAP_EXTENT_UNWRITTEN != 0 {
            Content::Zeros
        } else {
            Content::At(extent.physical)
        };
        Self { start: extent.logical, end: extent.logical.saturating_add(extent.length), content }
    }
}

/// An image's segments in order, without gaps from 0 to `size`, read a page at a time.
struct Segments<'a> {
    file: &'a File,
    size: u64,
    /// Where the next segment starts.
    offset: u64,
    page: FiemapPage,
    pending: VecDeque<Segment>,
    is_read: bool,
}

impl<'a> Segments<'a> {
    fn new(file: &'a File, size: u64) -> Self {
        Self { file, size, offset: 0, page: FiemapPage::new(), pending: VecDeque::new(), is_read: false }
    }

    fn next(&mut self) -> Result<Option<Segment>> {
        if self.offset >= self.size {
            return Ok(None);
        }
        if self.pending.is_empty() && !self.is_read {
            self.read_page()?;
        }
        let segment = next_segment(self.offset, self.size, &mut self.pending);
        self.offset = segment.end;
        Ok(Some(segment))
    }

    fn read_page(&mut self) -> Result<()> {
        let extents = self
            .page
            .read(self.file, self.offset, self.size - self.offset, FIEMAP_FLAG_SYNC)
            .context(|| "read an image's extent map".into())?;
        self.is_read = extents.last().is_none_or(|last| last.flags & sys::FIEMAP_EXTENT_LAST != 0);
        self.pending.extend(extents.iter().map(Segment::from));
        Ok(())
    }
}

/// The segment that starts at `offset`: a gap before the next extent, or that extent cut to what is left of it.
fn next_segment(offset: u64, size: u64, pending: &mut VecDeque<Segment>) -> Segment {
    while pending.front().is_some_and(|segment| segment.end <= offset) {
        pending.pop_front();
    }
    match pending.front().copied() {
        Some(segment) if segment.start <= offset => {
            pending.pop_front();
            let content = segment.content.advanced(offset - segment.start);
            Segment { start: offset, end: segment.end.min(size), content }
        }
        Some(segment) => Segment { start: offset, end: segment.start.min(size), content: Content::Zeros },
        None => Segment { start: offset, end: size, content: Content::Zeros },
    }
}

/// Ranges outside which the image is all zeros.
pub(super) fn allocated(file: &File, size: u64) -> Result<Vec<Range<u64>>> {
    let mut ranges = Ranges::new(size);
    let mut segments = Segments::new(file, size);
    while let Some(segment) = segments.next()? {
        if segment.content != Content::Zeros {
            ranges.add(segment.start..segment.end);
        }
    }
    Ok(ranges.done)
}

/// Ranges outside which `image` equals `base`, never one too few. `None` when `base` changed meanwhile, so that nothing is proved.
pub(super) fn changed(base: (&File, u64), image: (&File, u64)) -> Result<Option<Vec<Range<u64>>>> {
    let mut digest = DefaultHasher::new();
    let ranges = {
        let mut base = Segments::new(base.0, base.1);
        compare(
            || {
                let segment = base.next()?;
                note(&mut digest, segment);
                Ok(segment)
            },
            Segments::new(image.0, image.1),
        )?
    };
    // A clone of the base keeps its blocks where they are; anything that moves them shows here.
    let mut again = DefaultHasher::new();
    let mut segments = Segments::new(base.0, base.1);
    while let Some(segment) = segments.next()? {
        note(&mut again, Some(segment));
    }
    note(&mut again, None);
    Ok((digest.finish() == again.finish()).then_some(ranges))
}

fn note(digest: &mut DefaultHasher, segment: Option<Segment>) {
    let Some(segment) = segment else { return digest.write_u8(0) };
    let (kind, address) = match segment.content {
        Content::Zeros => (1, 0),
        Content::At(address) => (2, address),
        Content::Opaque => (3, 0),
    };
    digest.write_u8(kind);
    digest.write_u64(address);
    digest.write_u64(segment.start);
    digest.write_u64(segment.end);
}

/// Walks both lists side by side. `next_base` is asked until it says that there is no more.
fn compare(mut next_base: impl FnMut() -> Result<Option<Segment>>, mut image: Segments<'_>) -> Result<Vec<Range<u64>>> {
    let mut ranges = Ranges::new(image.size);
    let mut base_segment = next_base()?;
    while let Some(segment) = image.next()? {
        let mut at = segment.start;
        while at < segment.end {
            // Beyond the end of a smaller base nothing is equal to anything.
            let Some(base) = base_segment else {
                ranges.add(at..segment.end);
                break;
            };
            let end = base.end.min(segment.end);
            let equal = base.content.advanced(at - base.start).proves_equal(segment.content.advanced(at - segment.start));
            if !equal {
                ranges.add(at..end);
            }
            at = end;
            if base.end == end {
                base_segment = next_base()?;
            }
        }
    }
    while base_segment.is_some() {
        base_segment = next_base()?;
    }
    Ok(ranges.done)
}

/// Collects ascending ranges, widened to whole units and joined.
struct Ranges {
    size: u64,
    done: Vec<Range<u64>>,
}

impl Ranges {
    fn new(size: u64) -> Self {
        Self { size, done: Vec::new() }
    }

    fn add(&mut self, range: Range<u64>) {
        let start = range.start / UNIT * UNIT;
        let end = range.end.next_multiple_of(UNIT).min(self.size);
        match self.done.last_mut() {
            Some(last) if last.end >= start => last.end = last.end.max(end),
            _ => self.done.push(start..end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_zeros_and_the_same_address_prove_equality() {
        let contents = [Content::Zeros, Content::At(4096), Content::At(8192), Content::Opaque];
        for (left, one) in contents.into_iter().enumerate() {
            for (right, other) in contents.into_iter().enumerate() {
                assert_eq!(one.proves_equal(other), left == right && one != Content::Opaque, "{one:?} {other:?}");
            }
        }
        assert_eq!(Content::At(4096).advanced(512), Content::At(4608));
    }

    #[test]
    fn an_extent_is_what_its_flags_say() {
        let content = |flags| {
            let mut extent = FiemapExtent::default();
            (extent.physical, extent.length, extent.flags) = (4096, 4096, flags);
            Segment::from(&extent).content
        };
        assert_eq!(content(0), Content::At(4096));
        assert_eq!(content(sys::FIEMAP_EXTENT_LAST), Content::At(4096));
        assert_eq!(content(sys::FIEMAP_EXTENT_UNWRITTEN), Content::Zeros);
        for flag in 0..32 {
            let flag = 1 << flag;
            // A delayed allocation is unknown even where it says that it is unwritten.
            let opaque = content(flag | sys::FIEMAP_EXTENT_UNWRITTEN) == Content::Opaque;
            assert_eq!(opaque, flag & OPAQUE != 0, "{flag:#x}");
        }
    }

    #[test]
    fn gaps_between_extents_are_segments_of_zeros() {
        let written = |start, end, address| Segment { start, end, content: Content::At(address) };
        let mut pending = VecDeque::from([written(0, 8, 100), written(16, 24, 200)]);
        let mut found = Vec::new();
        let mut offset = 4;
        while offset < 20 {
            let segment = next_segment(offset, 20, &mut pending);
            offset = segment.end;
            found.push(segment);
        }
        let zeros = Segment { start: 8, end: 16, content: Content::Zeros };
        assert_eq!(found, [written(4, 8, 104), zeros, written(16, 20, 200)]);
        assert_eq!(next_segment(0, 20, &mut VecDeque::new()), Segment { start: 0, end: 20, content: Content::Zeros });
    }

    #[test]
    fn ranges_are_widened_to_units_and_joined() {
        let mut ranges = Ranges::new(10 * UNIT + 512);
        for range in [1..2, UNIT..UNIT + 1, 3 * UNIT + 5..3 * UNIT + 6, 10 * UNIT + 1..10 * UNIT + 2] {
            ranges.add(range);
        }
        assert_eq!(ranges.done, [0..2 * UNIT, 3 * UNIT..4 * UNIT, 10 * UNIT..10 * UNIT + 512]);
    }
}
