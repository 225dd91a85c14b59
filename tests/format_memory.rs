//! What a hostile file can make the host reserve: next to nothing.

mod format_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use format_support::*;
use larder::format::Checkpoint;

/// Counts live bytes and their peak.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that opening the file reserved beyond what was there before.
fn peak_of_open(path: &std::path::Path) -> usize {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    assert!(Checkpoint::open(path).is_err());
    PEAK.load(Relaxed) - before
}

// One test function: the counters are shared by the whole process.
#[test]
fn hostile_files_reserve_little() {
    let folder = Folder::hugging_face();
    let huge = [1 << 30, 1 << 40, 1 << 60, u64::MAX];
    let mut files = Vec::new();
    for n in huge {
        files.push(Gguf { n_tensors: Some(n), ..Gguf::small() });
        files.push(Gguf { n_pairs: Some(n), ..Gguf::small() });
        files.push(Gguf::empty().pair("s", &value(8, &n.to_le_bytes())));
        for kind in 0..13 {
            files.push(Gguf::empty().pair("s", &array(kind, n, &[0; 64])));
        }
    }
    for gguf in files {
        let peak = peak_of_open(&folder.write("model.gguf", &gguf.bytes()));
        assert!(peak < 1 << 20, "{peak} bytes");
    }
    for n in huge {
        let peak = peak_of_open(&folder.write("model.safetensors", &n.to_le_bytes()));
        assert!(peak < 1 << 20, "{peak} bytes");
    }

    // A big header without data costs a small multiple of itself: an entry of 66 bytes becomes
    // some 200, twice while the list grows.
    let entry =
        |i| format!(r#""{i}":{{"dtype":"F32","shape":[1,1,1,1,1,1],"data_offsets":[0,4]}},"#);
    let header = format!("{{{}", (0..20000).map(entry).collect::<String>());
    let shape =
        format!(r#"{{"w":{{"dtype":"F32","data_offsets":[0,4],"shape":[{}"#, "1,".repeat(1 << 20));
    for header in [header, shape] {
        let bytes = safetensors(&header, 0);
        let peak = peak_of_open(&folder.write("model.safetensors", &bytes));
        assert!(peak < 8 * bytes.len(), "{peak} bytes for a file of {}", bytes.len());
    }
}
