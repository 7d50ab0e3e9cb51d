//! What is known about a record's member, its node's agent and the lane. Reads only.

use std::{sync::Arc, time::Duration};

use gridstake_crds::{
    Incident, UsageRecord,
    compute_job::{Verdict, VerdictReason},
    gpu_node::AgentCertificate,
    names::{ANNOTATION_EVIDENCE_HEADS, LABEL_ATTEMPT, LABEL_JOB_UID, LABEL_MEMBER, usage_record},
    usage_record::{Evidence, Factors},
};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::ResourceExt as _;
use serde::Deserialize;

use super::{
    bill::{EmissionTerms, unix_millis},
    conditions::{ArchiveFact, Hold},
    decide::{Observed, PodSeen},
    evidence::{self, Judgement, KeyStanding, Surroundings},
    performance::{self, CONFIGURED},
    remembered::{self, Remembered},
};
use crate::{
    caches::{Guarded, parsed},
    chain::{Account, Chain, Standing},
    context::Context,
    controllers::{
        compute_job::{member::Member, observe::node_of},
        incident::hold,
        verification_group,
    },
    leader::Lapse,
    payer::accounts::owed_emissions,
    reputation::stability,
    settlement::{Lane, doubt::Doubts, lapse},
};

/// A stability without a blemish, in thousandths.
const STABLE: u32 = 1000;

/// Looks around `record`.
#[must_use]
pub fn observe(ctx: &Context, record: &UsageRecord) -> Observed {
    let now = (ctx.now)();
    let spec = &record.spec;
    let next = usage_record(
        &spec.job.uid,
        spec.attempt,
        spec.member,
        spec.slice.saturating_add(1),
    );
    let pod = pod(ctx, record, now);
    let lane = ctx.lanes.of(record);
    // Read after it is known that the lease was renewed since: that tells of a lapse first.
    let is_confirmed = ctx.leadership.is_renewed_since(ctx.caches.listed_at());
    let lapse = ctx.leadership.lapse();
    let (hold, remembered) = match lane {
        None => (None, None),
        Some(_) if !is_confirmed => (Some(Hold::LogNotCompared), None),
        Some(lane) => in_doubt(lane, lapse, record, now),
    };
    let stage = attempt_stage(ctx, record);
    let evidence = judgement(ctx, record, pod.as_ref());
    Observed {
        certificate: matches!(evidence, Judgement::Valid(_))
            .then(|| certificate(ctx, record))
            .flatten(),
        attempt_ends: stage != AttemptStage::GoesOn,
        attempt_is_over: stage == AttemptStage::IsOver,
        verdict: verdict(ctx, record),
        evidence,
        pod,
        lease_start_ms: lease_start(ctx, record),
        heard_of: ctx.caches.last_heartbeat(&spec.node_name),
        next_exists: ctx.caches.usage_record(&next).is_some(),
        interval: interval(ctx, lane),
        emission: lane
            .filter(|_| is_open(record))
            .and_then(|lane| emission(ctx, lane.chain(), record)),
        hold,
        remembered,
        archive: archive(ctx, record),
        held_by: held_by(ctx, record, now),
    }
}

/// After which time a slice on `lane` is sealed. One for which nobody pays goes by the first chain, where there is one.
fn interval(ctx: &Context, lane: Option<&Lane>) -> Duration {
    lane.map(Lane::chain)
        .or_else(|| ctx.chains.default_chain())
        .map_or(ctx.settlement_interval, |chain| chain.config().interval)
}

/// What holds the payment of a sealed record back.
fn held_by(ctx: &Context, record: &UsageRecord, now: Timestamp) -> Option<String> {
    let holds = |found: &Guarded<Incident>| {
        let incident = found.0.as_ref();
        incident.is_ok_and(|incident| hold::holds_back(incident, record))
    };
    let incident = ctx.caches.incidents.find(holds);
    if let Some(incident) = incident {
        return Some(format!("by Incident {}", incident.name_any()));
    }
    let compared = verification_group::undecided_result(&ctx.caches, record, now)?;
    Some(format!(
        "until it is known whether the result of ComputeJob {compared} is right, or for a day"
    ))
}

/// What is known of the archive of the record's lane. Without a chain nothing is settled, and nothing archived.
fn archive(ctx: &Context, record: &UsageRecord) -> ArchiveFact {
    match &ctx.archive {
        None => ArchiveFact::None,
        Some(_) if ctx.lanes.is_empty() => ArchiveFact::NothingOwed,
        Some(archive) => ctx
            .lanes
            .of(record)
            .and_then(|lane| archive.unavailable(lane.chain().name()))
            .map_or(ArchiveFact::Open, ArchiveFact::Unavailable),
    }
}

/// Why no number can be given out for the slice, and the seal that the agent remembers, if the chain has paid it. `lapse` is the
/// newest one of which the leader's lease tells.
#[must_use]
pub fn in_doubt(
    lane: &Lane,
    lapse: Option<Lapse>,
    record: &UsageRecord,
    now: Timestamp,
) -> (Option<Hold>, Option<Remembered>) {
    let is_noted = |doubts: &Arc<Doubts>| {
        lapse.is_none_or(|lapse| lapse::until_ms(lapse) <= doubts.lapse.until_ms)
    };
    let Some(doubts) = lane.doubts().filter(is_noted) else {
        return (Some(Hold::LogNotCompared), None);
    };
    let lost_before = doubts.lapse.holds_before();
    let number = lane.chain().config().lane;
    if !is_open(record) {
        return (None, None);
    }
    let Some(doubt) = doubts.about(record, number) else {
        let may_be_lost = || lost_before.map(|until_ms| Hold::MayBeLost { until_ms });
        return (may_be_mined(lane, record, now).or_else(may_be_lost), None);
    };
    let checked = remembered::check(record, &doubts, number);
    let hold = Hold::InDoubt {
        count: doubt.numbers.len(),
        until_ms: doubt.until_ms.max(lost_before.unwrap_or(0)),
        differs: checked
            .as_ref()
            .and_then(|checked| checked.as_ref().err().copied()),
    };
    (Some(hold), checked.and_then(Result::ok))
}

/// Whether a batch may still be mined that pays `record`, of which the cluster knows nothing: its agent remembers a seal with
/// a number, so the API server was restored from a backup.
fn may_be_mined(lane: &Lane, record: &UsageRecord, now: Timestamp) -> Option<Hold> {
    let evidence = record.status.as_ref()?.evidence.as_ref()?;
    evidence.sealed.as_ref()?.job_no?;
    let over = match lane.chain().standing(now) {
        Standing::InForce(view) => lane.is_past_signatures(&record.name_any(), &view),
        Standing::Unavailable(_) | Standing::Mismatch(_) => false,
    };
    (!over).then_some(Hold::MayBeMined)
}

/// When the lease began, by the seal of its first slice.
fn lease_start(ctx: &Context, record: &UsageRecord) -> Option<u64> {
    let spec = &record.spec;
    let first = usage_record(&spec.job.uid, spec.attempt, spec.member, 0);
    let first = ctx.caches.usage_record(&first)?;
    let sealed = first.0.as_ref().ok()?.status.as_ref()?.sealed.as_ref()?;
    Some(sealed.start_ms)
}

fn is_open(record: &UsageRecord) -> bool {
    record.status.as_ref().is_none_or(|s| s.sealed.is_none())
}

/// The member's pod. A namesake of another job, attempt or member is none.
fn pod(ctx: &Context, record: &UsageRecord, now: Timestamp) -> Option<PodSeen> {
    let spec = &record.spec;
    let pod = ctx.caches.job_pod(&spec.job.namespace, &spec.pod_name)?;
    let is = |label: &str, value: &str| pod.labels().get(label).is_some_and(|found| found == value);
    let ours = is(LABEL_JOB_UID, &spec.job.uid)
        && is(LABEL_ATTEMPT, &spec.attempt.to_string())
        && is(LABEL_MEMBER, &spec.member.to_string());
    ours.then(|| seen(ctx, &pod, now)).flatten()
}

fn seen(ctx: &Context, pod: &Pod, now: Timestamp) -> Option<PodSeen> {
    Some(PodSeen {
        uid: pod.uid().unwrap_or_default(),
        member: Member::read(pod, node_of(ctx, pod, now))?,
    })
}

/// How far the attempt of a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AttemptStage {
    GoesOn,
    /// Its end is decided and not yet recorded.
    Ends,
    IsOver,
}

/// The verdict on the end of the record's member, or of its attempt, where that applies to the member.
fn verdict(ctx: &Context, record: &UsageRecord) -> Option<(Verdict, VerdictReason)> {
    let spec = &record.spec;
    let found = ctx
        .caches
        .compute_job(&spec.job.namespace, &spec.job.name)?;
    let job = found.0.as_ref().ok()?;
    if job.uid().as_deref() != Some(&spec.job.uid) {
        return None;
    }
    let status = job.status.as_ref()?;
    if let Some(lost) = status.replaced(spec.attempt, spec.member) {
        return lost.verdict.zip(lost.verdict_reason);
    }
    let attempts = &status.attempts;
    let attempt = attempts
        .iter()
        .find(|attempt| attempt.attempt == spec.attempt)?;
    attempt
        .verdict_members
        .contains(&spec.member)
        .then(|| attempt.verdict.zip(attempt.verdict_reason))
        .flatten()
}

fn attempt_stage(ctx: &Context, record: &UsageRecord) -> AttemptStage {
    let spec = &record.spec;
    let job = ctx
        .caches
        .compute_jobs
        .get(&kube::runtime::reflector::ObjectRef::new(&spec.job.name).within(&spec.job.namespace));
    let Some(job) = job else {
        return AttemptStage::IsOver;
    };
    // What cannot be read says nothing about its attempts.
    let Ok(job) = &job.0 else {
        return AttemptStage::GoesOn;
    };
    if job.uid().as_deref() != Some(&spec.job.uid) {
        return AttemptStage::IsOver;
    }
    let Some(status) = &job.status else {
        return AttemptStage::GoesOn;
    };
    let active = status.active_placement().map(|p| p.attempt);
    let placed = status.placement.as_ref().map(|p| p.attempt);
    let ends = status
        .ending
        .as_ref()
        .is_some_and(|ending| ending.attempt == spec.attempt);
    // A cache that does not show the placement yet is behind the record.
    let is_given_up = status.replaced(spec.attempt, spec.member).is_some();
    let is_past = placed.is_some_and(|placed| placed >= spec.attempt);
    if is_given_up || (is_past && active != Some(spec.attempt)) {
        AttemptStage::IsOver
    } else if ends {
        AttemptStage::Ends
    } else {
        AttemptStage::GoesOn
    }
}

fn judgement(ctx: &Context, record: &UsageRecord, pod: Option<&PodSeen>) -> Judgement {
    let Some(evidence) = record.status.as_ref().and_then(|s| s.evidence.as_ref()) else {
        return Judgement::None;
    };
    let name = record.name_any();
    if !is_open(record) {
        // Its worth was stated when the slice was sealed.
        ctx.caches.stated().forget(&name);
        return Judgement::None;
    }
    let node = &record.spec.node_name;
    let around = Surroundings {
        pod_uid: pod.map(|pod| pod.uid.as_str()),
        key: &key_standing(ctx, record, evidence),
        head_ms: heartbeat_head(ctx, record),
        heard_ms: ctx.caches.last_heartbeat(node).map(unix_millis),
        passed_ms: passed_ms(ctx, record),
        before: &ctx.caches.stated().before(&name, evidence),
        is_foreign: ctx.caches.shown_gpus().is_foreign(node, &evidence.devices),
        refused: record.status.as_ref().and_then(|s| s.refused.as_ref()),
    };
    evidence::judge(&name, evidence, around)
}

/// What the GpuNode says for the key that signs the evidence of a slice that somebody pays for.
fn certificate(ctx: &Context, record: &UsageRecord) -> Option<AgentCertificate> {
    let evidence = record.status.as_ref()?.evidence.as_ref()?;
    record.spec.payment.as_ref()?;
    let found = ctx.caches.gpu_node(&record.spec.node_name)?;
    let certificate = found.0.as_ref().ok()?.spec.agent_certificate.clone()?;
    let is_for_it = certificate.key.eq_ignore_ascii_case(&evidence.key);
    is_for_it.then_some(certificate)
}

/// How long ago `record` was made, if it is the first slice's. A later one begins where the one before was sealed, by the
/// kubelet's clock, from which the agent's may differ.
fn passed_ms(ctx: &Context, record: &UsageRecord) -> Option<u64> {
    let made = record.metadata.creation_timestamp.as_ref()?;
    let passed = unix_millis((ctx.now)()).saturating_sub(unix_millis(made.0));
    (record.spec.slice == 0).then_some(passed)
}

/// What a heartbeat says about one open chain.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    to_ms: u64,
}

/// The end of the last span that the agent's heartbeat states for `record`.
fn heartbeat_head(ctx: &Context, record: &UsageRecord) -> Option<u64> {
    let lease = ctx.caches.heartbeat_lease(&record.spec.node_name)?;
    let text = lease.annotations().get(ANNOTATION_EVIDENCE_HEADS)?;
    head_ms(text, &record.name_any())
}

/// The end of the last span of `record` in an agent's `text` about its open chains; `None` if it names none.
pub(crate) fn head_ms(text: &str, record: &str) -> Option<u64> {
    let heads: std::collections::BTreeMap<String, Head> = serde_json::from_str(text).ok()?;
    heads.get(record).map(|head| head.to_ms)
}

/// What the lane's reward account pays for the time of `record`, if the chain was ever seen and anything is left in it.
fn emission(ctx: &Context, chain: &Chain, record: &UsageRecord) -> Option<EmissionTerms> {
    let node = &record.spec.node_name;
    let config = chain.config().emissions.as_ref()?;
    let view = chain.view().filter(|view| view.contract.is_ok())?;
    let Account::Known(rewards) = view.payer(0) else {
        return None;
    };
    let records = ctx.caches.usage_records.state();
    let owed = owed_emissions(chain.config(), parsed(&records), view.lane.seq);
    let available_nano =
        u128::from(rewards.balance.saturating_sub(rewards.thawing)).saturating_sub(owed);
    let factors = config.factors_of(node);
    let (stability_permille, stability) =
        stability(factors.stability_permille, || observed_stability(ctx, node));
    let found = ctx.caches.gpu_node(node);
    let status = found
        .as_ref()
        .and_then(|node| node.0.as_ref().ok()?.status.as_ref());
    let performance = performance::of(
        factors.performance_permille,
        config.unmeasured_permille,
        status,
        record,
        (ctx.now)(),
    );
    (available_nano > 0).then(|| EmissionTerms {
        per_gpu_second: config.per_gpu_second,
        factors: Factors {
            performance_permille: performance.permille,
            stability_permille,
            reference: reference(&performance.reference, stability),
        },
        fee_bps: view.params.fee_bps,
        available_nano,
    })
}

/// The stability of `node`, as its GpuNode says; `None` while it says nothing.
fn observed_stability(ctx: &Context, node: &str) -> Option<u32> {
    let found = ctx.caches.gpu_node(node)?;
    let status = found.0.as_ref().ok()?.status.as_ref()?;
    status.stability.map(|stability| stability.permille)
}

/// What a node's stability is, in thousandths, and on what that rests: what is `configured` for it, else what was observed. Of a
/// node of which nothing is known it is 1000.
fn stability(
    configured: Option<u32>,
    observed: impl FnOnce() -> Option<u32>,
) -> (u32, &'static str) {
    match configured {
        Some(permille) => (permille.min(STABLE), CONFIGURED),
        None => (observed().unwrap_or(STABLE), stability::REFERENCE),
    }
}

/// How a record says on what its factors rest: the performance, then the stability.
fn reference(performance: &str, stability: &str) -> String {
    if performance == stability {
        performance.to_owned()
    } else {
        format!("{performance} {stability}")
    }
}

/// Whether the key of `record`'s evidence may sign for its node: the provider that is paid has certified it.
fn key_standing(ctx: &Context, record: &UsageRecord, evidence: &Evidence) -> KeyStanding {
    let Some(payment) = record.spec.payment.as_ref() else {
        return KeyStanding::InForce;
    };
    // A chain that is not configured any more cannot be asked: that is nobody's fault.
    let Some(chain) = ctx.chains.get(&payment.chain) else {
        return KeyStanding::InForce;
    };
    let name = &record.spec.node_name;
    let refused = |why: &str| KeyStanding::NotCertified(format!("{} {why}", evidence.key));
    let found = ctx.caches.gpu_node(name);
    let node = found.as_ref().and_then(|node| node.0.as_ref().ok());
    let Some((node, certificate)) =
        node.and_then(|n| Some((n, n.spec.agent_certificate.as_ref()?)))
    else {
        return refused("signed it, and the GpuNode has no spec.agentCertificate");
    };
    if !certificate.key.eq_ignore_ascii_case(&evidence.key) {
        return refused("signed it, and spec.agentCertificate of the GpuNode is for another key");
    }
    let last = evidence.checkpoints.last().map_or(0, |c| c.to_ms);
    if unix_millis(certificate.not_after.0) < last {
        return refused("signed it after the end of spec.agentCertificate of the GpuNode");
    }
    let view = chain.view();
    let Some(Account::Known(provider)) = view.as_ref().map(|view| view.provider(payment.provider))
    else {
        // What the chain would say is not known: that is nobody's fault.
        return KeyStanding::InForce;
    };
    if certificate.epoch != provider.session_epoch {
        return refused("signed it, and the provider has revoked the sessions of its agents since");
    }
    let signer = ctx
        .caches
        .signers()
        .of(node, payment.provider, chain.config());
    if signer != Some(provider.operator) {
        return refused(
            "signed it, and the provider's operator has not signed spec.agentCertificate of the GpuNode",
        );
    }
    KeyStanding::InForce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_observed_of_a_nodes_stability_counts_unless_it_is_set_by_hand() {
        for (configured, observed, expected) in [
            (None, None, (1000, "stability/1")),
            (None, Some(987), (987, "stability/1")),
            (Some(500), Some(987), (500, "configured")),
            (Some(1000), Some(0), (1000, "configured")),
            (Some(9999), None, (1000, "configured")),
        ] {
            assert_eq!(stability(configured, || observed), expected);
        }
        assert_eq!(reference(CONFIGURED, CONFIGURED), "configured");
        assert_eq!(
            reference(CONFIGURED, stability::REFERENCE),
            "configured stability/1"
        );
    }
}
