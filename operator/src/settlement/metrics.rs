//! What settlement measures.

use std::sync::Arc;

use gridstake_crds::{
    closed_enum::ClosedEnum,
    settlement_batch::{BatchState, BlockedReason},
};
use prometheus::{Counter, CounterVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::{drift::DriftKind, planner::Why};
use crate::{
    chain::metrics::{ChainFamilies, ChainMetrics},
    metrics::{counters, float_counters, gauges},
};

/// A transaction that was made just now.
const NEW: &str = "new";
/// A stored transaction.
const AGAIN: &str = "again";

/// The metrics of all lanes: each has its own series, by the label `chain`. Cloning shares them.
#[derive(Clone, Debug)]
pub struct LaneMetrics {
    chains: ChainFamilies,
    waiting: IntGaugeVec,
    oldest_seconds: IntGaugeVec,
    halted: IntGaugeVec,
    restored: IntCounterVec,
    doubtful: IntGaugeVec,
    lapse: IntGaugeVec,
    gas_balance_gwei: IntGaugeVec,
    gas_used: IntCounterVec,
    fees_gwei: IntCounterVec,
    planner_waits: IntGaugeVec,
    built: IntCounterVec,
    open: IntGaugeVec,
    blocked: IntGaugeVec,
    drift: IntGaugeVec,
    paid_gpu_seconds: CounterVec,
    errors: IntCounterVec,
    transactions: IntCounterVec,
}

/// The metrics of one lane's settlement. Cloning shares them.
#[derive(Clone, Debug)]
pub struct SettlementMetrics {
    /// Entries that the contract would pay and no batch holds.
    pub waiting: IntGauge,
    /// How long ago the oldest record that is not final, and that nothing holds back, was sealed.
    pub oldest_seconds: IntGauge,
    /// 1 while everything on the lane has stopped.
    pub halted: IntGauge,
    /// Batches that were taken over from the chain.
    pub restored: IntCounter,
    /// Numbers that the chain has paid and no record has.
    pub doubtful: IntGauge,
    /// 1 while batches that may have been lost may still be mined.
    pub lapse: IntGauge,
    /// What the gas account has, in gwei.
    pub gas_balance_gwei: IntGauge,
    /// Gas that included batches have used.
    pub gas_used: IntCounter,
    /// What included batches have paid for gas, in gwei.
    pub fees_gwei: IntCounter,
    /// 1 while a batch is held back because it would pay too little for its fee.
    pub planner_waits: IntGauge,
    /// GPU-seconds that final batches have paid.
    pub paid_gpu_seconds: Counter,
    chain: Arc<str>,
    built: IntCounterVec,
    open: IntGaugeVec,
    blocked: IntGaugeVec,
    drift: IntGaugeVec,
    errors: IntCounterVec,
    transactions: IntCounterVec,
}

impl LaneMetrics {
    /// Registers the metrics.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| gauges(registry, name, help, &["chain"]);
        let counter = |name: &str, help: &str| counters(registry, name, help, &["chain"]);
        let counters_by =
            |name: &str, help: &str, label: &str| counters(registry, name, help, &["chain", label]);
        Ok(Self {
            chains: ChainFamilies::register(registry)?,
            waiting: gauge(
                "gridstake_settlement_sealed_waiting",
                "Entries of sealed records that could be paid and wait for a batch.",
            )?,
            oldest_seconds: gauge(
                "gridstake_settlement_oldest_unsettled_seconds",
                "Age of the oldest sealed record whose payment is not final and that nothing holds back; 0 if there is none.",
            )?,
            halted: gauge(
                "gridstake_settlement_halted",
                "1 while the lane has stopped because the chain is not what the log says.",
            )?,
            restored: counter(
                "gridstake_settlement_restored_batches_total",
                "Batches that the log had lost and that were taken over from the chain.",
            )?,
            doubtful: gauge(
                "gridstake_settlement_doubtful_numbers",
                "Numbers that the chain has paid and no record has; what may be theirs is not sealed.",
            )?,
            lapse: gauge(
                "gridstake_settlement_lapse",
                "1 while slices wait that began before the API server may have been restored: a batch of then may still be mined.",
            )?,
            gas_balance_gwei: gauge(
                "gridstake_settlement_gas_balance_gwei",
                "What the gas account has.",
            )?,
            gas_used: counter(
                "gridstake_settlement_gas_used_total",
                "Gas used by batches that are final.",
            )?,
            fees_gwei: counter(
                "gridstake_settlement_fees_gwei_total",
                "Fees paid for batches that are final.",
            )?,
            planner_waits: gauge(
                "gridstake_settlement_planner_waits",
                "1 while records wait because a batch of them would pay less than the configured multiple of its fee.",
            )?,
            built: counters_by(
                "gridstake_settlement_batches_built_total",
                "Batches that were built, by why: the price of the token is not configured (Unpriced), no more fits (Full), a statement may not wait (Urgent), a slice has waited for maxAge (Aged), it pays enough for its fee (Worthwhile).",
                "why",
            )?,
            errors: counters_by(
                "gridstake_settlement_errors_total",
                "Passes over the lane that failed, by what failed.",
                "category",
            )?,
            transactions: counters_by(
                "gridstake_settlement_transactions_total",
                "Transactions handed to an endpoint, by whether they were new.",
                "sort",
            )?,
            open: gauges(
                registry,
                "gridstake_settlement_open_batches",
                "Batches that are not final, by state.",
                &["chain", "state"],
            )?,
            blocked: gauges(
                registry,
                "gridstake_settlement_blocked_batches",
                "Batches that are not final and that something keeps from going on, by what that is.",
                &["chain", "reason"],
            )?,
            drift: gauges(
                registry,
                "gridstake_settlement_ledger_drift",
                "Records of which the contract says another thing than they do: final ones whose numbers it has not all paid (unpaid), others whose numbers it has all paid (unrecorded). 0 but for a fault.",
                &["chain", "kind"],
            )?,
            paid_gpu_seconds: float_counters(
                registry,
                "gridstake_settlement_paid_gpu_seconds_total",
                "GPU-seconds of use that batches which are final have paid.",
                &["chain"],
            )?,
        })
    }

    /// How well the chain `chain` can be followed.
    #[must_use]
    pub fn chain(&self, chain: &str) -> ChainMetrics {
        self.chains.of(chain)
    }

    /// Those of the lane on `chain`.
    #[must_use]
    pub fn settlement(&self, chain: &str) -> SettlementMetrics {
        // What is counted is there with 0 from the start: of a series that begins with 1 no rate knows the first one.
        for why in Why::ALL {
            self.built.with_label_values(&[chain, why.as_str()]);
        }
        for sort in [NEW, AGAIN] {
            self.transactions.with_label_values(&[chain, sort]);
        }
        let gauge = |gauges: &IntGaugeVec| gauges.with_label_values(&[chain]);
        let counter = |counters: &IntCounterVec| counters.with_label_values(&[chain]);
        let own = SettlementMetrics {
            waiting: gauge(&self.waiting),
            oldest_seconds: gauge(&self.oldest_seconds),
            halted: gauge(&self.halted),
            restored: counter(&self.restored),
            doubtful: gauge(&self.doubtful),
            lapse: gauge(&self.lapse),
            gas_balance_gwei: gauge(&self.gas_balance_gwei),
            gas_used: counter(&self.gas_used),
            fees_gwei: counter(&self.fees_gwei),
            planner_waits: gauge(&self.planner_waits),
            paid_gpu_seconds: self.paid_gpu_seconds.with_label_values(&[chain]),
            chain: chain.into(),
            built: self.built.clone(),
            open: self.open.clone(),
            blocked: self.blocked.clone(),
            drift: self.drift.clone(),
            errors: self.errors.clone(),
            transactions: self.transactions.clone(),
        };
        own.open([]);
        own.blocked([]);
        for kind in DriftKind::ALL {
            own.drift(kind, 0);
        }
        own
    }
}

impl SettlementMetrics {
    /// How many batches are in each state.
    pub fn open(&self, states: impl IntoIterator<Item = BatchState>) {
        self.count(&self.open, states);
    }

    /// What keeps batches from going on, for each of which something does.
    pub fn blocked(&self, reasons: impl IntoIterator<Item = BlockedReason>) {
        self.count(&self.blocked, reasons);
    }

    /// How often each value is among `found`.
    fn count<E: ClosedEnum + PartialEq>(
        &self,
        gauges: &IntGaugeVec,
        found: impl IntoIterator<Item = E>,
    ) {
        let found: Vec<E> = found.into_iter().collect();
        for value in E::ALL {
            let count = found.iter().filter(|other| *other == value).count();
            gauges
                .with_label_values(&[&*self.chain, value.as_str()])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// So many records differ from the chain in this way.
    pub fn drift(&self, kind: DriftKind, records: usize) {
        self.drift
            .with_label_values(&[&*self.chain, kind.as_str()])
            .set(i64::try_from(records).unwrap_or(i64::MAX));
    }

    /// A batch was built.
    pub fn built(&self, why: Why) {
        self.built
            .with_label_values(&[&*self.chain, why.as_str()])
            .inc();
    }

    /// A pass failed.
    pub fn failed(&self, category: &'static str) {
        self.errors
            .with_label_values(&[&*self.chain, category])
            .inc();
    }

    /// A transaction was handed to an endpoint.
    pub fn sent(&self, new: bool) {
        let sort = if new { NEW } else { AGAIN };
        self.transactions
            .with_label_values(&[&*self.chain, sort])
            .inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lane_counts_by_itself() {
        let registry = Registry::new();
        let all = LaneMetrics::register(&registry).unwrap();
        let [one, other] = ["one", "other"].map(|chain| all.settlement(chain));
        one.open([BatchState::InFlight, BatchState::InFlight]);
        other.open([BatchState::Safe]);
        one.open([BatchState::InFlight]);
        one.halted.set(1);
        other.failed("chain");
        let open = |chain: &str, state: BatchState| {
            let labels = [chain, state.as_str()];
            all.open.with_label_values(&labels).get()
        };
        assert_eq!(open("one", BatchState::InFlight), 1);
        assert_eq!(open("one", BatchState::Safe), 0);
        assert_eq!(open("other", BatchState::Safe), 1);
        assert_eq!((one.halted.get(), other.halted.get()), (1, 0));
        one.blocked([BlockedReason::Paused]);
        other.drift(DriftKind::Unpaid, 3);
        let blocked = |chain: &str| {
            let labels = [chain, BlockedReason::Paused.as_str()];
            all.blocked.with_label_values(&labels).get()
        };
        assert_eq!((blocked("one"), blocked("other")), (1, 0));
        let drift = |chain| all.drift.with_label_values(&[chain, "unpaid"]).get();
        assert_eq!((drift("one"), drift("other")), (0, 3));
        let failed = |chain| all.errors.with_label_values(&[chain, "chain"]).get();
        assert_eq!((failed("one"), failed("other")), (0, 1));
    }

    #[test]
    fn what_may_be_counted_or_found_is_there_with_0_from_the_start() {
        let registry = Registry::new();
        let all = LaneMetrics::register(&registry).unwrap();
        let _kept = all.settlement("base");
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        for line in [
            r#"gridstake_settlement_batches_built_total{chain="base",why="Aged"} 0"#,
            r#"gridstake_settlement_transactions_total{chain="base",sort="again"} 0"#,
            r#"gridstake_settlement_open_batches{chain="base",state="InFlight"} 0"#,
            r#"gridstake_settlement_blocked_batches{chain="base",reason="GasBalanceEmpty"} 0"#,
            r#"gridstake_settlement_ledger_drift{chain="base",kind="unpaid"} 0"#,
            r#"gridstake_settlement_ledger_drift{chain="base",kind="unrecorded"} 0"#,
            r#"gridstake_settlement_paid_gpu_seconds_total{chain="base"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
