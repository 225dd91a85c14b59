//! Which trade of bytes for speed the compute area makes.
#![forbid(unsafe_code)]

use crate::options::{AreaMode, Options};

/// What a mode means in rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AreaChoice {
    /// `Short` or `Long`.
    pub(super) mode: AreaMode,
    pub(super) reason: &'static str,
    /// Rows of a step where the host names no number.
    pub(super) default_rows: u32,
    /// Rows that the MLP takes at once; the tensor of rows × intermediate is that high.
    pub(super) mlp_tile_rows: u32,
}

/// Rows of an MLP tile in `short`. Weights are read once per tile, so a tile much lower than the ridge between
/// memory and arithmetic (about 20 to 30 rows) would be bound by memory.
const SHORT_TILE_ROWS: u32 = 64;
const SHORT_ROWS: u32 = 128;
const LONG_ROWS: u32 = 512;
/// Below this share of the memory limit the wide area does not matter.
const LIMIT_SHARE: u64 = 32;

/// Chooses for a model whose widest MLP has `intermediate_size` columns.
pub(super) fn choose(options: &Options, intermediate_size: u32, is_device: bool) -> AreaChoice {
    if is_device {
        return choose_for_device(options);
    }
    let long_rows = if options.max_batch_rows == 0 { LONG_ROWS } else { options.max_batch_rows };
    let short = |reason| AreaChoice {
        mode: AreaMode::Short,
        reason,
        default_rows: SHORT_ROWS,
        mlp_tile_rows: SHORT_TILE_ROWS,
    };
    let long = |reason| AreaChoice {
        mode: AreaMode::Long,
        reason,
        default_rows: LONG_ROWS,
        mlp_tile_rows: long_rows,
    };
    let wide_bytes = u64::from(long_rows) * u64::from(intermediate_size) * size_of::<f32>() as u64;
    match options.area_mode {
        AreaMode::Short => short("asked for, or all that the memory limit allows"),
        AreaMode::Long => long("asked for"),
        AreaMode::Auto if options.memory_limit_bytes / LIMIT_SHARE >= wide_bytes => {
            long("auto: the wide MLP is a small part of the memory limit")
        }
        AreaMode::Auto if options.memory_limit_bytes > 0 => {
            short("auto: the memory limit is tight for a wide MLP")
        }
        AreaMode::Auto if wide_bytes > last_level_cache_bytes() => {
            short("auto: the wide MLP does not fit into the processor's cache")
        }
        AreaMode::Auto => long("auto: the wide MLP fits into the processor's cache"),
    }
}

/// On a device the MLP runs in column tiles, whatever the mode; the rows of a step are all that a mode decides.
fn choose_for_device(options: &Options) -> AreaChoice {
    let (mode, default_rows, reason) = match options.area_mode {
        AreaMode::Short => (AreaMode::Short, SHORT_ROWS, "asked for, or all that the limit allows"),
        AreaMode::Long => (AreaMode::Long, LONG_ROWS, "asked for"),
        AreaMode::Auto => (AreaMode::Long, LONG_ROWS, "auto: fewer rows would leave units idle"),
    };
    let rows = if options.max_batch_rows == 0 { default_rows } else { options.max_batch_rows };
    AreaChoice { mode, reason, default_rows, mlp_tile_rows: rows }
}

/// Size of the largest cache, as Linux tells it; a modest one where it does not.
fn last_level_cache_bytes() -> u64 {
    const UNKNOWN: u64 = 8 << 20;
    let read = |index: u32| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        let text = std::fs::read_to_string(path).ok()?;
        let text = text.trim();
        match text.strip_suffix('K') {
            Some(kib) => Some(kib.parse::<u64>().ok()? << 10),
            None => Some(text.strip_suffix('M')?.parse::<u64>().ok()? << 20),
        }
    };
    (0..4).filter_map(read).max().unwrap_or(UNKNOWN)
}
