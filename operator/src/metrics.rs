//! Metrics in the Prometheus text format. Labels come from closed lists only.

use std::time::Duration;

use prometheus::{
    CounterVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::controllers::placement::drift::Drift;

/// Of what is bound otherwise than it was decided: pods.
const POD_ELSEWHERE: &str = "pod_elsewhere";
/// And nodes.
const NODE_OVERCOMMITTED: &str = "node_overcommitted";

/// How one pass of a controller ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassOutcome {
    /// Something was written.
    Applied,
    /// Nothing was to be written.
    Unchanged,
    /// The object waits for something else.
    Waiting,
    /// The pass failed and will be repeated.
    Failed,
    /// The pass took too long and was abandoned.
    TimedOut,
    /// The pass panicked.
    Panicked,
    /// The stored object cannot be parsed.
    Unparsable,
}

impl PassOutcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Panicked => "panicked",
            Self::Unparsable => "unparsable",
        }
    }
}

/// Every metric that is not a single controller's own.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    passes: IntCounterVec,
    pass_seconds: HistogramVec,
    errors: IntCounterVec,
    watch_errors: IntCounterVec,
    status_writes: IntCounterVec,
    leader: IntGauge,
    crd_missing: IntGaugeVec,
    amnesty: IntGauge,
    placement_drift: IntGaugeVec,
}

/// Registers counters with these labels.
pub fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

/// Registers counters, with these labels, of what is no whole number.
pub fn float_counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<CounterVec, prometheus::Error> {
    let counters = CounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

/// Registers gauges with these labels.
pub fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}

impl Metrics {
    /// Registers the metrics in a registry of their own.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter =
            |name: &str, help: &str, labels: &[&str]| counters(&registry, name, help, labels);
        let gauge = |name: &str, help: &str, labels: &[&str]| gauges(&registry, name, help, labels);

        let passes = counter(
            "gridstake_reconcile_total",
            "Passes of a controller over an object, by how they ended.",
            &["controller", "outcome"],
        )?;
        let errors = counter(
            "gridstake_reconcile_errors_total",
            "Failed passes of a controller, by what failed.",
            &["controller", "category"],
        )?;
        let watch_errors = counter(
            "gridstake_watch_errors_total",
            "Errors of the watches on the API server.",
            &["kind"],
        )?;
        let status_writes = counter(
            "gridstake_status_writes_total",
            "Status writes, by field manager and whether one was needed.",
            &["manager", "result"],
        )?;
        let crd_missing = gauge(
            "gridstake_crd_missing",
            "1 while a CustomResourceDefinition is not established.",
            &["crd"],
        )?;
        gauge("gridstake_build_info", "The running version.", &["version"])?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);

        let placement_drift = gauge(
            "gridstake_placement_drift",
            "What is bound otherwise than it was decided: pods of jobs on other nodes than their own, nodes that were given away twice. 0 but for a fault.",
            &["kind"],
        )?;

        for kind in [POD_ELSEWHERE, NODE_OVERCOMMITTED] {
            placement_drift.with_label_values(&[kind]);
        }

        let leader = IntGauge::new(
            "gridstake_operator_leader",
            "1 while this replica is the leader.",
        )?;
        registry.register(Box::new(leader.clone()))?;
        let amnesty = IntGauge::new(
            "gridstake_amnesty_nodes",
            "Nodes that fell silent together, too many for it to be their own fault; 0 while there is no amnesty.",
        )?;
        registry.register(Box::new(amnesty.clone()))?;
        let pass_seconds = HistogramVec::new(
            HistogramOpts::new(
                "gridstake_reconcile_duration_seconds",
                "Duration of a controller's passes.",
            )
            // From a pass that writes nothing (well below 1 ms) to the 30 s after which a pass is abandoned.
            .buckets(vec![
                0.0005, 0.002, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
            ]),
            &["controller"],
        )?;
        registry.register(Box::new(pass_seconds.clone()))?;

        Ok(Self {
            registry,
            passes,
            pass_seconds,
            errors,
            watch_errors,
            status_writes,
            leader,
            crd_missing,
            amnesty,
            placement_drift,
        })
    }

    /// Where a controller registers metrics of its own.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Records one pass of `controller`.
    pub fn pass(&self, controller: &'static str, outcome: PassOutcome, took: Duration) {
        self.passes
            .with_label_values(&[controller, outcome.as_str()])
            .inc();
        self.pass_seconds
            .with_label_values(&[controller])
            .observe(took.as_secs_f64());
    }

    /// Records what made a pass of `controller` fail.
    pub fn pass_failed(&self, controller: &'static str, category: &'static str) {
        self.errors.with_label_values(&[controller, category]).inc();
    }

    /// There is a watch on `kind`, which has not failed yet: its errors are counted from 0.
    pub fn watch_begins(&self, kind: &'static str) {
        self.watch_errors.with_label_values(&[kind]);
    }

    /// Records an error of the watch on `kind`.
    pub fn watch_failed(&self, kind: &'static str) {
        self.watch_errors.with_label_values(&[kind]).inc();
    }

    /// Records whether a status was written.
    pub fn status_write(&self, manager: &'static str, written: bool) {
        let result = if written { "written" } else { "unchanged" };
        self.status_writes
            .with_label_values(&[manager, result])
            .inc();
    }

    /// Whether this replica leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// Whether the CustomResourceDefinition `crd` is missing.
    pub fn set_crd_missing(&self, crd: &str, missing: bool) {
        self.crd_missing
            .with_label_values(&[crd])
            .set(missing.into());
    }

    /// How many nodes there is an amnesty for; 0: there is none.
    pub fn set_amnesty(&self, nodes: usize) {
        self.amnesty.set(i64::try_from(nodes).unwrap_or(i64::MAX));
    }

    /// What is bound otherwise than it was decided.
    pub fn set_placement_drift(&self, found: Drift) {
        for (kind, count) in [
            (POD_ELSEWHERE, found.pods_elsewhere),
            (NODE_OVERCOMMITTED, found.nodes_overcommitted),
        ] {
            self.placement_drift
                .with_label_values(&[kind])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// All metrics in the text format.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_appears_under_its_documented_name() {
        let metrics = Metrics::new().unwrap();
        metrics.pass("gpu-node", PassOutcome::Applied, Duration::from_millis(3));
        metrics.pass_failed("gpu-node", "apply_status");
        metrics.watch_failed("Pod");
        metrics.watch_begins("Node");
        metrics.status_write("gridstake-operator/gpu-node", true);
        metrics.set_leader(true);
        metrics.set_crd_missing("gpunodes.gridstake.dev", true);
        metrics.set_placement_drift(Drift {
            pods_elsewhere: 1,
            nodes_overcommitted: 0,
        });
        let text = metrics.render().unwrap();
        for line in [
            r#"gridstake_reconcile_total{controller="gpu-node",outcome="applied"} 1"#,
            r#"gridstake_reconcile_duration_seconds_count{controller="gpu-node"} 1"#,
            r#"gridstake_reconcile_errors_total{category="apply_status",controller="gpu-node"} 1"#,
            r#"gridstake_watch_errors_total{kind="Pod"} 1"#,
            r#"gridstake_watch_errors_total{kind="Node"} 0"#,
            r#"gridstake_status_writes_total{manager="gridstake-operator/gpu-node",result="written"} 1"#,
            "gridstake_operator_leader 1",
            "gridstake_amnesty_nodes 0",
            r#"gridstake_placement_drift{kind="pod_elsewhere"} 1"#,
            r#"gridstake_placement_drift{kind="node_overcommitted"} 0"#,
            r#"gridstake_crd_missing{crd="gpunodes.gridstake.dev"} 1"#,
            "gridstake_build_info{version=",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
