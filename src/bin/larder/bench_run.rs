//! One case after the other on one engine, without sampling but where a request asks for its first token.

use crate::Result;
use crate::bench_cases::Case;
use larder::engine::{Engine, ForwardBatch, Pooling};
use larder::ids::{RequestHandle, SequenceHandle, TokenId};
use larder::serve::{Event, EventKind, Failure, Prompt, RequestInput};
use std::time::Instant;

/// An engine and the sequences that the last case left.
pub struct Runner {
    engine: Engine,
    /// All have the tokens of [`token`] from position 0 on, with their number as the salt.
    sequences: Vec<SequenceHandle>,
    /// Requests so far; a salt of their prompts.
    n_requests: u32,
}

/// What one run of a case took.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub seconds: f64,
    /// Tokens that were computed or, in a prompt, taken from the cache.
    pub n_tokens: u32,
    /// Of them, from the cache.
    pub n_cached: u32,
}

impl Runner {
    pub fn new(engine: Engine) -> Runner {
        Runner { engine, sequences: Vec::new(), n_requests: 0 }
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Runs a case once.
    pub fn measure(&mut self, case: &Case) -> Result<Measured> {
        match *case {
            Case::Prefill { n_tokens, n_sequences } => {
                self.prepare(n_sequences, 0)?;
                let begin = Instant::now();
                self.extend(n_tokens)?;
                let seconds = begin.elapsed().as_secs_f64();
                Ok(Measured { seconds, n_tokens: n_tokens * n_sequences, n_cached: 0 })
            }
            Case::Decode { depth, n_steps, n_sequences } => {
                self.prepare(n_sequences, depth)?;
                let begin = Instant::now();
                for step in 0..n_steps {
                    self.decode(depth + step)?;
                }
                let seconds = begin.elapsed().as_secs_f64();
                Ok(Measured { seconds, n_tokens: n_steps * n_sequences, n_cached: 0 })
            }
            Case::Generate { depth, n_steps, n_sequences } => {
                self.generate(depth, n_steps, n_sequences)
            }
            Case::First { n_tokens, n_cached } => self.first(n_tokens, n_cached),
        }
    }

    /// Sees to exactly so many sequences of exactly so many tokens, with the least work.
    fn prepare(&mut self, n_sequences: u32, depth: u32) -> Result<()> {
        while self.sequences.len() > n_sequences as usize {
            let surplus = self.sequences.pop();
            surplus.map_or(Ok(()), |sequence| self.engine.sequence_release(sequence))?;
        }
        for &sequence in &self.sequences {
            let n = self.engine.sequence_length(sequence)?.min(u64::from(depth));
            self.engine.sequence_truncate(sequence, n)?;
        }
        while self.sequences.len() < n_sequences as usize {
            self.sequences.push(self.engine.sequence_open()?);
        }
        self.extend(depth)
    }

    /// Prefills every sequence up to `n_tokens`, with as many rows a pass as there may be.
    fn extend(&mut self, n_tokens: u32) -> Result<()> {
        let (mut sequences, mut tokens) = (Vec::new(), Vec::new());
        for (&sequence, salt) in self.sequences.iter().zip(0..) {
            let first = self.engine.sequence_length(sequence)? as u32;
            tokens.extend(self.prompt(first..n_tokens, salt));
            sequences.resize(tokens.len(), sequence);
        }
        let n_rows = self.engine.memory().max_batch_rows.max(1) as usize;
        for (sequences, tokens) in sequences.chunks(n_rows).zip(tokens.chunks(n_rows)) {
            append(&mut self.engine, sequences, tokens)?;
        }
        Ok(())
    }

    /// One token more in every sequence.
    fn decode(&mut self, position: u32) -> Result<()> {
        let vocab_size = self.engine.vocab_size();
        let salts = 0..self.sequences.len() as u32;
        let tokens: Vec<TokenId> = salts.map(|salt| token(position, salt, vocab_size)).collect();
        append(&mut self.engine, &self.sequences, &tokens)
    }

    /// Steps of requests that decode together, whose prompts are cached but for the last token.
    fn generate(&mut self, depth: u32, n_steps: u32, n_sequences: u32) -> Result<Measured> {
        self.prepare(0, 0)?;
        let prompts: Vec<_> = (0..n_sequences).map(|salt| self.prompt(0..depth, salt)).collect();
        for prompt in &prompts {
            self.request(prompt)?;
        }
        let mut handles = Vec::with_capacity(prompts.len());
        for prompt in &prompts {
            handles.push(self.submit(prompt, n_steps + 1)?);
        }
        let mut events = vec![Event::default(); 2 * prompts.len()];
        let seconds = self.timed_steps(&mut events, n_steps, n_sequences);
        if seconds.is_err() {
            handles.iter().try_for_each(|&handle| self.engine.edge().cancel(handle))?;
            while self.engine.step(&mut events)? > 0 {}
        }
        Ok(Measured { seconds: seconds?, n_tokens: n_steps * n_sequences, n_cached: 0 })
    }

    /// Seconds that steps of all requests take, behind one that gives each its first token.
    fn timed_steps(&mut self, events: &mut [Event], n_steps: u32, n_requests: u32) -> Result<f64> {
        self.step_all(events, n_requests)?;
        let begin = Instant::now();
        (0..n_steps).try_for_each(|_| self.step_all(events, n_requests))?;
        Ok(begin.elapsed().as_secs_f64())
    }

    /// A step that must give every request a token.
    fn step_all(&mut self, events: &mut [Event], n_requests: u32) -> Result<()> {
        let n = self.engine.step(events)?;
        let mut n_tokens = 0;
        for event in &events[..n] {
            match event.kind {
                EventKind::Token => n_tokens += 1,
                EventKind::Finished(_) => {}
                EventKind::Failed(failure) => return Err(failed(failure)),
            }
        }
        if n_tokens != n_requests {
            let text = format!(
                "a step gave {n_tokens} of {n_requests} requests a token: are there too few token slots?"
            );
            return Err(text.into());
        }
        Ok(())
    }

    /// A request for one token, behind another one that leaves its prefix in the cache. The rest is new every time.
    fn first(&mut self, n_tokens: u32, n_cached: u32) -> Result<Measured> {
        self.prepare(0, 0)?;
        self.n_requests += 1;
        let mut prompt = self.prompt(0..n_cached, 0);
        if n_cached > 0 {
            self.request(&prompt)?;
        }
        prompt.extend(self.prompt(n_cached..n_tokens, self.n_requests));
        let begin = Instant::now();
        let n_cached = self.request(&prompt)?;
        Ok(Measured { seconds: begin.elapsed().as_secs_f64(), n_tokens, n_cached })
    }

    /// Has one token drawn behind a prompt and tells how many of the prompt's were in the cache.
    fn request(&mut self, prompt: &[TokenId]) -> Result<u32> {
        self.submit(prompt, 1)?;
        let mut events = [Event::default()];
        loop {
            let n = self.engine.step(&mut events)?;
            for event in &events[..n] {
                match event.kind {
                    EventKind::Token => {}
                    EventKind::Finished(_) => return Ok(event.n_cached_tokens),
                    EventKind::Failed(failure) => return Err(failed(failure)),
                }
            }
        }
    }

    /// Asks for so many greedy tokens, none of which ends the answer.
    fn submit(&mut self, prompt: &[TokenId], n_new: u32) -> Result<RequestHandle> {
        let stops = self.engine.text().map_or(&[][..], |text| text.stop_tokens());
        let input = RequestInput {
            prompt: Prompt::Tokens(prompt),
            max_new_tokens: n_new,
            expected_new_tokens: n_new,
            bias_tokens: stops,
            biases: &vec![f32::NEG_INFINITY; stops.len()],
            ..RequestInput::default()
        };
        Ok(self.engine.edge().submit(None, &input)?)
    }

    fn prompt(&self, positions: std::ops::Range<u32>, salt: u32) -> Vec<TokenId> {
        positions.map(|position| token(position, salt, self.engine.vocab_size())).collect()
    }
}

/// One pass over these rows, with logits of each sequence's last one.
fn append(engine: &mut Engine, sequences: &[SequenceHandle], tokens: &[TokenId]) -> Result<()> {
    engine.forward(&ForwardBatch {
        n_rows: tokens.len() as u32,
        tokens: Some(tokens),
        embeddings: None,
        sequences,
        wants: None,
        pooling: Pooling::None,
        normalize: false,
    })?;
    Ok(())
}

fn failed(failure: Failure) -> Box<dyn std::error::Error> {
    format!("a request failed: {failure:?}").into()
}

/// The same token at the same place in every run, all over the vocabulary. Another salt gives other ones.
fn token(position: u32, salt: u32, vocab_size: u32) -> TokenId {
    let place = u64::from(position) + 7919 * u64::from(salt);
    TokenId(((place * 2_654_435_761 + 12_345) % u64::from(vocab_size.max(1))) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_of_the_vocabulary_and_differ_by_their_salt() {
        for vocab_size in [1, 7, 151_936] {
            assert!((0..1000).all(|position| token(position, 3, vocab_size).0 < vocab_size));
        }
        let vocab_size = 49_152;
        let firsts: Vec<u32> = (0..100).map(|salt| token(0, salt, vocab_size).0).collect();
        assert!((1..100).all(|i| !firsts[..i].contains(&firsts[i])), "{firsts:?}");
    }
}
