//! Facts about quotes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    output::tests::is_written,
    quote::{fleet::tests::gpu_node, request::tests::job},
};

const H100: &str = "NVIDIA H100 80GB HBM3";
const L40S: &str = "NVIDIA L40S";

/// Nodes by name, model, price a GPU-second and free GPUs of 4.
fn fleet_of(nodes: &[(&str, &str, &str, u32)]) -> Vec<Node> {
    nodes
        .iter()
        .map(|(name, model, price, free)| {
            let node = gpu_node(name, model, price, *free, &json!({}));
            fleet::of_node(&node, None, &[])
        })
        .collect()
}

fn waiting(position: u32, starts_by: Option<&str>) -> ComputeJob {
    let mut job = serde_json::to_value(job(&json!({"gpu": {"count": 1}}))).unwrap();
    let mut place = json!({"position": position});
    if let Some(time) = starts_by {
        place["startsBy"] = json!(time);
    }
    job["status"] = json!({"queue": place});
    serde_json::from_value(job).unwrap()
}

struct Case {
    job: ComputeJob,
    fleet: Vec<Node>,
    jobs: Option<Vec<ComputeJob>>,
    usd_per_token: Option<&'static str>,
}

impl Case {
    fn new(spec: &Value, fleet: Vec<Node>) -> Self {
        Self {
            job: job(spec),
            fleet,
            jobs: Some(Vec::new()),
            usd_per_token: None,
        }
    }

    fn quote(&self) -> QuoteReport {
        let around = request::Surroundings::default();
        quote(Question {
            job: &self.job,
            namespace: "team-a".to_owned(),
            request: request::of_job(&self.job, &around).unwrap(),
            fleet: self.fleet.clone(),
            jobs: self.jobs.clone(),
            references: &References::own().unwrap(),
            usd_per_token: self.usd_per_token.map(|text| text.parse().unwrap()),
            notes: Vec::new(),
            now_ms: 0,
        })
    }
}

fn amount(text: &str) -> TokenAmount {
    text.parse().unwrap()
}

#[test]
fn a_job_that_fits_is_quoted_with_its_odds_its_price_and_prices_elsewhere() {
    let fleet = fleet_of(&[
        ("n1", H100, "0.00072", 4),
        ("n2", H100, "0.00144", 4),
        ("n3", L40S, "0.0003", 4),
        ("n4", H100, "0.0006", 1),
    ]);
    let spec = json!({
        "gpu": {"count": 2, "models": ["H100", "L40S"]}, "timeouts": {"run": "2h"},
        "pricing": {"maxPerGpuSecond": "0.001"},
    });
    let case = Case {
        usd_per_token: Some("1.5"),
        ..Case::new(&spec, fleet)
    };
    let report = case.quote();
    is_written(&report, include_str!("../golden/quote_fits.txt"));
    let cost = report.cost.unwrap();
    // Weights fall with the price: 0.00072 and 0.0003 weigh as 5 and 12 do.
    assert_eq!(cost.lowest_per_gpu_hour, amount("1.08"));
    assert_eq!(cost.highest_per_gpu_hour, amount("2.592"));
    assert_eq!(cost.draws, None);
    assert_eq!(cost.most_for_run, Some(amount("10.368")));
    assert_eq!(report.wait.now, Some(true));
}

#[test]
fn a_job_that_does_not_fit_is_told_why_as_one_that_waits_is() {
    let fleet = fleet_of(&[
        ("n1", H100, "0.00072", 1),
        ("n2", H100, "0.00072", 0),
        ("n3", L40S, "0.0003", 4),
    ]);
    let spec = json!({"gpu": {"count": 4, "models": ["H100"]}});
    let case = Case {
        jobs: Some(vec![
            waiting(1, Some("2027-01-31T23:00:00Z")),
            waiting(2, None),
        ]),
        ..Case::new(&spec, fleet)
    };
    let report = case.quote();
    is_written(&report, include_str!("../golden/quote_waits.txt"));
    assert!(report.cost.is_none() && !report.fits);
    let reasons: BTreeMap<&str, u32> = report
        .ruled_out
        .iter()
        .map(|one| (one.reason.as_str(), one.nodes))
        .collect();
    assert_eq!(
        reasons,
        BTreeMap::from([("InsufficientGpus", 2), ("ModelMismatch", 1)])
    );
}

#[test]
fn a_node_that_is_partly_used_goes_first_and_so_does_its_price() {
    let fleet = fleet_of(&[("n1", H100, "0.001", 4), ("n2", H100, "0.002", 3)]);
    let report = Case::new(&json!({"gpu": {"count": 1}}), fleet).quote();
    assert_eq!(report.fitting[0].node, "n2");
    assert_eq!(report.fitting[0].odds_permille, 1000);
    let cost = report.cost.unwrap();
    assert_eq!(cost.expected_per_gpu_hour, amount("7.2"));
    assert_eq!(cost.lowest_per_gpu_hour, amount("3.6"));
}

#[test]
fn odds_and_expected_price_are_those_of_the_draw() {
    // Twice the price weighs half: 2 to 1.
    let fleet = fleet_of(&[("n1", H100, "0.001", 4), ("n2", H100, "0.002", 4)]);
    let report = Case::new(&json!({"gpu": {"count": 1}}), fleet).quote();
    assert_eq!(report.fitting[0].odds_permille, 666);
    let expected = report.cost.unwrap().expected_per_gpu_hour;
    // (2 · 0.001 + 1 · 0.002) ÷ 3 = 0.001333… a second.
    assert!(
        expected > amount("4.799999") && expected < amount("4.800001"),
        "{expected}"
    );
}

#[test]
fn a_gang_is_drawn_many_times_over_and_is_placed_together_or_not_at_all() {
    let fleet = fleet_of(&[("n1", H100, "0.001", 4), ("n2", H100, "0.002", 4)]);
    let spec = json!({"gpu": {"count": 4}, "members": 2, "timeouts": {"run": "1h"}});
    let both = Case::new(&spec, fleet.clone()).quote();
    let cost = both.cost.unwrap();
    assert_eq!(cost.draws, Some(DRAWS));
    // Whichever is drawn first, both are taken.
    assert_eq!(cost.expected_per_gpu_hour, amount("5.4"));
    assert_eq!(cost.expected_for_run, Some(amount("43.2")));
    let spec = json!({"gpu": {"count": 4}, "members": 3});
    let too_many = Case::new(&spec, fleet).quote();
    assert!(!too_many.fits && too_many.candidates == 2);
    assert_eq!(too_many.ruled_out[0].reason, "GangDoesNotFit");
    assert!(too_many.text().contains("and not all members find room"));
}

#[test]
fn each_run_of_a_redundant_job_is_counted() {
    let fleet = fleet_of(&[("n1", H100, "0.001", 4)]);
    let spec = json!({
        "gpu": {"count": 2}, "timeouts": {"run": "1h"},
        "verification": {"mode": "Redundant", "replicas": 3},
    });
    let report = Case::new(&spec, fleet).quote();
    assert_eq!(
        report.cost.as_ref().unwrap().expected_for_run,
        Some(amount("21.6"))
    );
    assert!(
        report.text().contains("each run 3 times"),
        "{}",
        report.text()
    );
}

#[test]
fn a_wait_is_told_as_far_as_the_queue_shows_it() {
    let first = waiting(1, Some("2027-01-31T23:00:00Z"));
    for (fits, jobs, now, words) in [
        (true, Some(vec![]), Some(true), "nobody waits"),
        (
            true,
            Some(vec![waiting(1, None)]),
            None,
            "when the first of them starts is not known",
        ),
        (true, None, None, "may not be read"),
        (false, None, None, "may not be read"),
        (false, Some(vec![]), Some(false), "it would be the first"),
        (
            false,
            Some(vec![first.clone()]),
            Some(false),
            "starts by 2027-01-31T23:00:00Z",
        ),
    ] {
        let wait = wait(fits, jobs.as_deref());
        assert_eq!(wait.now, now, "{}", wait.words);
        assert!(wait.words.contains(words), "{}", wait.words);
    }
    assert!(wait(false, Some(&[first])).first_starts_by.is_some());
}

#[test]
fn what_a_token_must_be_worth_is_told_where_nobody_says_what_it_is() {
    let fleet = fleet_of(&[("n1", H100, "0.001", 4), ("n2", L40S, "0", 4)]);
    let models = Case::new(&json!({"gpu": {"count": 1}}), fleet)
        .quote()
        .models;
    // 3.6 tokens a GPU-hour against 2.71 USD.
    assert_eq!(models[0].cheaper_below_usd, Some(amount("0.752777777")));
    assert_eq!(models[0].of_reference_permille, None);
    // Free of charge, and without a reference.
    assert_eq!(models[1].cheaper_below_usd, None);
    assert!(models[1].references.is_empty());
}

proptest! {
    #[test]
    fn an_expected_price_lies_between_the_lowest_and_the_highest(
        nodes in prop::collection::vec((1_u64..2_000_000, 0_u32..=4), 1..8), members in 1_u32..4, gpus in 1_u64..4,
    ) {
        let fleet: Vec<Node> = nodes
            .iter()
            .enumerate()
            .map(|(at, (nano, free))| {
                let price = TokenAmount::from_nano(u128::from(*nano)).to_string();
                let node = gpu_node(&format!("n{at}"), H100, &price, *free, &json!({}));
                fleet::of_node(&node, None, &[])
            })
            .collect();
        let spec = json!({"gpu": {"count": gpus}, "members": members});
        let report = Case::new(&spec, fleet).quote();
        prop_assert_eq!(report.fits, report.cost.is_some());
        if let Some(cost) = report.cost {
            prop_assert!(cost.lowest_per_gpu_hour <= cost.expected_per_gpu_hour);
            prop_assert!(cost.expected_per_gpu_hour <= cost.highest_per_gpu_hour);
        }
        let listed: u32 = report.ruled_out.iter().map(|one| one.nodes).sum();
        if report.fits {
            prop_assert_eq!(listed as usize + report.candidates, report.nodes);
        }
    }
}
