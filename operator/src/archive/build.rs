//! A final batch and its records as a file of the archive. Pure.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256};
use gridstake_crds::{
    GpuNode, SettlementBatch, UsageRecord,
    closed_enum::ClosedEnum as _,
    usage_record::{self, Sealed},
};
use gridstake_ledger::{
    archive::{
        ArchivedBatch, ArchivedEntry, Background, BatchHead, Certificate, Content, DeviceUse,
        Evidence, Factors, Gap, Use,
    },
    batch::{self, Entry},
    checkpoint::{Counters, Device},
    merkle, signature,
};
use kube::ResourceExt as _;

use crate::controllers::usage_record::evidence;

/// Why a batch cannot be archived. It stays in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A field of the batch cannot be read.
    #[error("{field} of the batch cannot be read")]
    Broken {
        /// The field.
        field: &'static str,
    },
    /// No record in the cluster has the number.
    #[error("no UsageRecord in the cluster has the number {job_no}, which the batch pays")]
    Missing {
        /// The number.
        job_no: u64,
    },
    /// A record is not what was sealed.
    #[error("UsageRecord {name} does not hash to its receipt")]
    Receipt {
        /// The record.
        name: String,
    },
    /// The records are not those of the batch.
    #[error("the receipts of the records do not make up the batch's usage root")]
    Root,
}

/// What `batch` pays: the numbers, ascending.
pub fn entries(batch: &SettlementBatch) -> Result<Vec<Entry>, BuildError> {
    batch::decode(&batch.spec.data.0)
        .map(|content| content.entries)
        .map_err(|_| BuildError::Broken { field: "spec.data" })
}

/// The file of `batch`, whose entries are for `records`; `nodes` are those of which the records are, as far as they are
/// there, and `vault` is the contract that their certificates were signed for. A batch that was taken over from the chain does not
/// say on which head of the log of decisions it rests: it is the one of `heads` that fits.
pub fn archived(
    batch: &SettlementBatch,
    records: &[UsageRecord],
    nodes: &[GpuNode],
    vault: Address,
    heads: &[B256],
) -> Result<ArchivedBatch, BuildError> {
    let hash = |field, text: &str| text.parse().map_err(|_| BuildError::Broken { field });
    let spec = &batch.spec;
    let mut head = BatchHead {
        chain_id: spec.chain_id,
        contract: spec.contract.parse().map_err(|_| BuildError::Broken {
            field: "spec.contract",
        })?,
        lane: spec.lane,
        sequence: spec.sequence,
        previous: hash("spec.previous", &spec.previous)?,
        usage_root: hash("spec.usageRoot", &spec.usage_root)?,
        data: spec.data.0.clone(),
        decision_head: hash("spec.decisionHead", &spec.decision_head)?,
    };
    let mut owners = BTreeMap::new();
    for record in records {
        let Some(sealed) = record.status.as_ref().and_then(|s| s.sealed.as_ref()) else {
            continue;
        };
        owners.extend(sealed.job_no.map(|number| (number, (record, sealed))));
        let emission = sealed.emission.as_ref();
        owners.extend(emission.map(|emission| (emission.job_no, (record, sealed))));
    }
    let mut archived = Vec::new();
    for entry in entries(batch)? {
        let job_no = entry.job_no;
        let (record, sealed) = owners.get(&job_no).ok_or(BuildError::Missing { job_no })?;
        archived.push(if sealed.job_no == Some(job_no) {
            used(spec.lane, entry, record, sealed)?
        } else {
            emission(spec.lane, entry, record, sealed)?
        });
    }
    let leaves: Vec<B256> = archived.iter().map(|entry| entry.leaf).collect();
    let fits = |known: &B256| merkle::usage_root(&leaves, *known) == head.usage_root;
    let mut known = std::iter::once(head.decision_head).chain(heads.iter().copied());
    head.decision_head = known.find(fits).ok_or(BuildError::Root)?;
    Ok(ArchivedBatch {
        certificates: certificates(records, nodes, vault),
        head,
        entries: archived,
    })
}

fn receipt(record: &UsageRecord, sealed: &Sealed) -> Result<B256, BuildError> {
    sealed
        .receipt_hash
        .parse()
        .map_err(|_| BuildError::Receipt {
            name: record.name_any(),
        })
}

fn emission(
    lane: u32,
    entry: Entry,
    record: &UsageRecord,
    sealed: &Sealed,
) -> Result<ArchivedEntry, BuildError> {
    let mut archived = ArchivedEntry {
        entry,
        leaf: B256::ZERO,
        content: Content::Emission {
            usage_leaf: receipt(record, sealed)?,
        },
    };
    archived.leaf = archived.computed_leaf(lane);
    Ok(archived)
}

fn used(
    lane: u32,
    entry: Entry,
    record: &UsageRecord,
    sealed: &Sealed,
) -> Result<ArchivedEntry, BuildError> {
    let leaf = receipt(record, sealed)?;
    let evidence = record.status.as_ref().and_then(|s| s.evidence.as_ref());
    let evidence_head = sealed.evidence_head.as_deref();
    let used = Use {
        record: record.name_any(),
        pod_uid: evidence.map_or_else(String::new, |evidence| evidence.pod_uid.clone()),
        node: record.spec.node_name.clone(),
        start_ms: sealed.start_ms,
        end_ms: sealed.end_ms,
        gpu_millis: sealed.gpu_millis,
        cause: sealed.cause.as_str().to_owned(),
        verdict: sealed
            .verdict
            .map_or_else(String::new, |verdict| verdict.as_str().to_owned()),
        evidence_head: evidence_head
            .and_then(|head| head.parse().ok())
            .unwrap_or_default(),
        evidence: evidence.and_then(stated),
        background: background(record, sealed),
    };
    let with_pod = |pod_uid: String| ArchivedEntry {
        entry,
        leaf,
        content: Content::Use(Box::new(Use {
            pod_uid,
            ..used.clone()
        })),
    };
    // The agent may have told of the pod only after the slice was sealed.
    [used.pod_uid.clone(), String::new()]
        .into_iter()
        .map(with_pod)
        .find(|archived| archived.computed_leaf(lane) == leaf)
        .ok_or_else(|| BuildError::Receipt {
            name: record.name_any(),
        })
}

fn background(record: &UsageRecord, sealed: &Sealed) -> Background {
    let spec = &record.spec;
    Background {
        namespace: spec.job.namespace.clone(),
        job: spec.job.name.clone(),
        pod: spec.pod_name.clone(),
        gpus: spec.gpu_count,
        energy_millijoules: sealed.energy_millijoules,
        factors: sealed.factors.as_ref().map(|factors| Factors {
            performance_permille: factors.performance_permille,
            stability_permille: factors.stability_permille,
            reference: factors.reference.clone(),
        }),
    }
}

/// What the agent stated; `None` if a hash, signature or address of it cannot be read, so that it proves nothing.
fn stated(stated: &usage_record::Evidence) -> Option<Evidence> {
    let checkpoints = stated
        .checkpoints
        .iter()
        .map(evidence::signed)
        .collect::<Result<Vec<_>, _>>()
        .ok()?;
    Some(Evidence {
        pod_uid: stated.pod_uid.clone(),
        key: stated.key.parse().ok()?,
        devices: stated
            .devices
            .iter()
            .map(|device| DeviceUse {
                device: Device {
                    uuid: device.uuid.clone(),
                    parent_uuid: device.parent_uuid.clone().unwrap_or_default(),
                    share: device
                        .share_numerator
                        .zip(device.share_denominator)
                        .unwrap_or((1, 1)),
                },
                counters: device.counters.map(counters).unwrap_or_default(),
            })
            .collect(),
        checkpoints,
        started_ms: stated.started_ms,
        ended_ms: stated.ended_ms,
        gaps: stated
            .gaps
            .iter()
            .map(|gap| Gap {
                from_ms: gap.from_ms,
                to_ms: gap.to_ms,
                reason: gap.reason.as_str().to_owned(),
                bridged: gap.bridged,
            })
            .collect(),
        foreign_processes: stated.foreign_processes,
    })
}

fn counters(counters: usage_record::Counters) -> Counters {
    Counters {
        busy_millis: counters.busy_millis,
        memory_mib_seconds: counters.memory_mib_seconds,
        energy_millijoules: counters.energy_millijoules,
        peak_processes: counters.peak_processes,
        samples: counters.samples,
    }
}

/// The certificates of the keys that signed the records' evidence: as they were in force when the slices were sealed, for a node may be
/// another provider's by now; of slices that a former version sealed, as they stand now.
fn certificates(records: &[UsageRecord], nodes: &[GpuNode], vault: Address) -> Vec<Certificate> {
    let mut found = BTreeMap::new();
    for record in records {
        let Some(payment) = &record.spec.payment else {
            continue;
        };
        let evidence = record.status.as_ref().and_then(|s| s.evidence.as_ref());
        let node = nodes
            .iter()
            .find(|node| node.name_any() == record.spec.node_name);
        let sealed = record.status.as_ref().and_then(|s| s.sealed.as_ref());
        let certificate = sealed
            .and_then(|sealed| sealed.certificate.as_ref())
            .or_else(|| node?.spec.agent_certificate.as_ref());
        let (Some(evidence), Some(certificate)) = (evidence, certificate) else {
            continue;
        };
        if !certificate.key.eq_ignore_ascii_case(&evidence.key) {
            continue;
        }
        let (Ok(key), Ok(signature)) = (
            certificate.key.parse::<Address>(),
            signature::parse(&certificate.signature),
        ) else {
            continue;
        };
        let node = record.spec.node_name.clone();
        found.insert(
            (payment.provider, node.clone(), key),
            Certificate {
                provider: payment.provider,
                node,
                key,
                epoch: certificate.epoch,
                not_after: u64::try_from(certificate.not_after.0.as_second()).unwrap_or(0),
                vault,
                signature,
            },
        );
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use gridstake_crds::SettlementBatchSpec;
    use serde_json::json;

    use super::*;
    use crate::controllers::usage_record::receipt;

    fn record() -> UsageRecord {
        let mut record: UsageRecord = serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1",
            "kind": "UsageRecord",
            "metadata": {"name": "u-1-0-0"},
            "spec": {
                "job": {"namespace": "a", "name": "j", "uid": "u"},
                "attempt": 1, "member": 0, "slice": 0, "podName": "j-1-0", "nodeName": "n1", "gpuCount": 1,
                "payment": {"chain": "anvil", "lane": 7, "payer": 3, "provider": 9, "perGpuSecond": "0.00072"},
            },
            "status": {"conditions": [], "sealed": {
                "jobNo": 256, "startMs": 1000, "endMs": 2500, "gpuMillis": 1500, "price": "0.00072",
                "cause": "IntervalElapsed", "receiptHash": "",
            }},
        }))
        .unwrap();
        let mut sealed = record.status.as_ref().unwrap().sealed.clone().unwrap();
        sealed.receipt_hash = receipt::hash(&record, &sealed).unwrap();
        record.status.as_mut().unwrap().sealed = Some(sealed);
        record
    }

    #[test]
    fn a_node_that_is_another_providers_by_now_is_archived_with_the_certificate_of_its_time() {
        let key = Address::repeat_byte(5).to_string();
        let certificate = |byte: &str| {
            let signature = format!("0x{}1b", byte.repeat(64));
            json!({"key": key, "epoch": 0, "notAfter": "2027-12-31T00:00:00Z", "signature": signature})
        };
        let node: GpuNode = serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": "n1"},
            "spec": {"agentCertificate": certificate("22")},
        }))
        .unwrap();
        let archived = |sealed_with: Option<&str>| {
            let mut record = record();
            let status = record.status.as_mut().unwrap();
            status.evidence = Some(
                serde_json::from_value(
                    json!({"podUid": "p", "key": key, "devices": [], "checkpoints": []}),
                )
                .unwrap(),
            );
            let sealed = status.sealed.as_mut().unwrap();
            sealed.certificate =
                sealed_with.map(|byte| serde_json::from_value(certificate(byte)).unwrap());
            let nodes = std::slice::from_ref(&node);
            let found = certificates(&[record], nodes, Address::ZERO);
            found.first().map(|found| found.signature)
        };
        let signature = |byte: &str| signature::parse(&format!("0x{}1b", byte.repeat(64))).ok();
        assert_eq!(archived(Some("11")), signature("11"));
        assert_eq!(
            archived(None),
            signature("22"),
            "a former version kept none"
        );
    }

    /// The batch that pays `record` on top of the head `rests_on`, and says that it rests on `says`.
    fn batch_of(record: &UsageRecord, rests_on: B256, says: B256) -> SettlementBatch {
        let sealed = record.status.as_ref().unwrap().sealed.as_ref().unwrap();
        let leaf: B256 = sealed.receipt_hash.parse().unwrap();
        let entry = Entry {
            job_no: 256,
            payer: 3,
            provider: 9,
            price: 720_000_000_000,
            units: 1500,
        };
        let spec: SettlementBatchSpec = serde_json::from_value(json!({
            "chain": "anvil", "chainId": 31337, "contract": Address::ZERO.to_string(), "lane": 7, "sequence": 1,
            "previous": B256::ZERO.to_string(),
            "usageRoot": merkle::usage_root(&[leaf], rests_on).to_string(),
            "decisionHead": says.to_string(),
            "data": k8s_openapi::ByteString(batch::encode(&[entry], &[]).unwrap()),
            "dataHash": "", "chainHash": "", "recordCount": 1, "groupCount": 1, "firstJobNo": 256, "lastJobNo": 256,
            "total": "0.00108",
        }))
        .unwrap();
        SettlementBatch::new("lane-7-1", spec)
    }

    #[test]
    fn a_batch_that_was_taken_over_rests_on_the_head_that_makes_up_its_root() {
        let record = record();
        let [ours, other] = [3, 4].map(B256::repeat_byte);
        let archived = |says, heads: &[B256]| {
            let batch = batch_of(&record, ours, says);
            let records = std::slice::from_ref(&record);
            archived(&batch, records, &[], Address::ZERO, heads)
                .map(|archived| archived.head.decision_head)
        };
        assert_eq!(archived(ours, &[]), Ok(ours));
        assert_eq!(archived(B256::ZERO, &[other, ours, other]), Ok(ours));
        assert_eq!(archived(B256::ZERO, &[other]), Err(BuildError::Root));
        assert_eq!(archived(B256::ZERO, &[]), Err(BuildError::Root));
    }
}
