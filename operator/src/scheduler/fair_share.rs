//! What payers have used of late, so that the one that has used least is served first.
//!
//! # The formula
//! A payer's **use** is Σ GPU-milliseconds held, each of them worth half as much after one half-life `h`:
//! a GPU-millisecond that was held `n` minutes ago counts 2^(−n/h). All payers have equal shares.
//!
//! An attempt that has just been placed has used nothing yet, and its payer would be first again. So each attempt counts
//! at once as if it had held its GPUs for one half-life; what it really holds is booked against that advance, and when it
//! ends, what is left of the advance is given back. A payer's **rank** is its use and these advances; the lowest is
//! served first. With an advance that is shorter than jobs are, a payer who is a little behind would get several of them
//! at once and be far ahead.
//!
//! # In integers
//! Use is booked minute by minute. 2^(−n/h) = 2^(−n div h) · 2^(−(n mod h)/h): a shift, and a product of square roots
//! of square roots of 1/2, one for each bit of the fraction. They are computed by integer square roots and rounded down,
//! so that nothing depends on a machine's floating point. Only the result is rounded to the nearest: of no more than 2^50
//! GPU-milliseconds it is less than one away from the exact value (the tests compare with exact rationals), half of one
//! from rounding and less than 2^-6 from the roots.
//!
//! All uses fade alike, so fading alone never changes who is first.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// A use that has faded below this many GPU-milliseconds (one GPU for a minute) is forgotten.
pub const FORGOTTEN_BELOW: u64 = 60 * 1000;
/// Of no more payers the use is kept; those with the least go first.
pub const MOST_PAYERS: usize = 4096;

const MINUTE_MILLIS: u64 = 60 * 1000;

/// Whose share an attempt is counted against.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Payer {
    /// An account on a chain, whichever namespaces it pays for.
    Account {
        /// The chain, by its name in the operator's configuration.
        chain: String,
        /// The account's number there.
        number: u32,
    },
    /// A namespace for which nobody pays.
    Namespace(String),
}

impl fmt::Display for Payer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account { chain, number } => write!(f, "account/{chain}/{number}"),
            Self::Namespace(name) => write!(f, "namespace/{name}"),
        }
    }
}

/// A text that names no payer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no payer: write namespace/<name> or account/<chain>/<number>")]
pub struct NoPayer(String);

impl FromStr for Payer {
    type Err = NoPayer;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            ["namespace", name] if !name.is_empty() => Ok(Self::Namespace((*name).to_owned())),
            ["account", chain, number] if !chain.is_empty() => number
                .parse()
                .map(|number| Self::Account {
                    chain: (*chain).to_owned(),
                    number,
                })
                .map_err(|_| NoPayer(text.to_owned())),
            _ => Err(NoPayer(text.to_owned())),
        }
    }
}

/// The time after which a GPU-millisecond counts half, in minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfLife(pub NonZeroU32);

impl HalfLife {
    fn millis(self) -> u64 {
        u64::from(self.0.get()).saturating_mul(MINUTE_MILLIS)
    }
}

impl Default for HalfLife {
    /// One day.
    fn default() -> Self {
        Self(NonZeroU32::MIN.saturating_add(24 * 60 - 1))
    }
}

/// How many bits of the fraction (n mod h)/h are used.
const FRACTION_BITS: usize = 63;

/// 2^(−1/2), 2^(−1/4), 2^(−1/8), …, as 64 bits after the point, rounded down.
const ROOTS: [u64; FRACTION_BITS] = {
    let mut roots = [0; FRACTION_BITS];
    let mut square: u128 = 1 << 63;
    let mut index = 0;
    while index < FRACTION_BITS {
        let root = (square << 64).isqrt();
        #[allow(
            clippy::cast_possible_truncation,
            reason = "a root of what is below 1 is below 1"
        )]
        {
            roots[index] = root as u64;
        }
        square = root;
        index += 1;
    }
    roots
};

/// What is left of `use_millis` GPU-milliseconds after `minutes`.
#[must_use]
pub fn decay(use_millis: u64, minutes: u64, half_life: HalfLife) -> u64 {
    let half_life = u64::from(half_life.0.get());
    let Ok(halvings) = u32::try_from(minutes / half_life) else {
        return 0;
    };
    let fraction = (u128::from(minutes % half_life) << FRACTION_BITS) / u128::from(half_life);
    let mut factor: u128 = 1 << 64;
    for (bit, root) in (1..).zip(ROOTS) {
        if (fraction >> (FRACTION_BITS - bit)) & 1 == 1 {
            factor = (factor * u128::from(root)) >> 64;
        }
    }
    let twice = (u128::from(use_millis) * factor)
        .checked_shr(halvings.saturating_add(63))
        .unwrap_or(0);
    u64::try_from(twice.div_ceil(2)).unwrap_or(use_millis)
}

/// The use of all payers, as booked up to the begin of a minute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    minute: u64,
    payers: BTreeMap<Payer, u64>,
}

impl Usage {
    /// A use as it was kept: `payers`' GPU-milliseconds at the begin of `minute`, since 1970.
    #[must_use]
    pub fn kept(minute: u64, payers: BTreeMap<Payer, u64>) -> Self {
        Self { minute, payers }
    }

    /// Up to the begin of which minute, since 1970, use is booked.
    #[must_use]
    pub fn minute(&self) -> u64 {
        self.minute
    }

    /// The same in milliseconds since 1970.
    #[must_use]
    pub fn booked_until_millis(&self) -> u64 {
        self.minute.saturating_mul(MINUTE_MILLIS)
    }

    /// Everybody's GPU-milliseconds.
    #[must_use]
    pub fn payers(&self) -> &BTreeMap<Payer, u64> {
        &self.payers
    }

    /// Lets what was booked fade until `minute`, and books `held`: GPU-milliseconds that were held since.
    #[must_use]
    pub fn advanced(&self, minute: u64, held: &BTreeMap<Payer, u64>, half_life: HalfLife) -> Self {
        let minutes = minute.saturating_sub(self.minute);
        let mut payers: BTreeMap<Payer, u64> = self
            .payers
            .iter()
            .map(|(payer, used)| (payer.clone(), decay(*used, minutes, half_life)))
            .collect();
        for (payer, millis) in held {
            let used = payers.entry(payer.clone()).or_default();
            *used = used.saturating_add(*millis);
        }
        payers.retain(|_, used| *used >= FORGOTTEN_BELOW);
        if payers.len() > MOST_PAYERS {
            let mut by_use: Vec<(u64, Payer)> = payers
                .into_iter()
                .map(|(payer, used)| (used, payer))
                .collect();
            by_use.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
            by_use.truncate(MOST_PAYERS);
            payers = by_use
                .into_iter()
                .map(|(used, payer)| (payer, used))
                .collect();
        }
        Self {
            minute: self.minute.max(minute),
            payers,
        }
    }
}

/// An attempt that holds GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Whose share it counts against.
    pub payer: Payer,
    /// How many GPUs all its members hold.
    pub gpus: u64,
    /// Since when, in milliseconds since 1970.
    pub since_millis: u64,
}

/// Everybody's rank: use, and advances of attempts that hold GPUs. In GPU-milliseconds; the lowest is served first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranks {
    advance_millis: u64,
    payers: BTreeMap<Payer, u64>,
}

impl Ranks {
    /// From what is booked and what is held.
    #[must_use]
    pub fn new<'a>(
        usage: &Usage,
        holding: impl IntoIterator<Item = &'a Holding>,
        half_life: HalfLife,
    ) -> Self {
        let mut ranks = Self {
            advance_millis: half_life.millis(),
            payers: usage.payers.clone(),
        };
        for held in holding {
            let booked = usage
                .booked_until_millis()
                .saturating_sub(held.since_millis);
            let advance = ranks.advance_millis.saturating_sub(booked);
            ranks.add(&held.payer, held.gpus, advance);
        }
        ranks
    }

    /// That of `payer`.
    #[must_use]
    pub fn of(&self, payer: &Payer) -> u64 {
        self.payers.get(payer).copied().unwrap_or(0)
    }

    /// Counts a new attempt of `payer` with this many GPUs.
    pub fn charge(&mut self, payer: &Payer, gpus: u64) {
        self.add(payer, gpus, self.advance_millis);
    }

    fn add(&mut self, payer: &Payer, gpus: u64, millis: u64) {
        let more = gpus.saturating_mul(millis);
        match self.payers.get_mut(payer) {
            Some(rank) => *rank = rank.saturating_add(more),
            None => {
                self.payers.insert(payer.clone(), more);
            }
        }
    }
}

impl Default for Ranks {
    /// Nobody has used or holds anything.
    fn default() -> Self {
        Self::new(&Usage::default(), [], HalfLife::default())
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::U512;
    use proptest::prelude::*;

    use super::*;

    fn half_life(minutes: u32) -> HalfLife {
        HalfLife(NonZeroU32::new(minutes).unwrap())
    }

    fn payer(name: &str) -> Payer {
        Payer::Namespace(name.to_owned())
    }

    #[test]
    fn a_payer_is_read_as_it_is_written() {
        let account = Payer::Account {
            chain: "base".to_owned(),
            number: 7,
        };
        for (known, text) in [
            (account, "account/base/7"),
            (payer("a-team"), "namespace/a-team"),
        ] {
            assert_eq!(known.to_string(), text);
            assert_eq!(text.parse(), Ok(known));
        }
        for wrong in [
            "",
            "a",
            "namespace/",
            "account/base",
            "account//1",
            "account/base/x",
            "namespace/a/b",
        ] {
            assert!(wrong.parse::<Payer>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn after_a_half_life_half_is_left() {
        let day = HalfLife::default();
        assert_eq!(day.0.get(), 1440);
        assert_eq!(decay(1 << 40, 1440, day), 1 << 39);
        assert_eq!(decay(1 << 40, 10 * 1440, day), 1 << 30);
        assert_eq!(decay(1_000_000_000, 720, day), 707_106_781);
        assert_eq!(decay(u64::MAX, 0, day), u64::MAX);
        assert_eq!(decay(1_000_000_003, 1440, day), 500_000_002);
        assert_eq!(decay(u64::MAX, 64 * 1440, day), 1);
        assert_eq!(decay(u64::MAX, 65 * 1440, day), 0);
        assert_eq!(decay(u64::MAX, u64::MAX, half_life(1)), 0);
    }

    #[test]
    fn each_root_squared_is_the_one_before_it_but_for_its_last_bits() {
        let mut square: u128 = 1 << 63;
        for root in ROOTS.map(u128::from) {
            assert!(root * root <= square << 64 && square << 64 < (root + 1) * (root + 1));
            square = root;
        }
    }

    /// base^exponent.
    fn power(base: u64, exponent: u32) -> U512 {
        U512::from(base).pow(U512::from(exponent))
    }

    /// Whether used · 2^(−minutes/half) is less than 5/8 away from `left`: (8·left ± 5)^half · 2^minutes is compared with
    /// (8·used)^half.
    fn is_nearly(left: u64, used: u64, minutes: u64, half: u32) -> bool {
        let exact = power(8 * used, half);
        let shifted = |eighths: u64| power(eighths, half) << usize::try_from(minutes).unwrap();
        shifted((8 * left).saturating_sub(5)) <= exact && exact < shifted(8 * left + 5)
    }

    #[test]
    fn what_is_left_of_many_years_is_rounded_to_the_nearest_and_not_down() {
        let (used, minutes, half) = (836_369_869_713_253, 16, 6);
        let left = decay(used, minutes, half_life(half));
        assert!(is_nearly(left, used, minutes, half), "{left}");
    }

    proptest! {
        #[test]
        fn what_is_left_is_the_exact_rational_power_to_the_nearest_milliseconds(used in 0_u64..1 << 50, minutes in 0_u64..30, half in 1_u32..8) {
            let left = decay(used, minutes, half_life(half));
            prop_assert!(is_nearly(left, used, minutes, half), "{left}");
        }

        #[test]
        fn less_is_left_the_longer_it_is_and_the_less_there_was(used in any::<u64>(), more in any::<u64>(), minutes in 0_u64..100_000, longer in 0_u64..1000, half in 1_u32..50_000) {
            let half = half_life(half);
            let left = decay(used, minutes, half);
            prop_assert!(left <= used);
            prop_assert!(decay(used, minutes + longer, half) <= left);
            prop_assert!(decay(used.saturating_add(more), minutes, half) >= left);
        }

        #[test]
        fn fading_in_two_steps_is_fading_in_one_but_for_rounding(used in 0_u64..1 << 50, first in 0_u64..5000, second in 0_u64..5000) {
            let day = HalfLife::default();
            let stepwise = decay(decay(used, first, day), second, day);
            prop_assert!(stepwise.abs_diff(decay(used, first + second, day)) <= 2);
        }

        #[test]
        fn fading_never_changes_who_has_used_less(a in 0_u64..1 << 50, b in 0_u64..1 << 50, minutes in 0_u64..10_000) {
            let day = HalfLife::default();
            prop_assert!(decay(a.min(b), minutes, day) <= decay(a.max(b), minutes, day));
        }
    }

    #[test]
    fn what_is_held_is_booked_and_what_has_faded_is_forgotten() {
        let held = BTreeMap::from([(payer("a"), 4 * FORGOTTEN_BELOW), (payer("b"), 1)]);
        let usage = Usage::default().advanced(10, &held, half_life(5));
        assert_eq!(
            usage.payers(),
            &BTreeMap::from([(payer("a"), 4 * FORGOTTEN_BELOW)])
        );
        let later = usage.advanced(20, &BTreeMap::new(), half_life(5));
        assert_eq!(
            (later.minute(), later.payers()[&payer("a")]),
            (20, FORGOTTEN_BELOW)
        );
        assert!(
            later
                .advanced(21, &BTreeMap::new(), half_life(5))
                .payers()
                .is_empty()
        );
    }

    #[test]
    fn a_clock_that_is_set_back_lets_nothing_fade_or_grow() {
        let usage = Usage::kept(100, BTreeMap::from([(payer("a"), 1 << 40)]));
        assert_eq!(usage.advanced(90, &BTreeMap::new(), half_life(5)), usage);
    }

    #[test]
    fn of_more_payers_than_are_kept_those_with_the_least_use_go() {
        let held: BTreeMap<Payer, u64> = (0..5000)
            .map(|n| (payer(&format!("{n:04}")), FORGOTTEN_BELOW + n))
            .collect();
        let usage = Usage::default().advanced(1, &held, HalfLife::default());
        assert_eq!(usage.payers().len(), MOST_PAYERS);
        assert!(
            usage
                .payers()
                .values()
                .all(|used| *used >= FORGOTTEN_BELOW + 904)
        );
    }

    #[test]
    fn an_attempt_counts_at_once_for_one_half_life_and_never_for_less_than_it_held() {
        let since = 600 * MINUTE_MILLIS;
        let rank_at = |minute: u64| {
            let held = minute.saturating_sub(600) * MINUTE_MILLIS * 2;
            let usage = Usage::kept(minute, BTreeMap::from([(payer("a"), held)]));
            let one = Holding {
                payer: payer("a"),
                gpus: 2,
                since_millis: since,
            };
            Ranks::new(&usage, &[one], half_life(60)).of(&payer("a"))
        };
        let hour = 2 * 60 * MINUTE_MILLIS;
        assert_eq!([599, 600, 601, 660].map(rank_at), [hour; 4]);
        assert_eq!(rank_at(720), 2 * hour);
    }
}
