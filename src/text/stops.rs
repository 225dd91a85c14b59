//! Stop strings over streamed text: nothing of a stop, or after it, is ever delivered.
//!
//! Text that may be the begin of a stop is held back until it is certain. The match that ends first wins; of
//! those that end together, the longest. So the delivered text does not depend on how the text was cut.
//!
//! Each stop is followed by a Knuth-Morris-Pratt automaton, all in arrays reserved at construction.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};

/// What the text pushed so far means for the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopState {
    /// No stop has ended yet.
    Running,
    /// Stop number `index` (in the order they were set) has ended; everything before it was delivered.
    Stopped { index: usize },
}

/// One stop: its bytes and automaton lie in `bytes` and `borders` at `start .. start + len`.
#[derive(Debug, Clone, Copy)]
struct Stop {
    start: usize,
    len: usize,
    /// How many bytes of the stop the text ends with.
    matched: usize,
}

/// Holds back what may begin a stop string. Reusable for the next request; never allocates after `new`.
#[derive(Debug)]
pub struct StopMatcher {
    max_stops: usize,
    max_bytes: usize,
    stops: Vec<Stop>,
    bytes: Vec<u8>,
    /// For a prefix ending at byte i of its stop: length of the longest proper border.
    borders: Vec<u32>,
    held: String,
    state: StopState,
}

impl StopMatcher {
    /// Reserves room for `max_stops` stops of at most `max_bytes` bytes all together.
    pub fn new(max_stops: usize, max_bytes: usize) -> StopMatcher {
        StopMatcher {
            max_stops,
            max_bytes,
            stops: Vec::with_capacity(max_stops),
            bytes: Vec::with_capacity(max_bytes),
            borders: Vec::with_capacity(max_bytes),
            // The held text is shorter than the longest stop; one whole character may join it before release.
            held: String::with_capacity(max_bytes.saturating_add(4)),
            state: StopState::Running,
        }
    }

    /// Heap bytes that `new` takes with these numbers.
    pub fn heap_bytes(max_stops: usize, max_bytes: usize) -> u64 {
        let arrays = max_stops * size_of::<Stop>() + max_bytes * (1 + size_of::<u32>());
        (arrays + max_bytes + 4) as u64
    }

    /// Checks stops against the limits that `new` was given, without changing anything.
    pub fn check<'a>(&self, stops: impl Iterator<Item = &'a str>) -> Result<()> {
        let (mut n_stops, mut n_bytes) = (0usize, 0usize);
        for stop in stops {
            if stop.is_empty() {
                return Err(Error::InvalidArgument(format!("stop string {n_stops} is empty")));
            }
            n_stops += 1;
            n_bytes = n_bytes.saturating_add(stop.len());
        }
        if n_stops > self.max_stops {
            let max = self.max_stops;
            return Err(Error::LimitReached(format!("{n_stops} stop strings, at most {max}")));
        }
        if n_bytes > self.max_bytes {
            let max = self.max_bytes;
            return Err(Error::LimitReached(format!(
                "stop strings of {n_bytes} bytes together, at most {max}"
            )));
        }
        Ok(())
    }

    /// Begins a new text with these stops. On an error the matcher is as it was.
    pub fn set<'a>(&mut self, stops: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
        self.check(stops.clone())?;
        self.stops.clear();
        self.bytes.clear();
        self.borders.clear();
        for stop in stops {
            self.add(stop.as_bytes());
        }
        self.reset();
        Ok(())
    }

    /// Begins a new text with the same stops.
    pub fn reset(&mut self) {
        self.held.clear();
        self.state = StopState::Running;
        self.stops.iter_mut().for_each(|stop| stop.matched = 0);
    }

    /// Text held back at the moment.
    pub fn held(&self) -> &str {
        &self.held
    }

    /// Takes the next text and appends what is certain to `out`: at most `text.len() + held().len()` bytes.
    /// After a stop has ended, further text is dropped.
    pub fn push(&mut self, text: &str, out: &mut String) -> StopState {
        for character in text.chars() {
            if self.state != StopState::Running {
                break;
            }
            if self.stops.is_empty() {
                out.push(character);
                continue;
            }
            self.push_character(character, out);
        }
        self.state
    }

    /// Ends the text: what is held back was no stop, and is delivered.
    pub fn finish(&mut self, out: &mut String) -> StopState {
        out.push_str(&self.held);
        self.held.clear();
        self.state
    }

    fn push_character(&mut self, character: char, out: &mut String) {
        let mut buffer = [0; 4];
        for &byte in character.encode_utf8(&mut buffer).as_bytes() {
            self.advance(byte);
        }
        self.held.push(character);
        let ended = self.stops.iter().enumerate().filter(|(_, stop)| stop.matched == stop.len);
        if let Some((index, stop)) =
            ended.max_by_key(|(index, stop)| (stop.len, usize::MAX - index))
        {
            out.push_str(&self.held[..self.held.len() - stop.len]);
            self.held.clear();
            self.state = StopState::Stopped { index };
            return;
        }
        // A stop begins with a whole character, so the border of what it may match is one too.
        let may_match = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        let certain = self.held.len() - may_match;
        out.push_str(&self.held[..certain]);
        self.held.drain(..certain);
    }

    fn advance(&mut self, byte: u8) {
        for stop in &mut self.stops {
            let bytes = &self.bytes[stop.start..stop.start + stop.len];
            let borders = &self.borders[stop.start..stop.start + stop.len];
            stop.matched = next_state(bytes, borders, stop.matched, byte);
        }
    }

    fn add(&mut self, stop: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(stop);
        self.borders.push(0);
        for i in 1..stop.len() {
            let border = self.borders[start + i - 1] as usize;
            let longer = next_state(stop, &self.borders[start..], border, stop[i]);
            self.borders.push(longer as u32);
        }
        self.stops.push(Stop { start, len: stop.len(), matched: 0 });
    }
}

/// Length of the longest prefix of `bytes` that ends in `byte`, `matched` bytes having matched before it.
fn next_state(bytes: &[u8], borders: &[u32], mut matched: usize, byte: u8) -> usize {
    while matched > 0 && (matched == bytes.len() || bytes[matched] != byte) {
        matched = borders[matched - 1] as usize;
    }
    if bytes[matched] == byte { matched + 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Delivers a whole text at once, by naive search.
    fn naive(text: &str, stops: &[String]) -> String {
        let mut best: Option<(usize, usize)> = None;
        for stop in stops {
            if let Some(start) = text.find(stop.as_str()) {
                let found = (start + stop.len(), start);
                best = Some(best.map_or(found, |b| b.min(found)));
            }
        }
        best.map_or(text, |(_, start)| &text[..start]).to_string()
    }

    fn stream(parts: &[&str], stops: &[&str]) -> (String, StopState) {
        let mut matcher = StopMatcher::new(8, 64);
        matcher.set(stops.iter().copied()).unwrap();
        let mut out = String::new();
        for part in parts {
            matcher.push(part, &mut out);
        }
        let state = matcher.finish(&mut out);
        (out, state)
    }

    #[test]
    fn stop_over_several_pieces_does_not_leak() {
        let parts = ["abc", "DE", "F", "GX"];
        assert_eq!(stream(&parts, &["DEFG"]), ("abc".into(), StopState::Stopped { index: 0 }));
        assert_eq!(stream(&["abcDE", "F"], &["DEFG"]), ("abcDEF".into(), StopState::Running));
        assert_eq!(stream(&["xa", "bc"], &["ab", "abc"]).0, "x");
        assert_eq!(stream(&["xé", "日", "本"], &["é日本"]).0, "x");
        assert_eq!(stream(&["cl", "as", "s as"], &["assert"]).0, "class as");
        assert_eq!(stream(&["any"], &[]).0, "any");
    }

    #[test]
    fn nothing_after_a_stop_and_the_next_text_starts_fresh() {
        let mut matcher = StopMatcher::new(2, 8);
        matcher.set(["END"].into_iter()).unwrap();
        let mut out = String::new();
        assert_eq!(matcher.push("aENDb", &mut out), StopState::Stopped { index: 0 });
        matcher.push("more", &mut out);
        matcher.finish(&mut out);
        assert_eq!(out, "a");
        matcher.reset();
        assert_eq!(matcher.push("bEN", &mut out), StopState::Running);
        assert_eq!(matcher.held(), "EN");
        matcher.set(["Q"].into_iter()).unwrap();
        matcher.push("D", &mut out);
        assert_eq!(out, "abD");
    }

    #[test]
    fn limits_are_named_and_change_nothing() {
        let mut matcher = StopMatcher::new(2, 6);
        matcher.set(["ab"].into_iter()).unwrap();
        assert!(matches!(matcher.set([""].into_iter()), Err(Error::InvalidArgument(_))));
        assert!(matches!(matcher.set(["a", "b", "c"].into_iter()), Err(Error::LimitReached(_))));
        assert!(matches!(matcher.set(["abcdefg"].into_iter()), Err(Error::LimitReached(_))));
        let mut out = String::new();
        assert_eq!(matcher.push("xab", &mut out), StopState::Stopped { index: 0 });
        matcher.set(["abc", "def"].into_iter()).unwrap();
    }

    #[test]
    fn reserved_arrays_suffice() {
        let mut matcher = StopMatcher::new(2, 6);
        let before = (matcher.bytes.capacity(), matcher.held.capacity(), matcher.stops.capacity());
        matcher.set(["aaa", "aab"].into_iter()).unwrap();
        let mut out = String::new();
        matcher.push("aa😀aa😀aaca", &mut out);
        matcher.finish(&mut out);
        assert_eq!(out, "aa😀aa😀aaca");
        let after = (matcher.bytes.capacity(), matcher.held.capacity(), matcher.stops.capacity());
        assert_eq!(before, after);
    }

    proptest! {
        #[test]
        fn equals_naive_search(
            text in "[abé]{0,24}",
            stops in proptest::collection::vec("[abé]{1,4}", 0..4),
            cuts in proptest::collection::vec(0usize..24, 0..6),
        ) {
            let characters: Vec<char> = text.chars().collect();
            let mut cuts: Vec<usize> =
                cuts.into_iter().map(|c| c.min(characters.len())).collect();
            cuts.extend([0, characters.len()]);
            cuts.sort_unstable();
            let parts: Vec<String> =
                cuts.windows(2).map(|w| characters[w[0]..w[1]].iter().collect()).collect();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let stop_refs: Vec<&str> = stops.iter().map(String::as_str).collect();
            prop_assert_eq!(stream(&parts, &stop_refs).0, naive(&text, &stops));
        }
    }
}
