//! Facts about the end of slices, and what is billed for them.

use std::collections::{BTreeMap, BTreeSet};

use gridstake_crds::{
    TokenAmount, UsageRecordStatus, condition,
    usage_record::{EvidenceFault, EvidenceGap, Factors, GapReason, Payment, RefusedEvidence},
};
use gridstake_ledger::billing::Share;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

use super::{super::act, *};
use crate::controllers::compute_job::member;

/// When everything begins, in Unix milliseconds: a whole second.
const BEGIN: u64 = 1_800_000_000_000;

fn at(millis: u64) -> Timestamp {
    bill::timestamp(BEGIN + millis).unwrap()
}

fn record() -> UsageRecord {
    let payment = Payment {
        chain: "anvil".into(),
        lane: 7,
        payer: 3,
        provider: 9,
        per_gpu_second: TokenAmount::from_nano(720_000),
    };
    let job: gridstake_crds::ComputeJob = serde_saphyr::from_str(
        "{apiVersion: gridstake.dev/v1alpha1, kind: ComputeJob, metadata: {name: j, namespace: n, uid: u}, spec: {gpu: {count: 2}, template: {}}}",
    )
    .unwrap();
    let new = record::NewMember {
        attempt: 1,
        member: 0,
        rank: 0,
        restarts: 0,
        node: "a".into(),
        payment: Some(payment),
    };
    record::first(&job, "system", &new)
}

#[allow(clippy::unnecessary_wraps, reason = "a pod may be missing")]
fn pod(state: State, started: Option<u64>, finished: Option<u64>) -> Option<PodSeen> {
    let mut member = Member::missing(1, 0, "j-1-0".into());
    member.state = state;
    member.started_at = started.map(at);
    member.finished_at = finished.map(at);
    Some(PodSeen {
        uid: "p".into(),
        member,
    })
}

fn ended(reason: AttemptEndReason) -> State {
    State::Ended(member::End {
        reason,
        exit_code: None,
        message: None,
        hint: None,
    })
}

fn seen(pod: Option<PodSeen>) -> Observed {
    Observed {
        pod,
        attempt_ends: false,
        attempt_is_over: false,
        verdict: None,
        evidence: Judgement::None,
        heard_of: None,
        lease_start_ms: None,
        next_exists: false,
        interval: Duration::from_hours(1),
        emission: None,
        hold: None,
        remembered: None,
        archive: ArchiveFact::default(),
        held_by: None,
        certificate: None,
    }
}

fn proof(started: u64, ended: Option<u64>, last: Option<u64>) -> Proof {
    Proof {
        started_ms: Some(BEGIN + started),
        ended_ms: ended.map(|e| BEGIN + e),
        last_ms: last.or(ended).map(|e| BEGIN + e),
        head: Some(format!("0x{}", "1".repeat(64))),
        ..Proof::default()
    }
}

fn reason(plan: &Plan, condition: &str) -> (&'static str, &'static str) {
    let fact = plan
        .facts
        .iter()
        .find(|f| f.condition == condition)
        .unwrap();
    (fact.status.as_str(), fact.reason)
}

/// Begin and end since [`BEGIN`], GPU-milliseconds and cause of the bill.
fn bill_of(plan: &Plan) -> (u64, u64, u64, SealCause) {
    let bill = plan.bill.as_ref().expect("a bill");
    let since = |millis: u64| millis.saturating_sub(BEGIN);
    (
        since(bill.span.from_ms),
        since(bill.span.to_ms),
        bill.gpu_millis,
        bill.cause,
    )
}

#[test]
fn a_member_that_has_not_started_is_waited_for() {
    for pod in [
        None,
        pod(State::Gated, None, None),
        pod(State::Unbound(String::new()), None, None),
    ] {
        let plan = decide(&record(), &seen(pod), at(5000));
        assert_eq!((&plan.bill, &plan.next), (&None, &None));
        assert_eq!(reason(&plan, "Ready"), ("True", "NotStarted"));
    }
}

#[test]
fn a_new_record_tells_nothing_that_its_bill_would_say_as_well() {
    let mut new = record();
    new.metadata.creation_timestamp = Some(Time(at(0)));
    let waiting = seen(None);
    let running = seen(pod(State::Running, Some(2000), None));
    for seen in [&waiting, &running] {
        let early = decide(&new, seen, at(9999));
        assert_eq!((early.is_passing, early.wake), (true, Some(at(10_000))));
        assert!(!decide(&new, seen, at(10_000)).is_passing);
    }
    let refused = Observed {
        evidence: Judgement::Invalid("not of this pod".into()),
        ..running.clone()
    };
    assert!(!decide(&new, &refused, at(5000)).is_passing);
    let ended = Observed {
        evidence: Judgement::Valid(proof(2000, Some(4000), None)),
        ..seen(pod(
            ended(AttemptEndReason::Succeeded),
            Some(2000),
            Some(4000),
        ))
    };
    let billed = decide(&new, &ended, at(5000));
    assert!(billed.bill.is_some() && !billed.is_passing);
}

#[test]
fn a_record_that_has_told_how_far_it_is_goes_on_telling() {
    let mut new = record();
    new.metadata.creation_timestamp = Some(Time(at(0)));
    let plan = decide(&new, &seen(None), at(10_000));
    let conditions = condition::conditions(&[], &plan.facts, Some(1), at(10_000));
    new.status = Some(UsageRecordStatus {
        conditions,
        ..UsageRecordStatus::default()
    });
    let running = seen(pod(State::Running, Some(9000), None));
    assert!(!decide(&new, &running, at(9500)).is_passing);
}

#[test]
fn a_member_that_never_started_owes_nothing() {
    let over = Observed {
        attempt_ends: true,
        attempt_is_over: true,
        ..seen(None)
    };
    let refused = Observed {
        attempt_is_over: true,
        ..seen(pod(ended(AttemptEndReason::AdmissionFailed), None, None))
    };
    for seen in [over, refused] {
        let plan = decide(&record(), &seen, at(5000));
        assert_eq!(bill_of(&plan), (0, 0, 0, SealCause::NeverStarted));
        assert!(!plan.bill.as_ref().unwrap().owes(&record()));
        assert_eq!(reason(&plan, "Settled"), ("True", "NothingOwed"));
    }
}

#[test]
fn a_bill_rests_on_the_agents_milliseconds_within_the_kubelets_seconds() {
    for (started, stopped, expected) in [
        (2_300, 9_700, (2_300, 9_700)),
        // An agent that says more than the kubelet is held to the kubelet's second.
        (1_000, 12_000, (2_000, 9_999)),
        (4_000, 8_000, (2_999, 9_000)),
    ] {
        let seen = Observed {
            evidence: Judgement::Valid(proof(started, Some(stopped), None)),
            ..seen(pod(
                ended(AttemptEndReason::Succeeded),
                Some(2000),
                Some(9000),
            ))
        };
        let plan = decide(&record(), &seen, at(10_000));
        let (from, to) = expected;
        assert_eq!(
            bill_of(&plan),
            (from, to, 2 * (to - from), SealCause::MemberEnded)
        );
        assert_eq!(reason(&plan, "Evidenced"), ("True", "EvidenceComplete"));
        assert_eq!(reason(&plan, "Sealed"), ("True", "Sealed"));
    }
}

#[test]
fn without_evidence_doubt_favours_the_payer() {
    let seen = seen(pod(
        ended(AttemptEndReason::Succeeded),
        Some(2000),
        Some(9000),
    ));
    let plan = decide(&record(), &seen, at(9000));
    assert_eq!(
        (&plan.bill, plan.wake),
        (&None, Some(at(24_000))),
        "the agent gets a moment"
    );
    let plan = decide(&record(), &seen, at(24_000));
    assert_eq!(bill_of(&plan), (3000, 9000, 12_000, SealCause::MemberEnded));
    assert_eq!(reason(&plan, "Evidenced"), ("False", "EvidenceMissing"));
}

#[test]
fn a_run_within_one_second_is_never_less_than_nothing() {
    let seen = seen(pod(
        ended(AttemptEndReason::Succeeded),
        Some(2000),
        Some(2000),
    ));
    assert_eq!(
        bill_of(&decide(&record(), &seen, at(60_000))),
        (3000, 3000, 0, SealCause::MemberEnded)
    );
}

#[test]
fn evidence_that_is_not_to_be_believed_is_none() {
    for (judgement, expected) in [
        (Judgement::Invalid("x".into()), "EvidenceInvalid"),
        (Judgement::NotCertified("x".into()), "KeyNotCertified"),
    ] {
        let seen = Observed {
            evidence: judgement,
            ..seen(pod(
                ended(AttemptEndReason::Succeeded),
                Some(2000),
                Some(9000),
            ))
        };
        let plan = decide(&record(), &seen, at(24_000));
        assert_eq!(bill_of(&plan), (3000, 9000, 12_000, SealCause::MemberEnded));
        assert_eq!(reason(&plan, "Evidenced"), ("False", expected));
    }
}

/// A statement is refused, and those before it reach until `accepted`.
fn refused(started: u64, accepted: Option<u64>) -> Judgement {
    let accepted_ms = accepted.map(|at| BEGIN + at);
    let refused = RefusedEvidence {
        reason: EvidenceFault::Replay,
        epoch: 1,
        seq: 4,
        accepted_ms,
        accepted_head: None,
        statements: vec![],
    };
    let proof = Proof {
        started_ms: accepted.map(|_| BEGIN + started),
        last_ms: accepted_ms,
        refused_from: Some(accepted_ms.unwrap_or(0)),
        ..Proof::default()
    };
    Judgement::Refused(Box::new(refused), proof)
}

#[test]
fn what_a_refused_statement_covers_is_not_billed_and_what_comes_before_it_is() {
    let finished = || pod(ended(AttemptEndReason::Succeeded), Some(2000), Some(9000));
    let lost = || pod(ended(AttemptEndReason::NodeLost), Some(2000), None);
    for (pod, accepted, gpu_millis) in [
        (finished(), Some(7000), 2 * 4700),
        (finished(), None, 0),
        (lost(), Some(7000), 2 * 4700),
        (lost(), None, 0),
    ] {
        let seen = Observed {
            attempt_ends: true,
            attempt_is_over: true,
            evidence: refused(2300, accepted),
            ..seen(pod)
        };
        let plan = decide(&record(), &seen, at(24_000));
        assert_eq!(bill_of(&plan).2, gpu_millis, "{seen:?}");
        assert_eq!(reason(&plan, "Evidenced"), ("False", "EvidenceRefused"));
    }
    // The slices go on, and nothing more is billed for this one.
    let running = Observed {
        evidence: refused(2300, Some(7000)),
        heard_of: Some(at(3_620_000)),
        ..seen(pod(State::Running, Some(2000), None))
    };
    let plan = decide(&record(), &running, at(3_620_000));
    assert_eq!(
        bill_of(&plan),
        (2300, 3_602_300, 2 * 4700, SealCause::IntervalElapsed)
    );
    assert_eq!(
        reason(&decide(&record(), &running, at(10_000)), "Evidenced"),
        ("False", "EvidenceRefused")
    );
}

#[test]
fn a_member_that_failed_is_billed_once_it_is_known_at_whose_door_that_is_laid() {
    let failed = Observed {
        evidence: Judgement::Valid(proof(2300, Some(8500), None)),
        ..seen(pod(
            ended(AttemptEndReason::ExitedNonZero),
            Some(2000),
            Some(9000),
        ))
    };
    assert_eq!(decide(&record(), &failed, at(60_000)).bill, None);
    let verdict = Some((Verdict::Host, VerdictReason::HardwareXid));
    let judged = Observed {
        attempt_ends: true,
        attempt_is_over: true,
        verdict,
        ..failed
    };
    let bill = decide(&record(), &judged, at(60_000)).bill.unwrap();
    assert_eq!((bill.verdict, bill.gpu_millis), (verdict, 13_400));
}

#[test]
fn a_lost_node_or_agent_ends_the_slice_with_the_last_evidence() {
    let lost_node = Observed {
        attempt_ends: true,
        attempt_is_over: true,
        evidence: Judgement::Valid(proof(2300, None, Some(7000))),
        ..seen(pod(ended(AttemptEndReason::NodeLost), Some(2000), None))
    };
    let plan = decide(&record(), &lost_node, at(8000));
    assert_eq!(bill_of(&plan), (2300, 7000, 9400, SealCause::EvidenceEnded));
    assert_eq!(reason(&plan, "Evidenced"), ("False", "EvidenceHasGaps"));

    let lost_agent = Observed {
        pod: pod(ended(AttemptEndReason::Succeeded), Some(2000), Some(9000)).clone(),
        ..lost_node.clone()
    };
    assert_eq!(decide(&record(), &lost_agent, at(10_000)).bill, None);
    let plan = decide(&record(), &lost_agent, at(24_000));
    assert_eq!(bill_of(&plan), (2300, 7000, 9400, SealCause::EvidenceEnded));

    let nothing_seen = Observed {
        attempt_ends: true,
        attempt_is_over: true,
        ..seen(pod(ended(AttemptEndReason::NodeLost), Some(2000), None))
    };
    assert_eq!(
        bill_of(&decide(&record(), &nothing_seen, at(8000))),
        (3000, 3000, 0, SealCause::EvidenceEnded)
    );
}

#[test]
fn a_slice_on_a_lost_node_stays_open_until_its_job_gives_the_attempt_up() {
    let lost_node = Observed {
        evidence: Judgement::Valid(proof(2300, None, Some(7000))),
        ..seen(pod(ended(AttemptEndReason::NodeLost), Some(2000), None))
    };
    assert_eq!(decide(&record(), &lost_node, at(80_000)).bill, None);
    let being_judged = Observed {
        attempt_ends: true,
        ..lost_node.clone()
    };
    assert_eq!(decide(&record(), &being_judged, at(80_000)).bill, None);
    let given_up = Observed {
        attempt_ends: true,
        attempt_is_over: true,
        ..lost_node
    };
    let plan = decide(&record(), &given_up, at(80_000));
    assert_eq!(bill_of(&plan), (2300, 7000, 9400, SealCause::EvidenceEnded));
}

fn gap(from: u64, to: u64, bridged: bool) -> EvidenceGap {
    EvidenceGap {
        from_ms: BEGIN + from,
        to_ms: BEGIN + to,
        reason: GapReason::AgentAway,
        bridged,
    }
}

#[test]
fn a_gap_is_billed_only_if_it_is_bridged() {
    for (gaps, unbilled, evidenced) in [
        (vec![gap(3000, 5000, true)], 0, "EvidenceHasGaps"),
        (vec![gap(3000, 5000, false)], 2000, "EvidenceHasGaps"),
        (
            vec![gap(3000, 5000, false), gap(4000, 6000, false)],
            3000,
            "EvidenceHasGaps",
        ),
        (
            vec![gap(0, 3000, false), gap(8000, 99_000, false)],
            700 + 1700,
            "EvidenceHasGaps",
        ),
        (vec![gap(20_000, 30_000, false)], 0, "EvidenceComplete"),
    ] {
        let seen = Observed {
            evidence: Judgement::Valid(Proof {
                gaps,
                ..proof(2300, Some(9700), None)
            }),
            ..seen(pod(
                ended(AttemptEndReason::Succeeded),
                Some(2000),
                Some(9000),
            ))
        };
        let plan = decide(&record(), &seen, at(10_000));
        assert_eq!(bill_of(&plan).2, 2 * (7400 - unbilled), "{seen:?}");
        assert_eq!(reason(&plan, "Evidenced").1, evidenced);
    }
}

#[test]
fn shares_of_devices_are_billed_as_shares_and_never_more_than_was_asked_for() {
    let share = |numerator, denominator| Share::new(numerator, denominator).unwrap();
    for (shares, expected) in [
        (vec![Share::WHOLE; 2], 2000),
        (vec![share(1, 7), share(3, 7)], 142 + 428),
        (vec![Share::WHOLE; 3], 2000),
        (vec![share(1, 2)], 500),
    ] {
        let seen = Observed {
            evidence: Judgement::Valid(Proof {
                shares,
                ..proof(2000, Some(3000), None)
            }),
            ..seen(pod(
                ended(AttemptEndReason::Succeeded),
                Some(2000),
                Some(3000),
            ))
        };
        assert_eq!(bill_of(&decide(&record(), &seen, at(10_000))).2, expected);
    }
}

#[test]
fn a_slice_is_cut_when_its_interval_is_over_and_the_agent_is_at_work() {
    let hour = 3_600_000;
    let open = |evidence, heard: Option<u64>| Observed {
        evidence,
        heard_of: heard.map(at),
        ..seen(pod(State::Running, Some(2000), None))
    };
    let proof = |last| Judgement::Valid(proof(2300, None, Some(last)));
    let cut = 2300 + hour;

    let early = decide(&record(), &open(proof(0), Some(cut - 1)), at(cut - 1));
    assert_eq!((&early.bill, early.wake), (&None, Some(at(cut))));
    let covered = decide(&record(), &open(proof(cut), None), at(cut));
    assert_eq!(
        bill_of(&covered),
        (2300, cut, 2 * hour, SealCause::IntervalElapsed)
    );
    let alive = open(proof(0), Some(cut + 5000));
    assert_eq!(decide(&record(), &alive, at(cut + 14_999)).bill, None);
    assert_eq!(bill_of(&decide(&record(), &alive, at(cut + 15_000))).1, cut);
    let away = decide(&record(), &open(proof(0), Some(cut - 1)), at(cut + hour));
    assert_eq!(
        away.bill, None,
        "only the agent can tell whether the process ran on"
    );
    assert_eq!(reason(&away, "Ready"), ("True", "Metering"));
}

#[test]
fn a_slice_is_cut_though_every_heartbeat_comes_just_before_an_interval_ends() {
    let hour = 3_600_000;
    let cut = 2300 + hour;
    let heard_at_the_end_of_the_second = Observed {
        evidence: Judgement::Valid(proof(2300, None, Some(0))),
        heard_of: Some(at(cut + hour - 1)),
        ..seen(pod(State::Running, Some(2000), None))
    };
    let plan = decide(
        &record(),
        &heard_at_the_end_of_the_second,
        at(cut + hour + 500),
    );
    assert_eq!(bill_of(&plan).1, cut);
}

#[test]
fn a_slice_is_never_cut_within_a_gap() {
    let hour = 3_600_000;
    let seen = Observed {
        evidence: Judgement::Valid(Proof {
            gaps: vec![gap(hour, 3 * hour, false)],
            ..proof(0, None, Some(3 * hour + 500))
        }),
        ..seen(pod(State::Running, Some(0), None))
    };
    let plan = decide(&record(), &seen, at(2 * hour + 1));
    assert_eq!(plan.bill, None);
    let plan = decide(&record(), &seen, at(3 * hour + 1000));
    assert_eq!(
        bill_of(&plan),
        (0, 3 * hour, 2 * hour, SealCause::IntervalElapsed)
    );
}

#[test]
fn an_emission_is_never_more_than_the_fee_that_is_taken() {
    let terms = EmissionTerms {
        per_gpu_second: TokenAmount::from_nano(1_000),
        factors: Factors {
            performance_permille: 500,
            stability_permille: 1000,
            reference: "configured".into(),
        },
        fee_bps: 500,
        available_nano: u128::MAX,
    };
    let with = |terms: EmissionTerms| {
        let seen = Observed {
            evidence: Judgement::Valid(proof(2000, Some(7000), None)),
            emission: Some(terms),
            ..seen(pod(
                ended(AttemptEndReason::Succeeded),
                Some(2000),
                Some(7000),
            ))
        };
        decide(&record(), &seen, at(10_000))
            .bill
            .unwrap()
            .emission_nano
    };
    // 2 GPUs for 5 s: 10 × 1,000 × ½; the fee on 10 × 720,000 is 360,000.
    assert_eq!(with(terms.clone()), Some(5_000));
    let dear = EmissionTerms {
        per_gpu_second: TokenAmount::from_nano(1_000_000_000),
        ..terms.clone()
    };
    assert_eq!(with(dear), Some(360_000));
    let empty = EmissionTerms {
        available_nano: 4_999,
        ..terms.clone()
    };
    assert_eq!(with(empty), None);
    assert_eq!(
        with(EmissionTerms {
            fee_bps: 0,
            ..terms
        }),
        None
    );
}

/// The API server as far as records are concerned: names are unique, a write needs the version that was read, and a seal
/// is for ever.
#[derive(Clone, Default)]
struct Server {
    records: BTreeMap<String, UsageRecord>,
    version: u64,
}

impl Server {
    fn create(&mut self, mut record: UsageRecord) {
        self.version += 1;
        record.metadata.resource_version = Some(self.version.to_string());
        self.records
            .entry(record.metadata.name.clone().unwrap())
            .or_insert(record);
    }

    /// Whether the seal was taken.
    fn seal(&mut self, read: &UsageRecord, bill: &Bill, number: u64) -> bool {
        let stored = self
            .records
            .get_mut(read.metadata.name.as_ref().unwrap())
            .unwrap();
        if stored.metadata.resource_version != read.metadata.resource_version {
            return false;
        }
        self.version += 1;
        stored.metadata.resource_version = Some(self.version.to_string());
        let before = stored.status.as_ref().and_then(|s| s.sealed.clone());
        assert_eq!(before, None, "a seal is never written twice");
        let sealed = act::sealed(read, bill, bill.owes(read).then_some(number), None).unwrap();
        stored.status.get_or_insert_default().sealed = Some(sealed);
        true
    }
}

/// Where an operator dies in a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Dies {
    Not,
    BeforeNumber,
    AfterNumber,
    AfterSeal,
}

/// A member that runs from `0` to `end`, with an agent that sees all of it.
fn world(server: &Server, name: &str, end: u64, now: u64, interval: Duration) -> Observed {
    let record = &server.records[name];
    let next = gridstake_crds::names::usage_record("u", 1, 0, record.spec.slice + 1);
    let over = now >= end;
    let state = if over {
        ended(AttemptEndReason::Succeeded)
    } else {
        State::Running
    };
    Observed {
        evidence: Judgement::Valid(proof(0, over.then_some(end), Some(now.min(end)))),
        heard_of: Some(at(now)),
        next_exists: server.records.contains_key(&next),
        interval,
        ..seen(pod(state, Some(0), over.then_some(end / 1000 * 1000)))
    }
}

proptest! {
    /// Two operators, each with a view of its own age, die anywhere: no slice has two numbers, no number two slices, none
    /// is lost, and they add up to the lease.
    #[test]
    fn slices_are_billed_once_and_add_up_however_often_operators_die(
        end in 1_000_u64..60_000,
        steps in prop::collection::vec((0..2usize, 0..8usize, prop_oneof![
            4 => Just(Dies::Not), 1 => Just(Dies::BeforeNumber), 1 => Just(Dies::AfterNumber), 1 => Just(Dies::AfterSeal),
        ], any::<bool>(), 0..4_000_u64), 1..60),
    ) {
        let interval = Duration::from_secs(7);
        let mut server = Server::default();
        server.create(record());
        let mut views = [server.clone(), server.clone()];
        let mut numbers = 0_u64;
        let mut now = 0;
        let settle = (0..60).map(|_| (0, 0, Dies::Not, true, 3_000));
        for (who, which, dies, refresh, passes) in steps.into_iter().chain(settle) {
            now += passes;
            if refresh {
                views[who] = server.clone();
            }
            let names: Vec<_> = views[who].records.keys().cloned().collect();
            // The settling passes look at every record.
            let picked: Vec<_> = if passes == 3_000 { names } else { vec![names[which % names.len()].clone()] };
            for name in picked {
                let read = views[who].records[&name].clone();
                let plan = decide(&read, &world(&views[who], &name, end, now, interval), at(now));
                if let Some(next) = plan.next {
                    server.create(next);
                }
                let Some(bill) = plan.bill else { continue };
                if dies == Dies::BeforeNumber { continue }
                let number = numbers;
                numbers += 1;
                if dies == Dies::AfterNumber { continue }
                server.seal(&read, &bill, number);
                if dies == Dies::AfterSeal { break }
            }
        }
        let mut slices: Vec<_> = server.records.values().collect();
        slices.sort_by_key(|r| r.spec.slice);
        let sealed: Vec<_> = slices.iter().map(|r| r.status.as_ref().unwrap().sealed.clone().expect("every slice is sealed")).collect();
        let mut used = BTreeSet::new();
        let mut reached = BEGIN;
        for (slice, sealed) in slices.iter().zip(&sealed) {
            prop_assert_eq!(sealed.start_ms, reached, "it begins where the one before it ended");
            prop_assert_eq!(slice.spec.from_ms.unwrap_or(BEGIN), reached);
            reached = sealed.end_ms;
            if let Some(number) = sealed.job_no {
                prop_assert!(used.insert(number), "{} twice", number);
            }
            prop_assert_eq!(sealed.job_no.is_some(), sealed.gpu_millis > 0);
        }
        let last = sealed.last().unwrap();
        prop_assert_eq!(last.cause, SealCause::MemberEnded);
        prop_assert_eq!(reached - BEGIN, end);
        let sum: u64 = sealed.iter().map(|s| s.gpu_millis).sum();
        prop_assert_eq!(sum, 2 * end);
    }
}

#[test]
fn a_lease_of_24_days_adds_up_to_the_millisecond() {
    let end = 24 * 86_400_000 + 7_654_321;
    let interval = Duration::from_hours(1);
    let mut server = Server::default();
    server.create(record());
    let mut now = 0;
    while now < end + 3 * 1_800_000 {
        now += 1_800_000;
        for name in server.records.keys().cloned().collect::<Vec<_>>() {
            let read = server.records[&name].clone();
            if server.records.len() > 1
                && read.status.is_some()
                && world(&server, &name, end, now, interval).next_exists
            {
                continue;
            }
            let plan = decide(&read, &world(&server, &name, end, now, interval), at(now));
            if let Some(next) = plan.next {
                server.create(next);
            }
            if let Some(bill) = plan.bill {
                assert!(server.seal(&read, &bill, now));
            }
        }
    }
    let sealed: Vec<_> = server
        .records
        .values()
        .filter_map(|r| r.status.as_ref()?.sealed.as_ref())
        .collect();
    assert_eq!(sealed.len(), server.records.len());
    assert!(sealed.len() > 500, "{}", sealed.len());
    assert_eq!(sealed.iter().map(|s| s.gpu_millis).sum::<u64>(), 2 * end);
}

/// The record as its agent tells of it after the API server has lost `sealed`.
fn remembering(sealed: &Sealed) -> UsageRecord {
    let mut record = record();
    record.status.get_or_insert_default().evidence = Some(gridstake_crds::usage_record::Evidence {
        pod_uid: "p".into(),
        key: "0x52908400098527886E0F7030069857D2E4169EE7".into(),
        devices: vec![],
        started_ms: None,
        ended_ms: None,
        checkpoints: vec![],
        gaps: vec![],
        foreign_processes: None,
        sealed: Some(sealed.clone()),
    });
    record
}

fn lost_seal(cause: SealCause) -> Sealed {
    Sealed {
        job_no: Some(256),
        start_ms: BEGIN + 2300,
        end_ms: BEGIN + 7000,
        gpu_millis: 9400,
        price: Some(TokenAmount::from_nano(720_000)),
        cause,
        verdict: None,
        verdict_reason: None,
        energy_millijoules: None,
        factors: None,
        emission: None,
        evidence_head: None,
        certificate: None,
        receipt_hash: format!("0x{}", "2".repeat(64)),
    }
}

const IN_DOUBT: Hold = Hold::InDoubt {
    count: 1,
    until_ms: BEGIN + 9_000,
    differs: None,
};

#[test]
fn a_seal_that_is_remembered_and_was_paid_is_written_as_it_was_whatever_the_member_looks_like() {
    let sealed = lost_seal(SealCause::IntervalElapsed);
    for pod in [
        None,
        pod(State::Gated, None, None),
        pod(State::Running, Some(2000), None),
        pod(ended(AttemptEndReason::Succeeded), Some(2000), Some(60_000)),
    ] {
        for attempt_is_over in [false, true] {
            let seen = Observed {
                attempt_ends: attempt_is_over,
                attempt_is_over,
                hold: Some(IN_DOUBT),
                remembered: Some(Remembered(sealed.clone())),
                ..seen(pod.clone())
            };
            let plan = decide(&remembering(&sealed), &seen, at(80_000));
            assert_eq!((&plan.restored, &plan.bill), (&Some(sealed.clone()), &None));
            assert_eq!(reason(&plan, "Sealed"), ("True", "Sealed"));
            assert_eq!(reason(&plan, "Evidenced"), ("False", "EvidenceMissing"));
        }
    }
    // Then the next slice is opened where it ended.
    let mut record = remembering(&sealed);
    record.status.get_or_insert_default().sealed = Some(sealed.clone());
    let plan = decide(&record, &seen(None), at(80_000));
    assert_eq!(plan.next.unwrap().spec.from_ms, Some(sealed.end_ms));
    assert_eq!(plan.restored, None);
}

#[test]
fn a_remembered_seal_that_differs_from_what_was_paid_leaves_the_record_in_doubt_and_says_why() {
    let sealed = lost_seal(SealCause::MemberEnded);
    let hold = Hold::InDoubt {
        count: 1,
        until_ms: BEGIN + 9_000,
        differs: Some(super::super::remembered::Difference::Units {
            number: 256,
            sealed: 9400,
            paid: 9000,
        }),
    };
    let seen = Observed {
        hold: Some(hold),
        ..seen(pod(
            ended(AttemptEndReason::Succeeded),
            Some(2000),
            Some(7000),
        ))
    };
    let plan = decide(&remembering(&sealed), &seen, at(80_000));
    assert_eq!((&plan.restored, &plan.bill), (&None, &None));
    assert_eq!(reason(&plan, "Sealed"), ("False", "InDoubt"));
    let fact = plan.facts.iter().find(|f| f.condition == "Sealed").unwrap();
    assert!(
        fact.message.contains("the chain has paid 9000"),
        "{}",
        fact.message
    );
}

#[test]
fn what_is_remembered_waits_for_the_comparison_with_the_chain_and_until_nothing_of_it_can_be_mined()
{
    let sealed = lost_seal(SealCause::MemberEnded);
    for (hold, why) in [
        (Hold::LogNotCompared, "LogNotCompared"),
        (Hold::MayBeMined, "InDoubt"),
    ] {
        remembered_waits(&sealed, hold, why);
    }
}

#[test]
fn what_began_before_a_restore_that_may_have_been_waits_and_what_began_later_or_owes_nothing_does_not()
 {
    let over = |hold| Observed {
        hold,
        ..seen(pod(
            ended(AttemptEndReason::Succeeded),
            Some(2000),
            Some(7000),
        ))
    };
    let since = |milli| {
        Some(Hold::MayBeLost {
            until_ms: BEGIN + milli,
        })
    };
    let never_started = |hold| Observed {
        attempt_ends: true,
        attempt_is_over: true,
        hold,
        ..seen(None)
    };
    // It began at 3000: in doubt what is billed begins with the next whole second.
    for (seen, is_sealed) in [
        (over(None), true),
        (over(since(2000)), true),
        (over(since(3000)), true),
        (over(since(3001)), false),
        (over(since(9_000_000)), false),
        (never_started(since(9_000_000)), true),
    ] {
        let plan = decide(&record(), &seen, at(80_000));
        assert_eq!(plan.bill.is_some(), is_sealed, "{:?}", seen.hold);
        if !is_sealed {
            assert_eq!(reason(&plan, "Sealed"), ("False", "InDoubt"));
            assert_eq!(plan.wake, Some(at(82_000)));
        }
    }
}

#[test]
fn a_slice_that_owes_nothing_by_what_is_known_waits_while_it_may_have_been_paid() {
    // What the kubelet says of its end lies before its beginning, where the agent knows better.
    let ended_at_once = |hold| Observed {
        hold: Some(hold),
        ..seen(pod(
            ended(AttemptEndReason::Succeeded),
            Some(2000),
            Some(7000),
        ))
    };
    let mut follows = record();
    follows.spec.from_ms = Some(BEGIN + 8_500);
    let lost = |milli| Hold::MayBeLost {
        until_ms: BEGIN + milli,
    };
    for (hold, waits) in [
        (IN_DOUBT, true),
        // Right after a restore nothing is noted of it yet.
        (Hold::LogNotCompared, true),
        (lost(9_000), true),
        // What has begun since was never paid.
        (lost(8_000), false),
    ] {
        let plan = decide(&follows, &ended_at_once(hold), at(80_000));
        assert_eq!(plan.bill.is_none(), waits, "{hold:?}");
    }
    let unpaid = {
        let mut record = follows.clone();
        record.spec.payment = None;
        record
    };
    let plan = decide(&unpaid, &ended_at_once(IN_DOUBT), at(80_000));
    assert!(plan.bill.is_some());
    // Without a doubt it is sealed, and owes nothing.
    let plan = decide(
        &follows,
        &Observed {
            hold: None,
            ..ended_at_once(IN_DOUBT)
        },
        at(80_000),
    );
    assert_eq!(plan.bill.map(|bill| bill.gpu_millis), Some(0));
    // A first slice has begun if its agent has stated anything, or if its member has started.
    let mut stated = remembering(&lost_seal(SealCause::MemberEnded));
    let absent = seen(None);
    for hold in [lost(9_000), Hold::LogNotCompared] {
        assert!(may_have_owed(&stated, &absent, &hold));
        assert!(may_have_owed(&record(), &ended_at_once(hold), &hold));
    }
    stated.status = None;
    for hold in [lost(9_000), Hold::LogNotCompared] {
        assert!(!may_have_owed(&stated, &absent, &hold));
    }
}

fn remembered_waits(sealed: &Sealed, hold: Hold, why: &str) {
    let not_compared = |pod, attempt_is_over| Observed {
        attempt_ends: attempt_is_over,
        attempt_is_over,
        hold: Some(hold),
        ..seen(pod)
    };
    // It would owe nothing now; what it owed is remembered.
    let never_started = not_compared(None, true);
    let plan = decide(&remembering(sealed), &never_started, at(80_000));
    assert_eq!((&plan.bill, reason(&plan, "Sealed").1), (&None, why));
    assert!(decide(&record(), &never_started, at(80_000)).bill.is_some());
    for pod in [None, pod(State::Running, Some(79_000), None)] {
        let seen = not_compared(pod, false);
        let plan = decide(&remembering(sealed), &seen, at(80_000));
        assert_eq!((plan.bill, plan.wake), (None, Some(at(82_000))));
    }
}

#[test]
fn a_record_says_whether_the_archive_holds_it_and_if_not_why() {
    let mut record = record();
    let settled = |state: &str, hash: &str| {
        serde_saphyr::from_str(&format!("{{state: {state}{hash}}}")).unwrap()
    };
    let over = Observed {
        attempt_ends: true,
        attempt_is_over: true,
        ..seen(None)
    };
    let bill = decide(&record, &over, at(0)).bill.unwrap();
    let sealed = act::sealed(&record, &bill, Some(256), None).unwrap();
    record.status.get_or_insert_default().sealed = Some(sealed);
    let hash = format!(", archiveHash: '0x{}'", "ab".repeat(32));
    let away = ArchiveFact::Unavailable("the volume is full".into());
    for (state, hash, archive, expected) in [
        ("Final", "", ArchiveFact::None, ("False", "NotArchived")),
        (
            "NothingOwed",
            "",
            ArchiveFact::NothingOwed,
            ("False", "NotArchived"),
        ),
        ("Final", "", ArchiveFact::Open, ("False", "NotArchived")),
        ("Batched", "", away.clone(), ("False", "NotArchived")),
        ("Final", "", away.clone(), ("False", "ArchiveUnavailable")),
        ("Final", &hash, away, ("True", "Archived")),
    ] {
        record.status.as_mut().unwrap().settlement = Some(settled(state, hash));
        let seen = Observed {
            archive,
            ..seen(None)
        };
        let plan = decide(&record, &seen, at(0));
        assert_eq!(reason(&plan, "Archived"), expected, "{state} {hash}");
    }
}
