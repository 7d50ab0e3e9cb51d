//! Whose weights are cut, from the lines of the log alone. Pure.
//!
//! Written from docs/scheduling.md, and not from the scheduler: it is there to notice where the two differ.

use std::collections::{BTreeMap, HashMap};

use gridstake_ledger::archive::decisions::{Cut, Cuts, Node};

use super::fits;

/// For so long cuts are in force, in milliseconds.
pub const EPOCH_MS: i64 = 600_000;

/// What is left of a `weight` where what an owner had, `sum`, is cut to `level`.
pub fn left(weight: u64, level: u64, sum: u64) -> u64 {
    if weight == 0 {
        return 0;
    }
    let left = u128::from(weight) * u128::from(level) / u128::from(sum.max(1));
    u64::try_from(left).unwrap_or(u64::MAX).max(1)
}

/// The model of a node: the least of the names of its GPUs.
fn model(node: &Node) -> &str {
    let names = node.gpus.iter().map(|gpu| gpu.model.as_str());
    names.min().unwrap_or_default()
}

/// The weight of a node in the draw.
pub fn weight(node: &Node, cuts: Option<&Cuts>) -> u64 {
    let full = fits::weight(node);
    let cut = cuts
        .into_iter()
        .flat_map(|cuts| &cuts.cuts)
        .find(|cut| cut.model == model(node) && Some(cut.owner.as_str()) == node.owner.as_deref());
    cut.map_or(full, |cut| left(full, cut.level, cut.sum))
}

/// Who is cut on this fleet, where one owner may have so many hundredths, in the order of models and owners.
pub fn expected<'a>(fleet: impl Iterator<Item = &'a Node>, percent: u8) -> Vec<Cut> {
    let mut by_model: BTreeMap<&str, (HashMap<Option<&str>, u128>, u128)> = BTreeMap::new();
    for node in fleet.filter(|node| node.withheld.is_none()) {
        let weight = u128::from(fits::weight(node));
        if weight > 0 {
            let (owners, all) = by_model.entry(model(node)).or_default();
            *owners.entry(node.owner.as_deref()).or_default() += weight;
            *all += weight;
        }
    }
    let mut cuts = Vec::new();
    for (model, (mut owners, all)) in by_model {
        owners.remove(&None);
        let many = owners.len() as u128;
        let percent = u128::from(percent);
        // The greater of percent / 100 and 2 / many.
        let (p, q) = if percent * many >= 200 {
            (percent, 100)
        } else {
            (2, many)
        };
        if p >= q {
            continue;
        }
        let mut sums: Vec<(u128, &str)> = owners
            .iter()
            .filter_map(|(owner, sum)| Some((*sum, (*owner)?)))
            .collect();
        // Whoever has most is cut first: the level only falls while others are cut, so the rule's order does not matter.
        sums.sort_by(|a, b| b.cmp(a));
        let (mut rest, mut cut) = (all, Vec::new());
        let mut level = p * rest / q;
        for (sum, owner) in sums {
            if sum <= level {
                break;
            }
            rest -= sum;
            cut.push((owner, sum));
            let Some(of_rest) = q.checked_sub(p * cut.len() as u128) else {
                break;
            };
            level = (p * rest).checked_div(of_rest).unwrap_or(0);
        }
        let number = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        let mut cut: Vec<Cut> = cut
            .into_iter()
            .map(|(owner, sum)| Cut {
                model: model.to_owned(),
                owner: owner.to_owned(),
                level: number(level),
                sum: number(sum),
            })
            .collect();
        cut.sort_by(|a, b| a.owner.cmp(&b.owner));
        cuts.extend(cut);
    }
    cuts
}
