//! Rewards that are held back while an incident is open. Pure, but for reading the cache.

use std::collections::BTreeMap;

use gridstake_crds::{
    Incident, TokenAmount, UsageRecord, incident::Sanction, usage_record::RecordState,
};
use kube::ResourceExt as _;

use super::record::has_ended;
use crate::{
    caches::{Caches, parsed},
    settlement::records::seal_in_no_batch,
};

/// Whether the payments that `incident` concerns are held back: its sanction is `Hold` or harder, and it has not come to its
/// end.
#[must_use]
pub fn holds(incident: &Incident) -> bool {
    let is_over = incident.status.as_ref().is_some_and(has_ended);
    incident.spec.sanction >= Sanction::Hold && !is_over
}

/// Whether `incident` keeps the payment of `record` back: it is sealed, in no batch, and one of those that the incident concerns,
/// however its own attempt was judged.
#[must_use]
pub fn holds_back(incident: &Incident, record: &UsageRecord) -> bool {
    let concerns = || incident.spec.usage_records.contains(&record.name_any());
    seal_in_no_batch(record).is_some() && holds(incident) && concerns()
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn incident(sanction: &str, state: &str) -> Incident {
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "Incident", "metadata": {"name": "i"},
            "spec": {
                "offence": "InvalidResult", "subject": {"nodeName": "a", "providerId": 7}, "usageRecords": ["u-1-0-0"],
                "from": "2027-01-01T00:00:00Z", "to": "2027-01-01T00:00:00Z", "verdict": "Host",
                "evidenceHash": format!("0x{}", "1".repeat(64)), "summary": "s", "sanction": sanction, "chain": "anvil",
            },
            "status": {"state": state},
        }))
        .unwrap()
    }

    fn record(name: &str, verdict: Option<&str>, settlement: &serde_json::Value) -> UsageRecord {
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "UsageRecord", "metadata": {"name": name},
            "spec": {"job": {"namespace": "n", "name": "j", "uid": "u"}, "attempt": 1, "member": 0, "slice": 0,
                "podName": "j-1-0", "nodeName": "a", "gpuCount": 1},
            "status": {
                "sealed": {"startMs": 1, "endMs": 1001, "gpuMillis": 1000, "cause": "MemberEnded", "verdict": verdict,
                    "price": "2", "receiptHash": format!("0x{}", "0".repeat(64))},
                "settlement": settlement,
            },
        }))
        .unwrap()
    }

    #[test]
    fn what_is_in_no_batch_is_held_back_also_where_the_attempt_itself_went_well() {
        let open = incident("Hold", "InForce");
        for verdict in [None, Some("Host")] {
            let own = record("u-1-0-0", verdict, &json!(null));
            assert!(holds_back(&open, &own), "{verdict:?}");
            assert!(!holds_back(&incident("Warn", "InForce"), &own));
            assert!(!holds_back(&incident("Hold", "Closed"), &own));
        }
        assert!(!holds_back(&open, &record("other", None, &json!(null))));
        let batched = json!({"state": "Paid", "batch": "lane-1-1"});
        let paid = record("u-1-0-0", None, &batched);
        assert!(!holds_back(&open, &paid), "what is paid is not held back");
        let own = record("u-1-0-0", None, &json!(null));
        assert_eq!(held([&own, &paid]), TokenAmount::from_nano(2_000_000_000));
    }
}
