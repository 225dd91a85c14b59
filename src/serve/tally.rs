//! Counts what a scheduler does, for the statistics.
#![forbid(unsafe_code)]

use std::time::Instant;

use super::stats::Stats;
use crate::kv::KvRepo;

/// Counters since create, and where the time of a step goes.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) counts: Stats,
    /// Requests that have not ended.
    pub(super) n_live: u64,
    /// When the phase that runs began; none before the first step.
    since: Option<Instant>,
}

impl Tally {
    pub(super) fn new() -> Tally {
        Tally { counts: Stats::default(), n_live: 0, since: None }
    }

    pub(super) fn begin_step(&mut self) {
        self.since = Some(Instant::now());
    }

    pub(super) fn end_schedule(&mut self, n_decode_rows: usize, n_rows: usize) {
        self.counts.schedule_nanoseconds += self.lap();
        self.counts.decode_rows += n_decode_rows as u64;
        self.counts.prefill_rows += (n_rows - n_decode_rows) as u64;
        self.counts.steps += u64::from(n_rows > 0);
        self.counts.last_step_rows = n_rows as u64;
    }

    pub(super) fn end_forward(&mut self) {
        self.counts.forward_nanoseconds += self.lap();
    }

    /// All statistics at the end of a step with so many answers running and paused.
    pub(super) fn end_step(&mut self, kv: &KvRepo, answers: (u64, u64)) -> Stats {
        self.counts.sample_nanoseconds += self.lap();
        let (free, used) = (u64::from(kv.free_slots()), u64::from(kv.used_slots()));
        Stats {
            total_slots: free + used,
            used_slots: used,
            free_slots: free,
            tree_slots: u64::from(kv.tree_slots()),
            shared_slots: kv.shared_slots(),
            requests_waiting: self.n_live - self.counts.requests_running,
            answers_running: answers.0,
            answers_paused: answers.1,
            evicted_slots: kv.n_evicted(),
            ..self.counts
        }
    }

    /// Nanoseconds since the last lap.
    fn lap(&mut self) -> u64 {
        let now = Instant::now();
        self.since.replace(now).map_or(0, |since| now.duration_since(since).as_nanos() as u64)
    }
}
