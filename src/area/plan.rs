//! Packing lifetimes into offsets: greedy by size, best fit (the offset calculation of TensorFlow Lite's planner).
#![forbid(unsafe_code)]

use std::cmp::Reverse;

/// One request: its bytes, when it lived (`begin ..= end` in requests and returns), and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: &'static str,
    pub bytes: u64,
    pub begin: u32,
    pub end: u32,
    /// Number of the first request that came after it was given back.
    pub until_request: u32,
    pub offset: u64,
}

/// From when on something happens, for pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phase {
    pub name: &'static str,
    pub begin: u32,
}

/// Offsets of all requests of a forward pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    entries: Vec<Entry>,
    phases: Vec<Phase>,
    alignment: u64,
    total_bytes: u64,
}

impl Plan {
    /// Packs `entries` in the order of their requests. Sizes whose sum overflows give a plan of `u64::MAX` bytes.
    pub fn pack(mut entries: Vec<Entry>, phases: Vec<Phase>, end: u32, alignment: u64) -> Plan {
        assert!(alignment.is_power_of_two(), "the alignment {alignment} is no power of two");
        for entry in &mut entries {
            entry.end = entry.end.min(end);
        }
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by_key(|&i| (Reverse(entries[i].bytes), i));
        let mut placed: Vec<usize> = Vec::with_capacity(entries.len()); // by offset
        let mut total_bytes = 0;
        for i in order {
            let offset = best_gap(&entries, &placed, i, alignment);
            entries[i].offset = offset;
            total_bytes = total_bytes.max(entries[i].limit(alignment));
            let at = placed.partition_point(|&other| entries[other].offset <= offset);
            placed.insert(at, i);
        }
        Plan { entries, phases, alignment, total_bytes }
    }

    /// In the order of the requests.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// In order of time.
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// Of every offset.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Bytes of the compute area.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The most bytes that live at one time: no plan can be smaller.
    pub fn lower_bound(&self) -> u64 {
        let live_at = |time: u32| {
            let live = self.entries.iter().filter(|e| e.begin <= time && time <= e.end);
            live.map(|e| aligned(e.bytes, self.alignment)).fold(0, u64::saturating_add)
        };
        self.entries.iter().map(|entry| live_at(entry.begin)).max().unwrap_or(0)
    }

    /// Heap bytes of the area that hands this plan's offsets out ([`Area::planned`](super::Area::planned)).
    pub fn bookkeeping_bytes(&self) -> u64 {
        (self.entries.len() * size_of::<Entry>()) as u64
    }
}

impl Entry {
    /// Where the bytes behind it begin.
    fn limit(&self, alignment: u64) -> u64 {
        self.offset.saturating_add(aligned(self.bytes, alignment))
    }
}

fn aligned(bytes: u64, alignment: u64) -> u64 {
    bytes.checked_next_multiple_of(alignment).unwrap_or(u64::MAX)
}

/// The smallest gap that holds entry `i` among the placed ones that live while it lives; else the end of the last.
fn best_gap(entries: &[Entry], placed: &[usize], i: usize, alignment: u64) -> u64 {
    let entry = &entries[i];
    let bytes = aligned(entry.bytes, alignment);
    let (mut end, mut best) = (0, None::<(u64, u64)>);
    for other in placed.iter().map(|&p| &entries[p]) {
        if other.end < entry.begin || entry.end < other.begin {
            continue;
        }
        let gap = other.offset.saturating_sub(end);
        if gap >= bytes && best.is_none_or(|(size, _)| gap < size) {
            best = Some((gap, end));
        }
        end = end.max(other.limit(alignment));
    }
    best.map_or(end, |(_, offset)| offset)
}
