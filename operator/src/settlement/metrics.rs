//! What settlement measures.

use std::sync::Arc;

use gridstake_crds::{closed_enum::ClosedEnum as _, settlement_batch::BatchState};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::planner::Why;
use crate::{
    chain::metrics::{ChainFamilies, ChainMetrics},
    metrics::{counters, gauges},
};

/// The metrics of all lanes: each has its own series, by the label `chain`. Cloning shares them.
#[derive(Clone, Debug)]
pub struct LaneMetrics {
    chains: ChainFamilies,
    waiting: IntGaugeVec,
    oldest_seconds: IntGaugeVec,
    halted: IntGaugeVec,
    restored: IntCounterVec,
    doubtful: IntGaugeVec,
    gas_balance_gwei: IntGaugeVec,
    gas_used: IntCounterVec,
    fees_gwei: IntCounterVec,
    planner_waits: IntGaugeVec,
    built: IntCounterVec,
    open: IntGaugeVec,
    errors: IntCounterVec,
    transactions: IntCounterVec,
}

/// The metrics of one lane's settlement. Cloning shares them.
#[derive(Clone, Debug)]
pub struct SettlementMetrics {
    /// Entries that the contract would pay and no batch holds.
    pub waiting: IntGauge,
    /// How long ago the oldest record that is not final was sealed.
    pub oldest_seconds: IntGauge,
    /// 1 while everything on the lane has stopped.
    pub halted: IntGauge,
    /// Batches that were taken over from the chain.
    pub restored: IntCounter,
    /// Numbers that the chain has paid and no record has.
    pub doubtful: IntGauge,
    /// What the gas account has, in gwei.
    pub gas_balance_gwei: IntGauge,
    /// Gas that included batches have used.
    pub gas_used: IntCounter,
    /// What included batches have paid for gas, in gwei.
    pub fees_gwei: IntCounter,
    /// 1 while a batch is held back because it would pay too little for its fee.
    pub planner_waits: IntGauge,
    chain: Arc<str>,
    built: IntCounterVec,
    open: IntGaugeVec,
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
                "Age of the oldest sealed record whose payment is not final; 0 if there is none.",
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
        let gauge = |gauges: &IntGaugeVec| gauges.with_label_values(&[chain]);
        let counter = |counters: &IntCounterVec| counters.with_label_values(&[chain]);
        SettlementMetrics {
            waiting: gauge(&self.waiting),
            oldest_seconds: gauge(&self.oldest_seconds),
            halted: gauge(&self.halted),
            restored: counter(&self.restored),
            doubtful: gauge(&self.doubtful),
            gas_balance_gwei: gauge(&self.gas_balance_gwei),
            gas_used: counter(&self.gas_used),
            fees_gwei: counter(&self.fees_gwei),
            planner_waits: gauge(&self.planner_waits),
            chain: chain.into(),
            built: self.built.clone(),
            open: self.open.clone(),
            errors: self.errors.clone(),
            transactions: self.transactions.clone(),
        }
    }
}

impl SettlementMetrics {
    /// How many batches are in each state.
    pub fn open(&self, states: impl IntoIterator<Item = BatchState>) {
        let states: Vec<BatchState> = states.into_iter().collect();
        for state in BatchState::ALL {
            let count = states.iter().filter(|other| *other == state).count();
            self.open
                .with_label_values(&[&*self.chain, state.as_str()])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
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
        let sort = if new { "new" } else { "again" };
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
        let failed = |chain| all.errors.with_label_values(&[chain, "chain"]).get();
        assert_eq!((failed("one"), failed("other")), (0, 1));
    }
}
