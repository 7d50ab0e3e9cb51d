//! What a provider got in a week, and when its nodes have paid for themselves at that pace. Pure.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::B256;
use gridstake_crds::TokenAmount;
use gridstake_ledger::{verify::earnings::Earnings, week::Week};
use serde::Serialize;

use crate::output::{Report, count, gpu_seconds};

/// Millijoules in a kilowatt-hour.
const MILLIJOULES: u128 = 3_600_000_000;
/// Seconds of a day.
const DAY: u128 = 86_400;

/// The energy of slices, by node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Energy {
    /// Millijoules.
    by_node: BTreeMap<String, u128>,
    /// Slices that say how much.
    told: u64,
    /// Slices that do not.
    untold: u64,
}

impl Energy {
    /// Adds a slice that ran on `node`.
    pub fn add(&mut self, node: &str, millijoules: Option<u64>) {
        match millijoules {
            Some(millijoules) => {
                self.told = self.told.saturating_add(1);
                let sum = self.by_node.entry(node.to_owned()).or_default();
                *sum = sum.saturating_add(millijoules.into());
            }
            None => self.untold = self.untold.saturating_add(1),
        }
    }
}

/// What a node costs its provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCosts {
    /// What it cost to buy.
    pub capital: Option<TokenAmount>,
    /// What a kilowatt-hour costs.
    pub tariff: Option<TokenAmount>,
}

/// What the provider's nodes cost, by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Economics {
    /// As their GpuNodes say.
    Known(BTreeMap<String, NodeCosts>),
    /// They could not be read; the text says why.
    Unread(String),
}

/// Whether the lane has stated the week as it was.
#[derive(Serialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stated {
    /// The hash is the one on chain.
    Equal,
    /// The week is over, and nothing was stated yet.
    NotYet,
    /// The week is not over: the sums are those so far.
    WeekNotOver,
    /// There is nothing to state: no batch of the week names the provider.
    Nothing,
}

/// A week of a provider.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WeekReport {
    /// The week.
    pub week: String,
    /// The provider.
    pub provider: u32,
    /// The chain's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain_id: Option<u64>,
    /// The contract Settlement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settlement: Option<String>,
    /// The lane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane: Option<u32>,
    /// The lane's first and last batch of the week.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batches: Option<(u64, u64)>,
    /// Slices that were paid.
    pub jobs: u64,
    /// Their GPU-seconds.
    pub gpu_seconds: String,
    /// What payers paid for them, before the fee and delegators' part, in whole tokens.
    pub paid: TokenAmount,
    /// What the lane's reward account paid, in whole tokens.
    pub emissions: TokenAmount,
    /// What slashes took, in whole tokens.
    pub slashed: TokenAmount,
    /// Kilowatt-hours, by the archive; absent where no slice says how much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_kwh: Option<TokenAmount>,
    /// Slices whose energy is not known.
    pub slices_without_energy: u64,
    /// What that energy cost, in whole tokens; absent where a tariff is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_cost: Option<TokenAmount>,
    /// After how many days at this pace the nodes have paid for themselves; absent where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payback_days: Option<u64>,
    /// What that rests on, or why it is not known.
    pub payback: String,
    /// The hash of the report, made from the chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<B256>,
    /// Whether it is the one on chain.
    pub stated: Stated,
    /// The batches that state it.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub stated_in: BTreeSet<u64>,
}

impl WeekReport {
    /// A week in which no batch names the provider.
    #[must_use]
    pub fn nothing(week: Week, provider: u32) -> Self {
        Self {
            week: week.to_string(),
            provider,
            chain_id: None,
            settlement: None,
            lane: None,
            batches: None,
            jobs: 0,
            gpu_seconds: gpu_seconds(0),
            paid: TokenAmount::default(),
            emissions: TokenAmount::default(),
            slashed: TokenAmount::default(),
            energy_kwh: None,
            slices_without_energy: 0,
            energy_cost: None,
            payback_days: None,
            payback: "not known: nothing was earned in the week".to_owned(),
            hash: None,
            stated: Stated::Nothing,
            stated_in: BTreeSet::new(),
        }
    }

    /// The week of `provider`, seen at `now`, in Unix seconds of the chain.
    #[must_use]
    pub fn of(
        earnings: &Earnings,
        provider: u32,
        now: u64,
        energy: &Energy,
        economics: &Economics,
    ) -> Self {
        let Some(reported) = earnings.providers.get(&provider) else {
            return Self::nothing(earnings.week, provider);
        };
        let report = &reported.report;
        let elapsed = now
            .min(earnings.week.until())
            .saturating_sub(earnings.week.from());
        let got = u128::from(report.paid) + u128::from(report.emissions);
        let cost = energy_cost(energy, economics);
        let net = got
            .checked_sub(report.slashed)
            .and_then(|net| net.checked_sub(cost.clone().unwrap_or_default()));
        let (payback_days, payback) = payback(economics, net, cost.as_ref().err(), elapsed);
        let millijoules: u128 = energy.by_node.values().sum();
        Self {
            week: earnings.week.to_string(),
            provider,
            chain_id: Some(report.chainId),
            settlement: Some(report.settlement.to_string()),
            lane: Some(report.lane),
            batches: (report.lastBatch > 0).then_some((report.firstBatch, report.lastBatch)),
            jobs: report.jobs,
            gpu_seconds: gpu_seconds(report.gpuMillis),
            paid: TokenAmount::from_nano(report.paid.into()),
            emissions: TokenAmount::from_nano(report.emissions.into()),
            slashed: TokenAmount::from_nano(report.slashed),
            energy_kwh: (energy.told > 0).then(|| {
                // A token amount of nine decimals is the same notation.
                TokenAmount::from_nano(millijoules.saturating_mul(1_000_000_000) / MILLIJOULES)
            }),
            slices_without_energy: energy.untold,
            energy_cost: cost.ok().map(TokenAmount::from_nano),
            payback_days,
            payback,
            hash: Some(reported.hash),
            stated: match (earnings.over, reported.batches.is_empty()) {
                (false, _) => Stated::WeekNotOver,
                (true, true) => Stated::NotYet,
                (true, false) => Stated::Equal,
            },
            stated_in: reported.batches.clone(),
        }
    }

    /// A line of names and a line of values.
    #[must_use]
    pub fn csv(&self) -> String {
        let text = |value: Option<String>| value.unwrap_or_default();
        let stated_in: Vec<String> = self.stated_in.iter().map(u64::to_string).collect();
        let columns: [(&str, String); 20] = [
            ("week", self.week.clone()),
            ("provider", self.provider.to_string()),
            ("chainId", text(self.chain_id.map(|id| id.to_string()))),
            ("settlement", text(self.settlement.clone())),
            ("lane", text(self.lane.map(|lane| lane.to_string()))),
            ("firstBatch", text(self.batches.map(|it| it.0.to_string()))),
            ("lastBatch", text(self.batches.map(|it| it.1.to_string()))),
            ("jobs", self.jobs.to_string()),
            ("gpuSeconds", self.gpu_seconds.clone()),
            ("paid", self.paid.to_string()),
            ("emissions", self.emissions.to_string()),
            ("slashed", self.slashed.to_string()),
            ("energyKwh", text(self.energy_kwh.map(|it| it.to_string()))),
            (
                "slicesWithoutEnergy",
                self.slices_without_energy.to_string(),
            ),
            (
                "energyCost",
                text(self.energy_cost.map(|it| it.to_string())),
            ),
            (
                "paybackDays",
                text(self.payback_days.map(|days| days.to_string())),
            ),
            ("payback", self.payback.clone()),
            ("hash", text(self.hash.map(|hash| hash.to_string()))),
            ("stated", format!("{:?}", self.stated)),
            ("statedIn", stated_in.join(" ")),
        ];
        let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        let values: Vec<String> = columns.iter().map(|(_, value)| cell(value)).collect();
        format!("{}\n{}", names.join(","), values.join(","))
    }
}

/// A value between commas: in quotes where it holds one, or a quote (RFC 4180).
fn cell(value: &str) -> String {
    if value.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", value.replace('"', "\"\""))
    } else {
        value.to_owned()
    }
}

/// What the energy cost, in nano-tokens, rounded up for each node; the error says why that is not known.
fn energy_cost(energy: &Energy, economics: &Economics) -> Result<u128, String> {
    let nodes = match economics {
        Economics::Known(nodes) => nodes,
        Economics::Unread(why) => return Err(format!("the GpuNodes were not read: {why}")),
    };
    if energy.told == 0 {
        return Err("no slice says how much energy it took".to_owned());
    }
    let mut sum = 0_u128;
    for (node, millijoules) in &energy.by_node {
        let tariff = nodes
            .get(node)
            .and_then(|costs| costs.tariff)
            .ok_or_else(|| format!("node {node} has no spec.economics.energyTariffPerKwh"))?;
        let cost = millijoules
            .saturating_mul(tariff.nano())
            .div_ceil(MILLIJOULES);
        sum = sum.saturating_add(cost);
    }
    Ok(sum)
}

/// After how many days the nodes have paid for themselves if they go on so, and what that rests on. `net`: nano-tokens that were
/// left of the `elapsed` seconds; `None` where it was a loss. `no_energy`: why the cost of energy is not in it.
fn payback(
    economics: &Economics,
    net: Option<u128>,
    no_energy: Option<&String>,
    elapsed: u64,
) -> (Option<u64>, String) {
    let nodes = match economics {
        Economics::Known(nodes) => nodes,
        Economics::Unread(why) => {
            return (
                None,
                format!("not known: the GpuNodes were not read: {why}"),
            );
        }
    };
    if nodes.is_empty() {
        return (
            None,
            "not known: no GpuNode of the cluster is bound to the provider".to_owned(),
        );
    }
    let missing = nodes.iter().find(|(_, costs)| costs.capital.is_none());
    if let Some((node, _)) = missing {
        return (
            None,
            format!("not known: node {node} has no spec.economics.capitalCost"),
        );
    }
    let capital: u128 = nodes
        .values()
        .filter_map(|costs| costs.capital)
        .map(TokenAmount::nano)
        .sum();
    let energy = no_energy.map_or_else(
        || ", less the energy".to_owned(),
        |why| format!(", the energy not counted ({why})"),
    );
    let rests = format!(
        "capital of {} tokens in {}, at the week's pace before the fee and delegators' part{energy}",
        TokenAmount::from_nano(capital),
        count(nodes.len() as u64, "node", "nodes"),
    );
    match net {
        Some(net) if net > 0 && elapsed > 0 => {
            let days = capital
                .saturating_mul(elapsed.into())
                .div_ceil(net.saturating_mul(DAY));
            (Some(u64::try_from(days).unwrap_or(u64::MAX)), rests)
        }
        _ => (
            None,
            format!("never at this pace: nothing was left; {rests}"),
        ),
    }
}

impl Report for WeekReport {
    fn text(&self) -> String {
        let mut lines = vec![format!("Provider {} in {}", self.provider, self.week)];
        if self.stated == Stated::Nothing {
            lines.push(
                "  no batch of the lane names it in that week: nothing was used, paid or slashed"
                    .to_owned(),
            );
            return lines.join("\n");
        }
        if let (Some(lane), Some(settlement), Some(chain)) =
            (self.lane, &self.settlement, self.chain_id)
        {
            let batches = self.batches.map_or_else(String::new, |(first, last)| {
                format!(", batches {first} to {last}")
            });
            lines.push(format!(
                "  lane {lane} of {settlement} on chain {chain}{batches}"
            ));
        }
        let mut rows = vec![
            (
                "used",
                format!(
                    "{} GPU-seconds in {}",
                    self.gpu_seconds,
                    count(self.jobs, "slice", "slices")
                ),
            ),
            (
                "paid",
                format!("{} tokens, before the fee and delegators' part", self.paid),
            ),
            ("emissions", format!("{} tokens", self.emissions)),
            ("slashed", format!("{} tokens", self.slashed)),
        ];
        let without = match self.slices_without_energy {
            0 => String::new(),
            1 => "; 1 slice does not say".to_owned(),
            number => format!("; {number} slices do not say"),
        };
        rows.push((
            "energy",
            match self.energy_kwh {
                Some(energy) => {
                    let cost = self
                        .energy_cost
                        .map_or_else(String::new, |cost| format!(", {cost} tokens"));
                    format!("{energy} kWh{cost}, by the archive alone{without}")
                }
                None => format!("not known{without}"),
            },
        ));
        rows.push((
            "payback",
            match self.payback_days {
                Some(days) => format!("{}: {}", count(days, "day", "days"), self.payback),
                None => self.payback.clone(),
            },
        ));
        lines.extend(
            rows.iter()
                .map(|(name, value)| format!("  {name:<10} {value}")),
        );
        let hash = self.hash.unwrap_or_default();
        let stated_in: Vec<String> = self.stated_in.iter().map(u64::to_string).collect();
        lines.push(match self.stated {
            Stated::Equal => format!(
                "  report {hash}: equal to the one on chain, stated in batch {}",
                stated_in.join(", ")
            ),
            Stated::NotYet => format!(
                "  report {hash}: the week is over and nothing was stated yet; it comes with a later batch"
            ),
            Stated::WeekNotOver | Stated::Nothing => format!(
                "  report {hash}: so far; the week is not over, and nothing was compared"
            ),
        });
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use alloy::{primitives::Address, sol_types::SolStruct as _};
    use gridstake_ledger::{statement::EarningsReport, verify::earnings::Reported};
    use proptest::prelude::*;

    use super::*;
    use crate::output::tests::is_written;

    fn week() -> Week {
        "2026-W48".parse().unwrap()
    }

    fn earnings(over: bool, stated: &[u64]) -> Earnings {
        let report = EarningsReport {
            chainId: 8453,
            settlement: Address::repeat_byte(0x51),
            lane: 7,
            provider: 5,
            week: 202_648,
            firstBatch: 3,
            lastBatch: 11,
            jobs: 75,
            gpuMillis: 123_456_789,
            paid: 70_000_000_000,
            emissions: 7_000_000_000,
            slashed: 500_000_000,
        };
        let reported = Reported {
            hash: report.eip712_hash_struct(),
            report,
            batches: stated.iter().copied().collect(),
        };
        Earnings {
            week: week(),
            over,
            providers: BTreeMap::from([(5, reported)]),
        }
    }

    fn energy() -> Energy {
        let mut energy = Energy::default();
        // 1.5 kWh and 0.5 kWh.
        energy.add("n1", Some(5_400_000_000));
        energy.add("n2", Some(1_800_000_000));
        energy.add("n2", None);
        energy
    }

    fn costs(capital: Option<&str>, tariff: Option<&str>) -> NodeCosts {
        let amount = |text: &str| text.parse().unwrap();
        NodeCosts {
            capital: capital.map(amount),
            tariff: tariff.map(amount),
        }
    }

    fn economics() -> Economics {
        Economics::Known(BTreeMap::from([
            ("n1".to_owned(), costs(Some("20000"), Some("0.25"))),
            ("n2".to_owned(), costs(Some("10000"), Some("0.5"))),
        ]))
    }

    fn later() -> u64 {
        week().until() + 100
    }

    fn report() -> WeekReport {
        WeekReport::of(&earnings(true, &[12]), 5, later(), &energy(), &economics())
    }

    #[test]
    fn a_week_is_told_with_its_sums_its_energy_and_that_the_hash_is_the_one_on_chain() {
        is_written(&report(), include_str!("../golden/report.txt"));
    }

    #[test]
    fn a_spreadsheet_gets_a_line_of_names_and_a_line_of_as_many_values() {
        let csv = report().csv();
        assert_eq!(csv, include_str!("../golden/report.csv").trim_end());
        // One value holds commas, and stands in quotes.
        let (names, values) = csv.split_once('\n').unwrap();
        let outside: String = values.split('"').step_by(2).collect();
        assert_eq!(names.matches(',').count(), outside.matches(',').count());
        assert_eq!(cell("a \"b\", c"), "\"a \"\"b\"\", c\"");
    }

    #[test]
    fn what_is_left_of_the_week_is_the_pace_at_which_the_nodes_pay_for_themselves() {
        // 77 − 0.5 slashed − (1.5 · 0.25 + 0.5 · 0.5) = 75.875 in 7 days; 30,000 take 2767.7 of them.
        let report = report();
        assert_eq!(report.energy_cost, Some("0.625".parse().unwrap()));
        assert_eq!(report.payback_days, Some(2768));
        // Half of the week: as many tokens in half the time.
        let half = week().from() + (week().until() - week().from()) / 2;
        let early = WeekReport::of(&earnings(false, &[]), 5, half, &energy(), &economics());
        assert_eq!(early.payback_days, Some(1384));
        assert_eq!(early.stated, Stated::WeekNotOver);
    }

    #[test]
    fn what_is_not_known_is_left_out_and_said() {
        let of = |energy: &Energy, economics: &Economics| {
            WeekReport::of(&earnings(true, &[]), 5, later(), energy, economics)
        };
        let unread = of(&energy(), &Economics::Unread("no cluster".to_owned()));
        assert_eq!((unread.energy_cost, unread.payback_days), (None, None));
        assert!(
            unread.payback.ends_with("not read: no cluster"),
            "{}",
            unread.payback
        );
        assert_eq!(unread.stated, Stated::NotYet);
        let nobody = of(&energy(), &Economics::Known(BTreeMap::new()));
        assert!(nobody.payback.contains("no GpuNode"), "{}", nobody.payback);
        let no_price = Economics::Known(BTreeMap::from([
            ("n1".to_owned(), costs(None, Some("0.25"))),
            ("n2".to_owned(), costs(Some("1"), Some("0.25"))),
        ]));
        assert_eq!(
            of(&energy(), &no_price).payback,
            "not known: node n1 has no spec.economics.capitalCost"
        );
        let no_tariff =
            Economics::Known(BTreeMap::from([("n1".to_owned(), costs(Some("77"), None))]));
        let report = of(&energy(), &no_tariff);
        assert_eq!(report.energy_cost, None);
        assert!(
            report.payback.contains("the energy not counted"),
            "{}",
            report.payback
        );
        assert_eq!(report.payback_days, Some(8));
        let untold = of(&Energy::default(), &no_tariff);
        assert_eq!(untold.energy_kwh, None);
        assert!(
            untold.text().contains("energy     not known"),
            "{}",
            untold.text()
        );
    }

    #[test]
    fn a_week_that_ends_in_a_loss_never_pays() {
        let mut earnings = earnings(true, &[]);
        earnings.providers.get_mut(&5).unwrap().report.slashed = 100_000_000_000;
        let report = WeekReport::of(&earnings, 5, later(), &energy(), &economics());
        assert_eq!(report.payback_days, None);
        assert!(
            report.payback.starts_with("never at this pace"),
            "{}",
            report.payback
        );
    }

    #[test]
    fn a_provider_that_no_batch_names_got_nothing() {
        let report = WeekReport::of(&earnings(true, &[]), 6, later(), &energy(), &economics());
        assert_eq!(report.stated, Stated::Nothing);
        assert!(report.text().contains("no batch of the lane names it"));
        assert!(report.csv().contains(",Nothing,"));
    }

    proptest! {
        #[test]
        fn a_cell_is_read_back_as_it_was(value in "[a-z,\"\n ]{0,20}") {
            let written = cell(&value);
            let read = match written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
                Some(quoted) if written.len() > 1 => quoted.replace("\"\"", "\""),
                _ => written,
            };
            prop_assert_eq!(read, value);
        }
    }
}
