//! How well a chain can be followed.

use std::time::Duration;

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// The metrics of one chain. Cloning shares them.
#[derive(Clone, Debug)]
pub struct ChainMetrics {
    errors: IntCounterVec,
    blocks: IntGaugeVec,
    age: IntGauge,
    matches: IntGauge,
    forks: IntGauge,
}

impl ChainMetrics {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let errors = IntCounterVec::new(
            Opts::new(
                "gridstake_chain_errors_total",
                "Requests to the chain's endpoints that failed, by what failed.",
            ),
            &["category"],
        )?;
        let blocks = IntGaugeVec::new(
            Opts::new(
                "gridstake_chain_block",
                "The number of the newest block that is known, by its standing: head, safe, finalized.",
            ),
            &["standing"],
        )?;
        let gauge = |name: &str, help: &str| IntGauge::new(name, help);
        let age = gauge(
            "gridstake_chain_view_age_seconds",
            "How long ago the chain last answered.",
        )?;
        let matches = gauge(
            "gridstake_chain_contract_match",
            "1 while the chain and its contracts are what is configured.",
        )?;
        let forks = gauge(
            "gridstake_chain_reorganisations",
            "How often blocks that were known have been replaced, since the start.",
        )?;
        registry.register(Box::new(errors.clone()))?;
        registry.register(Box::new(blocks.clone()))?;
        for gauge in [&age, &matches, &forks] {
            registry.register(Box::new(gauge.clone()))?;
        }
        Ok(Self {
            errors,
            blocks,
            age,
            matches,
            forks,
        })
    }

    /// A request failed.
    pub fn failed(&self, category: &'static str) {
        self.errors.with_label_values(&[category]).inc();
    }

    /// The newest blocks.
    pub fn observed(&self, head: u64, safe: u64, finalized: u64, matches: bool) {
        for (standing, number) in [("head", head), ("safe", safe), ("finalized", finalized)] {
            self.blocks
                .with_label_values(&[standing])
                .set(i64::try_from(number).unwrap_or(i64::MAX));
        }
        self.matches.set(matches.into());
    }

    /// How long ago the chain last answered.
    pub fn set_age(&self, age: Duration) {
        self.age
            .set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
    }

    /// Known blocks were replaced.
    pub fn forked(&self) {
        self.forks.inc();
    }
}
