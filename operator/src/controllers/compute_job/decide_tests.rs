use gridstake_crds::{
    compute_job::{ComputeJobCondition, Failures},
    condition,
};
use proptest::prelude::*;

use super::{
    super::{
        member::StartTrouble,
        usage::{Bill, Progress, Slice},
    },
    *,
};
use crate::{failover::NodeState, payer::Account};

const START: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).unwrap()
}

/// A job of two GPUs per member; `spec` and `status` are added in YAML's flow style.
fn job(spec: &str, status: &str) -> ComputeJob {
    let created = at(0);
    serde_saphyr::from_str(&format!(
        "{{apiVersion: gridstake.dev/v1alpha1, kind: ComputeJob, metadata: {{name: j, namespace: n, uid: u, generation: 3, creationTimestamp: '{created}', finalizers: [{FINALIZER_JOB}]}}, \
         spec: {{gpu: {{count: 2}}, template: {{}}{spec}}}, status: {{{status}}}}}"
    ))
    .unwrap()
}

/// The status of a job whose attempt `attempt` of `members` members was placed at second 10.
fn placed(attempt: u32, members: u32) -> String {
    let zero = format!("0x{}", "0".repeat(64));
    let nodes: Vec<_> = (0..members)
        .map(|m| format!("{{member: {m}, node: node-{m}}}"))
        .collect();
    format!(
        "placement: {{attempt: {attempt}, decidedAt: '{}', nodes: [{}], decision: {{draw: d, blockHash: '{zero}', previous: '{zero}', hash: '{zero}', snapshot: 1, candidates: 1, totalWeight: '1', drawn: []}}}}",
        at(10),
        nodes.join(", ")
    )
}

fn member(number: u32, state: State) -> Member {
    Member {
        state,
        held: true,
        ..Member::missing(1, number, format!("j-1-{number}"))
    }
}

fn ran(number: u32, state: State, from: i64, to: Option<i64>) -> Member {
    Member {
        started_at: Some(at(from)),
        finished_at: to.map(at),
        ..member(number, state)
    }
}

fn succeeded() -> State {
    State::Ended(End {
        reason: AttemptEndReason::Succeeded,
        exit_code: Some(0),
        message: None,
        hint: None,
    })
}

fn failed(reason: AttemptEndReason) -> State {
    State::Ended(End {
        reason,
        exit_code: Some(3),
        message: Some("why".into()),
        hint: None,
    })
}

/// The one slice of a member's record, sealed with what its pod tells.
fn slice_of(pod: &Member) -> Slice {
    let held = pod.started_at.zip(pod.finished_at).map_or(0, |(from, to)| {
        u64::try_from(to.duration_since(from).as_millis()).unwrap()
    });
    Slice {
        attempt: pod.attempt,
        member: pod.member,
        slice: 0,
        lane: None,
        payer: None,
        bill: Some(Bill {
            gpu_millis: 2 * held,
            ..Bill::default()
        }),
        payment: Progress::NothingOwed,
    }
}

/// Pods whose use is billed as soon as they have ended, with no chain configured.
fn seen(pods: Vec<Member>) -> Observed {
    Observed {
        places: pods.iter().map(well).collect(),
        books: Books::new(pods.iter().map(slice_of).collect()),
        pods,
        ..asked(Validation::NotAsked, Admission::NotAsked)
    }
}

/// A place of which nothing is reported.
fn well(pod: &Member) -> Place {
    Place {
        member: pod.member,
        gpus_are_known: true,
        told_until_ms: Some(unix_millis(at(100_000))),
        is_heard: true,
        sees_gpus: true,
        ..Place::default()
    }
}

fn asked(validation: Validation, admission: Admission) -> Observed {
    Observed {
        pods: vec![],
        on_their_way: BTreeSet::new(),
        validation,
        admission,
        books: Books::default(),
        payer: WhoPays::Nobody,
        funds: Funds::Suffice,
        places: Vec::new(),
        reclaimed: None,
        verification: verification::Seen::default(),
        untold_since: None,
        gates_off_at: None,
    }
}

fn new_member(member: u32) -> NewMember {
    NewMember {
        attempt: 1,
        member,
        rank: member,
        restarts: 0,
        node: format!("node-{member}"),
        payment: None,
    }
}

fn status(plan: &Plan) -> &ComputeJobStatus {
    plan.status.as_ref().unwrap()
}

fn reason(plan: &Plan, condition: ComputeJobCondition) -> (&'static str, &'static str) {
    use gridstake_crds::closed_enum::ClosedEnum as _;
    let fact = plan
        .facts
        .iter()
        .find(|f| f.condition == condition.as_str())
        .unwrap();
    (fact.status.as_str(), fact.reason)
}

/// The job after `plan`'s status was written at `now`, as the next pass reads it.
fn written(job: &ComputeJob, plan: &Plan, now: Timestamp) -> ComputeJob {
    let mut job = job.clone();
    let mut next = plan.status.clone().unwrap();
    next.conditions = condition::conditions(
        &job.status.unwrap_or_default().conditions,
        &plan.facts,
        job.metadata.generation,
        now,
    );
    job.status = Some(next);
    job
}

#[test]
fn a_sound_and_admitted_job_waits_for_a_place() {
    let plan = decide(
        &job("", ""),
        &asked(Validation::Sound, Admission::Admitted),
        at(1),
    );
    assert_eq!(plan.writes, []);
    assert_eq!(
        reason(&plan, ComputeJobCondition::Validated),
        ("True", "Valid")
    );
    assert_eq!(
        reason(&plan, ComputeJobCondition::Admitted),
        ("True", "Admitted")
    );
    assert_eq!(
        reason(&plan, ComputeJobCondition::Ready),
        ("False", "Queued")
    );
    assert_eq!(status(&plan).observed_generation, Some(3));
}

#[test]
fn that_a_new_job_waits_is_told_when_it_has_lasted_for_two_seconds() {
    let new = job("", "");
    let untold = |since| Observed {
        untold_since: since,
        ..asked(Validation::Sound, Admission::Admitted)
    };
    let first = decide(&new, &untold(None), at(1));
    assert!(first.is_admitted_untold && first.is_passing);
    assert_eq!(first.wake, Some(at(3)));
    // Meanwhile it is told by the loop that places jobs that there is no room: no news of this controller's.
    let waits = job("", "queue: {position: 3}");
    let still = decide(&waits, &untold(Some(at(1))), at(2));
    assert!(still.is_admitted_untold && still.is_passing);
    let lasting = decide(&new, &untold(Some(at(1))), at(3));
    assert!(lasting.is_admitted_untold && !lasting.is_passing);
    // Once it has been told, nothing is left untold.
    let told = decide(&job("", &observed("")), &untold(None), at(1));
    assert!(!told.is_admitted_untold && !told.is_passing);
    let refused = asked(
        Validation::Sound,
        Admission::Refused(ComputeJobReason::Unsatisfiable, "no".into()),
    );
    let refused = decide(&new, &refused, at(1));
    assert!(!refused.is_admitted_untold && !refused.is_passing);
}

#[test]
fn a_job_that_was_placed_before_anything_was_said_was_sound_and_admitted() {
    let ended = job("", &format!("{}, endReason: RunTimeout", placed(1, 1)));
    let plan = decide(&ended, &seen(vec![]), at(9));
    let (validated, admitted) = (
        reason(&plan, ComputeJobCondition::Validated),
        reason(&plan, ComputeJobCondition::Admitted),
    );
    assert_eq!(
        (validated, admitted),
        (("True", "Valid"), ("True", "Admitted"))
    );
}

#[test]
fn what_keeps_a_job_from_the_queue_is_said() {
    let cases = [
        (
            asked(
                Validation::Faulty(ComputeJobReason::InvalidTemplate, "x".into()),
                Admission::NotAsked,
            ),
            "False",
            "InvalidTemplate",
        ),
        (
            asked(Validation::Refused("quota".into()), Admission::NotAsked),
            "False",
            "PodRefused",
        ),
        (
            asked(Validation::Unavailable("down".into()), Admission::NotAsked),
            "Unknown",
            "ValidationUnavailable",
        ),
    ];
    for (seen, holds, why) in cases {
        let plan = decide(&job("", ""), &seen, at(1));
        assert_eq!(reason(&plan, ComputeJobCondition::Validated), (holds, why));
        assert_eq!(
            reason(&plan, ComputeJobCondition::Admitted),
            ("False", "Pending")
        );
    }
    let refused = asked(
        Validation::Sound,
        Admission::Refused(ComputeJobReason::Unsatisfiable, "no node".into()),
    );
    assert_eq!(
        reason(
            &decide(&job("", ""), &refused, at(1)),
            ComputeJobCondition::Ready
        ),
        ("False", "Unsatisfiable")
    );
}

#[test]
fn the_api_server_is_asked_again_after_a_refusal_and_never_after_a_fault() {
    let refused = decide(
        &job("", ""),
        &asked(Validation::Refused("quota".into()), Admission::NotAsked),
        at(1),
    );
    assert_eq!(refused.wake, Some(at(31)));
    let faulty = decide(
        &job("", ""),
        &asked(
            Validation::Faulty(ComputeJobReason::InvalidTemplate, "x".into()),
            Admission::NotAsked,
        ),
        at(1),
    );
    assert_eq!(faulty.wake, None);
}

#[test]
fn a_job_that_waits_too_long_for_its_first_place_fails() {
    let waiting = job(", timeouts: {queue: 60s}", "");
    let plan = decide(
        &waiting,
        &asked(Validation::Sound, Admission::Admitted),
        at(59),
    );
    assert_eq!((status(&plan).end_reason, plan.wake), (None, Some(at(60))));
    let plan = decide(
        &waiting,
        &asked(Validation::Sound, Admission::Admitted),
        at(60),
    );
    assert_eq!(status(&plan).end_reason, Some(JobEndReason::QueueTimeout));
    assert_eq!(
        reason(&plan, ComputeJobCondition::Failed),
        ("True", "QueueTimeout")
    );
}

#[test]
fn a_placed_job_gets_its_pods_on_its_nodes() {
    let plan = decide(&job(", members: 2", &placed(1, 2)), &seen(vec![]), at(11));
    assert_eq!(
        plan.writes,
        [Write::CreatePods {
            attempt: 1,
            members: vec![new_member(0), new_member(1)]
        }]
    );
    assert_eq!(plan.wake, Some(at(20)));
    let late = decide(&job(", members: 2", &placed(1, 2)), &seen(vec![]), at(20));
    assert_eq!(late.wake, Some(at(310)));
}

#[test]
fn gates_are_lifted_only_when_every_member_exists() {
    let gang = job(", members: 2", &placed(1, 2));
    let half = decide(&gang, &seen(vec![member(0, State::Gated)]), at(11));
    assert_eq!(
        half.writes,
        [Write::CreatePods {
            attempt: 1,
            members: vec![new_member(1)]
        }]
    );
    let all = decide(
        &gang,
        &seen(vec![member(0, State::Gated), member(1, State::Gated)]),
        at(11),
    );
    assert_eq!(
        all.writes,
        [Write::LiftGates(vec!["j-1-0".into(), "j-1-1".into()])]
    );
}

#[test]
fn while_others_hold_a_pod_back_an_attempt_may_take_as_long_as_it_likes_to_start() {
    let gang = job(
        ", members: 2, timeouts: {start: 20s}",
        &observed(&placed(1, 2)),
    );
    let held = || State::Held("kueue.x-k8s.io/admission".into());
    let both = seen(vec![member(0, held()), member(1, held())]);
    let waits = decide(&gang, &both, at(9000));
    assert_eq!((&waits.writes[..], waits.wake), (&[][..], None));
    assert_eq!(
        reason(&waits, ComputeJobCondition::Ready),
        ("False", "WaitingForGate")
    );
    // One that is admitted alone waits for the other.
    let unbound = || State::Unbound(String::new());
    let one = seen(vec![member(0, held()), member(1, unbound())]);
    assert_eq!(decide(&gang, &one, at(9000)).writes, []);
    // From then on it has the time that any attempt has.
    let lifted = Observed {
        gates_off_at: Some(at(9000)),
        ..seen(vec![member(0, unbound()), member(1, unbound())])
    };
    let starts = decide(&gang, &lifted, at(9019));
    assert_eq!((&starts.writes[..], starts.wake), (&[][..], Some(at(9020))));
    let late = decide(&gang, &lifted, at(9020));
    let ending = status(&late).ending.as_ref().map(|ending| ending.reason);
    assert_eq!(ending, Some(AttemptEndReason::PlacementLost));
    assert_eq!(status(&starts).ending, None);
}

/// Pods whose use is not billed yet, on a lane.
fn unbilled(pods: Vec<Member>) -> Observed {
    let open = |pod: &Member| Slice {
        bill: None,
        lane: Some(("anvil".into(), 7)),
        payment: Progress::Open,
        ..slice_of(pod)
    };
    Observed {
        books: Books::new(pods.iter().map(open).collect()),
        ..seen(pods)
    }
}

/// The status in which the placement at second 10 finds a job, and what is written on it.
fn observed(status: &str) -> String {
    format!("observedGeneration: 3, {status}")
}

#[test]
fn a_start_is_told_when_it_has_lasted_for_seconds_and_the_operators_own_part_in_it_later() {
    let placed = job(", members: 2", &observed(&placed(1, 2)));
    let gated = || unbilled(vec![member(0, State::Gated), member(1, State::Gated)]);
    let bound = || {
        unbilled(vec![
            member(0, State::Running),
            member(1, State::Starting(StartTrouble::None, String::new())),
        ])
    };
    for (seen, writes, told) in [(seen(vec![]), 1, 20), (gated(), 1, 20), (bound(), 0, 15)] {
        let fresh = decide(&placed, &seen, at(14));
        assert_eq!((fresh.writes.len(), fresh.is_passing), (writes, true));
        assert_eq!(fresh.wake, Some(at(told)));
        assert!(!decide(&placed, &seen, at(told)).is_passing);
    }
    let running = unbilled(vec![member(0, State::Running), member(1, State::Running)]);
    let told = decide(&placed, &running, at(11));
    assert!(!told.is_passing && status(&told).settlement.is_some());
}

#[test]
fn what_else_becomes_known_while_an_attempt_starts_is_told_at_once() {
    let unseen = job(", members: 2", &placed(1, 2));
    assert_ne!(
        unseen.metadata.generation,
        unseen.status.as_ref().unwrap().observed_generation
    );
    // Of one of which nothing has been told its place says enough.
    assert!(decide(&unseen, &seen(vec![]), at(11)).is_passing);
    let suspended = job(", suspend: true", &observed(&placed(1, 1)));
    assert!(!decide(&suspended, &seen(vec![member(0, State::Gated)]), at(11)).is_passing);
}

#[test]
fn a_job_that_has_succeeded_tells_its_end_with_its_bill_where_that_follows_at_once() {
    let one = job("", &observed(&placed(1, 1)));
    let ended = ran(0, succeeded(), 20, Some(30));
    let billed = seen(vec![ended.clone()]);
    let unbilled = unbilled(vec![ended]);
    let early = decide(&one, &unbilled, at(31));
    assert_eq!((early.is_passing, early.wake), (true, Some(at(32))));
    assert_eq!(status(&early).end_reason, None);
    for plan in [
        decide(&one, &billed, at(31)),
        decide(&one, &unbilled, at(32)),
    ] {
        assert_eq!(status(&plan).end_reason, Some(JobEndReason::Succeeded));
        assert!(!plan.is_passing);
    }
    assert_eq!(
        decide(&one, &unbilled, at(2)).wake,
        Some(at(4)),
        "a node's clock that runs ahead holds nothing up for longer"
    );
}

#[test]
fn an_attempt_that_failed_does_not_wait_for_its_bill() {
    let one = job("", &observed(&placed(1, 1)));
    let ended = ran(0, failed(AttemptEndReason::ExitedNonZero), 20, Some(30));
    assert!(!decide(&one, &unbilled(vec![ended]), at(30)).is_passing);
}

#[test]
fn a_job_runs_when_all_its_members_do() {
    let gang = job(", members: 2", &observed(&placed(1, 2)));
    let one = unbilled(vec![
        member(0, State::Running),
        member(1, State::Unbound("0/2 nodes".into())),
    ]);
    let early = decide(&gang, &one, at(11));
    assert_eq!(
        (reason(&early, ComputeJobCondition::Running), early.wake),
        (("False", "Starting"), Some(at(15)))
    );
    let late = decide(&gang, &one, at(15));
    assert_eq!(
        reason(&late, ComputeJobCondition::Running),
        ("False", "WaitingForBinding")
    );
    assert_eq!((early.is_passing, late.is_passing), (true, false));
    let both = seen(vec![
        member(0, State::Running),
        ran(1, succeeded(), 12, Some(13)),
    ]);
    assert_eq!(
        reason(&decide(&gang, &both, at(14)), ComputeJobCondition::Running),
        ("True", "Running")
    );
}

#[test]
fn a_job_is_complete_when_every_member_has_ended_well_and_its_use_is_the_sum() {
    let gang = job(", members: 2", &placed(1, 2));
    let first = Member {
        digest: Some("sha256:7".into()),
        ..ran(0, succeeded(), 12, Some(20))
    };
    let plan = decide(
        &gang,
        &seen(vec![first, ran(1, succeeded(), 13, Some(16))]),
        at(21),
    );
    let next = status(&plan);
    assert_eq!(next.end_reason, Some(JobEndReason::Succeeded));
    assert_eq!(next.attempts[0].gpu_millis, 2 * (8000 + 3000));
    assert_eq!(next.usage.as_ref().unwrap().gpu_millis, 22_000);
    assert_eq!(next.result.as_ref().unwrap().digest, "sha256:7");
    assert_eq!(next.attempts[0].ended_at.0, at(20));
    assert_eq!(
        reason(&plan, ComputeJobCondition::Complete),
        ("True", "Succeeded")
    );
    assert_eq!(
        plan.writes,
        [],
        "the pods are let go only after this has been written"
    );
}

#[test]
fn pods_are_let_go_once_their_end_is_recorded() {
    let job = job("", &placed(1, 1));
    let pods = seen(vec![ran(0, succeeded(), 12, Some(20))]);
    let recorded = written(&job, &decide(&job, &pods, at(21)), at(21));
    assert_eq!(
        decide(&recorded, &pods, at(22)).writes,
        [Write::ReleasePods(vec!["j-1-0".into()])]
    );
}

#[test]
fn one_failed_member_stops_the_gang_in_three_recorded_steps() {
    let gang = job(", members: 2", &placed(1, 2));
    let pods = vec![
        ran(0, State::Running, 12, None),
        ran(1, failed(AttemptEndReason::ExitedNonZero), 12, Some(15)),
    ];
    let intent = decide(&gang, &seen(pods.clone()), at(16));
    assert_eq!(intent.writes, [], "first the intent is written");
    assert_eq!(
        status(&intent).ending.as_ref().unwrap().reason,
        AttemptEndReason::ExitedNonZero
    );

    let gang = written(&gang, &intent, at(16));
    let stop = decide(&gang, &seen(pods), at(17));
    assert_eq!(
        stop.writes,
        [Write::DeletePods(vec!["j-1-0".into()])],
        "then its pods are stopped"
    );

    let pods = vec![
        ran(0, failed(AttemptEndReason::PodDeleted), 12, Some(18)),
        ran(1, failed(AttemptEndReason::ExitedNonZero), 12, Some(15)),
    ];
    let end = decide(&gang, &seen(pods), at(19));
    let attempt = &status(&end).attempts[0];
    assert_eq!(
        (
            attempt.end_reason,
            attempt.exit_code,
            attempt.message.as_deref()
        ),
        (AttemptEndReason::ExitedNonZero, Some(3), Some("why"))
    );
    assert_eq!(status(&end).end_reason, Some(JobEndReason::ProgramFailed));
}

#[test]
fn only_the_nodes_of_the_members_that_decided_the_end_are_suspect() {
    let gang = job(", members: 3", &placed(1, 3));
    let suspects = |pods, at| {
        let plan = decide(&gang, &seen(pods), at);
        status(&plan).ending.clone().unwrap().suspects
    };
    let unbound = |number| member(number, State::Unbound("0/2 nodes".into()));
    let two_not_bound = vec![ran(0, State::Running, 12, None), unbound(1), unbound(2)];
    assert_eq!(suspects(two_not_bound, at(310)), ["node-1", "node-2"]);
    let one_refused = vec![
        ran(0, State::Running, 12, None),
        member(1, failed(AttemptEndReason::AdmissionFailed)),
        ran(2, State::Running, 12, None),
    ];
    assert_eq!(suspects(one_refused, at(20)), ["node-1"]);
    let program_failed = vec![
        ran(0, State::Running, 12, None),
        ran(1, failed(AttemptEndReason::ExitedNonZero), 12, Some(15)),
        ran(2, State::Running, 12, None),
    ];
    assert_eq!(suspects(program_failed, at(20)), Vec::<String>::new());
}

#[test]
fn a_member_that_was_not_bound_in_time_costs_no_retry_and_the_job_queues_again() {
    let job = job(", retry: {infrastructure: 0}", &placed(1, 1));
    let unbound = seen(vec![member(0, State::Unbound("0/2 nodes".into()))]);
    assert_eq!(status(&decide(&job, &unbound, at(309))).ending, None);
    let intent = decide(&job, &unbound, at(310));
    assert_eq!(
        status(&intent).ending.as_ref().unwrap().reason,
        AttemptEndReason::PlacementLost
    );

    let job = written(&job, &intent, at(310));
    assert_eq!(
        decide(&job, &unbound, at(311)).writes,
        [Write::DeletePods(vec!["j-1-0".into()])]
    );
    let gone = Member {
        terminating: true,
        ..member(0, failed(AttemptEndReason::PodDeleted))
    };
    let end = decide(&job, &seen(vec![gone]), at(312));
    assert_eq!(
        (
            status(&end).end_reason,
            status(&end).failures.unwrap().placement
        ),
        (None, 1)
    );
    assert_eq!(status(&end).attempts[0].gpu_millis, 0);
    assert_eq!(
        reason(&end, ComputeJobCondition::Ready),
        ("False", "Queued")
    );
}

#[test]
fn an_image_that_cannot_be_pulled_is_told_in_the_kubelets_words_and_charged_to_the_user() {
    let job = job(", timeouts: {start: 20s}", &placed(1, 1));
    let pods = seen(vec![member(
        0,
        State::Starting(StartTrouble::Image, "no such image".into()),
    )]);
    let waiting = decide(&job, &pods, at(29));
    assert_eq!(
        reason(&waiting, ComputeJobCondition::Running),
        ("False", "WaitingForImage")
    );
    let intent = decide(&job, &pods, at(30));
    let ending = status(&intent).ending.clone().unwrap();
    assert_eq!(
        (ending.reason, ending.message.as_deref()),
        (AttemptEndReason::ImagePullFailed, Some("no such image"))
    );
}

#[test]
fn a_job_that_runs_too_long_is_stopped_and_fails() {
    let job = job(", timeouts: {run: 1m}", &placed(1, 1));
    let pods = seen(vec![ran(0, State::Running, 20, None)]);
    assert_eq!(decide(&job, &pods, at(79)).wake, Some(at(80)));
    let job = written(&job, &decide(&job, &pods, at(80)), at(80));
    assert_eq!(
        decide(&job, &pods, at(81)).writes,
        [Write::DeletePods(vec!["j-1-0".into()])]
    );
    let end = decide(
        &job,
        &seen(vec![ran(
            0,
            failed(AttemptEndReason::ExitedNonZero),
            20,
            Some(82),
        )]),
        at(82),
    );
    assert_eq!(status(&end).end_reason, Some(JobEndReason::RunTimeout));
}

#[test]
fn a_suspended_job_is_stopped_and_not_charged() {
    let job = job(", suspend: true", &placed(1, 1));
    let pods = seen(vec![ran(0, State::Running, 20, None)]);
    let job = written(&job, &decide(&job, &pods, at(30)), at(30));
    let end = decide(
        &job,
        &seen(vec![ran(
            0,
            failed(AttemptEndReason::ExitedNonZero),
            20,
            Some(31),
        )]),
        at(31),
    );
    assert_eq!(
        status(&end).attempts[0].end_reason,
        AttemptEndReason::Suspended
    );
    assert_eq!(status(&end).end_reason, None);
    let job = written(&job, &end, at(31));
    let idle = decide(&job, &asked(Validation::Sound, Admission::Admitted), at(32));
    assert_eq!(
        reason(&idle, ComputeJobCondition::Admitted),
        ("False", "Suspended")
    );
}

#[test]
fn a_deleted_job_goes_when_its_pods_have_ended_are_recorded_and_let_go() {
    let mut job = job("", &placed(1, 1));
    job.metadata.deletion_timestamp = Some(Time(at(20)));
    let running = seen(vec![ran(0, State::Running, 12, None)]);
    let job = written(&job, &decide(&job, &running, at(20)), at(20));
    assert_eq!(
        decide(&job, &running, at(20)).writes,
        [Write::DeletePods(vec!["j-1-0".into()])]
    );
    let ended = seen(vec![ran(
        0,
        failed(AttemptEndReason::ExitedNonZero),
        12,
        Some(22),
    )]);
    let job = written(&job, &decide(&job, &ended, at(22)), at(22));
    assert_eq!(
        job.status.as_ref().unwrap().attempts[0].end_reason,
        AttemptEndReason::Deleted
    );
    assert_eq!(
        decide(&job, &ended, at(23)).writes,
        [Write::ReleasePods(vec!["j-1-0".into()])]
    );
    let last = decide(&job, &seen(vec![]), at(24));
    assert_eq!((last.writes, last.status), (vec![Write::ReleaseJob], None));
}

#[test]
fn a_job_that_is_deleted_before_its_new_pod_is_seen_does_not_go_without_it() {
    let mut job = job("", &placed(1, 1));
    let on_its_way = |pods| Observed {
        on_their_way: BTreeSet::from([(1, 0)]),
        ..seen(pods)
    };
    // It is not created a second time.
    assert_eq!(decide(&job, &on_its_way(vec![]), at(11)).writes, []);
    job.metadata.deletion_timestamp = Some(Time(at(20)));
    let job = written(&job, &decide(&job, &on_its_way(vec![]), at(20)), at(20));
    assert!(job.status.as_ref().unwrap().attempts.is_empty());
    let plan = decide(&job, &on_its_way(vec![]), at(20));
    assert_eq!(plan.writes, [Write::DeletePods(vec!["j-1-0".into()])]);
    assert_eq!(plan.wake, after(at(20), ON_ITS_WAY));
    // What is left of an attempt that is recorded is waited for as well.
    let ended = written(&job, &decide(&job, &seen(vec![]), at(26)), at(26));
    assert_eq!(decide(&ended, &on_its_way(vec![]), at(26)).writes, []);
    let gone = decide(&ended, &seen(vec![]), at(27));
    assert_eq!(gone.writes, [Write::ReleaseJob]);
}

#[test]
fn a_pod_that_somebody_else_deletes_is_an_infrastructure_failure() {
    let job = job("", &placed(1, 1));
    let pods = seen(vec![Member {
        terminating: true,
        ..ran(0, State::Running, 12, None)
    }]);
    assert_eq!(
        status(&decide(&job, &pods, at(20)))
            .ending
            .as_ref()
            .unwrap()
            .reason,
        AttemptEndReason::PodDeleted
    );
}

#[test]
fn a_running_member_whose_pod_vanishes_is_not_created_again_within_the_attempt() {
    let job = job("", &placed(1, 1));
    let running = decide(&job, &seen(vec![ran(0, State::Running, 12, None)]), at(13));
    let job = written(&job, &running, at(13));
    let plan = decide(&job, &seen(vec![]), at(14));
    assert_eq!(plan.writes, []);
    assert_eq!(
        status(&plan).attempts[0].end_reason,
        AttemptEndReason::PodDeleted
    );
}

#[test]
fn a_job_is_deleted_when_its_time_to_live_is_over() {
    let ended = job(
        ", ttlSecondsAfterFinished: 100",
        &format!("endReason: Succeeded, finishedAt: '{}'", at(50)),
    );
    assert_eq!(
        (
            decide(&ended, &seen(vec![]), at(149)).writes,
            decide(&ended, &seen(vec![]), at(149)).wake
        ),
        (vec![], Some(at(150)))
    );
    assert_eq!(
        decide(&ended, &seen(vec![]), at(150)).writes,
        [Write::DeleteJob]
    );
}

#[test]
fn a_job_whose_result_is_being_checked_outlives_its_time_to_live() {
    let ended = |state: &str| {
        job(
            ", ttlSecondsAfterFinished: 100, verification: {mode: Redundant, replicas: 2}",
            &format!(
                "endReason: Succeeded, finishedAt: '{}', result: {{digest: x}}, {}, verification: {{state: {state}}}",
                at(50),
                placed(1, 1)
            ),
        )
    };
    let writes = |state| decide(&ended(state), &seen(vec![]), at(150)).writes;
    assert_eq!(writes("Pending"), [Write::CreateCheck(1)]);
    assert_eq!(writes("Agreed"), [Write::DeleteJob]);
}

#[test]
fn the_list_of_attempts_is_bounded() {
    let mut job = job(", retry: {infrastructure: 100}", &placed(1, 1));
    for number in 1..=15 {
        job.status
            .as_mut()
            .unwrap()
            .placement
            .as_mut()
            .unwrap()
            .attempt = number;
        let mut pod = ran(0, failed(AttemptEndReason::Evicted), 12, Some(13));
        pod.attempt = number;
        job = written(&job, &decide(&job, &seen(vec![pod]), at(14)), at(14));
    }
    let kept: Vec<_> = job
        .status
        .unwrap()
        .attempts
        .iter()
        .map(|a| a.attempt)
        .collect();
    assert_eq!(kept, (6..=15).collect::<Vec<_>>());
}

fn paid() -> Observed {
    Observed {
        payer: WhoPays::Account(Account {
            chain: "anvil".into(),
            lane: 7,
            payer: 3,
        }),
        ..seen(vec![])
    }
}

/// [`placed`] with a price and a provider frozen at the decision.
fn priced() -> String {
    placed(1, 1).replace(
        "node: node-0",
        "node: node-0, perGpuSecond: '0.001', providerId: 9",
    )
}

#[test]
fn the_price_and_provider_of_the_decision_and_the_namespaces_payer_stand_in_the_record() {
    let plan = decide(&job("", &priced()), &paid(), at(11));
    let [Write::CreatePods { members, .. }] = plan.writes.as_slice() else {
        panic!("{:?}", plan.writes)
    };
    let payment = members[0].payment.as_ref().unwrap();
    assert_eq!(
        (
            payment.chain.as_str(),
            payment.lane,
            payment.payer,
            payment.provider,
            payment.per_gpu_second.nano()
        ),
        ("anvil", 7, 3, 9, 1_000_000)
    );
    // A node without a price or a provider is owed nothing.
    let free = decide(&job("", &placed(1, 1)), &paid(), at(11));
    let [Write::CreatePods { members, .. }] = free.writes.as_slice() else {
        panic!("{:?}", free.writes)
    };
    assert_eq!(members[0].payment, None);
}

#[test]
fn nobody_pays_for_a_canary_whatever_its_node_costs_and_whatever_chain_that_is_on() {
    let canary = Observed {
        payer: WhoPays::Canary,
        ..seen(vec![])
    };
    let dear = priced().replace("providerId: 9", "providerId: 9, chain: base");
    let plan = decide(&job("", &dear), &canary, at(11));
    let [Write::CreatePods { members, .. }] = plan.writes.as_slice() else {
        panic!("{:?}", plan.writes)
    };
    assert_eq!(members[0].payment, None);
    assert_eq!(
        reason(&plan, ComputeJobCondition::Settled),
        ("True", "NothingUsed")
    );
}

#[test]
fn a_place_on_another_chain_than_the_payers_is_given_up_before_anything_runs_there() {
    let chosen_for =
        |chain: &str| priced().replace("providerId: 9", &format!("providerId: 9, chain: {chain}"));
    let here = decide(&job("", &chosen_for("anvil")), &paid(), at(11));
    let [Write::CreatePods { members, .. }] = here.writes.as_slice() else {
        panic!("{:?}", here.writes)
    };
    assert_eq!(members[0].payment.as_ref().unwrap().chain, "anvil");
    let elsewhere = decide(&job("", &chosen_for("base")), &paid(), at(11));
    assert_eq!(elsewhere.writes, []);
    let attempt = &status(&elsewhere).attempts[0];
    assert_eq!(attempt.end_reason, AttemptEndReason::EscrowExhausted);
    assert_eq!(
        attempt.message.as_deref(),
        Some(
            "the namespace's payer is on the chain anvil, and node node-0 was chosen for one on base: other nodes are looked for"
        )
    );
    assert_eq!(status(&elsewhere).end_reason, None, "the job goes on");
}

#[test]
fn an_attempt_whose_gpus_are_taken_back_is_stopped_and_queued_again_without_costing_a_retry() {
    let wanted = |pods: Vec<Member>| Observed {
        reclaimed: Some(Asked {
            reason: AttemptEndReason::Reclaimed,
            words: "a local pod needs them".into(),
            who: Who::All,
        }),
        ..seen(pods)
    };
    let spec = ", retry: {infrastructure: 0, user: 0}";
    let runs = wanted(vec![ran(0, State::Running, 12, None)]);
    let first = decide(&job(spec, &placed(1, 1)), &runs, at(20));
    assert_eq!(first.writes, [], "the intent is written down first");
    let ending = status(&first).ending.clone().unwrap();
    assert_eq!(ending.reason, AttemptEndReason::Reclaimed);

    let ends = format!(
        "{}, ending: {{attempt: 1, reason: Reclaimed, since: '{}', message: a local pod needs them}}",
        placed(1, 1),
        at(20)
    );
    let stops = decide(
        &job(spec, &ends),
        &seen(vec![ran(0, State::Running, 12, None)]),
        at(21),
    );
    assert_eq!(stops.writes, [Write::DeletePods(vec!["j-1-0".into()])]);
    // SIGTERM ends the program with an exit code of its own.
    let ended = seen(vec![ran(
        0,
        failed(AttemptEndReason::ExitedNonZero),
        12,
        Some(25),
    )]);
    let last = decide(&job(spec, &ends), &ended, at(26));
    let [attempt] = &status(&last).attempts[..] else {
        panic!("{last:?}")
    };
    assert_eq!(
        (attempt.end_reason, attempt.ended_at.0),
        (AttemptEndReason::Reclaimed, at(25))
    );
    assert_eq!(attempt.suspects, [""; 0]);
    assert_eq!(status(&last).failures, Some(Failures::default()));
    assert_eq!(status(&last).end_reason, None);
    assert_eq!(
        reason(&last, ComputeJobCondition::Running),
        ("False", "Queued")
    );
}

#[test]
fn a_program_that_has_ended_gives_nothing_back() {
    let seen = Observed {
        reclaimed: Some(Asked {
            reason: AttemptEndReason::Preempted,
            words: "too late".into(),
            who: Who::All,
        }),
        ..seen(vec![ran(0, succeeded(), 12, Some(20))])
    };
    let plan = decide(&job("", &placed(1, 1)), &seen, at(21));
    assert_eq!(status(&plan).end_reason, Some(JobEndReason::Succeeded));
}

#[test]
fn no_pod_is_created_while_nobody_pays_for_it() {
    let refused = |reason| Observed {
        payer: WhoPays::Refused(reason, "why".into()),
        ..seen(vec![])
    };
    let waits = decide(
        &job("", &priced()),
        &refused(ComputeJobReason::ChainUnavailable),
        at(11),
    );
    assert_eq!(waits.writes, []);
    assert_eq!(
        reason(&waits, ComputeJobCondition::Running),
        ("False", "ChainUnavailable")
    );
    let ends = decide(
        &job("", &priced()),
        &refused(ComputeJobReason::PayerNotConsenting),
        at(11),
    );
    assert_eq!(ends.writes, []);
    assert_eq!(
        status(&ends).attempts[0].end_reason,
        AttemptEndReason::EscrowExhausted
    );
    assert_eq!(
        status(&ends).end_reason,
        None,
        "the job goes on once somebody pays"
    );
}

#[test]
fn a_chain_that_is_away_stops_no_running_job() {
    let away = Observed {
        payer: WhoPays::Refused(ComputeJobReason::ChainUnavailable, "away".into()),
        ..seen(vec![ran(0, State::Running, 12, None)])
    };
    let plan = decide(&job("", &priced()), &away, at(20));
    assert_eq!(status(&plan).ending, None);
    assert_eq!(
        reason(&plan, ComputeJobCondition::Running),
        ("True", "Running")
    );
}

#[test]
fn a_job_whose_money_runs_out_is_stopped_and_queues_again() {
    let job = job("", &priced());
    let low = Observed {
        funds: Funds::Low("top it up".into()),
        ..seen(vec![ran(0, State::Running, 12, None)])
    };
    let plan = decide(&job, &low, at(20));
    assert_eq!(status(&plan).ending, None);
    let warned = plan
        .facts
        .iter()
        .any(|f| f.condition == "Running" && f.message == "top it up");
    assert!(warned, "{:?}", plan.facts);

    let dry = Observed {
        funds: Funds::Exhausted("top it up".into()),
        ..low
    };
    let plan = decide(&job, &dry, at(21));
    let ending = status(&plan).ending.clone().unwrap();
    assert_eq!(
        (ending.reason, ending.message.as_deref()),
        (AttemptEndReason::EscrowExhausted, Some("top it up"))
    );
    let job = written(&job, &plan, at(21));
    assert_eq!(
        decide(&job, &dry, at(22)).writes,
        [Write::DeletePods(vec!["j-1-0".into()])]
    );
    let stopped = seen(vec![ran(
        0,
        failed(AttemptEndReason::ExitedNonZero),
        12,
        Some(23),
    )]);
    let plan = decide(&job, &stopped, at(24));
    assert_eq!(status(&plan).end_reason, None);
    assert_eq!(
        reason(&plan, ComputeJobCondition::Admitted),
        ("False", "EscrowExhausted"),
        "it is not placed again before the money suffices"
    );
    assert_eq!(
        status(&plan).failures.unwrap_or_default(),
        gridstake_crds::compute_job::Failures::default(),
        "it costs no retry"
    );
}

#[test]
fn a_member_that_has_ended_well_is_not_stopped_for_want_of_money() {
    let dry = Observed {
        funds: Funds::Exhausted("top it up".into()),
        ..seen(vec![ran(0, succeeded(), 12, Some(20))])
    };
    let plan = decide(&job("", &priced()), &dry, at(21));
    assert_eq!(status(&plan).end_reason, Some(JobEndReason::Succeeded));
}

#[test]
fn a_pod_is_held_until_all_its_slices_are_sealed() {
    let job = job("", &placed(1, 1));
    let pod = ran(0, succeeded(), 12, Some(20));
    let recorded = written(
        &job,
        &decide(&job, &seen(vec![pod.clone()]), at(21)),
        at(21),
    );
    let sealed = slice_of(&pod);
    let first = Slice {
        bill: Some(Bill {
            gpu_millis: 5,
            goes_on: true,
            ..Bill::default()
        }),
        ..sealed.clone()
    };
    let open = Slice {
        slice: 1,
        bill: None,
        ..sealed.clone()
    };
    let closed = Slice { slice: 1, ..sealed };
    for (slices, released) in [
        (vec![first.clone()], false),
        (vec![first.clone(), open], false),
        (vec![first, closed], true),
    ] {
        let seen = Observed {
            books: Books::new(slices.clone()),
            ..seen(vec![pod.clone()])
        };
        let plan = decide(&recorded, &seen, at(22));
        let writes = if released {
            vec![Write::ReleasePods(vec!["j-1-0".into()])]
        } else {
            vec![]
        };
        assert_eq!(plan.writes, writes, "{slices:?}");
        let metered = if released {
            ("True", "Recorded")
        } else {
            ("False", "InProgress")
        };
        assert_eq!(reason(&plan, ComputeJobCondition::Metered), metered);
    }
}

#[test]
fn a_held_pod_without_a_record_gets_one_before_it_is_let_go() {
    let job = job("", &placed(1, 1));
    let pods = seen(vec![ran(0, succeeded(), 12, Some(20))]);
    let recorded = written(&job, &decide(&job, &pods, at(21)), at(21));
    let lost = Observed {
        books: Books::default(),
        ..pods
    };
    assert_eq!(
        decide(&recorded, &lost, at(22)).writes,
        [Write::CreateRecords(vec![new_member(0)])]
    );
}

#[test]
fn a_deleted_job_stays_until_its_slices_are_sealed() {
    let mut job = job("", "");
    job.metadata.deletion_timestamp = Some(Time(at(1)));
    let pod = ran(0, succeeded(), 12, Some(20));
    let open = Observed {
        books: Books::new(vec![Slice {
            bill: None,
            ..slice_of(&pod)
        }]),
        ..seen(vec![])
    };
    assert_eq!(decide(&job, &open, at(22)).writes, []);
    let sealed = Observed {
        books: Books::new(vec![slice_of(&pod)]),
        ..seen(vec![])
    };
    assert_eq!(decide(&job, &sealed, at(23)).writes, [Write::ReleaseJob]);
}

#[test]
fn a_job_is_settled_when_every_slice_is_final() {
    let job = job("", &priced());
    let pod = ran(0, succeeded(), 12, Some(20));
    let with = |payment: Progress| Observed {
        books: Books::new(vec![Slice {
            lane: Some(("anvil".into(), 7)),
            payer: Some(3),
            payment,
            bill: Some(Bill {
                gpu_millis: 16_000,
                cost_nano: Some(16_000_000),
                ..Bill::default()
            }),
            ..slice_of(&pod)
        }]),
        pods: vec![pod.clone()],
        ..paid()
    };
    let job = written(&job, &decide(&job, &with(Progress::Open), at(21)), at(21));
    for (payment, expected) in [
        (Progress::Open, ("False", "Unsettled")),
        (Progress::LeftOut, ("False", "Unsettled")),
        (
            Progress::Final(Some((8, "0x1".into()))),
            ("True", "Settled"),
        ),
    ] {
        let plan = decide(&job, &with(payment.clone()), at(22));
        assert_eq!(
            reason(&plan, ComputeJobCondition::Settled),
            expected,
            "{payment:?}"
        );
        let settlement = status(&plan).settlement.clone().unwrap();
        let finalized = u32::from(expected.0 == "True");
        assert_eq!(
            (
                settlement.chain.as_str(),
                settlement.lane,
                settlement.sealed,
                settlement.finalized
            ),
            ("anvil", 7, 1, finalized)
        );
        assert_eq!(
            status(&plan)
                .usage
                .as_ref()
                .unwrap()
                .cost
                .unwrap()
                .to_string(),
            "0.016"
        );
    }
    let nothing = decide(&job, &with(Progress::NothingOwed), at(22));
    assert_eq!(reason(&nothing, ComputeJobCondition::Settled).0, "True");
}

#[test]
fn without_a_chain_nothing_is_owed_and_settled_says_so() {
    let plan = decide(
        &job("", &placed(1, 1)),
        &seen(vec![ran(0, succeeded(), 12, Some(20))]),
        at(21),
    );
    assert_eq!(
        reason(&plan, ComputeJobCondition::Settled),
        ("Unknown", "NoChainConfigured")
    );
    assert_eq!(status(&plan).settlement, None);
}

fn any_state() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Missing),
        Just(State::Gated),
        Just(State::Unbound("x".into())),
        Just(State::Starting(StartTrouble::None, String::new())),
        Just(State::Starting(StartTrouble::Image, "x".into())),
        Just(State::Running),
        Just(succeeded()),
        Just(failed(AttemptEndReason::ExitedNonZero)),
        Just(failed(AttemptEndReason::NodeLost)),
    ]
}

proptest! {
    /// Whatever the pods look like, passes at one instant come to rest: the last one changes nothing more.
    #[test]
    fn deciding_twice_over_the_same_pods_writes_no_second_status(states in prop::collection::vec(any_state(), 1..4), second in 11_i64..400, suspend: bool) {
        let members = u32::try_from(states.len()).unwrap();
        let mut job = job(&format!(", members: {members}, suspend: {suspend}"), &placed(1, members));
        let pods: Vec<_> = states.into_iter().zip(0..).filter(|(s, _)| *s != State::Missing).map(|(s, n)| member(n, s)).collect();
        for _ in 0..4 {
            job = written(&job, &decide(&job, &seen(pods.clone()), at(second)), at(second));
        }
        let again = written(&job, &decide(&job, &seen(pods), at(second)), at(second));
        prop_assert_eq!(again.status, job.status);
    }

    /// No GPU time is recorded for a member that never started, and no attempt is recorded while a member runs.
    #[test]
    fn an_attempt_is_recorded_only_when_nothing_of_it_runs(states in prop::collection::vec(any_state(), 1..4)) {
        let members = u32::try_from(states.len()).unwrap();
        let job = job(&format!(", members: {members}"), &placed(1, members));
        let pods: Vec<_> = states.iter().cloned().zip(0..).filter(|(s, _)| *s != State::Missing).map(|(s, n)| member(n, s)).collect();
        let plan = decide(&job, &seen(pods), at(1000));
        if let Some(attempt) = status(&plan).attempts.first() {
            prop_assert_eq!(attempt.gpu_millis, 0);
            prop_assert!(states.iter().all(|s| matches!(s, State::Ended(_) | State::Missing)));
        }
    }
}

const RUNNING: &str = "conditions: [{type: Running, status: 'True', reason: Running, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}]";

fn on(node: NodeState, member: Member) -> Member {
    Member { node, ..member }
}

fn lost(number: u32) -> Member {
    let state = State::Ended(End {
        reason: AttemptEndReason::NodeLost,
        exit_code: None,
        message: None,
        hint: None,
    });
    on(NodeState::Lost, ran(number, state, 12, None))
}

#[test]
fn a_job_on_a_suspect_node_says_so_and_is_looked_at_when_the_node_is_given_up() {
    let job = job("", &format!("{}, {RUNNING}", placed(1, 1)));
    let until = at(90);
    for (node, stated, wake) in [
        (NodeState::Ready, "Running", None),
        (NodeState::NotReady { until }, "Running", Some(until)),
        (NodeState::Suspect { until }, "NodeSuspect", Some(until)),
        (NodeState::Excused, "Amnesty", None),
    ] {
        let pods = vec![on(node, ran(0, State::Running, 12, None))];
        let plan = decide(&job, &seen(pods), at(60));
        assert_eq!(
            reason(&plan, ComputeJobCondition::Running),
            ("True", stated),
            "{node:?}"
        );
        assert_eq!(
            reason(&plan, ComputeJobCondition::Ready),
            ("True", stated),
            "{node:?}"
        );
        assert_eq!(plan.wake, wake, "{node:?}");
        assert_eq!(plan.writes, [], "{node:?}");
    }
}

#[test]
fn a_job_whose_node_is_lost_is_queued_again_at_once_and_the_pod_that_may_come_back_is_deleted() {
    let job = job("", &format!("{}, {RUNNING}", placed(1, 1)));
    let plan = decide(&job, &seen(vec![lost(0)]), at(90));
    let next = status(&plan);
    assert_eq!(next.attempts[0].end_reason, AttemptEndReason::NodeLost);
    assert_eq!(next.failures.unwrap().infrastructure, 1);
    assert!(next.active_placement().is_none(), "it waits for a place");

    let after = written(&job, &plan, at(90));
    let plan = decide(&after, &seen(vec![lost(0)]), at(91));
    assert!(
        plan.writes
            .contains(&Write::DeletePods(vec!["j-1-0".into()])),
        "{:?}",
        plan.writes
    );
    // Once is enough.
    let terminating = Member {
        terminating: true,
        ..lost(0)
    };
    let plan = decide(&after, &seen(vec![terminating]), at(92));
    assert!(
        !plan
            .writes
            .iter()
            .any(|write| matches!(write, Write::DeletePods(_))),
        "{:?}",
        plan.writes
    );
}

#[test]
fn the_other_members_of_a_gang_are_stopped_when_one_of_their_nodes_is_lost() {
    let job = job(", members: 2", &format!("{}, {RUNNING}", placed(1, 2)));
    let pods = vec![lost(0), ran(1, State::Running, 12, None)];
    let plan = decide(&job, &seen(pods.clone()), at(90));
    assert_eq!(
        status(&plan).ending.as_ref().unwrap().reason,
        AttemptEndReason::NodeLost
    );
    let plan = decide(&written(&job, &plan, at(90)), &seen(pods), at(91));
    assert!(
        plan.writes
            .contains(&Write::DeletePods(vec!["j-1-0".into(), "j-1-1".into()])),
        "{:?}",
        plan.writes
    );
}

#[path = "replacing_tests.rs"]
mod replacing;
