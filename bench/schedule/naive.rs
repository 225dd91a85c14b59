//! The usual scheduler without look-ahead, to compare with: who comes next is let in when its prompt fits now; when
//! slots run out, the answer that came last gives up all of its own and is computed again from the beginning.

use std::collections::VecDeque;

use larder::serve::Limits;

/// A request, by its number, and how far it is.
struct Answer {
    number: usize,
    n_prompt: u32,
    n_new: u32,
    /// Tokens that it has got.
    n_got: u32,
    /// Tokens in slots.
    n_fed: u32,
}

impl Answer {
    /// Tokens that are to be in slots before the next one can be drawn.
    fn n_known(&self) -> u32 {
        self.n_prompt + self.n_got
    }
}

/// Who waits and who runs, in the order of arrival.
pub struct Naive {
    limits: Limits,
    waiting: VecDeque<Answer>,
    running: Vec<Answer>,
    pub n_pauses: u64,
}

/// What a step did: rows, and the numbers of those who got a token, with whether it was the last.
pub struct Step {
    pub n_rows: u32,
    pub tokens: Vec<(usize, bool)>,
}

impl Naive {
    pub fn new(limits: &Limits) -> Naive {
        Naive { limits: *limits, waiting: VecDeque::new(), running: Vec::new(), n_pauses: 0 }
    }

    /// A request for `n_new` tokens behind a prompt.
    pub fn submit(&mut self, number: usize, n_prompt: u32, n_new: u32) {
        self.waiting.push_back(Answer { number, n_prompt, n_new, n_got: 0, n_fed: 0 });
    }

    pub fn n_used(&self) -> u32 {
        self.running.iter().map(|answer| answer.n_fed).sum()
    }

    /// Lets in who fits, then feeds one row to each answer that decodes and the rest of the rows to prompts.
    pub fn step(&mut self) -> Step {
        self.admit();
        let mut left = self.limits.max_batch_rows;
        for decodes in [true, false] {
            let mut place = 0;
            while place < self.running.len() && left > 0 {
                let answer = &self.running[place];
                let n_missing = answer.n_known() - answer.n_fed;
                if (n_missing == 1) == decodes && n_missing > 0 {
                    let n = n_missing.min(left);
                    if !self.make_room(n, place) {
                        break;
                    }
                    self.running[place].n_fed += n;
                    left -= n;
                }
                place += 1;
            }
        }
        let mut tokens = Vec::new();
        self.running.retain_mut(|answer| {
            if answer.n_fed < answer.n_known() {
                return true;
            }
            answer.n_got += 1;
            let is_last = answer.n_got >= answer.n_new;
            tokens.push((answer.number, is_last));
            !is_last
        });
        Step { n_rows: self.limits.max_batch_rows - left, tokens }
    }

    fn admit(&mut self) {
        let mut promised: u32 = self.running.iter().map(Answer::n_known).sum();
        while let Some(next) = self.waiting.front() {
            promised += next.n_known();
            let is_full = self.running.len() >= self.limits.max_sequences as usize;
            if is_full || promised > self.limits.total_tokens {
                return;
            }
            self.running.extend(self.waiting.pop_front());
        }
    }

    /// Frees slots of later answers until `n` are free; false when the answer at `place` itself had to go.
    fn make_room(&mut self, n: u32, place: usize) -> bool {
        while self.n_used() + n > self.limits.total_tokens {
            let Some(mut last) = self.running.pop() else { return false };
            last.n_fed = 0;
            self.n_pauses += 1;
            self.waiting.push_front(last);
            if self.running.len() <= place {
                return false;
            }
        }
        true
    }
}
