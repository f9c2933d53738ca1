//! LZ4 frames: written by the block function inside a frame of our own, read in every valid form.
//!
//! The frame encoders at hand cost 2 to 50 times more on data that does not compress. Source: LZ4 frame format 1.6.

use std::io::{self, Read};

use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};
use lz4_flex::frame::FrameDecoder;
use twox_hash::XxHash32;

/// Version 1, independent blocks of at most 4 MiB, content checksum; the last byte is the header's own checksum.
const HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x64, 0x70, 0xb9];
const MAX_BLOCK: usize = 4 << 20;
/// In a block's size: its bytes are not compressed.
const UNCOMPRESSED: u32 = 1 << 31;
const END_MARK: u32 = 0;

/// One frame that holds `data`.
pub fn encode(data: &[u8]) -> io::Result<Vec<u8>> {
    let mut frame = Vec::with_capacity(HEADER.len() + get_maximum_output_size(data.len()) + 16);
    frame.extend_from_slice(&HEADER);
    for block in data.chunks(MAX_BLOCK) {
        encode_block(block, &mut frame)?;
    }
    frame.extend_from_slice(&END_MARK.to_le_bytes());
    frame.extend_from_slice(&XxHash32::oneshot(0, data).to_le_bytes());
    Ok(frame)
}

fn encode_block(block: &[u8], frame: &mut Vec<u8>) -> io::Result<()> {
    let start = frame.len() + 4;
    frame.resize(start + get_maximum_output_size(block.len()), 0);
    let compressed = compress_into(block, &mut frame[start..]).map_err(io::Error::other)?;
    let size = if compressed < block.len() {
        frame.truncate(start + compressed);
        compressed as u32
    } else {
        frame.truncate(start);
        frame.extend_from_slice(block);
        block.len() as u32 | UNCOMPRESSED
    };
    frame[start - 4..start].copy_from_slice(&size.to_le_bytes());
    Ok(())
}

/// Whether `stored` begins as an LZ4 or a skippable frame does.
pub fn is_frame(stored: &[u8]) -> bool {
    stored.starts_with(&HEADER[..4]) || skippable(stored).is_some()
}

/// Fills `block` with the content of the frames in `stored`, which must give exactly that many bytes and end with the last frame.
pub fn decode(stored: &[u8], block: &mut [u8]) -> io::Result<()> {
    match stored.strip_prefix(&HEADER) {
        Some(body) => decode_own(body, block),
        None => decode_any(stored, block),
    }
}

/// Frames with the header that Longhorn and we write, straight into `block`: the general decoder takes 8 MiB of buffers.
fn decode_own(mut body: &[u8], block: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    loop {
        let size = take_u32(&mut body)?;
        if size == END_MARK {
            break;
        }
        let length = (size & !UNCOMPRESSED) as usize;
        let (data, rest) = body.split_at_checked(length).ok_or_else(ends_early)?;
        body = rest;
        let space = &mut block[filled..];
        filled += if size & UNCOMPRESSED == 0 {
            decompress_into(data, space).map_err(io::Error::other)?
        } else {
            space.get_mut(..length).ok_or_else(wrong_size)?.copy_from_slice(data);
            length
        };
    }
    let expected = take_u32(&mut body)?;
    if filled != block.len() {
        // Several frames in one object: nobody writes that with this header, yet it is valid.
        return if body.is_empty() { Err(wrong_size()) } else { decode_any_own(body, expected, filled, block) };
    }
    if XxHash32::oneshot(0, block) != expected {
        return Err(io::Error::other("the frame's content checksum is wrong"));
    }
    if body.is_empty() { Ok(()) } else { Err(trailing()) }
}

/// More frames behind a first one that filled part of `block`.
fn decode_any_own(rest: &[u8], expected: u32, filled: usize, block: &mut [u8]) -> io::Result<()> {
    let (first, remaining) = block.split_at_mut(filled);
    if XxHash32::oneshot(0, first) != expected {
        return Err(io::Error::other("the frame's content checksum is wrong"));
    }
    decode_any(rest, remaining)
}

fn decode_any(mut stored: &[u8], block: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while !stored.is_empty() {
        if let Some(length) = skippable(stored) {
            stored = stored.get(8 + length..).ok_or_else(ends_early)?;
            continue;
        }
        if !stored.starts_with(&HEADER[..4]) {
            return Err(if filled == 0 { io::Error::other("it is not an LZ4 frame") } else { trailing() });
        }
        let mut decoder = FrameDecoder::new(stored);
        filled += read_frame(&mut decoder, &mut block[filled..])?;
        stored = decoder.into_inner();
    }
    if filled == block.len() { Ok(()) } else { Err(wrong_size()) }
}

/// Reads one frame; gives the bytes it held.
fn read_frame(decoder: &mut FrameDecoder<&[u8]>, space: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    loop {
        if filled == space.len() {
            return match decoder.read(&mut [0])? {
                0 => Ok(filled),
                _ => Err(wrong_size()),
            };
        }
        match decoder.read(&mut space[filled..])? {
            0 => return Ok(filled),
            read => filled += read,
        }
    }
}

/// The length of the skippable frame that `stored` begins with.
fn skippable(stored: &[u8]) -> Option<usize> {
    let magic = u32::from_le_bytes(stored.get(..4)?.try_into().ok()?);
    let length = u32::from_le_bytes(stored.get(4..8)?.try_into().ok()?);
    (0x184d_2a50..=0x184d_2a5f).contains(&magic).then_some(length as usize)
}

fn take_u32(bytes: &mut &[u8]) -> io::Result<u32> {
    let (head, rest) = bytes.split_first_chunk::<4>().ok_or_else(ends_early)?;
    *bytes = rest;
    Ok(u32::from_le_bytes(*head))
}

fn ends_early() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the LZ4 frame ends early")
}

fn wrong_size() -> io::Error {
    io::Error::other("the LZ4 frame holds another number of bytes")
}

fn trailing() -> io::Error {
    io::Error::other("there are bytes behind the LZ4 frame")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    use proptest::prelude::*;

    use super::*;

    fn other_encoder(info: FrameInfo, data: &[u8]) -> Vec<u8> {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn decoded(stored: &[u8], size: usize) -> io::Result<Vec<u8>> {
        let mut block = vec![0xaa; size];
        decode(stored, &mut block).map(|()| block)
    }

    fn text(size: usize) -> Vec<u8> {
        (0..size).map(|i| b"some text that repeats with variations"[i * i / 7 % 38]).collect()
    }

    #[test]
    fn the_header_is_the_one_that_other_encoders_make_for_these_choices() {
        let info = FrameInfo::new().block_size(BlockSize::Max4MB).content_checksum(true);
        assert_eq!(other_encoder(info, b"x")[..7], HEADER);
    }

    #[test]
    fn other_decoders_read_our_frames() {
        for size in [0, 1, 12, 13, 4096, MAX_BLOCK - 1, MAX_BLOCK, MAX_BLOCK + 1, 16 << 20] {
            let data = text(size);
            let mut read = Vec::new();
            FrameDecoder::new(&encode(&data).unwrap()[..]).read_to_end(&mut read).unwrap();
            assert_eq!(read, data, "{size}");
        }
    }

    #[test]
    fn bytes_that_do_not_compress_cost_nineteen_more() {
        let mut state = 1u64;
        let data: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        })
        .take(2 << 20)
        .collect();
        assert_eq!(encode(&data).unwrap().len(), (2 << 20) + 19);
    }

    #[test]
    fn every_valid_form_is_read() {
        let data = text(300_000);
        let forms = [
            FrameInfo::new().block_size(BlockSize::Max64KB),
            FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Linked),
            FrameInfo::new().block_size(BlockSize::Max256KB).content_size(Some(300_000)),
            FrameInfo::new().block_size(BlockSize::Max1MB).block_checksums(true).content_checksum(true),
        ];
        for form in forms {
            let frame = other_encoder(form.clone(), &data);
            assert_eq!(decoded(&frame, data.len()).unwrap(), data, "{form:?}");
            let skipped = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], &frame[..]].concat();
            assert_eq!(decoded(&skipped, data.len()).unwrap(), data, "{form:?} behind a skippable frame");
            let two = [&frame[..], &encode(&data).unwrap()].concat();
            assert_eq!(decoded(&two, 2 * data.len()).unwrap(), [&data[..], &data].concat(), "{form:?} and another frame");
            let two = [&encode(&data).unwrap(), &frame[..]].concat();
            assert_eq!(decoded(&two, 2 * data.len()).unwrap(), [&data[..], &data].concat(), "ours and {form:?}");
            let trailing = [&frame[..], b"junk"].concat();
            assert!(decoded(&trailing, data.len()).is_err(), "{form:?} with trailing bytes");
            assert!(decoded(&frame, data.len() - 1).is_err());
            assert!(decoded(&frame, data.len() + 1).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(stored: Vec<u8>, size in 0usize..5000, ours: bool) {
            let stored = if ours { [&HEADER[..], &stored].concat() } else { stored };
            let _ = decoded(&stored, size);
        }
    }
}
