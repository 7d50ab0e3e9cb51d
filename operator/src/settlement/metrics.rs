//! What settlement measures.

use gridstake_crds::{closed_enum::ClosedEnum as _, settlement_batch::BatchState};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::planner::Why;

/// The metrics of settlement. Cloning shares them.
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
    built: IntCounterVec,
    open: IntGaugeVec,
    errors: IntCounterVec,
    transactions: IntCounterVec,
}

impl SettlementMetrics {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let counters = |name: &str, help: &str, label: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let open = IntGaugeVec::new(
            Opts::new(
                "gridstake_settlement_open_batches",
                "Batches that are not final, by state.",
            ),
            &["state"],
        )?;
        registry.register(Box::new(open.clone()))?;
        Ok(Self {
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
            built: counters(
                "gridstake_settlement_batches_built_total",
                "Batches that were built, by why: the price of the token is not configured (Unpriced), no more fits (Full), a slice has waited for maxAge (Aged), it pays enough for its fee (Worthwhile).",
                "why",
            )?,
            errors: counters(
                "gridstake_settlement_errors_total",
                "Passes over the lane that failed, by what failed.",
                "category",
            )?,
            transactions: counters(
                "gridstake_settlement_transactions_total",
                "Transactions handed to an endpoint, by whether they were new.",
                "sort",
            )?,
            open,
        })
    }

    /// How many batches are in each state.
    pub fn open(&self, states: impl IntoIterator<Item = BatchState>) {
        self.open.reset();
        for state in states {
            self.open.with_label_values(&[state.as_str()]).inc();
        }
    }

    /// A batch was built.
    pub fn built(&self, why: Why) {
        self.built.with_label_values(&[why.as_str()]).inc();
    }

    /// A pass failed.
    pub fn failed(&self, category: &'static str) {
        self.errors.with_label_values(&[category]).inc();
    }

    /// A transaction was handed to an endpoint.
    pub fn sent(&self, new: bool) {
        let sort = if new { "new" } else { "again" };
        self.transactions.with_label_values(&[sort]).inc();
    }
}
