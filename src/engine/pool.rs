//! Hidden states as embedding models want them: pooled over a sequence's rows, scaled to length 1.
#![forbid(unsafe_code)]

use super::Pooling;

/// Moves the rows `places` of `x [.., hidden_size]` to its front, pooled by `group_of[i]` of row i, and returns how
/// many there are. `places` is ascending. Groups come in the order of their first rows; `sums` counts each group's
/// rows and where it lies.
pub(super) fn pool(
    x: &mut [f32],
    hidden_size: usize,
    places: &[u32],
    group_of: impl Fn(usize) -> u32,
    pooling: Pooling,
    groups: &mut Vec<PooledGroup>,
) -> usize {
    groups.clear();
    let mut n_out = 0;
    for (i, &place) in places.iter().enumerate() {
        let source = place as usize * hidden_size;
        let group = group_of(i);
        let known = match pooling {
            Pooling::None => None,
            _ => groups.iter().position(|known| known.group == group),
        };
        let Some(known) = known else {
            x.copy_within(source..source + hidden_size, n_out * hidden_size);
            if pooling != Pooling::None {
                groups.push(PooledGroup { group, n_rows: 1 });
            }
            n_out += 1;
            continue;
        };
        // Rows are ascending and every group's place is at or before its first row, so targets lie before sources.
        let (targets, sources) = x.split_at_mut(source);
        let target = &mut targets[known * hidden_size..(known + 1) * hidden_size];
        let row = &sources[..hidden_size];
        match pooling {
            Pooling::Mean => target.iter_mut().zip(row).for_each(|(sum, value)| *sum += value),
            _ => target.copy_from_slice(row),
        }
        groups[known].n_rows += 1;
    }
    if pooling == Pooling::Mean {
        for (row, group) in x.chunks_exact_mut(hidden_size).zip(groups.iter()) {
            row.iter_mut().for_each(|value| *value /= group.n_rows as f32);
        }
    }
    n_out
}

/// A sequence of the batch, and how many of its rows were pooled.
#[derive(Debug, Clone, Copy)]
pub(super) struct PooledGroup {
    group: u32,
    n_rows: u32,
}

/// Scales each row to Euclidean length 1; a row of zeros stays.
pub(super) fn normalize(x: &mut [f32], hidden_size: usize) {
    for row in x.chunks_exact_mut(hidden_size) {
        let length =
            row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled(pooling: Pooling) -> Vec<f32> {
        // rows 0 and 3 are not wanted; 1, 2, 4, 5 belong to groups 7, 9, 7, 9
        let mut x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let groups_of = [7, 9, 7, 9];
        let mut groups = Vec::with_capacity(4);
        let n = pool(&mut x, 2, &[1, 2, 4, 5], |i| groups_of[i], pooling, &mut groups);
        x[..n * 2].to_vec()
    }

    #[test]
    fn rows_stay_in_order_without_pooling() {
        assert_eq!(pooled(Pooling::None), [2.0, 3.0, 4.0, 5.0, 8.0, 9.0, 10.0, 11.0]);
    }

    #[test]
    fn mean_and_last_are_taken_over_each_sequence() {
        assert_eq!(pooled(Pooling::Mean), [5.0, 6.0, 7.0, 8.0]);
        assert_eq!(pooled(Pooling::Last), [8.0, 9.0, 10.0, 11.0]);
    }

    #[test]
    fn normalised_rows_have_length_one_and_zero_stays() {
        let mut x = [3.0, 4.0, 0.0, 0.0];
        normalize(&mut x, 2);
        assert_eq!(x, [0.6, 0.8, 0.0, 0.0]);
    }
}
