//! Memory-mapped files: sealed ones to read, the end of the active one to write. The only unsafe module.
//!
//! A page that the file lost (truncation) or that the disk cannot read (an I/O error) raises SIGBUS, which by
//! default ends the process. The handler of this module replaces it by a page of zeros and marks the mapping
//! as broken. The interrupted copy continues, and fails at its end. So a mapping returns the file's bytes or
//! an error; after an error the caller reads the file itself, to learn the cause. Bytes written through a
//! [`WritableMapping`] are in the page cache, or the write failed. (Wayland guards shared buffers the same
//! way: `wl_shm_buffer_begin_access`.)
//!
//! Invariants: the table lists a mapping's range exactly while it is mapped; only [`Mapping::copy`] and
//! [`WritableMapping::write`] touch mapped memory. A fault outside all mappings is passed to the handler
//! installed before.

#![expect(unsafe_code, reason = "memory mapping and its signal handler")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, compiler_fence};

/// Limit of the mappings in a process; [`Mapping::new`] rejects more.
const MAPPINGS_MAX: usize = 4096;

/// Entry of a mapping in the signal handler's table.
struct Slot {
    /// Address; 0: the slot is free; 1: it is being filled.
    start: AtomicUsize,
    len: AtomicUsize,
    broken: AtomicBool,
}

static SLOTS: [Slot; MAPPINGS_MAX] =
    [const { Slot { start: AtomicUsize::new(0), len: AtomicUsize::new(0), broken: AtomicBool::new(false) } };
        MAPPINGS_MAX];

/// Index at which the search for a free slot begins.
static NEXT_SLOT: AtomicUsize = AtomicUsize::new(0);

const FREE: usize = 0;
const TAKEN: usize = 1;

/// Mapped memory, listed in the signal handler's table while it is mapped.
struct Region {
    start: *mut u8,
    len: usize,
    slot: &'static Slot,
}

// SAFETY: the memory belongs to the region until it is dropped, and is touched only by copying; a writer has
// exclusive access.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    fn new(file: &File, offset: u64, len: u64, protection: libc::c_int) -> io::Result<Self> {
        install_handler()?;
        let len = usize::try_from(len).ok().filter(|&len| len > 0).ok_or(io::ErrorKind::InvalidInput)?;
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let slot = free_slot().ok_or_else(|| io::Error::other("too many mapped files"))?;
        // SAFETY: a new mapping at an address of the system's choice; the descriptor is open.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), offset)
        };
        if start == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            slot.start.store(FREE, Ordering::Release);
            return Err(error);
        }
        slot.broken.store(false, Ordering::Relaxed);
        slot.len.store(len, Ordering::Relaxed);
        slot.start.store(start as usize, Ordering::SeqCst);
        Ok(Self { start: start.cast(), len, slot })
    }

    fn contains(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// Returns whether a page was lost, now or before.
    fn is_broken(&self) -> bool {
        compiler_fence(Ordering::SeqCst);
        self.slot.broken.load(Ordering::Relaxed)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // The slot is freed first: after the unmapping the range may belong to another mapping.
        self.slot.start.store(FREE, Ordering::SeqCst);
        // SAFETY: mapped by `new`, and nobody can touch it any more.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// The first bytes of a file as memory.
pub struct Mapping(Region);

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapping").field("len", &self.0.len).finish_non_exhaustive()
    }
}

impl Mapping {
    /// Maps the first `len` bytes of a file, which should have that length and must not be cut.
    pub(super) fn new(file: &File, len: u64) -> io::Result<Self> {
        let region = Region::new(file, 0, len, libc::PROT_READ)?;
        // Records are read at random: readahead would fill the page cache with unneeded pages.
        // SAFETY: the range was just mapped; a refusal changes nothing.
        unsafe { libc::madvise(region.start.cast(), region.len, libc::MADV_RANDOM) };
        Ok(Self(region))
    }

    /// Appends `len` bytes from `offset` on to `buffer`. Fails, and appends nothing, if not all are mapped or
    /// a page was lost.
    pub fn copy(&self, offset: u64, len: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        if !self.0.contains(offset, len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.reserve(len);
        let before = buffer.len();
        // SAFETY: the source is within the mapping, the target within the reserved room, and they do not
        // overlap. If a page is lost, the handler puts zeros there.
        unsafe {
            ptr::copy_nonoverlapping(self.0.start.add(offset), buffer.as_mut_ptr().add(before), len);
        }
        if self.0.is_broken() {
            return Err(io::Error::other("a mapped page could not be read"));
        }
        // SAFETY: these bytes were written above.
        unsafe { buffer.set_len(before + len) };
        Ok(())
    }
}

/// A stretch of a file as writable memory.
pub struct WritableMapping {
    region: Region,
    /// Offset of the stretch in the file.
    offset: u64,
}

impl std::fmt::Debug for WritableMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { region, offset } = self;
        f.debug_struct("WritableMapping")
            .field("offset", offset)
            .field("len", &region.len)
            .finish_non_exhaustive()
    }
}

impl WritableMapping {
    /// Maps a stretch of a file. The file must have that length with its space reserved, and must not be cut
    /// while the mapping exists. The offset must be a multiple of [`MAPPING_STEP`](super::MAPPING_STEP).
    pub(super) fn new(file: &File, offset: u64, len: u64) -> io::Result<Self> {
        let region = Region::new(file, offset, len, libc::PROT_READ | libc::PROT_WRITE)?;
        Ok(Self { region, offset })
    }

    /// Returns whether the mapping covers these bytes of the file.
    pub fn contains(&self, offset: u64, len: usize) -> bool {
        self.within(offset, len).is_some()
    }

    fn within(&self, offset: u64, len: usize) -> Option<usize> {
        let at = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        self.region.contains(at, len).then_some(at)
    }

    /// Writes the bytes at this offset of the file. After an error some of them may be written.
    pub fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let at = self.within(offset, bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the target is within the mapping, which is writable and exclusively owned by `self`. The
        // source is outside of it, because no reference into the mapping is ever handed out. If a page is
        // lost, the handler replaces it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.region.start.add(at), bytes.len()) };
        if self.region.is_broken() {
            return Err(io::Error::other("a mapped page could not be written"));
        }
        Ok(())
    }
}

fn free_slot() -> Option<&'static Slot> {
    let first = NEXT_SLOT.fetch_add(1, Ordering::Relaxed);
    (0..MAPPINGS_MAX)
        .map(|step| &SLOTS[first.wrapping_add(step) % MAPPINGS_MAX])
        .find(|slot| slot.start.compare_exchange(FREE, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok())
}

/// The handler of SIGBUS that was installed before.
static FORMER: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the handler, once in a process.
fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: all zeros is a valid sigaction; the handler only does what a signal handler may.
        unsafe {
            let mut former: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut former) != 0 {
                return Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL));
            }
            let _ = FORMER.set(former);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            if libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL));
            }
        }
        Ok(())
    });
    installed.map_err(io::Error::from_raw_os_error)
}

/// Handles SIGBUS. Only reads atomics and makes system calls, because it may run at any instant.
extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system gives a valid siginfo to a handler with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    let is_within = |slot: &&Slot| {
        let start = slot.start.load(Ordering::SeqCst);
        start > TAKEN && address.wrapping_sub(start) < slot.len.load(Ordering::Relaxed)
    };
    match SLOTS.iter().find(is_within) {
        Some(slot) if put_zeros(address) => slot.broken.store(true, Ordering::SeqCst),
        _ => pass_on(signal, info, context),
    }
}

fn put_zeros(address: usize) -> bool {
    // SAFETY: replaces one page of a mapping of this module; `errno` keeps the value of the interrupted code.
    unsafe {
        let errno = *libc::__errno_location();
        let page_len = libc::sysconf(libc::_SC_PAGESIZE) as usize;
        let page = (address & !(page_len - 1)) as *mut libc::c_void;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let put = libc::mmap(page, page_len, protection, flags, -1, 0);
        *libc::__errno_location() = errno;
        put != libc::MAP_FAILED
    }
}

/// Passes the signal to the handler installed before. The default ends the process when the instruction is
/// retried.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let former = FORMER.get();
    // SAFETY: a former handler is called with the signature that its flags state.
    unsafe {
        match former {
            Some(former) if former.sa_sigaction != libc::SIG_DFL && former.sa_sigaction != libc::SIG_IGN => {
                if former.sa_flags & libc::SA_SIGINFO != 0 {
                    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                        std::mem::transmute(former.sa_sigaction);
                    handler(signal, info, context);
                } else {
                    let handler: extern "C" fn(libc::c_int) = std::mem::transmute(former.sa_sigaction);
                    handler(signal);
                }
            }
            _ => {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(bytes: &[u8]) -> (tempfile::TempDir, File) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        let file = File::options().read(true).write(true).open(path).unwrap();
        (directory, file)
    }

    #[test]
    fn mapping_reads_what_the_file_holds_and_nothing_beyond() {
        let (_directory, file) = file_of(b"0123456789");
        let mapping = Mapping::new(&file, 10).unwrap();
        let mut bytes = b"x".to_vec();
        mapping.copy(3, 4, &mut bytes).unwrap();
        assert_eq!(bytes, b"x3456");
        assert!(mapping.copy(7, 4, &mut bytes).is_err());
        assert!(mapping.copy(u64::MAX, 4, &mut bytes).is_err());
        assert_eq!(bytes, b"x3456");
    }

    #[test]
    fn truncated_file_is_an_error_and_other_mappings_go_on() {
        let (_directory, file) = file_of(&vec![7; 1 << 20]);
        let (_other_directory, other) = file_of(&vec![8; 1 << 20]);
        let (mapping, other) =
            (Mapping::new(&file, 1 << 20).unwrap(), Mapping::new(&other, 1 << 20).unwrap());
        file.set_len(4096).unwrap();
        let mut bytes = Vec::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!(mapping.copy(512 << 10, 5000, &mut Vec::new()).is_err()));
            }
        });
        assert!(bytes.is_empty());
        // A lost page taints the whole mapping.
        assert!(mapping.copy(0, 10, &mut bytes).is_err());
        other.copy(512 << 10, 10, &mut bytes).unwrap();
        assert_eq!(bytes, [8; 10]);
        // The slot can be reused.
        drop(mapping);
        let again = Mapping::new(&file, 4096).unwrap();
        again.copy(0, 1, &mut bytes).unwrap();
    }

    #[test]
    fn writable_mapping_writes_its_stretch_of_the_file_and_nothing_beyond() {
        let (_directory, file) = file_of(&vec![7; 64 << 10]);
        let mut mapping = WritableMapping::new(&file, 16 << 10, 16 << 10).unwrap();
        mapping.write(b"first", 16 << 10).unwrap();
        mapping.write(b"last", (32 << 10) - 4).unwrap();
        for (offset, len) in [(0, 1), ((16 << 10) - 1, 2), ((32 << 10) - 3, 4), (u64::MAX, 1)] {
            assert!(!mapping.contains(offset, len));
            assert!(mapping.write(&vec![1; len], offset).is_err());
        }
        let mut expected = vec![7; 64 << 10];
        expected[16 << 10..][..5].copy_from_slice(b"first");
        expected[(32 << 10) - 4..32 << 10].copy_from_slice(b"last");
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut &file, &mut bytes).unwrap();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn write_to_a_truncated_file_is_an_error() {
        let (_directory, file) = file_of(&vec![7; 64 << 10]);
        let mut mapping = WritableMapping::new(&file, 0, 64 << 10).unwrap();
        mapping.write(b"fine", 0).unwrap();
        file.set_len(4096).unwrap();
        assert!(mapping.write(b"lost", 32 << 10).is_err());
        assert!(mapping.write(b"not trusted", 4).is_err());
    }
}
