//! A node's weight in the draw: `stake^α · reputation^γ · price^−β`, in integers.
//!
//! `w = floor(sqrt(floor(stake^2α · reputation^2γ · 2^40 / price^2β)))`, at most 2^40. The exponents are counted in
//! halves, so the root is exact in integers; for α = γ = β = 1 it is `floor(stake · reputation · 2^20 / price)`.
//! Floors are superadditive: dividing a stake over k nodes never gains and loses at most k units.
//!
//! Units keep the clamps out of the way: stake in whole tokens (at most 2^32 − 1), reputation in thousandths, price in
//! nano-tokens per GPU-second. A node without a price counts as one nano-token. 2^40 leaves room for 2^24 nodes in a
//! 64-bit sum.

use gridstake_crds::TokenAmount;

/// No node weighs more.
pub const MAX_WEIGHT: u64 = 1 << 40;

/// A node without a blemish, in thousandths.
pub const SPOTLESS_REPUTATION: u32 = 1000;

/// What a node counts with whose reputation is not known: a newcomer's.
pub const NEWCOMER_REPUTATION: u32 = crate::reputation::score::BASE;

/// The stake (whole tokens) that every node counts with where no chain is configured: the same for all, so that only
/// reputation and price tell nodes apart. At 100,000 tokens no clamp bites for prices from 96 nano-tokens to 10,000
/// tokens per GPU-second.
pub const STAKE_WITHOUT_CHAIN: u64 = 100_000;

/// An exponent of the weight's formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exponent {
    /// The factor does not count.
    Zero,
    /// Its square root counts.
    Half,
    /// It counts in proportion.
    One,
}

impl Exponent {
    /// Twice the exponent.
    fn halves(self) -> u32 {
        match self {
            Self::Zero => 0,
            Self::Half => 1,
            Self::One => 2,
        }
    }
}

/// How much stake, reputation and price count. Part of what a replay needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightPolicy {
    /// α
    pub stake: Exponent,
    /// γ
    pub reputation: Exponent,
    /// β
    pub price: Exponent,
}

impl Default for WeightPolicy {
    /// α = γ = β = 1.
    fn default() -> Self {
        Self {
            stake: Exponent::One,
            reputation: Exponent::One,
            price: Exponent::One,
        }
    }
}

/// The weight of a node. 0 means that it cannot be drawn: it has no stake, no reputation, or a price out of all
/// proportion to its stake.
///
/// `stake` in whole tokens of this node alone (a provider's stake is divided over its nodes), `reputation` in
/// thousandths, `price` of one GPU for one second.
#[must_use]
pub fn weight(policy: WeightPolicy, stake: u64, reputation: u32, price: TokenAmount) -> u64 {
    let stake = u128::from(stake.min(u64::from(u32::MAX)));
    let reputation = u128::from(reputation.min(SPOTLESS_REPUTATION));
    let price = price.nano().clamp(1, u128::from(u64::MAX));
    // Below 2^64 · 2^20 · 2^40 = 2^124.
    let numerator =
        (stake.pow(policy.stake.halves()) * reputation.pow(policy.reputation.halves())) << 40;
    let square = numerator / price.pow(policy.price.halves());
    u64::try_from(square.isqrt())
        .unwrap_or(MAX_WEIGHT)
        .min(MAX_WEIGHT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(stake: u64, reputation: u32, nano: u128) -> u64 {
        weight(
            WeightPolicy::default(),
            stake,
            reputation,
            TokenAmount::from_nano(nano),
        )
    }

    #[test]
    fn weights_equal_the_published_vectors() {
        for (stake, reputation, nano, expected) in [
            (1, 1000, 1_048_576, 1000),
            (20_000, 1000, 720_000, 29_127_111),
            (20_000, 500, 720_000, 14_563_555),
            (20_000, 1000, 1_440_000, 14_563_555),
            (0, 1000, 720_000, 0),
            (20_000, 0, 720_000, 0),
            (STAKE_WITHOUT_CHAIN, 1000, 0, MAX_WEIGHT),
            (STAKE_WITHOUT_CHAIN, 1000, 96, 1_092_266_666_666),
            (u64::MAX, u32::MAX, u128::MAX, 0),
            (u64::MAX, 1000, 1, MAX_WEIGHT),
        ] {
            assert_eq!(
                of(stake, reputation, nano),
                expected,
                "{stake} {reputation} {nano}"
            );
        }
    }

    #[test]
    fn a_half_exponent_takes_the_square_root() {
        let policy = WeightPolicy {
            stake: Exponent::Half,
            price: Exponent::Zero,
            ..WeightPolicy::default()
        };
        // sqrt(10,000) · 1000 · 2^20
        assert_eq!(
            weight(policy, 10_000, 1000, TokenAmount::from_nano(5)),
            100 * 1000 * (1 << 20)
        );
    }

    proptest! {
        #[test]
        fn splitting_a_stake_never_gains_and_loses_at_most_one_unit_a_part(
            stake in 1_u64..1_000_000_000, parts in 1_u64..20, reputation in 1_u32..=1000, nano in 1_000_000_u128..1_000_000_000,
        ) {
            let whole = of(stake, reputation, nano);
            prop_assume!(whole < MAX_WEIGHT);
            let split: u64 = (0..parts).map(|part| of(stake / parts + u64::from(part < stake % parts), reputation, nano)).sum();
            prop_assert!(split <= whole && whole <= split + parts);
        }

        #[test]
        fn more_stake_and_reputation_and_a_lower_price_never_weigh_less(
            stake: u64, reputation in 0_u32..=1000, nano in 0_u128..1 << 90, a in 0_u64..1000, b in 0_u32..100, c in 0_u128..1000,
        ) {
            let base = of(stake, reputation, nano);
            prop_assert!(of(stake.saturating_add(a), reputation, nano) >= base);
            prop_assert!(of(stake, reputation + b, nano) >= base);
            prop_assert!(of(stake, reputation, nano + c) <= base);
        }
    }
}
