//! From positions to slots: a sequence's chain of segments, walked backwards.

use crate::ids::{NO_SEGMENT, Segment};

/// Finds slots of one sequence. Cheap when asked for descending ranges: it goes on where it stopped.
#[derive(Clone, Copy)]
pub struct Walker<'a> {
    segments: &'a [Segment],
    last: u32,
    current: u32,
}

impl<'a> Walker<'a> {
    pub fn new(segments: &'a [Segment], last: u32) -> Walker<'a> {
        Walker { segments, last, current: last }
    }

    /// Writes the slots of the positions `first .. first + slots.len()`; all of them are below `n_slots`.
    ///
    /// # Panics
    /// When the chain does not hold these positions: a defect of larder.
    pub fn gather(&mut self, first: usize, slots: &mut [u32], n_slots: usize) {
        let mut end = first + slots.len();
        if self.current == NO_SEGMENT || end > end_of(&self.segments[self.current as usize]) {
            self.current = self.last;
        }
        while end > first {
            assert!(self.current != NO_SEGMENT, "position {} has no slot", end - 1);
            let segment = &self.segments[self.current as usize];
            let begin = first.max(segment.first_position as usize);
            if begin < end {
                assert!(end <= end_of(segment), "position {} has no slot", end - 1);
                let start = segment.start.0 as usize + begin - segment.first_position as usize;
                assert!(start + (end - begin) <= n_slots, "slots from {start} on do not exist");
                let run = &mut slots[begin - first..end - first];
                run.iter_mut().zip(start as u32..).for_each(|(slot, value)| *slot = value);
                end = begin;
            }
            // The next range asked for may end in this segment too.
            if end > first {
                self.current = segment.parent;
            }
        }
    }
}

fn end_of(segment: &Segment) -> usize {
    segment.first_position as usize + segment.len as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Slot;

    fn chain() -> Vec<Segment> {
        let segment = |start, len, first_position, parent| Segment {
            start: Slot(start),
            len,
            first_position,
            parent,
        };
        vec![segment(40, 3, 0, NO_SEGMENT), segment(9, 1, 3, 0), segment(20, 5, 4, 1)]
    }

    fn slots_of(walker: &mut Walker<'_>, first: usize, n: usize) -> Vec<u32> {
        let mut slots = vec![u32::MAX; n];
        walker.gather(first, &mut slots, 43);
        slots
    }

    #[test]
    fn every_range_is_found_in_any_order() {
        let segments = chain();
        let all = [40, 41, 42, 9, 20, 21, 22, 23, 24];
        let mut walker = Walker::new(&segments, 2);
        for end in (0..=9).rev() {
            for first in 0..=end {
                assert_eq!(slots_of(&mut walker, first, end - first), all[first..end]);
            }
        }
        assert_eq!(slots_of(&mut walker, 0, 9), all);
    }

    #[test]
    #[should_panic(expected = "position 9 has no slot")]
    fn a_position_behind_the_end_is_a_defect() {
        slots_of(&mut Walker::new(&chain(), 2), 8, 2);
    }

    #[test]
    #[should_panic(expected = "do not exist")]
    fn a_slot_outside_of_the_repo_is_a_defect() {
        Walker::new(&chain(), 2).gather(0, &mut [0; 3], 42);
    }
}
