//! `larder plan`: a table of the bytes that an engine would take, and the picture of its compute area.

use crate::Result;
use crate::arguments::PlanArguments;
use crate::units::size;
use larder::engine::{Engine, Memory};
use larder::options::{AreaMode, Options};
use std::io::Write;

/// Prints the plan and writes the picture.
pub fn plan(arguments: &PlanArguments) -> Result<()> {
    let engine = &arguments.engine;
    let options = engine.options();
    let (memory, area) = Engine::plan_area(engine.path(), &options)?;
    let mut out = std::io::stdout();
    writeln!(out, "{}\n\n{}", engine.model_name(), table(&memory))?;
    writeln!(out, "  compute area by mode")?;
    for (name, mode) in
        [("short", AreaMode::Short), ("long", AreaMode::Long), ("auto", AreaMode::Auto)]
    {
        let options = Options { area_mode: mode, ..options.clone() };
        let planned = Engine::plan(engine.path(), &options);
        writeln!(out, "    {name:<6}{}", planned.map_or_else(|e| e.to_string(), |m| of_mode(&m)))?;
    }
    if let Some(file) = &arguments.svg {
        let title = format!(
            "{}: {} rows, {} rows of logits, {}",
            engine.model_name(),
            memory.max_batch_rows,
            memory.max_logits_rows,
            mode_name(memory.area_mode)
        );
        std::fs::write(file, area.svg(&title)).map_err(|e| format!("{}: {e}", file.display()))?;
        writeln!(out, "\n  picture of the compute area: {}", file.display())?;
    }
    Ok(())
}

/// The classes of memory with the numbers behind them.
fn table(memory: &Memory) -> String {
    let rows = [
        ("weights", memory.weights_bytes, String::new()),
        (
            "KV repo",
            memory.kv_repo_bytes,
            format!(
                "{} token slots (total_tokens) of {} and one for padding",
                memory.total_tokens,
                size(memory.token_slot_bytes)
            ),
        ),
        (
            "compute area",
            memory.compute_area_bytes,
            format!(
                "{} rows, {} rows of logits; {} ({})",
                memory.max_batch_rows,
                memory.max_logits_rows,
                mode_name(memory.area_mode),
                memory.area_reason
            ),
        ),
        (
            "bookkeeping",
            memory.bookkeeping_bytes,
            format!(
                "tokenizer; max_sequences {}, of {} tokens; max_requests {}",
                memory.max_sequences, memory.max_sequence_tokens, memory.max_requests
            ),
        ),
        ("total", memory.total_bytes(), total_of(memory)),
        ("peak", memory.load_peak_bytes, "while create runs".into()),
    ];
    let mut table = String::new();
    for (name, bytes, about) in rows {
        if name == "total" {
            table.push_str(&format!("  {}\n", "\u{2500}".repeat(40)));
        }
        let line = format!("  {name:<14}{:>12}{bytes:>16} B   {about}", size(bytes));
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
}

/// Where the bytes lie.
fn total_of(memory: &Memory) -> String {
    match memory.device_bytes {
        0 => "from create to release".into(),
        device => format!(
            "from create to release: {} on the device, {} on the host",
            size(device),
            size(memory.host_bytes)
        ),
    }
}

fn of_mode(memory: &Memory) -> String {
    format!(
        "{:>10}   {} rows; {} ({})",
        size(memory.compute_area_bytes),
        memory.max_batch_rows,
        mode_name(memory.area_mode),
        memory.area_reason
    )
}

fn mode_name(mode: AreaMode) -> &'static str {
    match mode {
        AreaMode::Auto => "auto",
        AreaMode::Short => "short",
        AreaMode::Long => "long",
    }
}
