//! Opens an Incident for a run whose result was outvoted by nodes of other owners.
//!
//! A tenant writes the program, so a tenant could write one that gives another result on the node of somebody it wishes to harm.
//! So what happens to one namespace is never more than a warning, however often; rewards are held back from the second
//! namespace on and, where the cluster has chosen to cut stake for false statements, a part of it from the third on.

use std::collections::BTreeSet;

use gridstake_crds::{
    ComputeJob, Incident, IncidentSpec, TokenAmount,
    compute_job::{CheckedRun, JobVerification, RunOutcome, Verdict},
    incident::{Offence, Subject},
    names::{ANNOTATION_EVIDENCE, invalid_result},
    usage_record::JobReference,
};
use gridstake_ledger::archive::address;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{Api, ResourceExt as _, api::PostParams};
use serde::Serialize;

use super::open::{Bound, MEMORY, Terms, bound, clipped, sanction, used};
use crate::{Context, caches::parsed};

/// How many UsageRecords, and how many devices, an Incident names.
const MOST: usize = 64;

/// All that such an incident follows from.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// The run that was outvoted: the checked job itself, or one of its checks.
    pub run: &'a ComputeJob,
    /// How the comparison ended.
    pub verification: &'a JobVerification,
    /// The names of the run's records.
    pub records: Vec<String>,
    /// The GPUs that they name.
    pub devices: Vec<String>,
    /// Who is paid for them: the chain and the provider's account there.
    pub payee: Option<(String, u32)>,
    /// The other namespaces whose jobs got invalid results from the node within [`MEMORY`].
    pub others: BTreeSet<String>,
    /// The stake that answers for the node.
    pub bound: Option<Bound>,
    /// What it may cost.
    pub terms: Terms,
    /// When it was found.
    pub now: Timestamp,
}

/// What is kept as evidence. Its text is what hashes to `spec.evidenceHash`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Evidence<'a> {
    format: &'static str,
    job: &'a JobReference,
    outvoted: &'a CheckedRun,
    majority: &'a str,
    runs: &'a [CheckedRun],
    /// The hash of the decision that chose the node.
    decision: &'a str,
    usage_records: &'a [String],
}

/// The Incident of `case`; none if the run is not among those outvoted.
#[must_use]
pub fn incident(case: &Case<'_>) -> Option<Incident> {
    let name = case.run.name_any();
    let uid = case.run.uid()?;
    let found = case.verification;
    let majority = found.digest.as_deref()?;
    let outvoted = found.runs.iter().find(|run| run.job == name)?;
    if outvoted.outcome != RunOutcome::Counted || outvoted.digest.as_deref() == Some(majority) {
        return None;
    }
    let status = case.run.status.as_ref()?;
    let placement = status.placement.as_ref()?;
    let node = outvoted.node.clone()?;
    let job = JobReference {
        namespace: case.run.namespace().unwrap_or_default(),
        name: name.clone(),
        uid: uid.clone(),
    };
    let evidence = Evidence {
        format: "gridstake-result/1",
        job: &job,
        outvoted,
        majority,
        runs: &found.runs,
        decision: &placement.decision.hash,
        usage_records: &case.records,
    };
    let text = serde_json::to_string(&evidence).ok()?;
    let offence = Offence::InvalidResult;
    let (sanction, cut) = sanction(offence, case.others.len(), case.bound.as_ref(), case.terms);
    let votes = |digest: &str| {
        let counted = |run: &&CheckedRun| {
            run.outcome == RunOutcome::Counted && run.digest.as_deref() == Some(digest)
        };
        found.runs.iter().filter(counted).count()
    };
    let last = status.attempts.iter().max_by_key(|a| a.attempt);
    let ended = last.map_or_else(|| Time(case.now), |a| a.ended_at.clone());
    let began = last.and_then(|a| a.started_at.clone());
    let mut incident = Incident::new(
        &invalid_result(&uid),
        IncidentSpec {
            offence,
            subject: Subject {
                node_name: node.clone(),
                provider_id: case.payee.as_ref().map(|(_, provider)| *provider),
                devices: case.devices.clone(),
            },
            from: began
                .filter(|t| t.0 <= ended.0)
                .unwrap_or_else(|| ended.clone()),
            to: ended,
            verdict: Verdict::Host,
            verdict_reason: None,
            evidence_hash: address(text.as_bytes()).to_string(),
            summary: clipped(format!(
                "the result of job {}/{name} on node {node} is not what {} other owners computed",
                job.namespace,
                votes(majority)
            )),
            usage_records: case.records.clone(),
            job: Some(job),
            sanction,
            slash: cut.map(TokenAmount::from_nano),
            chain: case.payee.as_ref().map(|(chain, _)| chain.clone()),
        },
    );
    incident
        .annotations_mut()
        .insert(ANNOTATION_EVIDENCE.to_owned(), text);
    Some(incident)
}

/// Opens the Incident of the run `name`, outvoted in the comparison of the results of `job` and its checks. Doing it twice is the
/// same as doing it once.
pub async fn open(
    context: &Context,
    job: &ComputeJob,
    name: &str,
    verification: &JobVerification,
) -> Result<(), kube::Error> {
    let namespace = job.namespace().unwrap_or_default();
    let found = context.caches.compute_job(&namespace, name);
    let Some(run) = found.as_ref().and_then(|found| found.0.as_ref().ok()) else {
        return Ok(());
    };
    let Some(incident) = incident(&case(context, run, verification)) else {
        return Ok(());
    };
    let api: Api<Incident> = Api::all(context.client.clone());
    match api.create(&PostParams::default(), &incident).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        other => other.map(drop),
    }
}

fn case<'a>(context: &Context, run: &'a ComputeJob, verification: &'a JobVerification) -> Case<'a> {
    let now = (context.now)();
    let since = now.checked_sub(MEMORY).unwrap_or(Timestamp::MIN);
    let namespace = run.namespace().unwrap_or_default();
    let placement = run.status.as_ref().and_then(|s| s.placement.as_ref());
    let attempt = placement.map_or(0, |placement| placement.attempt);
    let node = placement.and_then(|placement| placement.nodes.first());
    let records = context
        .caches
        .records_of_job(run.metadata.uid.as_deref().unwrap_or_default());
    let of_attempt: Vec<_> = parsed(&records)
        .filter(|record| record.spec.attempt == attempt)
        .collect();
    let incidents = context.caches.incidents.state();
    let others = parsed(&incidents)
        .filter(|incident| {
            let spec = &incident.spec;
            spec.offence == Offence::InvalidResult
                && node.is_some_and(|node| node.node == spec.subject.node_name)
                && spec.to.0 >= since
        })
        .filter_map(|incident| Some(incident.spec.job.as_ref()?.namespace.clone()))
        .filter(|other| *other != namespace)
        .collect();
    let mut names: Vec<_> = of_attempt.iter().map(|record| record.name_any()).collect();
    names.sort_unstable();
    names.truncate(MOST);
    let mut devices: Vec<_> = of_attempt
        .iter()
        .flat_map(|record| used(record))
        .map(str::to_owned)
        .collect();
    devices.sort_unstable();
    devices.dedup();
    devices.truncate(MOST);
    let payment = of_attempt.iter().find_map(|r| r.spec.payment.as_ref());
    Case {
        run,
        verification,
        bound: of_attempt.first().and_then(|record| bound(context, record)),
        records: names,
        devices,
        payee: payment.map(|payment| (payment.chain.clone(), payment.provider)),
        others,
        terms: context.incidents,
        now,
    }
}

#[cfg(test)]
mod tests {
    use gridstake_crds::{
        compute_job::VerificationState, incident::Sanction, names::incidents_about,
    };

    use super::*;

    const TOKEN: u128 = 1_000_000_000;

    fn run() -> ComputeJob {
        let zero = format!("0x{}", "0".repeat(64));
        serde_saphyr::from_str(&format!(
            "{{apiVersion: gridstake.dev/v1alpha1, kind: ComputeJob, metadata: {{name: j, namespace: n, uid: u}}, spec: {{gpu: {{count: 1}}, template: {{}}}}, \
             status: {{attempts: [{{attempt: 1, nodes: [a], startedAt: '2027-01-01T00:00:00Z', endedAt: '2027-01-01T00:01:00Z', endReason: Succeeded, gpuMillis: 60000}}], \
             placement: {{attempt: 1, decidedAt: '2027-01-01T00:00:00Z', nodes: [{{member: 0, node: a}}], decision: {{draw: d, blockHash: '{zero}', previous: '{zero}', hash: '{zero}', snapshot: 1, candidates: 1, totalWeight: '1', drawn: []}}}}}}}}"
        ))
        .unwrap()
    }

    fn vote(job: &str, node: &str, digest: &str) -> CheckedRun {
        CheckedRun {
            job: job.into(),
            outcome: RunOutcome::Counted,
            node: Some(node.into()),
            owners: vec![node.into()],
            digest: Some(digest.into()),
        }
    }

    fn verification() -> JobVerification {
        JobVerification {
            state: VerificationState::Outvoted,
            digest: Some("right".into()),
            sample: None,
            runs: vec![
                vote("j", "a", "wrong"),
                vote("j-check-1", "b", "right"),
                vote("j-check-2", "c", "right"),
            ],
        }
    }

    fn opened(others: usize, terms: Terms) -> Option<Incident> {
        let (run, verification) = (run(), verification());
        incident(&Case {
            run: &run,
            verification: &verification,
            records: vec!["u-1-0-0".into()],
            devices: vec!["GPU-1".into()],
            payee: Some(("anvil".into(), 7)),
            others: (0..others).map(|n| format!("tenant-{n}")).collect(),
            bound: Some(Bound {
                provider: 7,
                chain: "anvil".into(),
                base_nano: 20_000 * TOKEN,
            }),
            terms,
            now: "2027-01-01T00:02:00Z".parse().unwrap(),
        })
    }

    const TERMS: Terms = Terms {
        downtime_slash_permille: 5,
        false_statement_slash_permille: 500,
    };

    #[test]
    fn an_outvoted_result_is_told_with_all_results_as_evidence() {
        let incident = opened(0, TERMS).unwrap();
        assert_eq!(incident.name_any(), "invalid-result-u");
        assert!(incidents_about("u-1-0-0", "u").contains(&incident.name_any()));
        assert_eq!(
            incident.spec.summary,
            "the result of job n/j on node a is not what 2 other owners computed"
        );
        let text = &incident.annotations()[ANNOTATION_EVIDENCE];
        assert_eq!(
            incident.spec.evidence_hash,
            address(text.as_bytes()).to_string()
        );
        for digest in ["wrong", "right"] {
            assert!(text.contains(digest), "{text}");
        }
        assert_eq!(incident.spec.usage_records, ["u-1-0-0"]);
        assert_eq!(incident.spec.subject.devices, ["GPU-1"]);
        assert!(incident.spec.from.0 < incident.spec.to.0);
    }

    #[test]
    fn one_tenant_alone_can_cost_a_provider_no_more_than_a_warning() {
        let steps: Vec<_> = (0..4)
            .map(|others| {
                let spec = opened(others, TERMS).unwrap().spec;
                (spec.sanction, spec.slash.map(|slash| slash.to_string()))
            })
            .collect();
        let cut = || (Sanction::PartialSlash, Some("10000".to_owned()));
        assert_eq!(
            steps,
            [(Sanction::Warn, None), (Sanction::Hold, None), cut(), cut()]
        );
        assert_eq!(
            opened(9, Terms::default()).unwrap().spec.sanction,
            Sanction::Hold,
            "a cluster that has not chosen to cuts nothing"
        );
    }

    #[test]
    fn a_run_that_computed_what_the_others_did_is_not_accused() {
        let run = ComputeJob {
            metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                name: Some("j-check-1".into()),
                ..run().metadata
            },
            ..run()
        };
        let verification = verification();
        let case = Case {
            run: &run,
            verification: &verification,
            records: Vec::new(),
            devices: Vec::new(),
            payee: None,
            others: BTreeSet::new(),
            bound: None,
            terms: TERMS,
            now: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(incident(&case), None);
    }
}
