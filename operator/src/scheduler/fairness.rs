//! Who wins how often: what providers are promised about the draw.

use gridstake_crds::TokenAmount;
use proptest::prelude::*;

use super::fixtures::{node, request, seed, snapshot};
use super::weight::WeightPolicy;
use super::*;

/// An offered node with this share of a stake, reputation in thousandths and price in nano-tokens.
fn provider(name: &str, stake: u64, reputation: u32, nano: u128) -> NodeFacts {
    NodeFacts {
        stake,
        reputation,
        price: TokenAmount::from_nano(nano),
        ..node(name, 8)
    }
}

/// The weight of the nodes whose names begin like this, and that of all.
fn odds(fleet: &Snapshot, name: &str) -> (u128, u128) {
    let weight = |wanted: &dyn Fn(&str) -> bool| -> u128 {
        let nodes = fleet.nodes().iter();
        let wanted = nodes.filter(|node| wanted(&node.facts().name));
        wanted.map(|node| u128::from(node.weight())).sum()
    };
    (weight(&|known| known.starts_with(name)), weight(&|_| true))
}

/// Draws 100,000 times by index and by linear scan, and finds that the nodes won in proportion to their weights: chi-square over all of
/// them below `limit`, in hundredths. How often each won, in canonical order.
fn wins_in_proportion(fleet: &Snapshot, limit: i128) -> Vec<i128> {
    let mut index = FleetIndex::of(fleet.clone(), WeightPolicy::default());
    let draws = 100_000;
    let mut wins = vec![0_i128; fleet.nodes().len()];
    for attempt in 1..=draws {
        let asked = Request {
            attempt,
            ..request(1, 1)
        };
        let won = index.place(&asked, &seed()).unwrap();
        assert_eq!(linear::place(fleet, &asked, &seed()).as_ref(), Ok(&won));
        let is_it = |node: &&snapshot::NodeCapacity| node.facts().name == won.nodes[0];
        let at = fleet.nodes().iter().take_while(|node| !is_it(node)).count();
        wins[at] += 1;
    }
    let total: i128 = fleet
        .nodes()
        .iter()
        .map(|node| i128::from(node.weight()))
        .sum();
    // chi² · total = Σ (wins·total − draws·weight)² / (draws·weight), in integers.
    let chi_times_total: i128 = fleet
        .nodes()
        .iter()
        .zip(&wins)
        .map(|(node, wins)| {
            let expected = i128::from(draws) * i128::from(node.weight());
            let off = wins * total - expected;
            off * off / expected
        })
        .sum();
    let chi_in_hundredths = chi_times_total * 100 / total;
    assert!(
        chi_in_hundredths < limit,
        "chi-square {chi_in_hundredths} hundredths: {wins:?}"
    );
    wins
}

#[test]
fn in_a_hundred_thousand_draws_by_index_and_by_linear_scan_nodes_win_in_proportion_to_their_weight()
{
    let fleet = snapshot(
        (1..=8)
            .map(|rank| {
                provider(
                    &format!("n{rank}"),
                    1000 * u64::from(rank) + 7,
                    1000 - 50 * rank,
                    u128::from(300_000 + rank * 11_111),
                )
            })
            .collect(),
    );
    // 7 degrees of freedom: p = 0.01 at 18.48.
    wins_in_proportion(&fleet, 1848);
}

#[test]
fn an_owner_who_is_cut_wins_a_fifth_of_a_hundred_thousand_draws_however_much_it_stakes() {
    let own = |owner: String, name: String, stake| NodeFacts {
        owner: Some(owner),
        ..provider(&name, stake, 900, 720_000)
    };
    let whales = (0..3).map(|node| own("whale".to_owned(), format!("a{node}"), 90_000));
    let others = (0..12).map(|owner| own(owner.to_string(), format!("b{owner:02}"), 1000));
    let mut fleet = snapshot(whales.chain(others).collect());
    let (before, of) = odds(&fleet, "a");
    assert!(before * 100 > of * 95);
    fleet.cut(&fleet.cuts(owner_cap::OwnerCap::default()));
    let (left, of) = odds(&fleet, "a");
    // A fifth, but for what rounding takes of three nodes.
    assert!(left * 5 <= of && (left + 3) * 5 > of, "{left} of {of}");
    // 14 degrees of freedom: p = 0.01 at 29.14.
    let wins = wins_in_proportion(&fleet, 2914);
    let whales: i128 = wins.iter().take(3).sum();
    assert!((19_500..20_500).contains(&whales), "{whales}");
}

proptest! {
    #[test]
    fn an_owner_who_splits_into_several_gains_at_most_a_thousandth(
        stake in 20_000_u64..100_000_000,
        parts in 1_u64..50,
        reputation in 1_u32..=1000,
        nano in 1_000_u128..10_000_000_000,
        others in prop::collection::vec(1_u64..1_000_000, 1..20),
    ) {
        let rivals: Vec<NodeFacts> = (0..).zip(others).map(|(number, stake): (u32, u64)| provider(&format!("rival-{number}"), stake, 900, 720_000)).collect();
        let fleet = |mut own: Vec<NodeFacts>| {
            own.extend(rivals.clone());
            snapshot(own)
        };
        let whole = fleet(vec![provider("own", stake, reputation, nano)]);
        let split = fleet((0..parts).map(|part| {
            let share = stake / parts + u64::from(part < stake % parts);
            provider(&format!("own-{part}"), share, reputation, nano)
        }).collect());
        let (one, among) = odds(&whole, "own");
        // Where the highest weight cuts the stake down, splitting does gain.
        prop_assume!(one < u128::from(weight::MAX_WEIGHT));
        let (several, among_all) = odds(&split, "own");
        prop_assert!(several * among * 1000 <= one * among_all * 1001);
    }

    #[test]
    fn at_equal_stake_and_reputation_the_cheaper_never_has_lower_odds(stake: u64, reputation in 0_u32..=1000, nano in 0_u128..1 << 80, more in 0_u128..1 << 80) {
        let fleet = snapshot(vec![provider("cheap", stake, reputation, nano), provider("dear", stake, reputation, nano + more)]);
        let ((cheap, _), (dear, _)) = (odds(&fleet, "cheap"), odds(&fleet, "dear"));
        prop_assert!(cheap >= dear);
    }
}
