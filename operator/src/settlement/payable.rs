//! Which of what is owed the contract would pay. The rest is left out before a batch is built. Pure.
//!
//! The contract leaves out a group as a whole: one entry that the escrow does not cover would hold up all others of its
//! payer, provider and price, and its gas would be spent for nothing. So only as many entries are taken as the escrow
//! covers, by the contract's own sums. What it says when it is mined still counts: accounts may change until then.

use std::collections::{BTreeMap, BTreeSet};

use gridstake_crds::usage_record::SkipReason;
use gridstake_ledger::{
    amount,
    batch::{Entry, Group},
};

use super::build_batch::Candidate;

/// An entry that is owed and in no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The entry and its leaf.
    pub candidate: Candidate,
    /// Of an emission: the number of the use that it rewards. It goes into a batch only with that. `None` if the use has
    /// been paid, and for the use itself.
    pub after: Option<u64>,
    /// When the slice ended, in Unix milliseconds.
    pub ended_ms: u64,
}

impl Due {
    /// Its number.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.candidate.entry.job_no
    }
}

/// How the contract sees a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderStanding {
    /// It is paid.
    Active,
    /// It is registered and not paid yet.
    Cooling,
    /// There is no such account.
    Unknown,
}

/// The accounts of what is owed, in one block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// The providers. One that is not named is unknown.
    pub providers: BTreeMap<u32, ProviderStanding>,
    /// What the payers have, in nano-tokens; `None` if there is no such account. One that is not named is unknown.
    pub payers: BTreeMap<u32, Option<u64>>,
}

/// What is owed, divided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Division {
    /// What would be paid, in ascending numbers.
    pub taken: Vec<Due>,
    /// The numbers that would not be, and why. Emissions whose use is not taken are in neither.
    pub left_out: BTreeMap<u64, SkipReason>,
}

/// What payers would have paid.
#[derive(Debug, Default)]
struct Spent {
    units: BTreeMap<Group, u64>,
    /// In nano-tokens, each group rounded down once.
    by_payer: BTreeMap<u32, u64>,
}

impl Spent {
    /// Spends `entry` if the payer's groups together stay within `balance`.
    fn spend(&mut self, entry: &Entry, balance: u64) -> bool {
        let group = Group::from(entry);
        let before = self.units.get(&group).copied().unwrap_or(0);
        let Some(after) = before.checked_add(entry.units) else {
            return false;
        };
        let amount = |units| amount::group_amount(units, group.price).ok();
        let (Some(old), Some(new)) = (amount(before), amount(after)) else {
            return false;
        };
        let spent = self.by_payer.get(&group.payer).copied().unwrap_or(0);
        // More units never cost less.
        let Some(total) = spent
            .checked_add(new - old)
            .filter(|total| *total <= balance)
        else {
            return false;
        };
        self.units.insert(group, after);
        self.by_payer.insert(group.payer, total);
        true
    }
}

/// Divides what is owed: in ascending numbers, each entry that still fits, emissions after all use. The reasons are those
/// that the contract would give.
#[must_use]
pub fn divide(dues: &[Due], accounts: &Accounts) -> Division {
    let mut dues: Vec<&Due> = dues.iter().collect();
    dues.sort_by_key(|due| (due.after.is_some(), due.number()));
    let mut spent = Spent::default();
    let mut taken: BTreeMap<u64, Due> = BTreeMap::new();
    let mut left_out = BTreeMap::new();
    for due in dues {
        let waits = due.after.is_some_and(|number| !taken.contains_key(&number));
        if waits || taken.contains_key(&due.number()) {
            continue;
        }
        match refusal(&due.candidate.entry, accounts, &mut spent) {
            None => {
                taken.insert(due.number(), *due);
            }
            Some(reason) => {
                left_out.insert(due.number(), reason);
            }
        }
    }
    Division {
        taken: taken.into_values().collect(),
        left_out,
    }
}

/// Why the contract would not pay the entry; the order of the reasons is its own.
fn refusal(entry: &Entry, accounts: &Accounts, spent: &mut Spent) -> Option<SkipReason> {
    match accounts.providers.get(&entry.provider) {
        Some(ProviderStanding::Active) => {}
        Some(ProviderStanding::Cooling) => return Some(SkipReason::ProviderCooling),
        Some(ProviderStanding::Unknown) | None => return Some(SkipReason::UnknownProvider),
    }
    let Some(balance) = accounts.payers.get(&entry.payer).copied().flatten() else {
        return Some(SkipReason::UnknownPayer);
    };
    (!spent.spend(entry, balance)).then_some(SkipReason::InsufficientEscrow)
}

/// Those of `chosen` that go into a batch: an emission only with the use that it rewards.
#[must_use]
pub fn with_their_use(chosen: Vec<Candidate>, dues: &[Due]) -> Vec<Candidate> {
    let numbers: BTreeSet<u64> = chosen.iter().map(|c| c.entry.job_no).collect();
    let alone: BTreeSet<u64> = dues
        .iter()
        .filter(|due| due.after.is_some_and(|number| !numbers.contains(&number)))
        .map(Due::number)
        .collect();
    let mut kept = chosen;
    kept.retain(|candidate| !alone.contains(&candidate.entry.job_no));
    kept
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use gridstake_ledger::batch::EMISSION_PRICE;
    use proptest::prelude::*;

    use super::*;

    /// One nano-token a unit.
    const PRICE: u64 = EMISSION_PRICE;

    fn due(job_no: u64, payer: u32, provider: u32, units: u64) -> Due {
        Due {
            candidate: Candidate {
                entry: Entry {
                    job_no,
                    payer,
                    provider,
                    price: PRICE,
                    units,
                },
                leaf: B256::ZERO,
            },
            after: None,
            ended_ms: 0,
        }
    }

    fn emission(job_no: u64, after: Option<u64>, units: u64) -> Due {
        Due {
            after,
            ..due(job_no, 0, 1, units)
        }
    }

    fn accounts() -> Accounts {
        Accounts {
            providers: BTreeMap::from([
                (1, ProviderStanding::Active),
                (2, ProviderStanding::Active),
                (3, ProviderStanding::Cooling),
                (4, ProviderStanding::Unknown),
            ]),
            payers: BTreeMap::from([(0, Some(5)), (1, Some(10)), (2, None)]),
        }
    }

    fn numbers(division: &Division) -> Vec<u64> {
        division.taken.iter().map(Due::number).collect()
    }

    #[test]
    fn what_the_contract_would_leave_out_is_left_out_for_the_same_reason() {
        use SkipReason::{InsufficientEscrow, ProviderCooling, UnknownPayer, UnknownProvider};
        for (payer, provider, units, expected) in [
            (1, 1, 10, None),
            (1, 1, 11, Some(InsufficientEscrow)),
            (1, 3, 1, Some(ProviderCooling)),
            (1, 4, 1, Some(UnknownProvider)),
            (1, 5, 1, Some(UnknownProvider)),
            (2, 1, 1, Some(UnknownPayer)),
            (9, 1, 1, Some(UnknownPayer)),
            // The provider is named first.
            (2, 3, 99, Some(ProviderCooling)),
            // Nothing is paid to nobody either.
            (2, 1, 0, Some(UnknownPayer)),
            (1, 1, u64::MAX, Some(InsufficientEscrow)),
        ] {
            let division = divide(&[due(7, payer, provider, units)], &accounts());
            assert_eq!(division.left_out.get(&7).copied(), expected);
            assert_eq!(division.taken.is_empty(), expected.is_some());
        }
    }

    #[test]
    fn the_lowest_numbers_are_paid_as_far_as_the_escrow_goes() {
        let dues = [
            due(4, 1, 2, 3),
            due(1, 1, 1, 6),
            due(2, 1, 2, 5),
            due(3, 1, 1, 1),
            due(5, 1, 1, 1),
        ];
        // 6, then not 5, then 1 and 3; the last one does not fit any more.
        let division = divide(&dues, &accounts());
        assert_eq!(numbers(&division), [1, 3, 4]);
        assert_eq!(
            division.left_out.keys().copied().collect::<Vec<_>>(),
            [2, 5]
        );
    }

    #[test]
    fn a_group_is_rounded_down_once() {
        let half = |job_no| {
            let mut due = due(job_no, 1, 1, 1);
            due.candidate.entry.price = PRICE / 2;
            due
        };
        let accounts = Accounts {
            payers: BTreeMap::from([(1, Some(1))]),
            ..accounts()
        };
        // Three halves are one; four are two.
        let division = divide(&[half(1), half(2), half(3), half(4)], &accounts);
        assert_eq!(numbers(&division), [1, 2, 3]);
    }

    #[test]
    fn a_number_that_is_there_twice_is_taken_once() {
        let division = divide(&[due(1, 1, 1, 6), due(1, 1, 1, 6)], &accounts());
        assert_eq!(numbers(&division), [1]);
        assert!(division.left_out.is_empty());
    }

    #[test]
    fn an_emission_follows_the_use_that_it_rewards() {
        let with = |use_units, emission| divide(&[due(1, 1, 1, use_units), emission], &accounts());
        assert_eq!(numbers(&with(3, emission(2, Some(1), 5))), [1, 2]);
        // The use is left out, and its reason is told.
        let waits = with(11, emission(2, Some(1), 5));
        assert!(waits.taken.is_empty());
        assert_eq!(waits.left_out.len(), 1);
        // The use is in another batch that is not known to have paid it.
        assert!(
            divide(&[emission(2, Some(1), 5)], &accounts())
                .taken
                .is_empty()
        );
        // It has been paid.
        assert_eq!(numbers(&divide(&[emission(2, None, 5)], &accounts())), [2]);
        // The reward account does not cover it; the tenant's use is paid all the same.
        let poor = with(3, emission(2, Some(1), 6));
        assert_eq!(numbers(&poor), [1]);
        assert_eq!(poor.left_out[&2], SkipReason::InsufficientEscrow);
        // Its number may be the lower one.
        let mut turned = [due(2, 1, 1, 3), emission(1, Some(2), 5)];
        assert_eq!(numbers(&divide(&turned, &accounts())), [1, 2]);
        turned[0].candidate.entry.units = 11;
        assert!(divide(&turned, &accounts()).taken.is_empty());
    }

    #[test]
    fn an_emission_is_not_sent_without_its_use() {
        let dues = [
            due(1, 1, 1, 1),
            emission(2, Some(1), 1),
            emission(3, Some(9), 1),
            emission(4, None, 1),
        ];
        let chosen = dues.iter().map(|due| due.candidate).collect();
        let kept = with_their_use(chosen, &dues);
        let kept: Vec<u64> = kept.iter().map(|c| c.entry.job_no).collect();
        assert_eq!(kept, [1, 2, 4]);
    }

    /// What the contract leaves out of a batch of `entries`: docs/contracts.md, written a second time.
    fn skipped(entries: &[Entry], accounts: &Accounts) -> BTreeSet<Group> {
        let mut units: BTreeMap<Group, u64> = BTreeMap::new();
        for entry in entries {
            *units.entry(Group::from(entry)).or_default() += entry.units;
        }
        let mut balances = accounts.payers.clone();
        let mut skipped = BTreeSet::new();
        for (group, units) in units {
            let amount = u128::from(units) * u128::from(group.price) / 1_000_000_000;
            let active = accounts.providers.get(&group.provider) == Some(&ProviderStanding::Active);
            match balances.get_mut(&group.payer).and_then(Option::as_mut) {
                Some(balance) if active && u128::from(*balance) >= amount => {
                    *balance -= u64::try_from(amount).unwrap();
                }
                _ => {
                    skipped.insert(group);
                }
            }
        }
        skipped
    }

    fn dues() -> impl Strategy<Value = Vec<Due>> {
        let one = (
            0_u32..5,
            1_u32..6,
            1_u64..4 * PRICE,
            0_u64..50,
            any::<bool>(),
            0_u64..20,
        );
        prop::collection::vec(one, 0..40).prop_map(|all| {
            let mut dues = Vec::new();
            for (index, (payer, provider, price, units, rewarded, reward)) in (0..).zip(all) {
                let mut one = due(2 * index, payer, provider, units);
                one.candidate.entry.price = price;
                dues.push(one);
                if rewarded {
                    let mut on_top = emission(2 * index + 1, Some(2 * index), reward);
                    on_top.candidate.entry.provider = provider;
                    dues.push(on_top);
                }
            }
            dues
        })
    }

    fn any_accounts() -> impl Strategy<Value = Accounts> {
        let standing = prop_oneof![
            3 => Just(ProviderStanding::Active),
            1 => Just(ProviderStanding::Cooling),
            1 => Just(ProviderStanding::Unknown),
        ];
        (
            prop::collection::btree_map(1_u32..6, standing, 0..6),
            prop::collection::btree_map(0_u32..5, prop::option::weighted(0.8, 0_u64..300), 0..6),
        )
            .prop_map(|(providers, payers)| Accounts { providers, payers })
    }

    proptest! {
        #[test]
        fn the_contract_leaves_nothing_out_of_what_is_taken(dues in dues(), accounts in any_accounts()) {
            let division = divide(&dues, &accounts);
            let taken: Vec<Entry> = division.taken.iter().map(|due| due.candidate.entry).collect();
            prop_assert!(skipped(&taken, &accounts).is_empty());
            prop_assert!(taken.windows(2).all(|pair| pair[0].job_no < pair[1].job_no));
            // Nor of any part of it, such as what fits one batch.
            let part: Vec<Entry> = taken.iter().copied().take(taken.len() / 2).collect();
            prop_assert!(skipped(&part, &accounts).is_empty());
        }

        #[test]
        fn of_what_is_left_out_nothing_could_be_added(dues in dues(), accounts in any_accounts()) {
            let division = divide(&dues, &accounts);
            let taken: Vec<Entry> = division.taken.iter().map(|due| due.candidate.entry).collect();
            for due in dues.iter().filter(|due| division.left_out.contains_key(&due.number())) {
                let mut more = taken.clone();
                more.push(due.candidate.entry);
                prop_assert!(!skipped(&more, &accounts).is_empty(), "{due:?}");
            }
        }

        #[test]
        fn everything_is_taken_or_has_a_reason_or_waits_for_its_use(dues in dues(), accounts in any_accounts()) {
            let division = divide(&dues, &accounts);
            let taken: BTreeSet<u64> = division.taken.iter().map(Due::number).collect();
            for due in &dues {
                let waits = due.after.is_some_and(|number| !taken.contains(&number));
                let places = [
                    taken.contains(&due.number()),
                    division.left_out.contains_key(&due.number()),
                    waits,
                ];
                prop_assert_eq!(places.iter().filter(|place| **place).count(), 1, "{:?}", due);
            }
        }
    }
}
