//! Numbers about the engine's work, written after each step and read by any thread without a lock.
#![forbid(unsafe_code)]

use std::fmt::{self, Write};
use std::time::Duration;

use super::sync::{AtomicU64, Ordering, fence, pause};
use crate::error::{Error, Result};

/// Declares the statistics: the struct, its form as an array, and how Prometheus calls each.
macro_rules! statistics {
    ($($name:ident: $kind:literal, $help:literal;)*) => {
        /// What an engine has done and holds; counters since create. Times are in nanoseconds.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Stats {
            $(#[doc = $help] pub $name: u64,)*
        }

        const METRICS: &[(&str, &str, &str)] = &[$((stringify!($name), $kind, $help),)*];

        impl Stats {
            pub(super) fn to_array(self) -> [u64; N_STATS] {
                [$(self.$name,)*]
            }

            pub(super) fn from_array(values: [u64; N_STATS]) -> Stats {
                let [$($name,)*] = values;
                Stats { $($name,)* }
            }
        }
    };
}

statistics! {
    total_slots: "gauge", "Token slots of the KV repo.";
    used_slots: "gauge", "Token slots that sequences read or pinned namespaces keep.";
    free_slots: "gauge", "Token slots that can be taken, by eviction if need be.";
    tree_slots: "gauge", "Token slots that the prefix cache holds, read or not.";
    shared_slots: "gauge", "Token slots saved by sequences that read the same ones.";
    requests_waiting: "gauge", "Requests that are not admitted yet.";
    requests_running: "gauge", "Requests that are admitted and have not ended.";
    answers_running: "gauge", "Answers that are computed.";
    answers_paused: "gauge", "Answers that were paused for lack of slots.";
    requests_finished: "counter", "Requests whose answers are complete.";
    requests_cancelled: "counter", "Requests that were cancelled.";
    requests_failed: "counter", "Requests with an answer that failed.";
    prompt_tokens: "counter", "Prompt tokens of admitted answers.";
    cached_tokens: "counter", "Those of them that the prefix cache had.";
    generated_tokens: "counter", "Tokens drawn.";
    pauses: "counter", "Answers paused.";
    evicted_slots: "counter", "Token slots taken back from the prefix cache.";
    steps: "counter", "Steps with at least one row.";
    decode_rows: "counter", "Rows of answers that lacked one token.";
    prefill_rows: "counter", "Rows of prompts and of resumed answers.";
    last_step_rows: "gauge", "Rows of the last step.";
    schedule_nanoseconds: "counter", "Time spent on scheduling.";
    forward_nanoseconds: "counter", "Time spent in layers.";
    sample_nanoseconds: "counter", "Time spent on logits and on drawing tokens.";
    constraint_bytes: "gauge", "Bytes that compiled constraints and their parsers take, an estimate.";
}

impl Stats {
    /// All as Prometheus text (version 0.0.4). `prefix` begins every name, as in `larder_`.
    ///
    /// # Errors
    /// `InvalidArgument` for a prefix that no metric may have.
    pub fn prometheus(&self, prefix: &str) -> Result<String> {
        let may_begin = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
        let is_name = |c: char| may_begin(c) || c.is_ascii_digit();
        if !prefix.chars().all(is_name) || !prefix.chars().next().is_none_or(may_begin) {
            return Err(Error::InvalidArgument(format!(
                "prefix is {prefix:?}: letters, digits, _ and : are expected, and no digit first"
            )));
        }
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_prometheus(prefix, &mut text);
        Ok(text)
    }

    fn write_prometheus(&self, prefix: &str, out: &mut impl Write) -> fmt::Result {
        for ((name, kind, help), value) in METRICS.iter().zip(self.to_array()) {
            let total = if *kind == "counter" { "_total" } else { "" };
            writeln!(out, "# HELP {prefix}{name}{total} {help}")?;
            writeln!(out, "# TYPE {prefix}{name}{total} {kind}")?;
            writeln!(out, "{prefix}{name}{total} {value}")?;
        }
        Ok(())
    }
}

/// How many statistics there are.
pub(super) const N_STATS: usize = METRICS.len();

/// Where one thread writes `N` values and others read them: a sequence lock whose data are atomics.
#[derive(Debug)]
pub(super) struct Board<const N: usize> {
    /// Odd while the values are being written.
    version: AtomicU64,
    values: [AtomicU64; N],
}

/// Reads that may meet a write before the reader steps aside for the writer.
const MAX_SPINS: usize = 100;

impl<const N: usize> Board<N> {
    pub(super) fn new() -> Board<N> {
        Board { version: AtomicU64::new(0), values: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Called by one thread at a time.
    pub(super) fn write(&self, values: [u64; N]) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (place, value) in self.values.iter().zip(values) {
            place.store(value, Ordering::Relaxed);
        }
        self.version.store(version + 2, Ordering::Release);
    }

    /// The values of one write.
    pub(super) fn read(&self) -> [u64; N] {
        let mut n_spins = 0_usize;
        loop {
            let before = self.version.load(Ordering::Acquire);
            let values = std::array::from_fn(|i| self.values[i].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return values;
            }
            pause();
            n_spins += 1;
            if n_spins.is_multiple_of(MAX_SPINS) {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
    }
}

#[cfg(all(test, not(feature = "test-loom")))]
mod tests {
    use super::*;

    #[test]
    fn readers_see_whole_writes() {
        let board = Board::<N_STATS>::new();
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut last = 0;
                        while last < 20_000 {
                            let values = board.read();
                            assert_eq!(values, [values[0]; N_STATS]);
                            assert!(values[0] >= last);
                            last = values[0];
                        }
                    })
                })
                .collect();
            for n in 1..=20_000 {
                board.write([n; N_STATS]);
            }
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
    }

    #[test]
    fn prometheus_text() {
        let stats = Stats { used_slots: 7, pauses: 3, ..Stats::default() };
        let text = stats.prometheus("larder_").unwrap();
        assert!(stats.prometheus("1larder").is_err() && stats.prometheus("a b").is_err());
        assert_eq!(text.lines().count(), 3 * METRICS.len());
        assert!(text.contains("# TYPE larder_used_slots gauge\nlarder_used_slots 7\n"));
        assert!(text.contains("# HELP larder_pauses_total Answers paused.\n"));
        assert!(text.contains("\nlarder_pauses_total 3\n") && text.ends_with(" 0\n"));
    }
}
