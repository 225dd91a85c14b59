//! `make bench-schedule`: what scheduling costs, and how well it admits. No model is run, but for the first token's.
//!
//! `cargo bench --bench schedule -- [cost] [day [DAYS]] [first-token]`; without a word: the first two.

mod cost;
mod day;
mod first_token;
mod mock;
mod naive;

use larder::error::Result;
use larder::serve::{Event, EventKind};

fn main() -> Result<()> {
    // cargo adds --bench.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let is_asked = |name: &str| words.iter().any(|word| word == name);
    if words.is_empty() || is_asked("cost") {
        cost::report()?;
    }
    if words.is_empty() || is_asked("day") {
        let n_days = words.iter().find_map(|word| word.parse().ok()).unwrap_or(3);
        day::report(n_days)?;
    }
    if is_asked("first-token") {
        first_token::report()?;
    }
    Ok(())
}

/// Whether an answer has ended.
fn is_end(event: &Event) -> bool {
    event.kind != EventKind::Token
}
