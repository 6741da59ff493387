//! Random numbers that depend on a key and a counter alone, with no state to carry along.
//!
//! Philox4x32 with 10 rounds, from Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
//! 1, 2, 3" (SC 2011); the constants and test vectors are those of their Random123 library.

/// A number in `0.0..1.0` with 53 random bits, for the token drawn at `position` under `seed`.
pub(crate) fn uniform(seed: u64, position: u32) -> f64 {
    let key = [seed as u32, (seed >> 32) as u32];
    let [high, low, ..] = philox4x32_10([position, 0, 0, 0], key);
    let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
    bits as f64 * TWO_POW_MINUS_53
}

fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [c0, c1, c2, c3] = counter;
        let product0 = u64::from(MULTIPLIER_0) * u64::from(c0);
        let product1 = u64::from(MULTIPLIER_1) * u64::from(c2);
        counter = [
            (product1 >> 32) as u32 ^ c1 ^ key[0],
            product1 as u32,
            (product0 >> 32) as u32 ^ c3 ^ key[1],
            product0 as u32,
        ];
        key = [key[0].wrapping_add(WEYL_0), key[1].wrapping_add(WEYL_1)];
    }
    counter
}

const ROUNDS: usize = 10;
const MULTIPLIER_0: u32 = 0xD251_1F53;
const MULTIPLIER_1: u32 = 0xCD9E_8D57;
const WEYL_0: u32 = 0x9E37_79B9;
const WEYL_1: u32 = 0xBB67_AE85;
const TWO_POW_MINUS_53: f64 = 1.0 / (1_u64 << 53) as f64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn draws_are_even_and_differ_by_seed_and_position() {
        let draws: Vec<f64> = (0..10_000).map(|position| uniform(7, position)).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        assert!((mean - 0.5).abs() < 0.02, "mean {mean}");
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        assert_ne!(uniform(7, 3), uniform(8, 3));
        assert_ne!(uniform(7, 3), uniform(7 << 32, 3));
    }
}
