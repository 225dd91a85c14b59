//! Captured decode passes, one for each bucket of rows, all on the same compute area.

use super::fault::{Fault, Result};
use larder_kernels::driver::{Graph, Stream};

/// Rows of the captured passes. A pass of a bucket also serves fewer rows; the rest is padding.
const BUCKETS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];

/// The buckets for batches of up to `n_rows` rows of `n_sequences` sequences: all of those that some decode step
/// fills, and as padding may not reach beyond the area's rows, none above `n_rows`.
pub fn buckets(n_rows: u32, n_sequences: u32) -> impl Iterator<Item = u32> {
    let most = n_rows.min(n_sequences).min(BUCKETS[BUCKETS.len() - 1]);
    let last = BUCKETS.iter().copied().find(|&bucket| bucket >= most).unwrap_or(most);
    BUCKETS.into_iter().filter(move |&bucket| bucket <= last && bucket <= n_rows)
}

/// The captured passes, in order of rows.
#[derive(Debug, Default)]
pub struct Graphs {
    graphs: Vec<(u32, Graph)>,
}

impl Graphs {
    /// Adds the pass of `n_rows` rows.
    pub fn add(&mut self, n_rows: u32, graph: Graph) {
        let at = self.graphs.partition_point(|(rows, _)| *rows < n_rows);
        self.graphs.insert(at, (n_rows, graph));
    }

    pub fn is_empty(&self) -> bool {
        self.graphs.is_empty()
    }

    /// Rows of the smallest pass that serves `n_rows`.
    pub fn bucket(&self, n_rows: usize) -> Option<u32> {
        self.graphs.iter().map(|(rows, _)| *rows).find(|&rows| rows as usize >= n_rows)
    }

    /// Enqueues the pass of a bucket.
    pub fn launch(&self, bucket: u32, stream: &Stream) -> Result<()> {
        let graph = self.graphs.iter().find(|(rows, _)| *rows == bucket);
        let (_, graph) = graph.ok_or_else(|| Fault::defect(format!("no pass of {bucket} rows")))?;
        Ok(graph.launch(stream)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_end_with_what_a_step_can_have() {
        let list = |rows, sequences| buckets(rows, sequences).collect::<Vec<_>>();
        assert_eq!(list(512, 1), [1]);
        assert_eq!(list(512, 3), [1, 2, 4]);
        assert_eq!(list(3, 3), [1, 2]);
        assert_eq!(list(512, 64), [1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(list(512, 1000), [1, 2, 4, 8, 16, 32, 64]);
        assert!(list(0, 5).is_empty());
    }
}
