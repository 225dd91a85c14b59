//! The big blocks of host memory: one zeroed allocation each, mapped from the system on huge pages or taken from
//! the host's allocator, and what the machine could still give. Blocks are taken at create only.

use crate::error::{Error, Result};
use crate::options::{BlockAllocator, BlockKind};
use std::ptr::NonNull;
use std::sync::Arc;

/// Alignment of every block.
pub const BLOCK_ALIGNMENT: usize = 64;
/// Size of a huge page; blocks of at least this size begin at a multiple of it.
const HUGE_PAGE: usize = 2 << 20;

/// Zeroed memory that is freed on drop. Its address never changes.
pub struct Block {
    address: NonNull<u8>,
    bytes: usize,
    source: Source,
}

enum Source {
    Empty,
    /// Pages from the system: what to unmap.
    Mapped {
        bytes: usize,
    },
    Host(Arc<dyn BlockAllocator>),
}

// SAFETY: a block owns its memory and hands out only the address; who reads or writes there keeps the rules.
unsafe impl Send for Block {}
// SAFETY: as above; `&Block` gives nothing but the address and the size.
unsafe impl Sync for Block {}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({} bytes)", self.bytes)
    }
}

impl Block {
    /// A zeroed block of exactly `bytes` bytes. `what` names it in the error when memory is refused.
    pub fn new(
        what: &str,
        bytes: u64,
        allocator: Option<&Arc<dyn BlockAllocator>>,
    ) -> Result<Block> {
        let refused = |why: String| {
            Error::OutOfMemory(format!("{what}: {bytes} bytes of host memory were refused{why}"))
        };
        let size = usize::try_from(bytes)
            .ok()
            .filter(|&size| size <= isize::MAX as usize - 2 * HUGE_PAGE)
            .ok_or_else(|| refused(": more than the address space".into()))?;
        if size == 0 {
            let address = NonNull::without_provenance(
                std::num::NonZero::new(HUGE_PAGE).unwrap_or(std::num::NonZero::<usize>::MIN),
            );
            return Ok(Block { address, bytes: 0, source: Source::Empty });
        }
        match allocator {
            Some(allocator) => Self::from_host(size, allocator)
                .ok_or_else(|| refused(" by the host's allocator".into()))?,
            None => Self::map(size).map_err(|error| refused(format!(" by the system: {error}"))),
        }
    }

    fn from_host(bytes: usize, allocator: &Arc<dyn BlockAllocator>) -> Option<Result<Block>> {
        let address = allocator.allocate(BlockKind::Host, bytes, BLOCK_ALIGNMENT)?;
        if !(address.as_ptr() as usize).is_multiple_of(BLOCK_ALIGNMENT) {
            allocator.deallocate(BlockKind::Host, address, bytes);
            return Some(Err(Error::InvalidArgument(format!(
                "the host's allocator returned {address:p}, which is no multiple of {BLOCK_ALIGNMENT}"
            ))));
        }
        // SAFETY: the host lends `bytes` writable bytes at this address until `deallocate`.
        unsafe { address.write_bytes(0, bytes) };
        Some(Ok(Block { address, bytes, source: Source::Host(allocator.clone()) }))
    }

    fn map(bytes: usize) -> std::io::Result<Block> {
        let page = page_bytes();
        let kept = bytes.next_multiple_of(page);
        // Enough to find a multiple of the huge page inside; the ends go back at once.
        let asked = if bytes >= HUGE_PAGE { kept + HUGE_PAGE } else { kept };
        // SAFETY: a new private mapping without a fixed address touches no memory of anyone else.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                asked,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANON,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let mut address = start.cast::<u8>();
        if bytes >= HUGE_PAGE {
            let before = address.align_offset(HUGE_PAGE);
            let after = asked - before - kept;
            // SAFETY: both ends lie inside the mapping made above, at page borders, and nobody uses them.
            unsafe {
                address = address.add(before);
                if before > 0 {
                    libc::munmap(start, before);
                }
                if after > 0 {
                    libc::munmap(address.add(kept).cast(), after);
                }
            }
            advise_huge_pages(address, kept);
        }
        let address = NonNull::new(address).ok_or_else(std::io::Error::last_os_error)?;
        Ok(Block { address, bytes, source: Source::Mapped { bytes: kept } })
    }

    /// First byte; at least 64-byte aligned.
    pub fn address(&self) -> NonNull<u8> {
        self.address
    }

    /// The bytes that were asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        match &self.source {
            Source::Empty => {}
            Source::Mapped { bytes } => {
                // SAFETY: exactly the mapping that `map` kept; the block was its only owner.
                unsafe { libc::munmap(self.address.as_ptr().cast(), *bytes) };
            }
            Source::Host(allocator) => {
                allocator.deallocate(BlockKind::Host, self.address, self.bytes)
            }
        }
    }
}

fn page_bytes() -> usize {
    // SAFETY: sysconf only reads.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Huge pages are a wish: a system that has none still gives a good block.
#[cfg(target_os = "linux")]
fn advise_huge_pages(address: *mut u8, bytes: usize) {
    // SAFETY: advice on a range that was just mapped.
    unsafe { libc::madvise(address.cast(), bytes, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_address: *mut u8, _bytes: usize) {}

/// Bytes that the machine could still give this process: available memory, and what its control groups leave.
/// `None` where the system does not say.
pub fn available_bytes() -> Option<u64> {
    let memory = std::fs::read_to_string("/proc/meminfo").ok();
    let memory = memory.as_deref().and_then(|text| kilobytes(text, "MemAvailable:"));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = groups.lines().filter_map(group_available);
    memory.into_iter().chain(groups).min()
}

/// The value of a line like `MemAvailable:  1024 kB`, in bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What one line of /proc/self/cgroup leaves: the least over the group and all groups above it.
fn group_available(line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (root, limit, usage) = if controllers.is_empty() {
        ("/sys/fs/cgroup", "memory.max", "memory.current")
    } else if controllers.split(',').any(|name| name == "memory") {
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
    } else {
        return None;
    };
    let read = |folder: &std::path::Path, file: &str| std::fs::read_to_string(folder.join(file));
    let folder = std::path::Path::new(root).join(path.trim_start_matches('/'));
    // Inside a container the path may be the host's; the group is mounted at the root then.
    let up = folder.ancestors().take_while(|folder| folder.starts_with(root));
    up.filter_map(|folder| {
        let statistics = read(folder, "memory.stat").unwrap_or_default();
        left(&read(folder, limit).ok()?, &read(folder, usage).ok()?, &statistics)
    })
    .min()
}

/// Limit − usage, where pages of files that the system can drop do not count as used. `None`: no limit.
fn left(limit: &str, usage: &str, statistics: &str) -> Option<u64> {
    let limit: u64 = limit.trim().parse().ok()?;
    let usage: u64 = usage.trim().parse().ok()?;
    let value =
        |key: &str| statistics.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    let files: u64 = value("total_inactive_file ").or_else(|| value("inactive_file ")).unwrap_or(0);
    Some(limit.saturating_sub(usage.saturating_sub(files)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::Layout;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn bytes_of(block: &mut Block) -> &mut [u8] {
        // SAFETY: the block is borrowed mutably and its memory is initialised.
        unsafe { std::slice::from_raw_parts_mut(block.address().as_ptr(), block.bytes()) }
    }

    #[test]
    fn blocks_are_zeroed_aligned_and_exact() {
        for bytes in [0, 1, 63, 64, 4095, 4097, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 1] {
            let mut block = Block::new("test", bytes as u64, None).unwrap();
            assert_eq!(block.bytes(), bytes);
            let alignment = if bytes >= HUGE_PAGE { HUGE_PAGE } else { BLOCK_ALIGNMENT };
            assert_eq!(block.address().as_ptr() as usize % alignment, 0);
            let memory = bytes_of(&mut block);
            assert!(memory.iter().all(|&byte| byte == 0));
            memory.fill(0xA5);
        }
    }

    #[test]
    fn absurd_sizes_are_refused_with_their_number() {
        for bytes in [u64::MAX, isize::MAX as u64, 1 << 60] {
            let error = Block::new("the KV repo", bytes, None).unwrap_err();
            assert!(matches!(error, Error::OutOfMemory(_)), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("the KV repo") && text.contains(&bytes.to_string()), "{text}");
        }
    }

    /// Counts what it lent and fills it with dirt first.
    struct Lender {
        live: AtomicUsize,
        limit: usize,
        offset: usize,
    }

    impl BlockAllocator for Lender {
        fn allocate(&self, kind: BlockKind, bytes: usize, alignment: usize) -> Option<NonNull<u8>> {
            assert_eq!(kind, BlockKind::Host);
            if bytes > self.limit {
                return None;
            }
            self.live.fetch_add(bytes, Ordering::Relaxed);
            let layout = Layout::from_size_align(bytes + 1, alignment).ok()?;
            // SAFETY: the layout is not empty; the last byte is for `offset`.
            unsafe {
                let address = NonNull::new(std::alloc::alloc(layout))?;
                address.write_bytes(0xEE, bytes + 1);
                Some(address.add(self.offset))
            }
        }

        fn deallocate(&self, _: BlockKind, address: NonNull<u8>, bytes: usize) {
            self.live.fetch_sub(bytes, Ordering::Relaxed);
            let layout = Layout::from_size_align(bytes + 1, BLOCK_ALIGNMENT).unwrap();
            // SAFETY: what `allocate` made.
            unsafe { std::alloc::dealloc(address.as_ptr().sub(self.offset), layout) };
        }
    }

    #[test]
    fn the_hosts_allocator_is_used_zeroed_and_given_back() {
        let lender = Arc::new(Lender { live: AtomicUsize::new(0), limit: 1000, offset: 0 });
        let hook: Arc<dyn BlockAllocator> = lender.clone();
        let mut block = Block::new("test", 1000, Some(&hook)).unwrap();
        assert_eq!(lender.live.load(Ordering::Relaxed), 1000);
        assert!(bytes_of(&mut block).iter().all(|&byte| byte == 0));
        let refused = Block::new("weights", 1001, Some(&hook)).unwrap_err();
        assert!(matches!(refused, Error::OutOfMemory(text) if text.contains("1001")));
        drop(block);
        assert_eq!(lender.live.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_misaligned_address_of_the_host_is_refused_and_given_back() {
        let lender = Arc::new(Lender { live: AtomicUsize::new(0), limit: 1000, offset: 1 });
        let hook: Arc<dyn BlockAllocator> = lender.clone();
        let error = Block::new("test", 100, Some(&hook)).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
        assert_eq!(lender.live.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn limits_are_read() {
        assert_eq!(
            kilobytes("MemTotal: 9 kB\nMemAvailable:   12 kB\n", "MemAvailable:"),
            Some(12288)
        );
        assert_eq!(kilobytes("MemTotal: 9 kB\n", "MemAvailable:"), None);
        assert_eq!(left("1000\n", "400\n", ""), Some(600));
        assert_eq!(left("1000", "400", "active_file 5\ninactive_file 100\n"), Some(700));
        assert_eq!(left("1000", "1400", ""), Some(0));
        assert_eq!(left("max", "400", ""), None);
        assert_eq!(group_available("nonsense"), None);
        assert_eq!(group_available("3:cpu,cpuacct:/"), None);
        if cfg!(target_os = "linux") {
            assert!(available_bytes().is_some_and(|bytes| bytes > 0));
        }
    }
}
