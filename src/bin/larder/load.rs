//! Creating an engine with a progress bar.

use crate::Result;
use crate::units::size;
use larder::engine::Engine;
use larder::options::{LogLevel, Options};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const BAR_WIDTH: usize = 30;

/// Loads the model; warnings go to stderr, and so does a bar when it is a terminal.
pub fn load(model: &Path, mut options: Options) -> Result<Engine> {
    let is_terminal = std::io::stderr().is_terminal();
    options.hooks.log = Some(Arc::new(|level, text| {
        if level <= LogLevel::Warning {
            eprintln!("larder: {text}");
        }
    }));
    if is_terminal {
        let last_percent = AtomicU64::new(u64::MAX);
        options.hooks.progress = Some(Arc::new(move |done, total| {
            let percent = (done as f64 * 100.0 / total.max(1) as f64) as u64;
            if last_percent.swap(percent, Ordering::Relaxed) != percent {
                eprint!("\r{}", bar(done, total));
                let _ = std::io::stderr().flush();
            }
            true
        }));
    }
    let engine = Engine::create(model, &options);
    if is_terminal {
        eprint!("\r\x1b[K"); // clears the bar's line
    }
    Ok(engine?)
}

fn bar(done: u64, total: u64) -> String {
    let share = (done as f64 / total.max(1) as f64).clamp(0.0, 1.0);
    let n_full = (share * BAR_WIDTH as f64) as usize;
    let (full, empty) = ("\u{2588}".repeat(n_full), "\u{2591}".repeat(BAR_WIDTH - n_full));
    format!("loading {full}{empty} {:3.0}%  {} of {}  ", share * 100.0, size(done), size(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_from_none_to_all() {
        let n_full = |done, total| bar(done, total).matches('\u{2588}').count();
        let filled = [(0, 0), (0, 9), (5, 10), (10, 10), (11, 10)].map(|(d, t)| n_full(d, t));
        assert_eq!(filled, [0, 0, BAR_WIDTH / 2, BAR_WIDTH, BAR_WIDTH]);
    }
}
