//! What a sealed UsageRecord says about the GPUs that it was on. Pure.

use std::collections::BTreeMap;

use alloy::primitives::keccak256;
use gridstake_crds::{
    UsageRecord,
    compute_job::Verdict,
    condition,
    usage_record::{DeviceUse, SealCause, Sealed, UsageRecordCondition},
};
use kube::ResourceExt as _;

use super::{
    history::Day,
    key::{GpuKey, Owner},
};
use crate::chain::Chains;

/// What a record says about one GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// GPU-milliseconds that it served without a fault of its host.
    pub served_millis: u64,
    /// How the attempt ended on it, if this record says so.
    pub ended: Day,
}

/// What a record says about its GPUs, and when it was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Stands for its name: its hash.
    pub id: u64,
    /// When it was sealed, in Unix seconds, by the clock of the operator that sealed it. It never changes.
    pub sealed_at: u64,
    /// What it says.
    pub credits: BTreeMap<GpuKey, Credit>,
}

/// What `record` says; `None` while it is not sealed, or if it says nothing.
///
/// * Time that a host's fault ended counts as nothing, and the attempt as a fault.
/// * A member that ended by itself, well or by its tenant's fault, is an attempt that ended well. What was nobody's fault, or was
///   not seen to end, is neither.
/// * Of a record with a statement that was refused nothing counts for the provider.
/// * The GPUs are those that the evidence names, MIG instances by the GPU that they are part of, each with its share of the time.
///   Where it names none, a host's fault counts against all GPUs of the node: `shown` says which those are.
#[must_use]
pub fn counted<'a>(
    record: &UsageRecord,
    chains: &Chains,
    shown: impl FnOnce(&str) -> Vec<&'a str>,
) -> Option<Counted> {
    let status = record.status.as_ref()?;
    let sealed = status.sealed.as_ref()?;
    let condition = condition::find(&status.conditions, UsageRecordCondition::Sealed)?;
    let sealed_at = u64::try_from(condition.last_transition_time.0.as_second()).ok()?;
    let payment = record.spec.payment.as_ref();
    let owner = Owner::find(
        chains,
        payment.map(|payment| payment.chain.as_str()),
        payment.map(|payment| payment.provider),
    )?;
    let ended = ended(sealed, status.refused.is_some());
    let serves = sealed.verdict != Some(Verdict::Host) && status.refused.is_none();
    let devices = status.evidence.iter().flat_map(|e| &e.devices);
    let mut credits = BTreeMap::new();
    for (uuid, served_millis) in shares(devices, sealed.gpu_millis) {
        let Some(key) = GpuKey::new(owner, uuid) else {
            continue;
        };
        let credit = Credit {
            served_millis: if serves { served_millis } else { 0 },
            ended,
        };
        credits.insert(key, credit);
    }
    if credits.is_empty() && ended.faults > 0 {
        let keys = shown(&record.spec.node_name);
        let keys = keys.into_iter().filter_map(|uuid| GpuKey::new(owner, uuid));
        let fault = Credit {
            served_millis: 0,
            ended,
        };
        credits.extend(keys.map(|key| (key, fault)));
    }
    credits.retain(|_, credit| *credit != Credit::default());
    (!credits.is_empty()).then(|| Counted {
        id: id(&record.name_any()),
        sealed_at,
        credits,
    })
}

/// How the attempt ended, if the record says so.
fn ended(sealed: &Sealed, is_refused: bool) -> Day {
    let well = Day {
        well: 1,
        ..Day::default()
    };
    let fault = Day {
        faults: 1,
        ..Day::default()
    };
    match (sealed.verdict, sealed.cause) {
        (Some(Verdict::Host), _) => fault,
        (None | Some(Verdict::Tenant), SealCause::MemberEnded) if !is_refused => well,
        _ => Day::default(),
    }
}

/// What each physical GPU has of `gpu_millis`, by the shares of it that were given out. Where all GPUs have alike nothing is lost
/// to rounding: the sum of the slices of a lease is what the lease as a whole is.
fn shares<'a>(
    devices: impl Iterator<Item = &'a DeviceUse> + Clone,
    gpu_millis: u64,
) -> BTreeMap<&'a str, u64> {
    let share = |device: &DeviceUse| {
        let share = device.share_numerator.zip(device.share_denominator);
        let (numerator, denominator) = share.unwrap_or((1, 1));
        (u128::from(numerator), u128::from(denominator.max(1)))
    };
    let mut denominators = devices.clone().map(|device| share(device).1);
    let first = denominators.next().unwrap_or(1);
    // Sevenths among themselves are exact.
    let unit = if denominators.all(|other| other == first) {
        first
    } else {
        1 << 32
    };
    let mut parts: BTreeMap<&str, u128> = BTreeMap::new();
    for device in devices {
        let (numerator, denominator) = share(device);
        *parts.entry(device.physical()).or_default() += numerator * unit / denominator;
    }
    let all = parts.values().sum::<u128>().max(1);
    parts
        .into_iter()
        .map(|(uuid, part)| {
            let millis = u128::from(gpu_millis) * part / all;
            (uuid, u64::try_from(millis).unwrap_or(u64::MAX))
        })
        .collect()
}

/// Stands for the record of this name.
fn id(name: &str) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&keccak256(name)[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
pub(super) mod fixtures {
    //! Records for tests of other modules.

    use super::*;

    /// A record of this name that was sealed at `sealed_at` and says this about these GPUs.
    pub(in crate::reputation) fn said(
        name: &str,
        sealed_at: u64,
        credits: &[(GpuKey, Credit)],
    ) -> Counted {
        Counted {
            id: id(name),
            sealed_at,
            credits: credits.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn record(payment: &Value, devices: &Value, sealed: &Value, refused: &Value) -> UsageRecord {
        let mut whole = json!({"startMs": 0, "endMs": 60_000, "gpuMillis": 120_000, "cause": "MemberEnded",
            "receiptHash": format!("0x{}", "0".repeat(64))});
        whole
            .as_object_mut()
            .unwrap()
            .extend(sealed.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "UsageRecord", "metadata": {"name": "u-1-0-0"},
            "spec": {"job": {"namespace": "n", "name": "j", "uid": "u"}, "attempt": 1, "member": 0, "slice": 0,
                "podName": "j-1-0", "nodeName": "a", "gpuCount": 2, "payment": payment},
            "status": {
                "evidence": {"podUid": "p", "key": "0x52908400098527886E0F7030069857D2E4169EE7", "devices": devices},
                "sealed": whole, "refused": refused,
                "conditions": [{"type": "Sealed", "status": "True", "reason": "Sealed", "message": "",
                    "lastTransitionTime": "2027-01-01T00:00:00Z"}],
            },
        }))
        .unwrap()
    }

    fn free() -> Chains {
        Chains::new(vec![])
    }

    fn said(record: &UsageRecord) -> Vec<(String, u64, u32, u32)> {
        let found = counted(record, &free(), |node| {
            assert_eq!(node, "a");
            vec!["GPU-8", "GPU-9"]
        });
        found
            .map(|found| found.credits)
            .unwrap_or_default()
            .into_iter()
            .map(|(key, credit)| {
                let Credit {
                    served_millis,
                    ended,
                } = credit;
                (key.uuid, served_millis, ended.well, ended.faults)
            })
            .collect()
    }

    fn two() -> Value {
        json!([{"uuid": "GPU-1"}, {"uuid": "GPU-2"}])
    }

    #[test]
    fn who_ended_an_attempt_decides_what_its_time_counts() {
        let nothing: &[(u64, u32, u32)] = &[];
        for (sealed, expected) in [
            (json!({}), &[(60_000, 1, 0); 2][..]),
            (
                json!({"verdict": "Tenant", "verdictReason": "ProgramExit"}),
                &[(60_000, 1, 0); 2],
            ),
            (
                json!({"verdict": "Host", "verdictReason": "GpuLost"}),
                &[(0, 0, 1); 2],
            ),
            (
                json!({"verdict": "Infrastructure", "verdictReason": "NodeLost"}),
                &[(60_000, 0, 0); 2],
            ),
            (
                json!({"verdict": "Ambiguous", "verdictReason": "NotWatched"}),
                &[(60_000, 0, 0); 2],
            ),
            (json!({"cause": "IntervalElapsed"}), &[(60_000, 0, 0); 2]),
            (json!({"cause": "EvidenceEnded"}), &[(60_000, 0, 0); 2]),
            (json!({"cause": "NeverStarted", "gpuMillis": 0}), nothing),
        ] {
            let found: Vec<_> = said(&record(&Value::Null, &two(), &sealed, &Value::Null))
                .into_iter()
                .map(|(_, served, well, faults)| (served, well, faults))
                .collect();
            assert_eq!(found, expected, "{sealed}");
        }
    }

    #[test]
    fn shares_and_instances_count_for_the_gpu_that_they_are_part_of() {
        let devices = json!([
            {"uuid": "MIG-1", "parentUuid": "GPU-1", "shareNumerator": 1, "shareDenominator": 7},
            {"uuid": "MIG-2", "parentUuid": "GPU-1", "shareNumerator": 2, "shareDenominator": 7},
            {"uuid": "MIG-3", "parentUuid": "GPU-2", "shareNumerator": 1, "shareDenominator": 7},
        ]);
        let sealed = json!({"gpuMillis": 40_000});
        let found = said(&record(&Value::Null, &devices, &sealed, &Value::Null));
        let times: Vec<_> = found
            .iter()
            .map(|(uuid, served, ..)| (uuid.as_str(), *served))
            .collect();
        assert_eq!(times, [("GPU-1", 30_000), ("GPU-2", 10_000)]);
    }

    #[test]
    fn without_evidence_nothing_is_earned_and_a_fault_of_the_host_counts_against_the_whole_node() {
        let host = json!({"cause": "NeverStarted", "gpuMillis": 0, "verdict": "Host", "verdictReason": "AdmissionRefused"});
        let none = json!([]);
        let found = said(&record(&Value::Null, &none, &host, &Value::Null));
        assert_eq!(
            found,
            [("GPU-8".into(), 0, 0, 1), ("GPU-9".into(), 0, 0, 1)]
        );
        let well = record(&Value::Null, &none, &json!({}), &Value::Null);
        assert_eq!(counted(&well, &free(), |_| vec!["GPU-8"]), None);
    }

    #[test]
    fn of_a_record_with_a_refused_statement_nothing_counts_for_the_provider() {
        let refused = json!({"reason": "Overlap", "epoch": 1, "seq": 4});
        let found = record(&Value::Null, &two(), &json!({}), &refused);
        assert_eq!(said(&found), []);
    }

    #[test]
    fn it_counts_for_the_provider_that_was_paid_and_not_for_whoever_has_the_node_now() {
        let chains = Chains::new(vec![crate::chain::fixtures::config()]);
        let payment = |chain: &str| json!({"chain": chain, "lane": 7, "payer": 3, "provider": 9, "perGpuSecond": "0.1"});
        let of = |payment: &Value| {
            let record = record(payment, &two(), &json!({}), &Value::Null);
            counted(&record, &chains, |_| vec![])
        };
        let found = of(&payment("anvil")).unwrap();
        let owner = Owner::find(&chains, Some("anvil"), Some(9)).unwrap();
        assert!(found.credits.keys().all(|key| key.owner == owner));
        assert_eq!(found.sealed_at, 1_798_761_600);
        assert_eq!(of(&payment("gone")), None);
        assert_eq!(of(&Value::Null), None);
    }

    #[test]
    fn what_is_not_sealed_says_nothing() {
        let mut open = record(&Value::Null, &two(), &json!({}), &Value::Null);
        open.status.as_mut().unwrap().sealed = None;
        assert_eq!(counted(&open, &free(), |_| vec![]), None);
    }

    proptest! {
        #[test]
        fn a_lease_that_is_cut_into_slices_counts_as_much_as_one_that_is_not(
            slices in prop::collection::vec(0_u64..10_000_000, 1..20), gpus in 1_u64..9,
        ) {
            let devices: Vec<Value> = (0..gpus).map(|gpu| json!({"uuid": format!("GPU-{gpu}")})).collect();
            let served = |millis: u64| -> u64 {
                let sealed = json!({"gpuMillis": millis * gpus, "cause": "IntervalElapsed"});
                let record = record(&Value::Null, &devices.clone().into(), &sealed, &Value::Null);
                said(&record).first().map_or(0, |(_, served, ..)| *served)
            };
            let pieces: u64 = slices.iter().map(|slice| served(*slice)).sum();
            prop_assert_eq!(pieces, served(slices.iter().sum()));
        }
    }
}
