//! Filling a snapshot's image while the volume runs, so that the final clone of the whole finds almost everything shared already.
//!
//! A clone costs about 16 µs for each extent that it has to share and 1.5 µs for each that is shared already, and the volume's I/O
//! waits meanwhile (XFS; btrfs has no such check). So the sharing is done in steps of bounded cost, in passes until one is short; the steps are not atomic, the final clone is.

use std::fs::File;
use std::time::{Duration, Instant};

use super::error::{Context, Result};
use super::sys::{self, FIEMAP_PAGE, FiemapExtent, FiemapPage};

/// Bytes of one step: bounds what a step may have to write out of the page cache first.
const STEP_BYTES: u64 = 64 << 20;

/// Borders of steps are multiples of this, so that they fall on borders of file system blocks.
const STEP_ALIGNMENT: u64 = 64 << 10;

/// Passes end when one took less than this,
const SHORT_PASS: Duration = Duration::from_millis(300);

/// or more than this part of the one before: then the writer dirties as fast as we share.
const GAIN: f64 = 0.6;

/// or when there were so many.
const MAX_PASSES: usize = 6;

/// Shares everything that is in `source` with `destination`, except what is written meanwhile. Returns the longest single step.
///
/// `between` runs before each pass: there a mounted file system writes out what it holds back.
pub(super) fn prepare(destination: &File, source: &File, mut between: impl FnMut()) -> Result<Duration> {
    let size = source.metadata().context(|| "look at a volume's image".into())?.len();
    let mut longest = Duration::ZERO;
    let mut previous: Option<Duration> = None;
    for pass in 0..MAX_PASSES {
        between();
        let start = Instant::now();
        longest = longest.max(share(destination, source, size, pass == 0)?);
        let took = start.elapsed();
        if is_last(took, previous) {
            break;
        }
        previous = Some(took);
    }
    Ok(longest)
}

fn is_last(took: Duration, previous: Option<Duration>) -> bool {
    took < SHORT_PASS || previous.is_some_and(|previous| took > previous.mul_f64(GAIN))
}

/// One pass over the whole image, in steps. Returns the longest step.
fn share(destination: &File, source: &File, size: u64, is_blank: bool) -> Result<Duration> {
    let mut page = FiemapPage::new();
    let mut longest = Duration::ZERO;
    let mut offset = 0;
    while offset < size {
        let extents = page.read(source, offset, size - offset, 0).context(|| "read a volume's extent map".into())?;
        let page_end = page_end(extents, size);
        while offset < page_end {
            // Holes need no step where nothing can lie in the destination.
            let start = if is_blank { next_extent(extents, offset) } else { Some(offset) };
            let Some(start) = start.filter(|start| *start < page_end) else { break };
            offset = step_end(start, page_end);
            longest = longest.max(step(destination, source, start, offset)?);
        }
        offset = page_end;
    }
    Ok(longest)
}

/// How far a page of the map tells of the image: to its end, unless the page is full.
fn page_end(extents: &[FiemapExtent], size: u64) -> u64 {
    match extents.last() {
        Some(last) if extents.len() == FIEMAP_PAGE => (last.logical + last.length).next_multiple_of(STEP_ALIGNMENT).min(size),
        _ => size,
    }
}

/// Where the first extent that is not wholly before `offset` starts, `offset` at least.
fn next_extent(extents: &[FiemapExtent], offset: u64) -> Option<u64> {
    let next = extents.partition_point(|extent| extent.logical + extent.length <= offset);
    extents.get(next).map(|extent| (extent.logical / STEP_ALIGNMENT * STEP_ALIGNMENT).max(offset))
}

/// Where a step from `start` ends: after so many bytes, or with the page.
fn step_end(start: u64, page_end: u64) -> u64 {
    start.saturating_add(STEP_BYTES).min(page_end)
}

fn step(destination: &File, source: &File, start: u64, end: u64) -> Result<Duration> {
    let began = Instant::now();
    sys::clone_range(destination, source, start, end - start).context(|| "prepare a snapshot's image".into())?;
    Ok(began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MI: u64 = 1 << 20;

    fn extent(logical: u64, length: u64) -> FiemapExtent {
        let mut extent = FiemapExtent::default();
        (extent.logical, extent.length) = (logical, length);
        extent
    }

    #[test]
    fn a_page_that_is_not_full_tells_of_the_whole_rest() {
        assert_eq!(page_end(&[], 1 << 30), 1 << 30);
        assert_eq!(page_end(&[extent(0, 4096)], 1 << 30), 1 << 30);
        let full: Vec<_> = (0..FIEMAP_PAGE as u64).map(|n| extent(n * 8192, 4096)).collect();
        assert_eq!(page_end(&full, 1 << 30), 8 * MI);
        assert_eq!(page_end(&full, 4 * MI), 4 * MI);
    }

    #[test]
    fn holes_are_jumped_over_to_the_next_extent() {
        let extents = [extent(0, MI), extent(10 * MI + 4096, 4096)];
        assert_eq!(next_extent(&extents, 0), Some(0));
        assert_eq!(next_extent(&extents, MI / 2), Some(MI / 2));
        assert_eq!(next_extent(&extents, MI), Some(10 * MI));
        assert_eq!(next_extent(&extents, 11 * MI), None);
        assert_eq!(step_end(0, 100 * MI), STEP_BYTES);
        assert_eq!(step_end(0, MI), MI);
    }

    #[test]
    fn passes_end_when_short_or_when_they_gain_nothing() {
        let seconds = Duration::from_secs;
        assert!(is_last(Duration::from_millis(10), None));
        assert!(!is_last(seconds(5), None));
        assert!(!is_last(seconds(2), Some(seconds(5))));
        assert!(is_last(seconds(4), Some(seconds(5))));
    }
}
