//! Rewards that are held back while an incident is open. Pure, but for reading the cache.

use std::collections::BTreeMap;

use gridstake_crds::{
    Incident, TokenAmount, UsageRecord, incident::Sanction, usage_record::RecordState,
};
use kube::ResourceExt as _;

use super::record::has_ended;
use crate::caches::{Caches, parsed};

/// Whether the payments that `incident` concerns are held back: its sanction is `Hold` or harder, and it has not come to its
/// end.
#[must_use]
pub fn holds(incident: &Incident) -> bool {
    let is_over = incident.status.as_ref().is_some_and(has_ended);
    incident.spec.sanction >= Sanction::Hold && !is_over
}

/// The UsageRecords whose payment is held back, and by which Incident.
#[must_use]
pub fn held_back(caches: &Caches) -> BTreeMap<String, String> {
    let incidents = caches.incidents.state();
    parsed(&incidents)
        .filter(|incident| holds(incident))
        .flat_map(|incident| {
            let records = incident.spec.usage_records.iter().cloned();
            records.map(|record| (record, incident.name_any()))
        })
        .collect()
}

/// What of `records` is held back, in nano-tokens: the price of those that are sealed and in no batch.
#[must_use]
pub fn held<'a>(records: impl IntoIterator<Item = &'a UsageRecord>) -> TokenAmount {
    let waits = |record: &&UsageRecord| {
        let settlement = record.status.as_ref().and_then(|s| s.settlement.as_ref());
        settlement.is_none_or(|settlement| {
            matches!(settlement.state, RecordState::Sealed | RecordState::Skipped)
        })
    };
    let price = |record: &UsageRecord| {
        let sealed = record.status.as_ref()?.sealed.as_ref()?;
        let nano = u128::from(sealed.gpu_millis) * sealed.price?.nano() / 1000;
        Some(nano)
    };
    let total = records
        .into_iter()
        .filter(waits)
        .filter_map(price)
        .fold(0_u128, u128::saturating_add);
    TokenAmount::from_nano(total)
}
