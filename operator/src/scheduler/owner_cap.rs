//! How much of the weights of one model one owner may have, and how the weights of those who have more are cut. Pure.
//!
//! Once per epoch, for each model by itself, over the weights of all nodes that are offered:
//! - the share that an owner may have is `max(percent / 100, 2 / m)`, at most 1, with m owners who have a weight: with few of them
//!   a hard cap would be impossible, or would make all equal;
//! - `h = 0`, `rest` = the sum of all weights; repeat: `level = floor(p · rest / (q − h · p))`, where `p / q` is that share; each owner
//!   that is not cut and has more than `level` is cut (`rest` falls by what it has, h rises by one); until none is;
//! - a node of an owner who is cut then weighs `max(1, floor(w · level / sum))`, where `sum` is what its owner had.
//!
//! So whoever is cut has exactly the share of what is left, but for less than one unit of weight a node: `level` is `p / q` of
//! `rest + h · level`, rounded down. Nodes without an owner are nobody's: they count in the sum and are never cut.
//!
//! The owner is who owns the stake, so that one staker behind several providers is one owner. Identities that do not show that
//! they are one person's are several owners: each of them then needs a stake of its own, and a cap that does not bite leaves splitting
//! without a gain (docs/scheduling.md).

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use super::{node_facts::NodeFacts, weight::MAX_WEIGHT};

/// For so long the cuts of one moment are in force.
pub const EPOCH: Duration = Duration::from_mins(10);

/// The share of the weights of one model that one owner may have, in hundredths: 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerCap(u8);

impl Default for OwnerCap {
    /// A fifth.
    fn default() -> Self {
        Self(20)
    }
}

/// A share that no cap can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must be a whole number of percent from 1 to 100 (100: no cap)")]
pub struct NoOwnerCap;

impl OwnerCap {
    /// The share in hundredths.
    #[must_use]
    pub const fn percent(self) -> u8 {
        self.0
    }

    /// The share of `owners` owners each, as a fraction of which the lower part is above 0; `None`: all of it.
    fn share(self, owners: u64) -> Option<(u128, u128)> {
        let (of_all, of_few) = ((u128::from(self.0), 100), (2, u128::from(owners.max(1))));
        // of_all < of_few, multiplied crosswise.
        let share = if of_all.0 * of_few.1 < of_few.0 * of_all.1 {
            of_few
        } else {
            of_all
        };
        (share.0 < share.1).then_some(share)
    }
}

impl FromStr for OwnerCap {
    type Err = NoOwnerCap;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(percent @ 1..=100) => Ok(Self(percent)),
            _ => Err(NoOwnerCap),
        }
    }
}

/// What the nodes of one owner and one model weigh: `level / sum` of what stake, reputation and price say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// What the owner is left with.
    pub level: u64,
    /// What it had.
    pub sum: u64,
}

impl Cut {
    /// What is left of a node's weight.
    #[must_use]
    pub fn of(self, weight: u64) -> u64 {
        let left = u128::from(weight) * u128::from(self.level) / u128::from(self.sum.max(1));
        // It keeps its place among those that can be drawn.
        u64::try_from(left)
            .unwrap_or(MAX_WEIGHT)
            .max(u64::from(weight > 0))
    }
}

/// A node's part in the cuts.
#[derive(Clone, Copy, Debug)]
pub struct Weighed<'a> {
    /// Its model.
    pub model: &'a str,
    /// Who owns its stake, if it has one.
    pub owner: Option<&'a str>,
    /// What stake, reputation and price say that it weighs.
    pub weight: u64,
}

impl<'a> Weighed<'a> {
    /// Of a node of this weight; `None` if it is not offered.
    #[must_use]
    pub fn offered(facts: &'a NodeFacts, weight: u64) -> Option<Self> {
        facts.offer.is_ok().then(|| Self {
            model: facts.model(),
            owner: facts.owner.as_deref(),
            weight,
        })
    }
}

/// Who is cut, by model and owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts(BTreeMap<String, BTreeMap<String, Cut>>);

impl Cuts {
    /// The cuts that follow from what is offered.
    #[must_use]
    pub fn of<'a>(cap: OwnerCap, offered: impl IntoIterator<Item = Weighed<'a>>) -> Self {
        let mut models: BTreeMap<&str, Weights<'_>> = BTreeMap::new();
        for Weighed {
            model,
            owner,
            weight,
        } in offered.into_iter().filter(|node| node.weight > 0)
        {
            let weights = models.entry(model).or_default();
            match owner {
                Some(owner) => {
                    let sum = weights.owners.entry(owner).or_default();
                    *sum = sum.saturating_add(weight);
                }
                None => weights.nobodys = weights.nobodys.saturating_add(weight),
            }
        }
        let cuts = models.into_iter().filter_map(|(model, weights)| {
            let cuts = weights.cuts(cap);
            (!cuts.is_empty()).then(|| (model.to_owned(), cuts))
        });
        Self(cuts.collect())
    }

    /// Whether nobody is cut.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How the nodes of this model and owner are cut, if they are.
    #[must_use]
    pub fn get(&self, model: &str, owner: Option<&str>) -> Option<Cut> {
        self.0.get(model)?.get(owner?).copied()
    }

    /// All of them, by model and owner, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, Cut)> {
        self.0.iter().flat_map(|(model, cuts)| {
            let cuts = cuts.iter();
            cuts.map(|(owner, cut)| (model.as_str(), owner.as_str(), *cut))
        })
    }
}

/// The weights of one model.
#[derive(Default)]
struct Weights<'a> {
    owners: BTreeMap<&'a str, u64>,
    nobodys: u64,
}

impl Weights<'_> {
    fn cuts(&self, cap: OwnerCap) -> BTreeMap<String, Cut> {
        let Some((p, q)) = cap.share(self.owners.len() as u64) else {
            return BTreeMap::new();
        };
        let sums = self.owners.values().copied().map(u128::from);
        let mut rest = sums.sum::<u128>() + u128::from(self.nobodys);
        let mut cut: BTreeMap<&str, u64> = BTreeMap::new();
        let level = loop {
            let of_cut = p * cut.len() as u128;
            // Whoever is cut has more than p / q, so there are fewer than q / p of them.
            let level = (p * rest)
                .checked_div(q.saturating_sub(of_cut))
                .unwrap_or(0);
            let before = cut.len();
            for (owner, sum) in &self.owners {
                if u128::from(*sum) > level && !cut.contains_key(owner) {
                    cut.insert(owner, *sum);
                    rest -= u128::from(*sum);
                }
            }
            if cut.len() == before {
                break u64::try_from(level).unwrap_or(u64::MAX);
            }
        };
        cut.into_iter()
            .map(|(owner, sum)| (owner.to_owned(), Cut { level, sum }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cuts(percent: &str, weights: &[(&str, u64)]) -> Cuts {
        let nodes = weights.iter().map(|(owner, weight)| Weighed {
            model: "L4",
            owner: (!owner.is_empty()).then_some(*owner),
            weight: *weight,
        });
        Cuts::of(percent.parse().unwrap(), nodes)
    }

    fn told(cuts: &Cuts) -> Vec<(&str, u64, u64)> {
        cuts.iter()
            .map(|(_, owner, cut)| (owner, cut.level, cut.sum))
            .collect()
    }

    #[test]
    fn whoever_has_more_than_a_fifth_is_cut_to_a_fifth_of_what_is_left() {
        // Ten others share 400: L = 0.2 · (400 + L) = 100.
        let mut fleet = vec![("whale", 300), ("whale", 300)];
        let others = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        fleet.extend(others.map(|owner| (owner, 40)));
        let whale = cuts("20", &fleet);
        assert_eq!(told(&whale), [("whale", 100, 600)]);
        assert_eq!(whale.get("L4", Some("whale")).unwrap().of(300), 50);
        assert_eq!(whale.get("L4", Some("a")), None);
        assert_eq!(whale.get("H100", Some("whale")), None);
        assert_eq!(whale.get("L4", None), None);
        // Two whales: 2 L = 0.4 · (400 + 2 L).
        fleet.push(("other whale", 500));
        assert_eq!(
            told(&cuts("20", &fleet)),
            [("other whale", 133, 500), ("whale", 133, 600)]
        );
    }

    #[test]
    fn few_owners_may_have_more_and_two_all_of_it() {
        assert_eq!(told(&cuts("20", &[("a", 9), ("b", 1)])), []);
        assert_eq!(told(&cuts("20", &[("a", 9)])), []);
        // Of three, two thirds: L = 2/3 · (10 + L) = 20.
        assert_eq!(
            told(&cuts("20", &[("a", 90), ("b", 5), ("c", 5)])),
            [("a", 20, 90)]
        );
        assert_eq!(told(&cuts("100", &[("a", 90), ("b", 5), ("c", 5)])), []);
    }

    #[test]
    fn what_is_nobodys_counts_and_is_never_cut() {
        assert_eq!(told(&cuts("20", &[("", 1000), ("", 5)])), []);
        let three = [("a", 90), ("b", 5), ("c", 5), ("", 40)];
        // L = 2/3 · (50 + L) = 100.
        assert_eq!(told(&cuts("20", &three)), []);
        assert_eq!(
            told(&cuts("20", &[("a", 900), ("b", 5), ("c", 5), ("", 40)])),
            [("a", 100, 900)]
        );
    }

    #[test]
    fn a_node_that_can_be_drawn_still_can_when_its_owner_is_cut() {
        let cut = Cut {
            level: 1,
            sum: 1000,
        };
        assert_eq!((cut.of(0), cut.of(1), cut.of(999)), (0, 1, 1));
        let widest = Cut {
            level: MAX_WEIGHT,
            sum: MAX_WEIGHT + 1,
        };
        assert_eq!(widest.of(MAX_WEIGHT), MAX_WEIGHT - 1);
    }

    #[test]
    fn a_share_is_a_whole_percent() {
        for text in ["0", "101", "-1", "20%", "0.2", ""] {
            assert_eq!(text.parse::<OwnerCap>(), Err(NoOwnerCap), "{text}");
        }
        assert_eq!("100".parse::<OwnerCap>().unwrap().percent(), 100);
        assert_eq!(OwnerCap::default().percent(), 20);
    }

    /// Up to 40 owners with one to three nodes each.
    fn fleets() -> impl Strategy<Value = Vec<Vec<u64>>> {
        let weight = prop_oneof![0_u64..1000, 0_u64..=MAX_WEIGHT];
        proptest::collection::vec(proptest::collection::vec(weight, 1..4), 0..40)
    }

    proptest! {
        #[test]
        fn whoever_is_cut_has_its_share_of_what_is_left_and_nobody_has_more(
            fleet in fleets(),
            percent in 1_u8..=100,
        ) {
            let names: Vec<String> = (0..fleet.len()).map(|owner| format!("o{owner}")).collect();
            let nodes = names.iter().zip(&fleet).flat_map(|(owner, weights)| {
                weights.iter().map(|weight| Weighed { model: "m", owner: Some(owner), weight: *weight })
            });
            let cap: OwnerCap = percent.to_string().parse().unwrap();
            let cuts = Cuts::of(cap, nodes);
            let owners = fleet.iter().filter(|weights| weights.iter().any(|w| *w > 0)).count();
            let left: Vec<(bool, u128, u128)> = names.iter().zip(&fleet).map(|(owner, weights)| {
                let had: u128 = weights.iter().copied().map(u128::from).sum();
                match cuts.get("m", Some(owner)) {
                    Some(cut) => {
                        let has = weights.iter().map(|w| u128::from(cut.of(*w))).sum();
                        assert_eq!(u128::from(cut.sum), had);
                        (true, has, u128::from(cut.level))
                    }
                    None => (false, had, had),
                }
            }).collect();
            // What levels say, and not what is lost when each node is rounded.
            let all: u128 = left.iter().map(|(_, _, level)| level).sum();
            let Some((p, q)) = cap.share(owners as u64) else {
                prop_assert_eq!(cuts, Cuts::default());
                return Ok(());
            };
            for (is_cut, has, level) in left {
                prop_assert!(level * q <= p * all, "{} of {}", level, all);
                if is_cut {
                    prop_assert!((level + 1) * q > p * all);
                    prop_assert!(has <= level + 3 && has + 3 > level);
                }
            }
        }
    }
}
