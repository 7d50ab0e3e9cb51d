//! Facts about what payers owe and how long their money lasts.

use proptest::prelude::*;

use super::*;
use crate::chain::fixtures::config;

const NOW: u64 = 1_800_000_000_000;
/// 0.001 token per GPU-second.
const PRICE: u64 = 1_000_000;

fn record(job: &str, slice: u32, status: &str) -> UsageRecord {
    let from = if slice == 0 {
        String::new()
    } else {
        format!(", fromMs: {}", NOW - 10_000)
    };
    serde_saphyr::from_str(&format!(
        "{{apiVersion: gridstake.dev/v1alpha1, kind: UsageRecord, metadata: {{name: {job}-1-0-{slice}, creationTimestamp: '2027-01-15T07:00:00Z'}}, \
         spec: {{job: {{namespace: n, name: {job}, uid: {job}}}, attempt: 1, member: 0, slice: {slice}, podName: j-1-0, nodeName: a, gpuCount: 2{from}, \
         payment: {{chain: anvil, lane: 7, payer: 3, provider: 9, perGpuSecond: '0.001'}}}}, status: {{{status}}}}}"
    ))
    .unwrap()
}

fn sealed(state: &str) -> String {
    let hash = format!("0x{}", "0".repeat(64));
    let settlement = if state.is_empty() {
        String::new()
    } else {
        format!(", settlement: {{{state}}}")
    };
    format!(
        "sealed: {{jobNo: 5, startMs: {}, endMs: {NOW}, gpuMillis: 20000, price: '0.001', cause: MemberEnded, receiptHash: '{hash}'}}{settlement}",
        NOW - 10_000
    )
}

fn view(balance: u64, thawing: u64) -> PayerView {
    PayerView {
        balance,
        thawing,
        ..PayerView::default()
    }
}

fn tally(records: &[UsageRecord], seq: u64) -> Accounts {
    Accounts::tally(&config(), records, |_| Some((NOW - 10_000, None)), seq, NOW)
}

#[test]
fn exposure_is_balance_less_what_is_asked_back_and_everything_unsettled() {
    let accounts = tally(&[record("a", 0, &sealed("")), record("b", 0, "")], 0);
    // Each has used 2 GPUs for 10 s at 0.001: 0.02 token.
    let nano = 20 * u128::from(PRICE);
    assert_eq!(
        accounts.exposure(3, &view(100 * PRICE, 10 * PRICE)),
        90 * u128::from(PRICE) - 2 * nano
    );
    assert_eq!(accounts.exposure(3, &view(PRICE, 0)), 0);
    assert_eq!(accounts.exposure(4, &view(7, 0)), 7);
    assert_eq!(accounts.spent_today("n"), 2 * nano);
}

#[test]
fn each_lane_counts_its_own_payers_namespaces_and_emissions_only() {
    let mut elsewhere = record("b", 0, &sealed(""));
    let payment = elsewhere.spec.payment.as_mut().unwrap();
    (payment.chain, payment.lane) = ("base".to_owned(), 8);
    let seal = elsewhere.status.as_mut().unwrap().sealed.as_mut().unwrap();
    seal.emission = Some(gridstake_crds::usage_record::Emission {
        job_no: 6,
        amount: TokenAmount::from_nano(9),
    });
    let records = [record("a", 0, &sealed("")), elsewhere, record("c", 0, "")];
    let other = ChainConfig {
        name: "base".to_owned(),
        lane: 8,
        ..config()
    };
    let nano = 20 * u128::from(PRICE);
    for (config, namespace_spent, jobs, emissions) in
        [(config(), 2 * nano, vec!["c"], 0), (other, nano, vec![], 9)]
    {
        let accounts = Accounts::tally(&config, &records, |_| Some((NOW - 10_000, None)), 0, NOW);
        assert_eq!(
            accounts.spent_today("n"),
            namespace_spent,
            "{}",
            config.name
        );
        assert_eq!(
            accounts.exposure(3, &view(100 * PRICE, 0)),
            100 * u128::from(PRICE) - namespace_spent
        );
        assert_eq!(accounts.jobs(3).collect::<Vec<_>>(), jobs);
        assert_eq!(owed_emissions(&config, &records, 0), emissions);
    }
}

#[test]
fn what_the_balance_shows_already_is_not_counted_twice() {
    let batched = format!("state: Batched, batch: {}", settlement_batch(7, 5));
    for (state, seq, owed) in [
        ("state: Sealed", 9, true),
        ("state: Paid", 0, false),
        ("state: Final", 0, false),
        ("state: Skipped", 9, true),
        (batched.as_str(), 4, true),
        (batched.as_str(), 5, false),
    ] {
        let accounts = tally(&[record("a", 0, &sealed(state))], seq);
        let left = accounts.exposure(3, &view(100 * PRICE, 0));
        let expected = u128::from(PRICE) * if owed { 80 } else { 100 };
        assert_eq!(left, expected, "{state} {seq}");
    }
}

#[test]
fn a_member_that_has_not_started_costs_nothing_yet() {
    let accounts = Accounts::tally(&config(), &[record("a", 0, "")], |_| None, 0, NOW);
    assert_eq!(accounts.exposure(3, &view(PRICE, 0)), u128::from(PRICE));
    assert_eq!(accounts.jobs(3).collect::<Vec<_>>(), ["a"]);
}

fn money(view: &PayerView, cap_left: u128) -> Money<'_> {
    Money {
        view,
        cap_left,
        deposit: "deposit",
        raise: "raise",
        cap_binds: cap_left < u128::from(view.balance),
    }
}

const GRACE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_hours(1);

#[test]
fn a_job_is_warned_of_and_then_stopped_before_its_money_is_gone() {
    let accounts = tally(&[record("a", 0, "")], 0);
    // 0.002 token a second, and 0.02 are used. 10 s and 30 s of grace cost 0.08; a fifth of an hour more costs 1.44.
    for (balance, expected) in [
        (0, "stop"),
        (100 * PRICE, "stop"),
        (100 * PRICE + 1, "warn"),
        (1_540 * PRICE - 1, "warn"),
        (1_540 * PRICE, "well"),
    ] {
        let view = view(balance, 0);
        let funds = accounts.funds(3, "a", &money(&view, u128::MAX), GRACE, HOUR);
        let found = match funds {
            Funds::Suffice => "well",
            Funds::Low(_) => "warn",
            Funds::Exhausted(_) => "stop",
        };
        assert_eq!(found, expected, "{balance}");
    }
}

#[test]
fn there_is_time_for_a_warning_however_short_the_interval_is() {
    let accounts = tally(&[record("a", 0, "")], 0);
    // As above, and 10 s more cost 0.02.
    let view = view(120 * PRICE - 1, 0);
    let funds = accounts.funds(3, "a", &money(&view, u128::MAX), GRACE, CHECK_EVERY);
    assert!(matches!(funds, Funds::Low(_)), "{funds:?}");
}

#[test]
fn the_daily_cap_is_a_limit_like_the_escrow() {
    let accounts = tally(&[record("a", 0, "")], 0);
    let view = view(u64::MAX, 0);
    let funds = accounts.funds(3, "a", &money(&view, 0), GRACE, HOUR);
    assert!(
        matches!(funds, Funds::Exhausted(why) if why.contains("daily cap") && why.contains("raise"))
    );
}

#[test]
fn the_job_that_began_last_is_stopped_first() {
    let mut late = record("a", 0, "");
    late.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        "2027-01-15T07:30:00Z".parse().unwrap(),
    ));
    let accounts = tally(&[late, record("b", 0, "")], 0);
    // 0.04 are used; one job needs 0.08 to end well, two need 0.16.
    let view = view(130 * PRICE, 0);
    let funds = |job| accounts.funds(3, job, &money(&view, u128::MAX), GRACE, HOUR);
    assert!(matches!(funds("a"), Funds::Exhausted(_)));
    assert!(matches!(funds("b"), Funds::Low(_)));
    assert_eq!(funds("c"), Funds::Suffice, "it burns nothing");
}

#[test]
fn a_span_over_midnight_counts_for_today_from_midnight_on() {
    assert_eq!(part(100, 5, 0, 10), 50);
    assert_eq!(part(100, 0, 3, 10), 100);
    assert_eq!(part(100, 3, 3, 3), 100);
}

#[test]
fn a_slice_costs_its_gpus_for_its_time() {
    assert_eq!(
        slice_cost(4, TokenAmount::from_nano(720_000), HOUR),
        4 * 3600 * 720_000
    );
}

proptest! {
    /// Stopped at the last moment, a job's use until it has ended is covered.
    #[test]
    fn what_is_used_until_a_job_has_been_stopped_is_covered(balance in 0..10_000_000_000_u64, grace in 0..120_u64, reaction in 0..=10_u64) {
        let grace = Duration::from_secs(grace);
        let accounts = tally(&[record("a", 0, "")], 0);
        let view = view(balance, 0);
        let funds = accounts.funds(3, "a", &money(&view, u128::MAX), grace, HOUR);
        if !matches!(funds, Funds::Exhausted(_)) {
            let burn = 2 * u128::from(PRICE);
            let until_ended = burn * u128::from(grace.as_secs() + reaction);
            prop_assert!(accounts.exposure(3, &view) > until_ended);
        }
    }
}
