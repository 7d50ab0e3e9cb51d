//! What is billed for a slice. Pure, in integers.

use std::time::Duration;

use gridstake_crds::{
    TokenAmount, UsageRecord,
    compute_job::{Verdict, VerdictReason},
    gpu_node::AgentCertificate,
    usage_record::{Factors, SealCause},
};
use gridstake_ledger::billing::{self, Share, Span};
use k8s_openapi::jiff::Timestamp;

use super::{decide::Observed, evidence::Proof};

/// What a lane pays from its reward account for a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct EmissionTerms {
    /// For one GPU and one second at factors of 1000.
    pub per_gpu_second: TokenAmount,
    /// The node's factors.
    pub factors: Factors,
    /// The fee on what tenants pay, in ten-thousandths: an emission is never more than that of its slice.
    pub fee_bps: u16,
    /// What the reward account can still carry, in nano-tokens.
    pub available_nano: u128,
}

/// What is billed for a slice, before it has its number.
#[derive(Clone, Debug, PartialEq)]
pub struct Bill {
    /// The span.
    pub span: Span,
    /// GPU-milliseconds.
    pub gpu_millis: u64,
    /// Why the slice ended.
    pub cause: SealCause,
    /// At whose door the end is laid, and on what that rests.
    pub verdict: Option<(Verdict, VerdictReason)>,
    /// Energy, where it was measured.
    pub energy_millijoules: Option<u64>,
    /// What weighs the slice in emissions.
    pub factors: Option<Factors>,
    /// What the lane pays on top, in nano-tokens; never 0.
    pub emission_nano: Option<u64>,
    /// The head of the evidence.
    pub evidence_head: Option<String>,
    /// What was in force for the key that signed it.
    pub certificate: Option<AgentCertificate>,
}

impl Bill {
    /// Whether anything is owed for the slice of `record`.
    #[must_use]
    pub fn owes(&self, record: &UsageRecord) -> bool {
        record.spec.payment.is_some() && self.gpu_millis > 0
    }
}

/// Where a slice begins: where the one before it ended, else with the lease; `None` while the kubelet has not seen the
/// member start.
#[must_use]
pub fn start(from_ms: Option<u64>, kubelet: Option<Timestamp>, agent: Option<u64>) -> Option<u64> {
    from_ms.or_else(|| billing::lease_start(Some(unix_millis(kubelet?)), agent))
}

/// Where a slice ends that began at `began` and whose member the kubelet saw end.
#[must_use]
pub fn end(began: u64, kubelet: Timestamp, agent: Option<u64>) -> u64 {
    billing::lease_end(Some(unix_millis(kubelet)), agent)
        .unwrap_or(began)
        .max(began)
}

/// A time in Unix milliseconds, rounded down; 0 for one before 1970.
#[must_use]
pub fn unix_millis(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or(0)
}

/// The time of Unix milliseconds, if there is one.
#[must_use]
pub fn timestamp(unix_millis: u64) -> Option<Timestamp> {
    i64::try_from(unix_millis)
        .ok()
        .and_then(|millis| Timestamp::from_millisecond(millis).ok())
}

/// Whole milliseconds.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// GPU-milliseconds of a slice of a lease that began at `lease_start`: of the devices that the agent saw, else of as many
/// whole ones as were asked for. No more is billed than was asked for, whatever an agent states.
#[must_use]
pub fn gpu_millis(lease_start: u64, span: Span, gpus: u32, proof: Option<&Proof>) -> u64 {
    let gpus = usize::try_from(gpus).unwrap_or(usize::MAX);
    let shares = match proof.map(|p| p.shares.as_slice()) {
        Some(shares) if !shares.is_empty() => shares.get(..gpus).unwrap_or(shares).to_vec(),
        _ => vec![Share::WHOLE; gpus],
    };
    let unbridged = proof.map(|p| unbridged(span, p)).unwrap_or_default();
    billing::gpu_millis(lease_start, span, &unbridged, &shares)
}

/// The gaps within `span` that are not bridged, and what comes after a statement that is refused, so that none overlaps
/// another.
fn unbridged(span: Span, proof: &Proof) -> Vec<Span> {
    let mut gaps: Vec<Span> = proof
        .gaps
        .iter()
        .filter(|gap| !gap.bridged)
        .map(|gap| Span::new(gap.from_ms, gap.to_ms))
        .chain(proof.refused_from.map(|from| Span::new(from, u64::MAX)))
        .map(|gap| gap.within(span))
        .collect();
    gaps.sort_by_key(|gap| gap.from_ms);
    let mut reached = span.from_ms;
    for gap in &mut gaps {
        *gap = Span::new(gap.from_ms.max(reached), gap.to_ms);
        reached = reached.max(gap.to_ms);
    }
    gaps
}

/// The bill of a slice that covers `span`.
#[must_use]
pub fn bill(
    record: &UsageRecord,
    span: Span,
    cause: SealCause,
    verdict: Option<(Verdict, VerdictReason)>,
    seen: &Observed,
) -> Bill {
    let proof = seen.evidence.proof();
    let lease_start = seen.lease_start_ms.unwrap_or(span.from_ms);
    let gpu_millis = gpu_millis(lease_start, span, record.spec.gpu_count, proof);
    let emission = seen.emission.as_ref();
    Bill {
        span,
        gpu_millis,
        cause,
        verdict,
        energy_millijoules: proof.and_then(|p| p.energy_millijoules),
        factors: emission.map(|terms| terms.factors.clone()),
        emission_nano: emission.and_then(|terms| emission_nano(record, gpu_millis, terms)),
        evidence_head: proof.and_then(|p| p.head.clone()),
        certificate: seen.certificate.clone().filter(|_| proof.is_some()),
    }
}

/// What the lane pays on top, if there is anything and the reward account can carry it.
fn emission_nano(record: &UsageRecord, gpu_millis: u64, terms: &EmissionTerms) -> Option<u64> {
    let payment = record.spec.payment.as_ref()?;
    let weights = billing::EmissionTerms {
        nano_per_gpu_second: terms.per_gpu_second.nano(),
        performance_permille: terms.factors.performance_permille,
        stability_permille: terms.factors.stability_permille,
        fee_bps: terms.fee_bps,
    };
    billing::emission(gpu_millis, payment.per_gpu_second.nano(), weights)
        .ok()
        .filter(|amount| *amount > 0 && u128::from(*amount) <= terms.available_nano)
}
