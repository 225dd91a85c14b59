//! What `larder bench` can measure, as it is written on the command line.

use std::fmt;
use std::str::FromStr;

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// `prefill N [SEQUENCES]`: prompts of N tokens each, one without a number.
    Prefill { n_tokens: u32, n_sequences: u32 },
    /// `decode DEPTH N SEQUENCES`: N steps of sequences that decode together, each behind DEPTH tokens of its own.
    Decode { depth: u32, n_steps: u32, n_sequences: u32 },
    /// `generate DEPTH N SEQUENCES`: N steps of as many requests, each behind DEPTH tokens of its own, with a token
    /// drawn for every row.
    Generate { depth: u32, n_steps: u32, n_sequences: u32 },
    /// `first N CACHED`: time to the first token behind N tokens, of which the prefix cache has the first CACHED.
    First { n_tokens: u32, n_cached: u32 },
}

impl Case {
    /// Sequences that it needs at once.
    pub fn n_sequences(&self) -> u32 {
        match *self {
            Case::Prefill { n_sequences, .. }
            | Case::Decode { n_sequences, .. }
            | Case::Generate { n_sequences, .. } => n_sequences,
            Case::First { .. } => 1,
        }
    }

    /// Tokens that one sequence needs, and all together.
    pub fn n_tokens(&self) -> (u32, u64) {
        let each = match *self {
            Case::Prefill { n_tokens, .. } => n_tokens,
            Case::Decode { depth, n_steps, .. } => depth.saturating_add(n_steps),
            Case::Generate { depth, n_steps, .. } => {
                depth.saturating_add(n_steps).saturating_add(1)
            }
            Case::First { n_tokens, .. } => n_tokens.saturating_add(1),
        };
        (each, u64::from(each) * u64::from(self.n_sequences()))
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Case, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (name, numbers) = words.split_first().unwrap_or((&"", &[]));
        let numbers: Option<Vec<u32>> = numbers.iter().map(|word| word.parse().ok()).collect();
        let case = match (*name, numbers.as_deref()) {
            ("prefill", Some(&[n_tokens])) if n_tokens > 0 => {
                Case::Prefill { n_tokens, n_sequences: 1 }
            }
            ("prefill", Some(&[n_tokens, n_sequences])) if n_tokens > 0 && n_sequences > 0 => {
                Case::Prefill { n_tokens, n_sequences }
            }
            ("decode", Some(&[depth, n_steps, n_sequences])) if n_steps > 0 && n_sequences > 0 => {
                Case::Decode { depth, n_steps, n_sequences }
            }
            ("generate", Some(&[depth, n_steps, n_sequences]))
                if depth > 0 && n_steps > 0 && n_sequences > 0 =>
            {
                Case::Generate { depth, n_steps, n_sequences }
            }
            ("first", Some(&[n_tokens, n_cached])) if n_cached < n_tokens => {
                Case::First { n_tokens, n_cached }
            }
            _ => {
                return Err(format!(
                    "{text:?} is no case, expected prefill TOKENS [SEQUENCES], decode DEPTH STEPS \
                     SEQUENCES, generate DEPTH STEPS SEQUENCES behind at least one token, or first \
                     TOKENS CACHED with fewer cached ones"
                ));
            }
        };
        Ok(case)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Case::Prefill { n_tokens, n_sequences: 1 } => write!(f, "prefill {n_tokens}"),
            Case::Prefill { n_tokens, n_sequences } => {
                write!(f, "prefill {n_tokens} {n_sequences}")
            }
            Case::Decode { depth, n_steps, n_sequences } => {
                write!(f, "decode {depth} {n_steps} {n_sequences}")
            }
            Case::Generate { depth, n_steps, n_sequences } => {
                write!(f, "generate {depth} {n_steps} {n_sequences}")
            }
            Case::First { n_tokens, n_cached } => write!(f, "first {n_tokens} {n_cached}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_read_and_written() {
        for text in [
            "prefill 512",
            "prefill 512 8",
            "decode 4096 32 1",
            "decode 0 1 32",
            "generate 512 32 8",
            "first 2064 2048",
        ] {
            assert_eq!(text.parse::<Case>().unwrap().to_string(), text);
        }
        let case: Case = "decode 4096 32 2".parse().unwrap();
        assert_eq!((case.n_sequences(), case.n_tokens()), (2, (4128, 8256)));
        let case: Case = "generate 4096 32 2".parse().unwrap();
        assert_eq!((case.n_sequences(), case.n_tokens()), (2, (4129, 8258)));
        let case: Case = "prefill 100 3".parse().unwrap();
        assert_eq!((case.n_sequences(), case.n_tokens()), (3, (100, 300)));
        for wrong in [
            "",
            "prefill",
            "prefill 0",
            "prefill -1",
            "prefill 1 0",
            "prefill 1 2 3",
            "generate 0 1 1",
            "generate 1 0 1",
            "generate 1 1",
            "decode 0 1 0",
            "decode 0 0 1",
            "first 5 5",
            "first 4294967296 0",
            "warm 1",
        ] {
            assert!(wrong.parse::<Case>().unwrap_err().contains("expected"), "{wrong}");
        }
    }
}
