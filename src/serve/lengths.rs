//! How long answers become: the distribution of past lengths, given what an answer already has.
#![forbid(unsafe_code)]

/// Answers that are remembered; older ones are forgotten.
const WINDOW: usize = 1024;
/// Answers before anything is concluded from them.
const MIN_KNOWN: u32 = 16;
/// Lengths below it are counted exactly, longer ones in eight classes to an octave.
const EXACT: u32 = 16;
const N_CLASSES: usize = EXACT as usize + 28 * 8;

/// The lengths of the last answers, in classes.
#[derive(Debug)]
pub(super) struct Lengths {
    /// Ring of the classes of the last answers.
    window: [u8; WINDOW],
    n_seen: u64,
    /// Answers of class `i` or below.
    below: [u32; N_CLASSES],
}

impl Lengths {
    pub(super) fn new() -> Lengths {
        Lengths { window: [0; WINDOW], n_seen: 0, below: [0; N_CLASSES] }
    }

    /// An answer has ended by itself after `length` tokens.
    pub(super) fn add(&mut self, length: u32) {
        let class = class_of(length);
        let place = (self.n_seen % WINDOW as u64) as usize;
        let forgotten = std::mem::replace(&mut self.window[place], class as u8);
        if self.n_seen >= WINDOW as u64 {
            self.below[usize::from(forgotten)..].iter_mut().for_each(|n| *n -= 1);
        }
        self.below[class..].iter_mut().for_each(|n| *n += 1);
        self.n_seen += 1;
    }

    /// The length that a share `rank` (0 to 1) of the answers with more than `n_now` tokens do not exceed; at least
    /// one token more, at most `max`. `max` when nothing is known of such answers.
    pub(super) fn expect(&self, n_now: u32, rank: f32, max: u32) -> u32 {
        let n_known = self.below[N_CLASSES - 1];
        // Who has outgrown a class may end anywhere in it, so its own class counts.
        let n_shorter = class_of(n_now + 1).checked_sub(1).map_or(0, |class| self.below[class]);
        let n_longer = n_known - n_shorter;
        if n_known < MIN_KNOWN || n_longer == 0 {
            return max;
        }
        let target = n_shorter + ((rank * n_longer as f32) as u32).min(n_longer - 1) + 1;
        let class = self.below.partition_point(|&n| n < target);
        last_of(class).clamp(n_now + 1, max.max(n_now + 1))
    }
}

/// The class of a length.
fn class_of(length: u32) -> usize {
    if length < EXACT {
        return length as usize;
    }
    let octave = length.ilog2();
    let eighth = (length >> (octave - 3)) & 7;
    EXACT as usize + (octave as usize - 4) * 8 + eighth as usize
}

/// The greatest length of a class.
fn last_of(class: usize) -> u32 {
    let Some(behind) = class.checked_sub(EXACT as usize) else { return class as u32 };
    let (octave, eighth) = (behind as u32 / 8 + 4, behind as u64 % 8);
    let first_behind = (9 + eighth) << (octave - 3);
    u32::try_from(first_behind - 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_adjoin() {
        let mut first = 0;
        for class in 0..N_CLASSES {
            assert_eq!(class_of(first), class, "{first}");
            let last = last_of(class);
            assert_eq!(class_of(last), class, "{last}");
            assert!(last - first <= last / 8, "{first} to {last}");
            first = last.wrapping_add(1);
        }
        assert_eq!(first, 0, "the last class ends with u32::MAX");
    }

    #[test]
    fn nothing_known_is_the_maximum() {
        let mut lengths = Lengths::new();
        for length in 0..15 {
            assert_eq!(lengths.expect(0, 0.5, 77), 77);
            lengths.add(length);
        }
        lengths.add(9);
        assert!(lengths.expect(0, 0.5, 77) < 15);
        assert_eq!(lengths.expect(14, 0.5, 77), 77, "none was longer");
        assert_eq!(lengths.expect(0, 0.5, 3), 3);
        assert_eq!(lengths.expect(8, 0.0, 5), 9, "there is always one more");
    }

    /// Against the sorted list of the last lengths, with a class's width as tolerance.
    #[test]
    fn equals_a_sorted_list() {
        let mut lengths = Lengths::new();
        let mut all: Vec<u32> = Vec::new();
        let mut random = 1_u64;
        for n in 0..3000 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let length = (random >> 40) as u32 % (1 + (n % 70) * 40);
            lengths.add(length);
            all.push(length);
            let known = &all[all.len().saturating_sub(WINDOW)..];
            if known.len() < 16 || n % 10 > 0 {
                continue;
            }
            for (n_now, rank) in [(0, 0.0), (0, 0.5), (0, 0.999), (100, 0.3), (700, 0.9)] {
                let mut longer: Vec<u32> =
                    known.iter().copied().filter(|&l| class_of(l) >= class_of(n_now + 1)).collect();
                longer.sort_unstable();
                let expected = match longer.len() {
                    0 => 9999,
                    len => longer[((rank * len as f32) as usize).min(len - 1)],
                };
                let told = lengths.expect(n_now, rank, 9999);
                let low = expected.max(n_now + 1);
                assert!((low..=low + low / 8 + 1).contains(&told), "{told} for {expected}");
            }
        }
    }
}
