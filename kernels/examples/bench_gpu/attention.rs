//! Attention of a decode step: sequences whose slots lie in one piece against slots in random order.

use larder_kernels::attention::{
    Attend, Batch, Limits, NO_SEGMENT, Planner, Segment, SequenceRows, Shape, attend, partial_bytes,
};
use larder_kernels::kv::{KvKind, KvRows, row_bytes};

use super::bench::{Bench, Failure, Row, gb_per_s, print_header};

/// Layers that are read in turn, at most.
const MAX_LAYERS: u64 = 16;

pub fn run(bench: &Bench) -> std::result::Result<(), Failure> {
    println!("### Attention, one token for each sequence\n");
    print_header(&["heads", "K/V", "sequences", "tokens", "slots", "µs", "GB/s", "of copy"]);
    let heads =
        |n_heads, n_kv_heads, head_dim| Shape { n_heads, n_kv_heads, head_dim, window: None };
    let (shapes, batches, contexts): (&[Shape], &[u32], &[u32]) = match bench.is_smoke {
        true => (&[heads(4, 2, 64)], &[1, 3], &[70]),
        false => {
            (&[heads(32, 8, 64), heads(32, 8, 128)], &[1, 8, 32, 128], &[512, 8 << 10, 32 << 10])
        }
    };
    for shape in shapes {
        for kind in [KvKind::BF16, KvKind::Fp8] {
            for &n_sequences in batches {
                for &n_tokens in contexts {
                    for is_random in [false, true] {
                        decode(
                            bench,
                            *shape,
                            kind,
                            &Sequences::new(n_sequences, n_tokens, is_random),
                        )?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Sequences of one length, each with one row.
struct Sequences {
    n_sequences: u32,
    n_tokens: u32,
    /// The slot of each token, one sequence after the other; empty: each sequence lies in one piece.
    slots: Vec<u32>,
}

impl Sequences {
    fn new(n_sequences: u32, n_tokens: u32, is_random: bool) -> Self {
        let mut slots: Vec<u32> = (0..if is_random { n_sequences * n_tokens } else { 0 }).collect();
        let mut state = 0x9e37_79b9u64;
        for last in (1..slots.len()).rev() {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            slots.swap(last, (state >> 33) as usize % (last + 1));
        }
        Self { n_sequences, n_tokens, slots }
    }

    fn n_slots(&self) -> u32 {
        self.n_sequences * self.n_tokens
    }
}

impl Batch for Sequences {
    fn n_rows(&self) -> u32 {
        self.n_sequences
    }

    fn n_sequences(&self) -> usize {
        self.n_sequences as usize
    }

    fn sequence(&self, i: usize) -> SequenceRows {
        let (i, n_tokens) = (i as u32, self.n_tokens);
        let last_segment = if self.slots.is_empty() { i } else { (i + 1) * n_tokens - 1 };
        SequenceRows { first: i, n: 1, n_tokens, last_segment }
    }

    fn row(&self, i: u32) -> u32 {
        i
    }

    fn segment(&self, i: u32) -> Segment {
        let Some(&start) = self.slots.get(i as usize) else {
            let start = i * self.n_tokens;
            return Segment { start, len: self.n_tokens, first_position: 0, parent: NO_SEGMENT };
        };
        let first_position = i % self.n_tokens;
        let parent = if first_position == 0 { NO_SEGMENT } else { i - 1 };
        Segment { start, len: 1, first_position, parent }
    }
}

fn decode(
    bench: &Bench,
    shape: Shape,
    kind: KvKind,
    batch: &Sequences,
) -> std::result::Result<(), Failure> {
    let layer_bytes =
        u64::from(batch.n_slots()) * row_bytes(kind, kind, shape.n_kv_heads, shape.head_dim);
    // What does not fit is left out, with some room for tables and scratch.
    let n_fitting = (bench.context.free_bytes()? * 4 / 5) / layer_bytes;
    if n_fitting < 2 {
        return Ok(());
    }
    let limits = Limits {
        n_multiprocessors: bench.kernels.info().n_multiprocessors,
        max_rows: batch.n_sequences,
        max_sequences: batch.n_sequences,
        total_tokens: batch.n_slots(),
        max_sequence_tokens: batch.n_tokens,
    };
    let mut image = vec![0; Planner::table_bytes(&[shape], &limits) as usize];
    Planner::new(&[shape], &limits).plan(batch, &mut image)?;
    let tables = bench.upload(&image)?;
    let q_bytes = u64::from(batch.n_sequences * shape.n_heads * shape.head_dim) * 4;
    let (q, partials) = (bench.random(q_bytes)?, bench.random(partial_bytes(&shape, &limits))?);
    let layers = bench.copies(layer_bytes, MAX_LAYERS.min(n_fitting))?;
    let microseconds = bench.time(layers.n, |i| {
        let one = Attend {
            q: q.address(),
            kv: KvRows::new(layers.address(i), kind, kind, shape.n_kv_heads, shape.head_dim),
            tables: tables.address(),
            shape_index: 0,
            shape,
            partials: partials.address(),
            scale: 1.0 / f64::from(shape.head_dim).sqrt() as f32,
            softcap: None,
        };
        // SAFETY: the blocks have the sizes of batch and limits, and every slot is in each layer.
        unsafe { attend(&bench.kernels, &bench.stream, &one, &limits) }
    })?;
    let speed = gb_per_s(layer_bytes, microseconds);
    let cells = [
        format!("{} / {} of {}", shape.n_heads, shape.n_kv_heads, shape.head_dim),
        format!("{kind:?}"),
        batch.n_sequences.to_string(),
        batch.n_tokens.to_string(),
        if batch.slots.is_empty() { "in one piece" } else { "random" }.to_owned(),
        format!("{microseconds:.1}"),
        format!("{speed:.0}"),
        format!("{:.0} %", 100.0 * speed / bench.copy_gb_per_s),
    ];
    println!("{}", Row(&cells));
    Ok(())
}
