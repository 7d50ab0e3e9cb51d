//! The replayable draw, version 1. Integers only; nothing here depends on a data structure.
//!
//! A stranger re-implements it from these lines:
//! - `seed = keccak256("gridstake-draw/1" ‖ blockHash(32) ‖ previousDecision(32) ‖ jobUid(16) ‖ be32(attempt))`
//! - word `k` is the big-endian 64-bit limb `k mod 4` of `B[k div 4]`, where `B[0] = seed` and
//!   `B[j] = keccak256(seed ‖ be64(j))`
//! - `below(T)`, 0 < T < 2^64: `x` = next word, `m = x·T` (128 bits); while `m mod 2^64 < 2^64 mod T` take the next
//!   word; the result is `m >> 64`. It is uniform: no modulo bias.
//! - the winner among weighted nodes in canonical order is the first whose prefix sum exceeds `below(total)`.

use alloy_primitives::{B256, keccak256};

use super::request::JobUid;

/// Name of this draw: the domain of its seeds, and what a decision record says. Any change to a line of the
/// specification above, to the weight or to the stages needs a new name.
pub const DRAW_VERSION: &str = "gridstake-draw/1";

/// Stands for the block where no chain was ever seen.
pub const NEVER_SYNCED_BLOCK: B256 = B256::ZERO;

/// Stands for the previous decision before the first one.
pub const NO_PREVIOUS_DECISION: B256 = B256::ZERO;

/// What nobody outside can foresee about a draw. With the job's uid and the attempt it fixes the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Hash of the newest finalized block that is known, or [`NEVER_SYNCED_BLOCK`].
    pub block_hash: B256,
    /// Hash of the decision before this one, or [`NO_PREVIOUS_DECISION`].
    pub previous_decision: B256,
}

impl Seed {
    /// The seed of the draw for this attempt of this job. All fields have a fixed width, so no two inputs share an
    /// encoding.
    #[must_use]
    pub fn derive(&self, job: JobUid, attempt: u32) -> B256 {
        // Absorbed at once, which takes less than piece by piece.
        let mut input = Vec::with_capacity(128);
        input.extend_from_slice(DRAW_VERSION.as_bytes());
        input.extend_from_slice(self.block_hash.as_slice());
        input.extend_from_slice(self.previous_decision.as_slice());
        input.extend_from_slice(&job.0);
        input.extend_from_slice(&attempt.to_be_bytes());
        keccak256(input)
    }
}

/// The stream of words that a seed yields.
#[derive(Clone, Debug)]
pub struct Words {
    seed: B256,
    block: B256,
    next: u64,
}

impl Words {
    /// The stream from its beginning.
    #[must_use]
    pub fn new(seed: B256) -> Self {
        Self {
            seed,
            block: seed,
            next: 0,
        }
    }

    /// The next word.
    pub fn next_word(&mut self) -> u64 {
        let limb = self.next % 4;
        if limb == 0 && self.next > 0 {
            let mut input = [0_u8; 40];
            input[..32].copy_from_slice(self.seed.as_slice());
            input[32..].copy_from_slice(&(self.next / 4).to_be_bytes());
            self.block = keccak256(input);
        }
        self.next += 1;
        self.block
            .iter()
            .skip(usize::try_from(limb * 8).unwrap_or(0))
            .take(8)
            .fold(0, |word, byte| word << 8 | u64::from(*byte))
    }

    /// A uniform integer in `[0, total)`; 0 when `total` is 0.
    pub fn below(&mut self, total: u64) -> u64 {
        if total == 0 {
            return 0;
        }
        // 2^64 mod total, in 64 bits.
        let biased = total.wrapping_neg() % total;
        loop {
            let product = u128::from(self.next_word()) * u128::from(total);
            let [low, high] = halves(product);
            if low >= biased {
                return high;
            }
        }
    }
}

/// The low and the high 64 bits.
fn halves(product: u128) -> [u64; 2] {
    let high = u64::try_from(product >> 64).unwrap_or(u64::MAX);
    let low = u64::try_from(product & u128::from(u64::MAX)).unwrap_or(u64::MAX);
    [low, high]
}

/// The position of the first weight whose prefix sum exceeds `number`; `None` when the sum does not.
pub fn pick(weights: impl IntoIterator<Item = u64>, number: u64) -> Option<usize> {
    let mut left = number;
    weights.into_iter().position(|weight| {
        let hit = left < weight;
        left = left.saturating_sub(weight);
        hit
    })
}

#[cfg(test)]
mod tests {
    use alloy_primitives::b256;
    use proptest::prelude::*;

    use super::*;

    const SEED: Seed = Seed {
        block_hash: B256::repeat_byte(0xAB),
        previous_decision: B256::repeat_byte(0xCD),
    };
    const JOB: JobUid = JobUid([1; 16]);

    fn words<const N: usize>(seed: B256) -> [u64; N] {
        let mut stream = Words::new(seed);
        std::array::from_fn(|_| stream.next_word())
    }

    fn numbers<const N: usize>(seed: B256, total: u64) -> [u64; N] {
        let mut stream = Words::new(seed);
        std::array::from_fn(|_| stream.below(total))
    }

    // The vectors were computed by an independent implementation (Python integers, its own Keccak).
    #[test]
    fn seeds_equal_the_published_vectors() {
        assert_eq!(
            SEED.derive(JOB, 0),
            b256!("37d438addff3daa9acc2189cf285fe91101e61358ef325cf6070047c22873667")
        );
        assert_eq!(
            SEED.derive(JOB, 1),
            b256!("1c0a09f660fcb30882d34c20e88f3063ef5aee93251d550f7061263511f2d2ac")
        );
        let genesis = Seed {
            block_hash: NEVER_SYNCED_BLOCK,
            previous_decision: NO_PREVIOUS_DECISION,
        };
        let counting = JobUid(std::array::from_fn(|index| u8::try_from(index).unwrap()));
        assert_eq!(
            genesis.derive(counting, 1),
            b256!("fb1e5cee9f4c1307cb0895d423a281e6a827f9ef1ff18ceb12046a036c3e77fe")
        );
    }

    #[test]
    fn words_equal_the_published_vectors() {
        assert_eq!(
            words(SEED.derive(JOB, 0)),
            [
                4_022_902_686_586_493_609,
                12_448_539_382_368_304_785,
                1_161_472_636_567_627_215,
                6_949_059_156_234_417_767,
                10_041_765_718_720_386_921,
                2_339_450_707_075_571_387,
            ]
        );
    }

    #[test]
    fn numbers_below_a_total_equal_the_published_vectors() {
        assert_eq!(
            numbers(SEED.derive(JOB, 0), 1_000_003),
            [218_082, 674_838, 62_963, 376_710, 544_366, 126_822]
        );
        assert_eq!(
            numbers(SEED.derive(JOB, 7), 1_000_003),
            [955_805, 673_219, 886_681, 885_281, 432_004, 852_676]
        );
        // The vector of research for the same stream under another domain.
        assert_eq!(
            numbers(
                b256!("9947f9b335c087835e8046bc8c1bd5ef67f0a3c1e4eecf623c8df4191b022dd9"),
                1_000_003
            ),
            [598_756, 369_145, 406_016, 236_541, 147_068, 734_032]
        );
    }

    #[test]
    fn a_word_that_would_bias_the_result_is_skipped() {
        // Below 2^63 + 1 nearly every second word is rejected: 19 words for these six numbers.
        let mut stream = Words::new(SEED.derive(JOB, 7));
        let drawn: [u64; 6] = std::array::from_fn(|_| stream.below((1 << 63) + 1));
        assert_eq!(
            drawn,
            [
                8_815_720_870_334_725_903,
                4_313_404_279_904_516_145,
                7_251_051_360_740_298_390,
                3_195_856_456_509_911_952,
                4_417_140_276_752_652_598,
                7_620_772_575_460_775_877,
            ]
        );
        assert_eq!(stream.next, 19);
    }

    #[test]
    fn every_input_changes_the_seed() {
        let base = SEED.derive(JOB, 1);
        assert_ne!(base, SEED.derive(JOB, 2));
        assert_ne!(base, SEED.derive(JobUid([2; 16]), 1));
        assert_ne!(
            base,
            Seed {
                block_hash: B256::ZERO,
                ..SEED
            }
            .derive(JOB, 1)
        );
        assert_ne!(
            base,
            Seed {
                previous_decision: B256::ZERO,
                ..SEED
            }
            .derive(JOB, 1)
        );
    }

    #[test]
    fn the_winner_is_the_first_whose_prefix_sum_exceeds_the_number() {
        for (number, winner) in [
            (0, Some(1)),
            (2, Some(1)),
            (3, Some(3)),
            (7, Some(3)),
            (8, None),
        ] {
            assert_eq!(pick([0, 3, 0, 5], number), winner, "{number}");
        }
    }

    #[test]
    fn draws_are_proportional_to_weight() {
        let weights: Vec<u64> = (1..=20).map(|n| n * n * 1000 + 7).collect();
        let total: u64 = weights.iter().sum();
        let draws = 40_000_u32;
        let mut hits = vec![0_u64; weights.len()];
        for attempt in 0..draws {
            let number = Words::new(SEED.derive(JOB, attempt)).below(total);
            hits[pick(weights.iter().copied(), number).unwrap()] += 1;
        }
        // chi² · total = Σ (hits·total − draws·weight)² / (draws·weight), in integers.
        let draws = i128::from(draws);
        let chi_times_total: i128 = weights
            .iter()
            .zip(&hits)
            .map(|(weight, hits)| {
                let expected = draws * i128::from(*weight);
                let off = i128::from(*hits) * i128::from(total) - expected;
                off * off / expected
            })
            .sum();
        // 19 degrees of freedom: p = 0.01 at 36.19.
        let chi_in_hundredths = chi_times_total * 100 / i128::from(total);
        assert!(
            chi_in_hundredths < 3619,
            "chi-square {chi_in_hundredths} hundredths"
        );
    }

    proptest! {
        #[test]
        fn a_number_is_always_below_its_total(seed: [u8; 32], total in 1_u64..) {
            prop_assert!(Words::new(B256::from(seed)).below(total) < total);
        }

        #[test]
        fn each_weight_owns_exactly_as_many_numbers_as_it_is_large(weights in prop::collection::vec(0_u64..20, 1..10)) {
            let mut owned = vec![0; weights.len()];
            for number in 0..weights.iter().sum() {
                owned[pick(weights.iter().copied(), number).unwrap()] += 1;
            }
            prop_assert_eq!(owned, weights);
        }
    }
}
