//! The most slots that running answers will hold at one time (the peak formula of the Past-Future scheduler,
//! ASPLOS 2025).
//!
//! An answer holds `held` slots now and one more after each of `to_come` steps; then it ends and its slots are free.
//! At the moment when the answer with the k-th most steps to come ends, those before it are still there, so the most is
//! max over k of (held_1 + … + held_k + k · to_come_k), in descending order of `to_come`.
#![forbid(unsafe_code)]

use super::{bytes_of, reserved};
use crate::error::Result;

/// What one answer will need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) to_come: u32,
    /// Slots of its own that it has, and those of known tokens that are to be computed.
    pub(super) held: u32,
}

/// The needs of those who run and of those who want to.
#[derive(Debug)]
pub(super) struct Forecast {
    needs: Vec<Need>,
}

impl Forecast {
    pub(super) fn new(n_answers: usize) -> Result<Forecast> {
        Ok(Forecast { needs: reserved(n_answers)? })
    }

    /// Heap bytes of `new(n_answers)`.
    pub(super) fn bytes(n_answers: usize) -> u64 {
        bytes_of::<Need>(n_answers)
    }

    pub(super) fn clear(&mut self) {
        self.needs.clear();
    }

    /// Adds an answer. There is room for as many as run at once.
    pub(super) fn add(&mut self, need: Need) {
        debug_assert!(self.needs.len() < self.needs.capacity());
        self.needs.push(need);
    }

    /// The most slots held at one time.
    pub(super) fn peak(&mut self) -> u64 {
        self.needs.sort_unstable_by_key(|need| std::cmp::Reverse(need.to_come));
        let (mut held, mut peak) = (0, 0);
        for (need, n) in self.needs.iter().zip(1..) {
            held += u64::from(need.held);
            peak = peak.max(held + n * u64::from(need.to_come));
        }
        peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against stepping through the future.
    #[test]
    fn equals_a_simulation() {
        let mut random = 3_u64;
        let mut below = |n: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((random >> 33) % n) as u32
        };
        for round in 0..500 {
            let n = round % 12;
            let mut forecast = Forecast::new(12).unwrap();
            let mut needs: Vec<Need> =
                (0..n).map(|_| Need { to_come: below(30), held: below(40) }).collect();
            needs.iter().for_each(|&need| forecast.add(need));
            let mut most = 0;
            for _ in 0..=30 {
                most = most.max(needs.iter().map(|need| u64::from(need.held)).sum());
                needs.retain(|need| need.to_come > 0);
                for need in &mut needs {
                    *need = Need { to_come: need.to_come - 1, held: need.held + 1 };
                }
            }
            assert_eq!(forecast.peak(), most);
        }
    }
}
