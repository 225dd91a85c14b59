//! Admission on a simulated day: requests arrive as a Poisson process whose rate follows the hour, a step's time is a
//! simple function of its rows, and slots are what is short.

use larder::error::Result;

use larder::serve::{EventKind, Finish, Limits};

use crate::mock::{Host, Job, Random};
use crate::naive::Naive;

/// A day, in seconds: short, but many times longer than any request.
const DAY: f64 = 2400.0;
/// Requests a second at night and at the busiest hour.
const RATES: (f64, f64) = (2.0, 11.0);
/// Seconds of a step, and of each of its rows: about an 8B model on one large GPU.
const STEP_SECONDS: f64 = 0.012;
const ROW_SECONDS: f64 = 0.000_03;
/// A request counts when its first token came in this time, and no token kept it waiting longer than that.
const FIRST_TOKEN_SECONDS: f64 = 10.0;
const NEXT_TOKEN_SECONDS: f64 = 1.5;
const MAX_NEW: u32 = 2048;

const LIMITS: Limits = Limits {
    max_requests: 8192,
    max_sequences: 256,
    max_sequence_tokens: 8192,
    max_batch_rows: 512,
    max_logits_rows: 16,
    vocab_size: 50_000,
    total_tokens: 65_536,
    max_token_bytes: 0,
    n_stop_tokens: 1,
};

/// What an admission is told of an answer's length.
#[derive(Debug, Clone, Copy)]
pub enum Policy {
    History,
    Maximum,
    OneToken,
    Oracle,
}

impl Policy {
    const ALL: [Policy; 4] = [Policy::History, Policy::Maximum, Policy::OneToken, Policy::Oracle];

    fn hint(self, n_new: u32) -> u32 {
        match self {
            Policy::History => 0,
            Policy::Maximum => MAX_NEW,
            Policy::OneToken => 1,
            // The stop token is a draw, too.
            Policy::Oracle => (n_new + 1).min(MAX_NEW),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Policy::History => "past lengths (larder)",
            Policy::Maximum => "the maximum is reserved",
            Policy::OneToken => "a hint of one token",
            Policy::Oracle => "true lengths (oracle)",
        }
    }
}

struct Arrival {
    seconds: f64,
    n_prompt: u32,
    n_new: u32,
    seed: u64,
}

impl Arrival {
    fn job(&self, policy: Policy) -> Job {
        Job {
            prompt: Random(self.seed).tokens(self.n_prompt, LIMITS.vocab_size),
            n_new: self.n_new,
            max_new: MAX_NEW,
            hint: policy.hint(self.n_new),
        }
    }
}

/// Chat, code and summaries: lengths are log-normal in each, and nothing tells the scheduler which one it is.
fn arrivals(seed: u64) -> Vec<Arrival> {
    let mut random = Random(seed);
    let mut all = Vec::new();
    let mut seconds = 0.0;
    loop {
        seconds += random.exponential(1.0 / RATES.1);
        if seconds >= DAY {
            return all;
        }
        let hour = (1.0 - (2.0 * std::f64::consts::PI * seconds / DAY).cos()) / 2.0;
        let rate = RATES.0 + (RATES.1 - RATES.0) * hour;
        // Thinning: candidates come at the highest rate, some are kept.
        if random.unit() > rate / RATES.1 {
            continue;
        }
        let kind = random.unit();
        let ((prompt, prompt_spread), (new, new_spread)) = match kind {
            ..0.6 => ((150.0, 1.0), (220.0, 0.8)),
            ..0.85 => ((800.0, 0.9), (350.0, 0.9)),
            _ => ((2500.0, 0.5), (130.0, 0.5)),
        };
        let n_prompt = random.log_normal(prompt, prompt_spread).clamp(1.0, 6000.0) as u32;
        let n_new = random.log_normal(new, new_spread).clamp(1.0, f64::from(MAX_NEW)) as u32;
        all.push(Arrival { seconds, n_prompt, n_new, seed: random.next() });
    }
}

/// What one request has seen so far.
#[derive(Clone, Copy, Default)]
struct Seen {
    n_tokens: u32,
    last_seconds: f64,
    is_late: bool,
}

/// What became of a day.
#[derive(Default)]
struct Outcome {
    n_good: usize,
    n_finished: usize,
    seconds: f64,
    n_pauses: u64,
    /// Rows beside those of each token once.
    n_recomputed: i64,
    first_token_seconds: Vec<f64>,
    /// Mean number of slots that are read, over the busy third of the day.
    used_share: f64,
    n_busy_steps: usize,
}

fn simulate(arrivals: &[Arrival], policy: Policy) -> Result<Outcome> {
    let mut host = Host::new(&LIMITS, None)?;
    let mut seen = vec![Seen::default(); arrivals.len()];
    let mut outcome = Outcome::default();
    let (mut now, mut next, mut n_rows) = (0.0, 0, 0);
    while outcome.n_finished < arrivals.len() {
        while next < arrivals.len() && arrivals[next].seconds <= now {
            host.submit(&arrivals[next].job(policy), next as u64)?;
            next += 1;
        }
        let (rows, n_events) = host.step()?;
        if rows == 0 && n_events == 0 {
            now = arrivals[next].seconds;
            continue;
        }
        n_rows += rows as i64;
        now += STEP_SECONDS + ROW_SECONDS * rows as f64;
        for event in &host.events[..n_events] {
            let user = event.user as usize;
            note(&mut outcome, &mut seen[user], &arrivals[user], event.kind, now);
        }
        if (DAY / 3.0..DAY * 2.0 / 3.0).contains(&now) {
            outcome.used_share += f64::from(host.kv.used_slots()) / f64::from(LIMITS.total_tokens);
            outcome.n_busy_steps += 1;
        }
    }
    outcome.n_recomputed = n_rows - n_needed(arrivals);
    outcome.n_pauses = host.stats().pauses;
    outcome.seconds = now;
    Ok(outcome)
}

/// The same day with the scheduler that does not look ahead.
fn simulate_naive(arrivals: &[Arrival]) -> Outcome {
    let mut naive = Naive::new(&LIMITS);
    let mut seen = vec![Seen::default(); arrivals.len()];
    let mut outcome = Outcome::default();
    let (mut now, mut next, mut n_rows) = (0.0, 0, 0);
    while outcome.n_finished < arrivals.len() {
        while next < arrivals.len() && arrivals[next].seconds <= now {
            // The stop token is a draw, too.
            let n_new = (arrivals[next].n_new + 1).min(MAX_NEW);
            naive.submit(next, arrivals[next].n_prompt, n_new);
            next += 1;
        }
        let step = naive.step();
        if step.n_rows == 0 {
            now = arrivals[next].seconds;
            continue;
        }
        n_rows += i64::from(step.n_rows);
        now += STEP_SECONDS + ROW_SECONDS * f64::from(step.n_rows);
        for (number, is_last) in step.tokens {
            let kind = if is_last { EventKind::Finished(Finish::Stop) } else { EventKind::Token };
            note(&mut outcome, &mut seen[number], &arrivals[number], kind, now);
        }
        if (DAY / 3.0..DAY * 2.0 / 3.0).contains(&now) {
            outcome.used_share += f64::from(naive.n_used()) / f64::from(LIMITS.total_tokens);
            outcome.n_busy_steps += 1;
        }
    }
    outcome.n_recomputed = n_rows - n_needed(arrivals);
    outcome.n_pauses = naive.n_pauses;
    outcome.seconds = now;
    outcome
}

/// Rows of each token once.
fn n_needed(arrivals: &[Arrival]) -> i64 {
    let needed =
        arrivals.iter().map(|arrival| i64::from(arrival.n_prompt + arrival.n_new.min(MAX_NEW - 1)));
    needed.sum()
}

fn note(outcome: &mut Outcome, seen: &mut Seen, arrival: &Arrival, kind: EventKind, now: f64) {
    let (since, limit) = match seen.n_tokens {
        0 => (arrival.seconds, FIRST_TOKEN_SECONDS),
        _ => (seen.last_seconds, NEXT_TOKEN_SECONDS),
    };
    if seen.n_tokens == 0 {
        outcome.first_token_seconds.push(now - arrival.seconds);
    }
    seen.is_late |= now - since > limit;
    (seen.n_tokens, seen.last_seconds) = (seen.n_tokens + 1, now);
    match kind {
        EventKind::Token => {}
        EventKind::Finished(_) => {
            outcome.n_finished += 1;
            outcome.n_good += usize::from(!seen.is_late);
        }
        EventKind::Failed(failure) => panic!("a request failed: {failure:?}"),
    }
}

/// Prints a table, a row for each policy.
pub fn report(n_days: u64) -> Result<()> {
    println!(
        "admission, {n_days} days of {DAY} s, {} token slots; within limits: first token in {FIRST_TOKEN_SECONDS} s, \
         each next one in {NEXT_TOKEN_SECONDS} s",
        LIMITS.total_tokens
    );
    println!(
        "| expected lengths | within limits /s | of the oracle | finished /s | pauses | recomputed tokens | \
         first token p50, p99 s | slots in use |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let days: Vec<_> = (1..=n_days).map(arrivals).collect();
    let mut outcomes = Vec::new();
    for policy in Policy::ALL {
        let of_days: Result<Vec<_>> = days.iter().map(|day| simulate(day, policy)).collect();
        outcomes.push((policy.name(), of_days?));
    }
    let of_days = days.iter().map(|day| simulate_naive(day));
    outcomes.push(("no look-ahead, the last one is computed again", of_days.collect()));
    let good = |of_days: &[Outcome]| {
        of_days.iter().map(|day| day.n_good as f64 / day.seconds).sum::<f64>() / n_days as f64
    };
    let oracle = good(&outcomes[3].1);
    for (name, of_days) in outcomes {
        print_row(name, &of_days, good(&of_days), oracle);
    }
    Ok(())
}

fn print_row(name: &str, of_days: &[Outcome], good: f64, oracle: f64) {
    let n_days = of_days.len() as f64;
    let mean = |of: fn(&Outcome) -> f64| of_days.iter().map(of).sum::<f64>() / n_days;
    let mut first: Vec<f64> =
        of_days.iter().flat_map(|day| day.first_token_seconds.iter().copied()).collect();
    first.sort_by(f64::total_cmp);
    let at = |share: f64| first[((first.len() - 1) as f64 * share) as usize];
    println!(
        "| {} | {good:.2} | {:.1} % | {:.2} | {:.0} | {:.0} | {:.1}, {:.1} | {:.0} % |",
        name,
        good / oracle * 100.0,
        mean(|day| day.n_finished as f64 / day.seconds),
        mean(|day| day.n_pauses as f64),
        mean(|day| day.n_recomputed as f64),
        at(0.5),
        at(0.99),
        mean(|day| day.used_share / day.n_busy_steps.max(1) as f64) * 100.0,
    );
}
