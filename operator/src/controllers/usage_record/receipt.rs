//! The receipt of a sealed slice: what a provider or payer can later prove to have been under a batch's root. Pure.

use gridstake_crds::{UsageRecord, closed_enum::ClosedEnum as _, usage_record::Sealed};
use gridstake_ledger::{
    amount::{AmountError, price_on_wire},
    receipt::{Receipt, RecordContent},
};
use kube::ResourceExt as _;

/// The hash under which `sealed` can be proved: the leaf of its receipt, or, where nothing is owed, the hash of the
/// record alone.
pub fn hash(record: &UsageRecord, sealed: &Sealed) -> Result<String, AmountError> {
    let evidence = record.status.as_ref().and_then(|s| s.evidence.as_ref());
    let head = sealed.evidence_head.as_deref();
    let content = RecordContent {
        record: &record.name_any(),
        pod_uid: evidence.map_or("", |evidence| &evidence.pod_uid),
        node: &record.spec.node_name,
        start_ms: sealed.start_ms,
        end_ms: sealed.end_ms,
        gpu_millis: sealed.gpu_millis,
        cause: sealed.cause.as_str(),
        verdict: sealed.verdict.map_or("", |verdict| verdict.as_str()),
        evidence_head: head.and_then(|head| head.parse().ok()).unwrap_or_default(),
    };
    let record_hash = content.hash();
    let (Some(payment), Some(job_no)) = (&record.spec.payment, sealed.job_no) else {
        return Ok(record_hash.to_string());
    };
    let receipt = Receipt {
        lane: payment.lane,
        job_no,
        payer: payment.payer,
        provider: payment.provider,
        units: sealed.gpu_millis,
        price: price_on_wire(payment.per_gpu_second.nano())?,
        record_hash,
    };
    Ok(receipt.leaf().to_string())
}
