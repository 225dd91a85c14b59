//! What a step costs beside its forward pass, with 256 requests that decode, come and go.

use std::path::Path;
use std::time::Instant;

use larder::engine::Engine;
use larder::error::Result;
use larder::options::Options;
use larder::serve::{Limits, max_token_bytes};

use crate::mock::{Host, Job, Random};

const N_RUNNING: u32 = 256;
const WARM_UP: usize = 3_000;
const N_STEPS: usize = 20_000;

/// Prints median and 99th percentile, with nobody waiting and with as many waiting as run.
pub fn report() -> Result<()> {
    println!("scheduling, {N_RUNNING} requests running, {N_STEPS} steps, microseconds a step");
    println!("| waiting | median | p99 | largest | of it scheduling, mean | rows a step |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for n_waiting in [0, N_RUNNING] {
        let (mut times, schedule, n_rows) = measure(n_waiting)?;
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        let (median, p99, most) = (at(0.5), at(0.99), at(1.0));
        println!(
            "| {n_waiting} | {median:.1} | {p99:.1} | {most:.0} | {schedule:.1} | {n_rows:.0} |"
        );
    }
    Ok(())
}

/// Microseconds of each step, those of `schedule` in the mean since the begin, and the mean number of rows.
fn measure(n_waiting: u32) -> Result<(Vec<f64>, f64, f64)> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat");
    let text = Engine::create(&model, &Options::default())?.text().cloned();
    let limits = Limits {
        max_requests: N_RUNNING + n_waiting,
        max_sequences: N_RUNNING,
        max_sequence_tokens: 4096,
        max_batch_rows: 512,
        max_logits_rows: 16,
        vocab_size: 269,
        total_tokens: N_RUNNING * 2048,
        max_token_bytes: text.as_deref().map_or(0, max_token_bytes),
        n_stop_tokens: 1,
    };
    let mut host = Host::new(&limits, text)?;
    let mut random = Random(1);
    let mut times = Vec::with_capacity(N_STEPS);
    let (mut n_submitted, mut n_live, mut n_rows) = (0, 0, 0);
    for step in 0..WARM_UP + N_STEPS {
        while n_live < N_RUNNING + n_waiting {
            host.submit(&job(&mut random), n_submitted)?;
            n_live += 1;
            n_submitted += 1;
        }
        let start = Instant::now();
        let (rows, n_events) = host.step()?;
        let elapsed = start.elapsed().as_secs_f64() * 1e6;
        n_live -=
            host.events[..n_events].iter().filter(|event| crate::is_end(event)).count() as u32;
        if step >= WARM_UP {
            times.push(elapsed);
            n_rows += rows;
        }
    }
    let stats = host.stats();
    let schedule = stats.schedule_nanoseconds as f64 / stats.steps as f64 / 1e3;
    Ok((times, schedule, n_rows as f64 / N_STEPS as f64))
}

fn job(random: &mut Random) -> Job {
    let n_prompt = random.log_normal(200.0, 0.8).clamp(1.0, 2000.0) as u32;
    let n_new = random.log_normal(300.0, 0.8).clamp(1.0, 1000.0) as u32;
    Job { prompt: random.tokens(n_prompt, 269), n_new, max_new: 1024, hint: 0 }
}
