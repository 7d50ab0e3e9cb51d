//! Opens an Incident for a failed attempt that is laid at the host's door, and for statements of an agent that cannot be true.
//!
//! The ladder of downtime: what happens for the first time on a node within [`MEMORY`] is mended (`Repair`), the second time the
//! provider is told (`Warn`), the third time the rewards in question are held back (`Hold`), from the fourth time on a part of the
//! stake is to be cut, where the cluster has chosen to (`PartialSlash`). That of false statements begins with `Hold`. Nothing is
//! ever cut for a first offence.

use std::fmt::Write as _;

use gridstake_crds::{
    Incident, IncidentSpec, TokenAmount, UsageRecord,
    compute_job::{Verdict, VerdictReason},
    gpu_node::DeviceFault,
    incident::{Offence, Sanction, Subject},
    names::{self, ANNOTATION_EVIDENCE},
    usage_record::{DeviceUse, EvidenceFault, JobReference, RefusedEvidence, SealCause},
};
use gridstake_ledger::archive::address;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use kube::{Api, ResourceExt as _, api::PostParams, runtime::reflector::ObjectRef};
use serde::Serialize;

use crate::{
    Context,
    caches::parsed,
    chain::Account,
    controllers::usage_record::bill::{Bill, timestamp, unix_millis},
    reputation,
    verdict::gpu_evidence::CAUSE_MS,
};

/// For how long an incident counts when the next one is weighed.
pub const MEMORY: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How many faults a summary names.
const NAMED: usize = 3;

/// What an offence may cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Which part of the stake that is asked for, in thousandths, is to be cut for downtime from the fourth time on. 0: none.
    pub downtime_slash_permille: u16,
    /// The same for statements that cannot be true, from the second time on.
    pub false_statement_slash_permille: u16,
}

impl Terms {
    /// The part that is cut for `offence`, in thousandths.
    const fn permille(self, offence: Offence) -> u16 {
        match offence {
            Offence::DowntimeDuringJob => self.downtime_slash_permille,
            Offence::FalseInventory | Offence::ImpossibleUsage | Offence::InvalidResult => {
                self.false_statement_slash_permille
            }
        }
    }
}

/// The stake that answers for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The provider's account.
    pub provider: u32,
    /// The chain, by its name in the configuration.
    pub chain: String,
    /// What the cut is taken of, in nano-tokens: the smaller of what is asked for and what there is, so that nobody loses more
    /// for having put up more.
    pub base_nano: u128,
}

/// All that an incident follows from.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// The record of the member that failed.
    pub record: &'a UsageRecord,
    /// What is about to be billed for it.
    pub bill: &'a Bill,
    /// What was reported against its GPUs, by their UUIDs.
    pub faults: Vec<(String, DeviceFault)>,
    /// The GPUs that its node shows.
    pub shown: Vec<String>,
    /// What its agent has stated that cannot be true.
    pub refused: Option<&'a RefusedEvidence>,
    /// Earlier incidents of its node that count.
    pub past: Vec<Offence>,
    /// The stake that answers for the node.
    pub bound: Option<Bound>,
    /// What it may cost.
    pub terms: Terms,
}

/// What is kept as evidence. Its text is what hashes to `spec.evidenceHash`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Evidence<'a> {
    format: &'static str,
    record: String,
    job: &'a JobReference,
    attempt: u32,
    member: u32,
    node: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<u32>,
    verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict_reason: Option<VerdictReason>,
    began_ms: u64,
    ended_ms: u64,
    #[serde(rename = "evidenceHead", skip_serializing_if = "Option::is_none")]
    head: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<FaultOf<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<&'a RefusedEvidence>,
}

#[derive(Debug, Serialize)]
struct FaultOf<'a> {
    gpu: &'a str,
    #[serde(flatten)]
    fault: &'a DeviceFault,
}

/// The sanction for `offence` on a node of which `past` others count, and the cut in nano-tokens.
#[must_use]
pub fn sanction(
    offence: Offence,
    past: usize,
    bound: Option<&Bound>,
    terms: Terms,
) -> (Sanction, Option<u128>) {
    let ladder: &[Sanction] = match offence {
        Offence::DowntimeDuringJob => &[Sanction::Repair, Sanction::Warn, Sanction::Hold],
        Offence::FalseInventory | Offence::ImpossibleUsage => &[Sanction::Hold],
        Offence::InvalidResult => &[Sanction::Warn, Sanction::Hold],
    };
    let Some(bound) = bound else {
        // Nobody is paid for such a node: there is nothing to hold back.
        let step = ladder.get(past).copied().unwrap_or(Sanction::Warn);
        return (step.min(Sanction::Warn), None);
    };
    let cut = bound
        .base_nano
        .saturating_mul(u128::from(terms.permille(offence)))
        / 1000;
    match ladder.get(past) {
        Some(step) => (*step, None),
        None if cut > 0 => (Sanction::PartialSlash, Some(cut)),
        None => (Sanction::Hold, None),
    }
}

/// Whether two offences are steps of one ladder. Results are not: see [`super::invalid_result`].
const fn is_of_one_class(a: Offence, b: Offence) -> bool {
    const fn class(offence: Offence) -> u8 {
        match offence {
            Offence::DowntimeDuringJob => 0,
            Offence::FalseInventory | Offence::ImpossibleUsage => 1,
            Offence::InvalidResult => 2,
        }
    }
    class(a) == class(b)
}

/// What a statement that cannot be true comes to.
const fn offence(fault: EvidenceFault) -> Offence {
    match fault {
        EvidenceFault::ForeignDevice => Offence::FalseInventory,
        EvidenceFault::BadSignature
        | EvidenceFault::BrokenChain
        | EvidenceFault::Replay
        | EvidenceFault::Overlap
        | EvidenceFault::UseWithoutEnergy
        | EvidenceFault::MoreThanTime
        | EvidenceFault::Equivocation => Offence::ImpossibleUsage,
    }
}

/// The Incidents of `case`: of a member that had started and failed by the host's fault, and of statements that cannot be true.
/// Their names follow from the record, so that each is opened once.
#[must_use]
pub fn incidents(case: &Case<'_>) -> Vec<Incident> {
    let has_run = case.bill.cause != SealCause::NeverStarted;
    let host = case
        .bill
        .verdict
        .filter(|(verdict, _)| has_run && *verdict == Verdict::Host);
    let downtime = host.and_then(|(_, reason)| {
        let words = downtime_words(case.record, reason, &case.faults);
        incident(case, Offence::DowntimeDuringJob, Some(reason), None, words)
    });
    let lie = case.refused.and_then(|refused| {
        let words = false_words(case.record, refused);
        incident(case, offence(refused.reason), None, Some(refused), words)
    });
    downtime.into_iter().chain(lie).collect()
}

fn incident(
    case: &Case<'_>,
    offence: Offence,
    reason: Option<VerdictReason>,
    refused: Option<&RefusedEvidence>,
    summary: String,
) -> Option<Incident> {
    let (record, bill) = (case.record, case.bill);
    let spec = &record.spec;
    // What the driver reported says nothing about a statement.
    let faults = if refused.is_some() {
        &[][..]
    } else {
        &case.faults
    };
    let evidence = Evidence {
        format: "gridstake-incident/1",
        record: record.name_any(),
        job: &spec.job,
        attempt: spec.attempt,
        member: spec.member,
        node: &spec.node_name,
        provider: spec.payment.as_ref().map(|payment| payment.provider),
        verdict: Verdict::Host,
        verdict_reason: reason,
        began_ms: bill.span.from_ms,
        ended_ms: bill.span.to_ms,
        head: bill.evidence_head.as_deref(),
        faults: faults
            .iter()
            .map(|(gpu, fault)| FaultOf { gpu, fault })
            .collect(),
        refused,
    };
    let text = serde_json::to_string(&evidence).ok()?;
    let past = case
        .past
        .iter()
        .filter(|past| is_of_one_class(**past, offence))
        .count();
    let (sanction, cut) = sanction(offence, past, case.bound.as_ref(), case.terms);
    let at = Time(timestamp(bill.span.to_ms)?);
    let payment = spec.payment.as_ref();
    let name = match offence {
        Offence::DowntimeDuringJob => names::downtime(&record.name_any()),
        _ => names::false_statement(&record.name_any()),
    };
    let mut incident = Incident::new(
        &name,
        IncidentSpec {
            offence,
            subject: Subject {
                node_name: spec.node_name.clone(),
                provider_id: payment.map(|payment| payment.provider),
                devices: concerned(case, faults, refused.is_some()),
            },
            job: Some(spec.job.clone()),
            usage_records: vec![record.name_any()],
            from: at.clone(),
            to: at,
            verdict: Verdict::Host,
            verdict_reason: reason,
            evidence_hash: address(text.as_bytes()).to_string(),
            summary,
            sanction,
            slash: cut.map(TokenAmount::from_nano),
            chain: payment.map(|payment| payment.chain.clone()),
        },
    );
    incident
        .annotations_mut()
        .insert(ANNOTATION_EVIDENCE.to_owned(), text);
    Some(incident)
}

/// The devices that the incident concerns: those against which something was reported, else the member's, else all that the node
/// shows. A false statement concerns all of them: it is not about one of them that it is false.
fn concerned(
    case: &Case<'_>,
    faults: &[(String, DeviceFault)],
    is_false_statement: bool,
) -> Vec<String> {
    let reported = faults.iter().map(|(gpu, _)| gpu.clone()).collect();
    let own = used(case.record).into_iter().map(str::to_owned).collect();
    let shown = case.shown.clone();
    let choice: [Vec<String>; 3] = if is_false_statement {
        [Vec::new(), Vec::new(), shown]
    } else {
        [reported, own, shown]
    };
    let mut gpus = choice
        .into_iter()
        .find(|gpus| !gpus.is_empty())
        .unwrap_or_default();
    gpus.sort_unstable();
    gpus.dedup();
    // As many as the API takes, and as a node may have.
    gpus.truncate(64);
    gpus
}

/// The member's GPUs, by its evidence.
#[must_use]
pub fn used(record: &UsageRecord) -> Vec<&str> {
    let evidence = record.status.iter().filter_map(|s| s.evidence.as_ref());
    evidence
        .flat_map(|evidence| &evidence.devices)
        .map(DeviceUse::physical)
        .collect()
}

fn member_of(record: &UsageRecord) -> String {
    let spec = &record.spec;
    format!(
        "member {} of attempt {} of job {}/{}",
        spec.member, spec.attempt, spec.job.namespace, spec.job.name
    )
}

fn downtime_words(
    record: &UsageRecord,
    reason: VerdictReason,
    faults: &[(String, DeviceFault)],
) -> String {
    let mut words = format!(
        "{} failed by the fault of node {}: {reason}",
        member_of(record),
        record.spec.node_name
    );
    for (number, (gpu, fault)) in faults.iter().take(NAMED).enumerate() {
        let separator = if number == 0 { "; reported: " } else { ", " };
        let what = fault
            .xid
            .map_or_else(|| fault.kind.to_string(), |xid| format!("Xid {xid}"));
        let _ = write!(words, "{separator}{what} of {gpu}");
    }
    clipped(words)
}

fn false_words(record: &UsageRecord, refused: &RefusedEvidence) -> String {
    clipped(format!(
        "the agent of node {} has signed what cannot be true about {}: {}, checkpoint {} of epoch {}; nothing is billed from there on",
        record.spec.node_name,
        member_of(record),
        refused.reason,
        refused.seq,
        refused.epoch
    ))
}

/// At most as long as the API takes.
#[must_use]
pub fn clipped(mut words: String) -> String {
    words.truncate(words.floor_char_boundary(1024));
    words
}

/// Opens the Incidents that follow from `record`, what is about to be billed for it, and what its agent has stated that cannot
/// be true. Doing it twice is the same as doing it once. Returns whether the cache shows all of them: before that nothing is held
/// back by them.
pub async fn open(
    context: &Context,
    record: &UsageRecord,
    bill: &Bill,
    refused: Option<&RefusedEvidence>,
) -> Result<bool, kube::Error> {
    let is_host = bill
        .verdict
        .is_some_and(|(verdict, _)| verdict == Verdict::Host);
    if !is_host && refused.is_none() {
        return Ok(true);
    }
    let api: Api<Incident> = Api::all(context.client.clone());
    let mut are_seen = true;
    for incident in incidents(&case(context, record, bill, refused)) {
        let name = ObjectRef::new(&incident.name_any());
        if context.caches.incidents.get(&name).is_some() {
            continue;
        }
        are_seen = false;
        match api.create(&PostParams::default(), &incident).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => other.map(|_| ())?,
        }
    }
    Ok(are_seen)
}

fn case<'a>(
    context: &Context,
    record: &'a UsageRecord,
    bill: &'a Bill,
    refused: Option<&'a RefusedEvidence>,
) -> Case<'a> {
    let now = (context.now)();
    let node = &record.spec.node_name;
    let since = now.checked_sub(MEMORY).unwrap_or(Timestamp::MIN);
    let incidents = context.caches.incidents.state();
    let counts = |incident: &&Incident| {
        let spec = &incident.spec;
        spec.subject.node_name == *node && spec.verdict == Verdict::Host && spec.to.0 >= since
    };
    let found = context.caches.gpu_node(node);
    let shown = found.as_ref().and_then(|node| node.0.as_ref().ok());
    Case {
        record,
        bill,
        faults: faults(context, record, bill),
        shown: shown
            .iter()
            .flat_map(|node| reputation::observe::uuids(node).map(str::to_owned))
            .collect(),
        refused,
        past: parsed(&incidents)
            .filter(counts)
            .map(|incident| incident.spec.offence)
            .collect(),
        bound: bound(context, record),
        terms: context.incidents,
    }
}

/// What was reported against the member's GPUs near its end.
fn faults(context: &Context, record: &UsageRecord, bill: &Bill) -> Vec<(String, DeviceFault)> {
    let used = used(record);
    let found = context.caches.gpu_node(&record.spec.node_name);
    let status = found
        .as_ref()
        .and_then(|node| node.0.as_ref().ok()?.status.as_ref());
    let now_ms = unix_millis((context.now)());
    let is_near = |fault: &DeviceFault| {
        fault.last_ms.saturating_add(CAUSE_MS) >= bill.span.to_ms && fault.first_ms <= now_ms
    };
    status
        .iter()
        .flat_map(|status| &status.devices)
        .filter(|device| used.is_empty() || used.contains(&device.uuid.as_str()))
        .flat_map(|device| {
            let near = device.faults.iter().filter(|fault| is_near(fault));
            near.map(|fault| (device.uuid.clone(), fault.clone()))
        })
        .collect()
}

/// The stake that answers for the record's node, if the chain is known.
#[must_use]
pub fn bound(context: &Context, record: &UsageRecord) -> Option<Bound> {
    let payment = record.spec.payment.as_ref()?;
    let view = context.chains.get(&payment.chain)?.view()?;
    let Account::Known(provider) = view.provider(payment.provider) else {
        return None;
    };
    let stake = provider.own.saturating_add(provider.delegated);
    Some(Bound {
        provider: payment.provider,
        chain: payment.chain.clone(),
        base_nano: stake.min(view.params.minimum_stake_miner),
    })
}

#[cfg(test)]
mod tests {
    use gridstake_crds::{gpu_node::DeviceFaultKind, names::incidents_about};
    use gridstake_ledger::billing::Span;
    use proptest::prelude::*;

    use super::*;

    const TOKEN: u128 = 1_000_000_000;

    fn record() -> UsageRecord {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "UsageRecord", "metadata": {"name": "u-1-0-0"},
            "spec": {"job": {"namespace": "n", "name": "j", "uid": "u"}, "attempt": 1, "member": 0, "slice": 0,
                "podName": "j-1-0", "nodeName": "a", "gpuCount": 1},
        }))
        .unwrap()
    }

    fn bill(verdict: Option<(Verdict, VerdictReason)>, cause: SealCause) -> Bill {
        Bill {
            span: Span::new(1_800_000_000_000, 1_800_000_060_000),
            gpu_millis: 60_000,
            cause,
            verdict,
            energy_millijoules: None,
            factors: None,
            emission_nano: None,
            evidence_head: None,
            certificate: None,
        }
    }

    fn bound() -> Bound {
        Bound {
            provider: 7,
            chain: "anvil".into(),
            base_nano: 20_000 * TOKEN,
        }
    }

    fn opened(bill: &Bill, past: usize) -> Option<Incident> {
        with(bill, None, vec![Offence::DowntimeDuringJob; past]).pop()
    }

    fn with(bill: &Bill, refused: Option<&RefusedEvidence>, past: Vec<Offence>) -> Vec<Incident> {
        let record = record();
        incidents(&Case {
            record: &record,
            bill,
            faults: vec![(
                "GPU-1".into(),
                DeviceFault {
                    kind: DeviceFaultKind::Xid,
                    xid: Some(79),
                    first_ms: 1_800_000_059_000,
                    last_ms: 1_800_000_059_000,
                    count: 1,
                },
            )],
            shown: vec!["GPU-2".into(), "GPU-1".into()],
            refused,
            past,
            bound: Some(bound()),
            terms: TERMS,
        })
    }

    fn overlap() -> RefusedEvidence {
        RefusedEvidence {
            reason: EvidenceFault::Overlap,
            epoch: 1,
            seq: 4,
            accepted_ms: None,
            accepted_head: None,
            statements: Vec::new(),
        }
    }

    #[test]
    fn an_incident_names_the_gpus_that_it_concerns_and_who_answered_for_them() {
        let mut record = record();
        let devices = serde_json::json!([{"uuid": "MIG-1", "parentUuid": "GPU-3"}, {"uuid": "MIG-2", "parentUuid": "GPU-3"}]);
        let payment = serde_json::json!(
            {"chain": "anvil", "lane": 7, "payer": 3, "provider": 9, "perGpuSecond": "0.1"});
        record.spec.payment = serde_json::from_value(payment).unwrap();
        let failed = bill(HOST, SealCause::MemberEnded);
        let refused = overlap();
        let subjects = |record: &UsageRecord| -> Vec<Subject> {
            let case = Case {
                record,
                bill: &failed,
                faults: vec![],
                shown: vec!["GPU-2".into(), "GPU-1".into()],
                refused: Some(&refused),
                past: vec![],
                // The chain was never seen.
                bound: None,
                terms: TERMS,
            };
            let found = incidents(&case);
            assert!(
                found
                    .iter()
                    .all(|i| i.spec.chain.as_deref() == Some("anvil"))
            );
            found.into_iter().map(|i| i.spec.subject).collect()
        };
        let named = |record: &UsageRecord| -> Vec<Vec<String>> {
            let subjects = subjects(record);
            assert!(subjects.iter().all(|s| s.provider_id == Some(9)));
            subjects.into_iter().map(|s| s.devices).collect()
        };
        assert_eq!(
            named(&record),
            [["GPU-1", "GPU-2"], ["GPU-1", "GPU-2"]],
            "nothing says which GPUs the member had"
        );
        let evidence = serde_json::json!({"podUid": "p", "key": "0x52908400098527886E0F7030069857D2E4169EE7", "devices": devices});
        record.status.get_or_insert_default().evidence = serde_json::from_value(evidence).unwrap();
        assert_eq!(
            named(&record),
            [
                vec!["GPU-3".to_owned()],
                vec!["GPU-1".into(), "GPU-2".into()]
            ]
        );
    }

    const TERMS: Terms = Terms {
        downtime_slash_permille: 5,
        false_statement_slash_permille: 500,
    };

    #[test]
    fn what_an_agent_has_signed_that_cannot_be_true_holds_the_rewards_and_the_second_time_costs_stake()
     {
        let refused = overlap();
        let bill = bill(None, SealCause::MemberEnded);
        let steps: Vec<_> = [
            vec![],
            vec![Offence::DowntimeDuringJob; 9],
            vec![Offence::ImpossibleUsage],
        ]
        .into_iter()
        .map(|past| {
            let spec = with(&bill, Some(&refused), past).pop().unwrap().spec;
            let cut = spec.slash.map(|slash| slash.to_string());
            (spec.offence, spec.sanction, cut)
        })
        .collect();
        let impossible = Offence::ImpossibleUsage;
        assert_eq!(
            steps,
            [
                (impossible, Sanction::Hold, None),
                (impossible, Sanction::Hold, None),
                (impossible, Sanction::PartialSlash, Some("10000".to_owned())),
            ]
        );
        let foreign = RefusedEvidence {
            reason: EvidenceFault::ForeignDevice,
            ..refused
        };
        let both = with(
            &self::bill(HOST, SealCause::MemberEnded),
            Some(&foreign),
            vec![],
        );
        let about = incidents_about("u-1-0-0", "u");
        assert!(
            both.iter().all(|i| about.contains(&i.name_any())),
            "{both:?}"
        );
        let offences: Vec<_> = both.iter().map(|i| i.spec.offence).collect();
        assert_eq!(
            offences,
            [Offence::DowntimeDuringJob, Offence::FalseInventory]
        );
    }

    const HOST: Option<(Verdict, VerdictReason)> =
        Some((Verdict::Host, VerdictReason::HardwareXid));

    #[test]
    fn an_incident_says_what_happened_and_its_text_hashes_to_what_it_names() {
        let incident = opened(&bill(HOST, SealCause::MemberEnded), 0).unwrap();
        assert_eq!(incident.name_any(), "downtime-u-1-0-0");
        assert!(incidents_about("u-1-0-0", "u").contains(&incident.name_any()));
        let text = &incident.annotations()[ANNOTATION_EVIDENCE];
        assert_eq!(
            incident.spec.evidence_hash,
            address(text.as_bytes()).to_string()
        );
        assert_eq!(
            incident.spec.summary,
            "member 0 of attempt 1 of job n/j failed by the fault of node a: HardwareXid; reported: Xid 79 of GPU-1"
        );
        assert_eq!(incident.spec.subject.devices, ["GPU-1"]);
    }

    #[test]
    fn only_what_is_the_hosts_and_happened_to_a_member_that_ran_is_an_incident() {
        for verdict in [Verdict::Tenant, Verdict::Infrastructure, Verdict::Ambiguous] {
            let other = Some((verdict, VerdictReason::NotWatched));
            assert_eq!(
                opened(&bill(other, SealCause::MemberEnded), 9),
                None,
                "{verdict}"
            );
        }
        assert_eq!(opened(&bill(None, SealCause::MemberEnded), 9), None);
        assert_eq!(opened(&bill(HOST, SealCause::NeverStarted), 9), None);
    }

    #[test]
    fn the_ladder_goes_from_mending_over_a_warning_and_held_rewards_to_a_part_of_the_stake() {
        let steps: Vec<_> = (0..5)
            .map(|past| {
                let spec = opened(&bill(HOST, SealCause::MemberEnded), past)
                    .unwrap()
                    .spec;
                (spec.sanction, spec.slash.map(|slash| slash.to_string()))
            })
            .collect();
        assert_eq!(
            steps,
            [
                (Sanction::Repair, None),
                (Sanction::Warn, None),
                (Sanction::Hold, None),
                (Sanction::PartialSlash, Some("100".to_owned())),
                (Sanction::PartialSlash, Some("100".to_owned())),
            ]
        );
        let downtime = Offence::DowntimeDuringJob;
        let without = |past| sanction(downtime, past, None, TERMS).0;
        assert_eq!((without(0), without(9)), (Sanction::Repair, Sanction::Warn));
        assert_eq!(
            sanction(downtime, 9, Some(&bound()), Terms::default()),
            (Sanction::Hold, None),
            "a cluster that has not chosen to cuts nothing"
        );
    }

    proptest! {
        #[test]
        fn no_step_is_softer_than_the_one_before_and_no_cut_exceeds_its_part(
            past in 0_usize..20, permille in 0_u16..=1000, lie: bool,
        ) {
            let offence = if lie { Offence::ImpossibleUsage } else { Offence::DowntimeDuringJob };
            let terms = Terms { downtime_slash_permille: permille, false_statement_slash_permille: permille };
            let (now, cut) = sanction(offence, past, Some(&bound()), terms);
            let (next, _) = sanction(offence, past + 1, Some(&bound()), terms);
            prop_assert!(now <= next);
            prop_assert!(past > 0 || cut.is_none(), "nothing is cut for a first offence");
            prop_assert!(cut.unwrap_or(0) <= bound().base_nano * u128::from(permille) / 1000);
            prop_assert_eq!(cut.is_some(), now == Sanction::PartialSlash);
        }
    }
}
