//! Counts of objects by what their status says, taken when metrics are read.

use gridstake_crds::closed_enum::ClosedEnum;
use prometheus::{
    IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// A gauge per variant of a closed enumeration: how many objects are in it now.
struct Census {
    gauge: IntGaugeVec,
    variants: Vec<&'static str>,
    take: Box<dyn Fn() -> Vec<&'static str> + Send + Sync>,
}

impl Collector for Census {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let found = (self.take)();
        for variant in &self.variants {
            let count = found.iter().filter(|found| *found == variant).count();
            self.gauge
                .with_label_values(&[variant])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.gauge.collect()
    }
}

/// Registers the gauge `name`; `take` says for each object what it is in.
pub fn register<E: ClosedEnum>(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    take: impl Fn() -> Vec<E> + Send + Sync + 'static,
) -> Result<(), prometheus::Error> {
    let gauge = IntGaugeVec::new(Opts::new(name, help), &[label])?;
    registry.register(Box::new(Census {
        gauge,
        variants: E::ALL.iter().map(|variant| variant.as_str()).collect(),
        take: Box::new(move || take().into_iter().map(E::as_str).collect()),
    }))
}

/// The variant that is spelt like this.
#[must_use]
pub fn variant<E: ClosedEnum>(spelling: &str) -> Option<E> {
    E::ALL.iter().copied().find(|v| v.as_str() == spelling)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use gridstake_crds::stake_binding::StakeBindingReason as Reason;
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn every_reading_counts_anew_and_shows_the_empty_ones_too() {
        let registry = Registry::new();
        let objects = Arc::new(Mutex::new(vec![Reason::Ready, Reason::Ready]));
        let seen = objects.clone();
        register(&registry, "bindings", "Help.", "reason", move || {
            seen.lock().unwrap().clone()
        })
        .unwrap();
        let shown = || {
            TextEncoder::new()
                .encode_to_string(&registry.gather())
                .unwrap()
        };
        assert!(shown().contains(r#"bindings{reason="Ready"} 2"#));
        *objects.lock().unwrap() = vec![Reason::NoNodes];
        let later = shown();
        assert!(later.contains(r#"bindings{reason="Ready"} 0"#));
        assert!(later.contains(r#"bindings{reason="NoNodes"} 1"#));
    }

    #[test]
    fn only_documented_spellings_are_counted() {
        assert_eq!(variant("Ready"), Some(Reason::Ready));
        assert_eq!(variant::<Reason>("ready"), None);
    }
}
