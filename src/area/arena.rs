//! Handing out regions of the compute area: recorded while tracing, looked up afterwards.
#![forbid(unsafe_code)]

use super::plan::{Entry, Phase, Plan};

/// A part of the compute area that its holder has to itself until it is given back. Cannot be copied.
#[must_use = "a region that is dropped counts as living to the end of the pass"]
#[derive(Debug, PartialEq, Eq)]
pub struct Region {
    offset: u64,
    bytes: u64,
    entry: u32,
}

impl Region {
    /// First byte, counted from the begin of the compute area.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that were asked for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A place in the order of requests, to come back to in a loop (see [`Area::rewind`]).
#[derive(Debug, Clone, Copy)]
pub struct Mark(usize);

/// The compute area as the decoder and the backend see it.
///
/// The order of requests must be the same in every forward pass, whatever the batch: an operation asks for all that
/// it may need, with sizes no greater than while tracing. A loop whose number of rounds depends on the batch is
/// traced with one round, and each round begins with [`rewind`](Self::rewind). A batch for which a loop has no round
/// must have no request behind it either.
#[derive(Debug)]
pub struct Area {
    tracing: bool,
    alignment: u64,
    clock: u32,
    next: usize,
    entries: Vec<Entry>,
    phases: Vec<Phase>,
}

impl Area {
    /// An area that records. Offsets of its plan will be multiples of `alignment`, a power of two.
    pub fn tracing(alignment: u64) -> Area {
        Area {
            tracing: true,
            alignment,
            clock: 0,
            next: 0,
            entries: Vec::new(),
            phases: Vec::new(),
        }
    }

    /// An area that hands out the plan's offsets.
    pub fn planned(plan: &Plan) -> Area {
        Area {
            tracing: false,
            alignment: plan.alignment(),
            clock: 0,
            next: 0,
            entries: plan.entries().to_vec(),
            phases: Vec::new(),
        }
    }

    /// Whether operations only ask and launch nothing.
    pub fn is_tracing(&self) -> bool {
        self.tracing
    }

    /// Begins a forward pass: the next request is the first again. What an earlier pass that failed did not give
    /// back is free again. One pass is traced, no more.
    pub fn begin(&mut self) {
        assert!(!self.tracing || self.entries.is_empty(), "compute area: one pass is traced");
        self.next = 0;
    }

    /// Names what happens from here on, for the picture of the plan. Layers use the same names in the same order.
    pub fn phase(&mut self, name: &'static str) {
        if self.tracing {
            self.phases.push(Phase { name, begin: self.clock });
        }
    }

    /// Asks for `bytes` bytes.
    ///
    /// # Panics
    /// When the request is not the one that was traced at this place, or larger: a defect of larder.
    pub fn take(&mut self, name: &'static str, bytes: usize) -> Region {
        let bytes = bytes as u64;
        let request = self.next;
        self.next += 1;
        if self.tracing {
            let (begin, end, until_request) = (self.clock, u32::MAX, u32::MAX);
            self.entries.push(Entry { name, bytes, begin, end, until_request, offset: 0 });
            self.clock += 1;
            return Region { offset: 0, bytes, entry: request as u32 };
        }
        let planned = self
            .entries
            .get(request)
            .unwrap_or_else(|| panic!("compute area: request {request} ({name}) was not traced"));
        assert!(
            planned.name == name && bytes <= planned.bytes,
            "compute area: request {request} is {name} with {bytes} bytes, planned was {} with {}",
            planned.name,
            planned.bytes
        );
        Region { offset: planned.offset, bytes, entry: request as u32 }
    }

    /// Gives a region back; its bytes belong to whoever asks next.
    ///
    /// # Panics
    /// When more requests came before than while tracing: some may lie over it. A defect of larder.
    pub fn give(&mut self, region: Region) {
        let entry = &mut self.entries[region.entry as usize];
        if self.tracing {
            (entry.end, entry.until_request) = (self.clock, self.next as u32);
            self.clock += 1;
            return;
        }
        assert!(
            self.next <= entry.until_request as usize,
            "compute area: {} is given back before request {}, planned was {}",
            entry.name,
            self.next,
            entry.until_request
        );
    }

    /// Where the next request stands.
    pub fn mark(&self) -> Mark {
        Mark(self.next)
    }

    /// Goes back to `mark`, for the next round of a loop. All regions taken since must have been given back.
    pub fn rewind(&mut self, mark: Mark) {
        debug_assert!(!self.tracing || self.next == mark.0, "a traced loop has one round");
        self.next = mark.0;
    }

    /// Ends tracing and packs the lifetimes. What was never given back lives to the end.
    pub fn into_plan(self) -> Plan {
        Plan::pack(self.entries, self.phases, self.clock, self.alignment)
    }
}
