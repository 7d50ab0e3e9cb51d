//! How well chains can be followed.

use std::{sync::Arc, time::Duration};

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Registry};

use crate::metrics::{counters, gauges};

/// The metrics of all chains: each has its own series, by the label `chain`. Cloning shares them.
#[derive(Clone, Debug)]
pub struct ChainFamilies {
    errors: IntCounterVec,
    blocks: IntGaugeVec,
    age: IntGaugeVec,
    matches: IntGaugeVec,
    forks: IntGaugeVec,
}

/// The metrics of one chain. Cloning shares them.
#[derive(Clone, Debug)]
pub struct ChainMetrics {
    chain: Arc<str>,
    errors: IntCounterVec,
    blocks: IntGaugeVec,
    age: IntGauge,
    matches: IntGauge,
    forks: IntGauge,
}

impl ChainFamilies {
    /// Registers the metrics.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauges = |name: &str, help: &str, labels: &[&str]| gauges(registry, name, help, labels);
        Ok(Self {
            errors: counters(
                registry,
                "gridstake_chain_errors_total",
                "Requests to a chain's endpoints that failed, by what failed.",
                &["chain", "category"],
            )?,
            blocks: gauges(
                "gridstake_chain_block",
                "The number of the newest block that is known, by its standing: head, safe, finalized.",
                &["chain", "standing"],
            )?,
            age: gauges(
                "gridstake_chain_view_age_seconds",
                "How long ago the chain last answered.",
                &["chain"],
            )?,
            matches: gauges(
                "gridstake_chain_contract_match",
                "1 while the chain and its contracts are what is configured.",
                &["chain"],
            )?,
            forks: gauges(
                "gridstake_chain_reorganisations",
                "How often blocks that were known have been replaced, since the start.",
                &["chain"],
            )?,
        })
    }

    /// Those of `chain`.
    #[must_use]
    pub fn of(&self, chain: &str) -> ChainMetrics {
        ChainMetrics {
            chain: chain.into(),
            errors: self.errors.clone(),
            blocks: self.blocks.clone(),
            age: self.age.with_label_values(&[chain]),
            matches: self.matches.with_label_values(&[chain]),
            forks: self.forks.with_label_values(&[chain]),
        }
    }
}

impl ChainMetrics {
    /// A request failed.
    pub fn failed(&self, category: &'static str) {
        self.errors
            .with_label_values(&[&*self.chain, category])
            .inc();
    }

    /// The newest blocks.
    pub fn observed(&self, head: u64, safe: u64, finalized: u64, matches: bool) {
        for (standing, number) in [("head", head), ("safe", safe), ("finalized", finalized)] {
            self.blocks
                .with_label_values(&[&*self.chain, standing])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_chain_counts_by_itself() {
        let families = ChainFamilies::register(&Registry::new()).unwrap();
        let [one, other] = ["one", "other"].map(|chain| families.of(chain));
        one.failed("timeout");
        one.observed(5, 4, 3, true);
        one.set_age(Duration::from_secs(9));
        other.forked();
        let failures = |chain| families.errors.with_label_values(&[chain, "timeout"]).get();
        assert_eq!((failures("one"), failures("other")), (1, 0));
        assert_eq!((one.age.get(), other.age.get()), (9, 0));
        assert_eq!((one.matches.get(), other.matches.get()), (1, 0));
        assert_eq!((one.forks.get(), other.forks.get()), (0, 1));
    }
}
