//! Every kernel call that the standard library and rustix do not wrap: the only unsafe code of the engine.
//!
//! Structures are laid out by hand after the kernel's `linux/{fs,fiemap,loop}.h`; a test holds their sizes.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode, opcode};

/// Extents read with one call: 56 bytes each, so one buffer stays below 64 KiB.
pub(super) const FIEMAP_PAGE: usize = 1024;

/// Write dirty pages of the file out before the map is read.
pub(super) const FIEMAP_FLAG_SYNC: u32 = 0x1;

pub(super) const FIEMAP_EXTENT_LAST: u32 = 0x1;
pub(super) const FIEMAP_EXTENT_UNKNOWN: u32 = 0x2;
pub(super) const FIEMAP_EXTENT_DELALLOC: u32 = 0x4;
pub(super) const FIEMAP_EXTENT_ENCODED: u32 = 0x8;
pub(super) const FIEMAP_EXTENT_DATA_ENCRYPTED: u32 = 0x80;
pub(super) const FIEMAP_EXTENT_NOT_ALIGNED: u32 = 0x100;
pub(super) const FIEMAP_EXTENT_DATA_INLINE: u32 = 0x200;
pub(super) const FIEMAP_EXTENT_DATA_TAIL: u32 = 0x400;
pub(super) const FIEMAP_EXTENT_UNWRITTEN: u32 = 0x800;

pub(super) const LO_FLAGS_AUTOCLEAR: u32 = 4;
pub(super) const LO_FLAGS_DIRECT_IO: u32 = 16;

const FS_XFLAG_COWEXTSIZE: u32 = 0x0001_0000;

const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CLR_FD: Opcode = 0x4C01;
const LOOP_SET_STATUS64: Opcode = 0x4C04;
const LOOP_GET_STATUS64: Opcode = 0x4C05;
const LOOP_SET_CAPACITY: Opcode = 0x4C07;
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;
// The header says `_IOWR('X', 119, int)`; the argument is not used.
const FIFREEZE: Opcode = opcode::read_write::<i32>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<i32>(b'X', 120);
const FICLONERANGE: Opcode = opcode::write::<FileCloneRange>(0x94, 13);
const FS_IOC_FIEMAP: Opcode = opcode::read_write::<FiemapHeader>(b'f', 11);
const FS_IOC_FSGETXATTR: Opcode = opcode::read::<FsXattr>(b'X', 31);
const FS_IOC_FSSETXATTR: Opcode = opcode::write::<FsXattr>(b'X', 32);

#[repr(C)]
struct FileCloneRange {
    source: i64,
    source_offset: u64,
    length: u64,
    destination_offset: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FiemapHeader {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
}

/// One extent as the kernel reports it, in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FiemapExtent {
    pub logical: u64,
    pub physical: u64,
    pub length: u64,
    reserved64: [u64; 2],
    pub flags: u32,
    reserved32: [u32; 3],
}

#[repr(C)]
struct FiemapBuffer {
    header: FiemapHeader,
    extents: [FiemapExtent; FIEMAP_PAGE],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// What a loop device is bound to.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct LoopInfo {
    pub device: u64,
    pub inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    pub number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    pub flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl LoopInfo {
    const fn zeroed() -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            sizelimit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: 0,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// An ioctl whose answer is its return value.
struct ReturnsNumber<const OPCODE: Opcode>;

// SAFETY: the opcodes used with this type take no argument, so no memory is read or written; the output is the return value alone.
unsafe impl<const OPCODE: Opcode> Ioctl for ReturnsNumber<OPCODE> {
    type Output = u32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<u32> {
        u32::try_from(output).map_err(|_| rustix::io::Errno::INVAL)
    }
}

fn no_argument<const OPCODE: Opcode>(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: every opcode this is used with ignores its argument.
    unsafe { ioctl::ioctl(fd, ioctl::NoArg::<OPCODE>::new()) }?;
    Ok(())
}

/// Shares `length` bytes at `offset` of `source` with `destination`, at the same offset.
pub(super) fn clone_range(destination: impl AsFd, source: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    let range = FileCloneRange {
        source: i64::from(source.as_fd().as_raw_fd()),
        source_offset: offset,
        length,
        destination_offset: offset,
    };
    // SAFETY: FICLONERANGE reads one `file_clone_range`, whose layout `FileCloneRange` has; the descriptor in it outlives the call.
    unsafe { ioctl::ioctl(destination, ioctl::Setter::<FICLONERANGE, _>::new(range)) }?;
    Ok(())
}

/// Reusable space for one page of a file's extent map.
pub(super) struct FiemapPage(Box<FiemapBuffer>);

impl FiemapPage {
    pub fn new() -> Self {
        Self(Box::new(FiemapBuffer { header: FiemapHeader::default(), extents: [FiemapExtent::default(); FIEMAP_PAGE] }))
    }

    /// The first extents, at most [`FIEMAP_PAGE`], that overlap `[start, start + length)`.
    pub fn read(&mut self, file: impl AsFd, start: u64, length: u64, flags: u32) -> io::Result<&[FiemapExtent]> {
        self.0.header = FiemapHeader { start, length, flags, mapped_extents: 0, extent_count: FIEMAP_PAGE as u32, reserved: 0 };
        // SAFETY: FS_IOC_FIEMAP reads the header and writes at most `extent_count` extents behind it, which the buffer has room for.
        unsafe { ioctl::ioctl(file, ioctl::Updater::<FS_IOC_FIEMAP, _>::new(&mut *self.0)) }?;
        let mapped = (self.0.header.mapped_extents as usize).min(FIEMAP_PAGE);
        Ok(&self.0.extents[..mapped])
    }
}

/// Limits how much an XFS file's copy-on-write allocates ahead. `bytes` is a multiple of the file system's block size.
pub(super) fn set_cow_extent_size(file: impl AsFd, bytes: u32) -> io::Result<()> {
    // SAFETY: FS_IOC_FSGETXATTR writes one `fsxattr`, whose layout `FsXattr` has.
    let mut attributes = unsafe { ioctl::ioctl(&file, ioctl::Getter::<FS_IOC_FSGETXATTR, FsXattr>::new()) }?;
    attributes.xflags |= FS_XFLAG_COWEXTSIZE;
    attributes.cowextsize = bytes;
    // SAFETY: FS_IOC_FSSETXATTR reads one `fsxattr`, whose layout `FsXattr` has.
    unsafe { ioctl::ioctl(&file, ioctl::Setter::<FS_IOC_FSSETXATTR, _>::new(attributes)) }?;
    Ok(())
}

/// Stops all writes to the file system of `file` and brings it to a clean state on its device.
pub(super) fn freeze(file: impl AsFd) -> io::Result<()> {
    no_argument::<FIFREEZE>(file)
}

/// Undoes [`freeze`]; `EINVAL` when it is not frozen.
pub(super) fn thaw(file: impl AsFd) -> io::Result<()> {
    no_argument::<FITHAW>(file)
}

/// The number of a loop device that was free at that moment, made when there was none.
pub(super) fn loop_get_free(control: impl AsFd) -> io::Result<u32> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument and answers by its return value.
    Ok(unsafe { ioctl::ioctl(control, ReturnsNumber::<LOOP_CTL_GET_FREE>) }?)
}

/// Binds a free loop device to `image`; `EBUSY` when somebody else was faster.
pub(super) fn loop_configure(device: impl AsFd, image: impl AsFd, block_size: u32, flags: u32) -> io::Result<()> {
    let fd = u32::try_from(image.as_fd().as_raw_fd()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let config = LoopConfig { fd, block_size, info: LoopInfo { flags, ..LoopInfo::zeroed() }, reserved: [0; 8] };
    // SAFETY: LOOP_CONFIGURE reads one `loop_config`, whose layout `LoopConfig` has; the descriptor in it outlives the call.
    unsafe { ioctl::ioctl(device, ioctl::Setter::<LOOP_CONFIGURE, _>::new(config)) }?;
    Ok(())
}

/// What the loop device is bound to; `ENXIO` when to nothing.
pub(super) fn loop_status(device: impl AsFd) -> io::Result<LoopInfo> {
    // SAFETY: LOOP_GET_STATUS64 writes one `loop_info64`, whose layout `LoopInfo` has; any bytes are valid for its fields.
    Ok(unsafe { ioctl::ioctl(device, ioctl::Getter::<LOOP_GET_STATUS64, LoopInfo>::new()) }?)
}

/// Changes the flags of a bound loop device that can be changed.
pub(super) fn loop_set_status(device: impl AsFd, info: LoopInfo) -> io::Result<()> {
    // SAFETY: LOOP_SET_STATUS64 reads one `loop_info64`, whose layout `LoopInfo` has.
    unsafe { ioctl::ioctl(device, ioctl::Setter::<LOOP_SET_STATUS64, _>::new(info)) }?;
    Ok(())
}

/// Makes the loop device as large as its file is now.
pub(super) fn loop_set_capacity(device: impl AsFd) -> io::Result<()> {
    no_argument::<LOOP_SET_CAPACITY>(device)
}

/// Unbinds the loop device, at once when nobody else has it open, at the last close otherwise.
pub(super) fn loop_clear(device: impl AsFd) -> io::Result<()> {
    no_argument::<LOOP_CLR_FD>(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<FileCloneRange>(), 32);
        assert_eq!(size_of::<FiemapHeader>(), 32);
        assert_eq!(size_of::<FiemapExtent>(), 56);
        assert_eq!(size_of::<FsXattr>(), 28);
        assert_eq!(size_of::<LoopInfo>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
        assert_eq!(FIFREEZE, 0xC004_5877);
        assert_eq!(FS_IOC_FIEMAP, 0xC020_660B);
    }
}
