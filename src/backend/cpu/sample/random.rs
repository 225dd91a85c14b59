//! The counter-based generator Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"): a draw
//! is a pure function of seed and counter, so nothing has to be kept, saved or restored.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What the key grows by each round.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let wide = [0, 1].map(|i| u64::from(MULTIPLIERS[i]) * u64::from(counter[2 * i]));
        let (high, low) = (wide.map(|w| (w >> 32) as u32), wide.map(|w| w as u32));
        counter = [high[1] ^ counter[1] ^ key[0], low[1], high[0] ^ counter[3] ^ key[1], low[0]];
        key = [0, 1].map(|i| key[i].wrapping_add(WEYL[i]));
    }
    counter
}

/// Uniform in [0, 1) with 53 bits.
pub fn uniform(seed: u64, counter: u64) -> f64 {
    let halves = |value: u64| [value as u32, (value >> 32) as u32];
    let [low, high] = halves(counter);
    let bits = philox([low, high, 0, 0], halves(seed));
    let bits = u64::from(bits[1]) << 32 | u64::from(bits[0]);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish with Random123.
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
        );
        assert_eq!(
            philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn all_bits_of_seed_and_counter_matter() {
        let base = uniform(7, 9);
        assert!((0.0..1.0).contains(&base));
        for bit in 0..64 {
            assert_ne!(uniform(7 ^ 1 << bit, 9), base);
            assert_ne!(uniform(7, 9 ^ 1 << bit), base);
        }
    }
}
