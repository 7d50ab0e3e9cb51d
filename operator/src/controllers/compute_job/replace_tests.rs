use gridstake_crds::{
    ComputeJob,
    compute_job::{AttemptEndReason, Verdict},
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::{
    super::usage::{Bill, Progress, Slice},
    *,
};

/// A gang of so many members whose attempt 1 runs; `retry` and `more` of the status in YAML's flow style.
fn gang(members: u32, retry: &str, more: &str) -> ComputeJob {
    let zero = format!("0x{}", "0".repeat(64));
    let nodes: Vec<_> = (0..members)
        .map(|m| format!("{{member: {m}, node: node-{m}}}"))
        .collect();
    serde_saphyr::from_str(&format!(
        "{{apiVersion: gridstake.dev/v1alpha1, kind: ComputeJob, metadata: {{name: j, namespace: n, uid: u}}, \
         spec: {{gpu: {{count: 1}}, members: {members}, template: {{}}, retry: {{{retry}}}}}, \
         status: {{placement: {{attempt: 1, decidedAt: '2027-01-01T00:00:00Z', nodes: [{}], decision: {{draw: d, blockHash: '{zero}', previous: '{zero}', hash: '{zero}', snapshot: 1, candidates: 1, totalWeight: '1', drawn: []}}}}, \
         conditions: [{{type: Running, status: 'True', reason: Running, message: '', lastTransitionTime: '2027-01-01T00:00:00Z'}}]{more}}}}}",
        nodes.join(", ")
    ))
    .unwrap()
}

fn entry(member: u32, rank: u32) -> ReplacedMember {
    ReplacedMember {
        attempt: 1,
        member,
        rank,
        node: format!("node-{member}"),
        at: Time(Timestamp::UNIX_EPOCH),
        why: AttemptEndReason::NodeLost,
        exit_code: None,
        message: None,
        verdict: Some(Verdict::Host),
        verdict_reason: None,
        started_at: None,
    }
}

/// Whether the loss of the first `lost` of the members that are there is borne.
fn is_borne(job: &ComputeJob, lost: usize) -> bool {
    let status = job.status.as_ref().unwrap();
    let placement = present(status, status.active_placement().unwrap());
    let lost: Vec<_> = placement.nodes.iter().take(lost).collect();
    is_allowed(&job.spec, status, &placement, &lost)
}

#[test]
fn one_member_is_always_few_enough_and_several_are_if_they_are_less_than_half() {
    for (members, most) in [(2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (16, 7)] {
        let job = gang(members, "lostMember: Replace", "");
        for lost in 1..=members {
            assert_eq!(
                is_borne(&job, lost as usize),
                lost <= most,
                "{lost} of {members}"
            );
        }
    }
}

#[test]
fn those_that_are_being_replaced_count_and_those_whose_ranks_run_again_do_not() {
    let mut job = gang(5, "lostMember: Replace", "");
    let status = job.status.as_mut().unwrap();
    status.replaced = vec![entry(0, 0)];
    assert!(is_borne(&job, 1) && !is_borne(&job, 2));
    let status = job.status.as_mut().unwrap();
    status.replaced[0].started_at = Some(Time(Timestamp::UNIX_EPOCH));
    assert!(is_borne(&job, 2));
}

#[test]
fn nothing_is_replaced_unless_the_job_asks_for_it_is_a_gang_runs_and_has_a_retry_left() {
    let asks = "lostMember: Replace";
    assert!(is_borne(&gang(4, asks, ""), 1));
    for retry in [
        "",
        "lostMember: Restart",
        "lostMember: Replace, infrastructure: 0",
    ] {
        assert!(!is_borne(&gang(4, retry, ""), 1), "{retry}");
    }
    assert!(!is_borne(&gang(1, asks, ""), 1));
    assert!(!is_borne(&gang(4, asks, ""), 0));
    let spent = |times| gang(4, asks, &format!(", failures: {{infrastructure: {times}}}"));
    assert!(is_borne(&spent(2), 1) && !is_borne(&spent(3), 1));
    let mut starts = gang(4, asks, "");
    starts.status.as_mut().unwrap().conditions.clear();
    assert!(!is_borne(&starts, 1), "it does not run yet");
}

#[test]
fn numbers_of_members_and_the_room_for_what_became_of_them_are_bounded() {
    let mut job = gang(4, "lostMember: Replace, infrastructure: 100", "");
    let status = job.status.as_mut().unwrap();
    let mut old = entry(HIGHEST_MEMBER - 1, 0);
    old.started_at = Some(Time(Timestamp::UNIX_EPOCH));
    status.replaced = vec![old];
    assert!(is_borne(&job, 1));
    job.status.as_mut().unwrap().replaced[0].member = HIGHEST_MEMBER;
    assert!(!is_borne(&job, 1));
    let many = (100..).take(MOST_REPLACED).map(|m| entry(m, 3));
    let mut job = gang(4, "lostMember: Replace, infrastructure: 100", "");
    job.status.as_mut().unwrap().replaced = many.collect();
    assert!(!is_borne(&job, 1));
}

#[test]
fn what_runs_again_and_is_billed_is_forgotten_beyond_the_last_ones_and_nothing_else_is() {
    let mut job = gang(40, "lostMember: Replace", "");
    let status = job.status.as_mut().unwrap();
    status.replaced = (40..80)
        .map(|member| ReplacedMember {
            started_at: (member != 41).then_some(Time(Timestamp::UNIX_EPOCH)),
            ..entry(member, member - 40)
        })
        .collect();
    let slice = |member: u32| Slice {
        attempt: 1,
        member,
        slice: 0,
        lane: None,
        payer: None,
        bill: (member != 42).then(Bill::default),
        payment: Progress::NothingOwed,
    };
    let books = Books::new((40..80).map(slice).collect());
    forget_old(status, &books);
    let kept: Vec<u32> = status.replaced.iter().map(|lost| lost.member).collect();
    assert_eq!(kept.len(), REPLACED_KEPT);
    assert_eq!(
        kept[..4],
        [41, 42, 50, 51],
        "41 does not run again, and 42 is not billed"
    );
}

#[test]
fn a_tenant_is_told_which_ranks_are_away_and_where_they_will_be() {
    let mut job = gang(8, "lostMember: Replace", "");
    let status = job.status.as_mut().unwrap();
    assert_eq!(words(status), None);
    status.replaced = vec![entry(1, 1)];
    assert_eq!(
        words(status).as_deref(),
        Some("rank 1, lost on node-1 (NodeLost), waits for another place; the others run")
    );
    let placement = status.placement.as_mut().unwrap();
    let decision = placement.decision.clone();
    let taken = &mut placement.nodes[1];
    (taken.member, taken.rank, taken.node) = (8, Some(1), "node-x".into());
    taken.replacement = Some(gridstake_crds::compute_job::Replacement {
        member: 1,
        restarts: 1,
        decided_at: Time(Timestamp::UNIX_EPOCH),
        decision,
    });
    assert_eq!(
        words(status).as_deref(),
        Some("rank 1, lost on node-1 (NodeLost), is being started on node-x; the others run")
    );
    status.replaced = (0..5).map(|member| entry(member, member)).collect();
    let many = words(status).unwrap();
    assert!(many.ends_with("; and 2 more; the others run"), "{many}");
    status.attempts = vec![];
    status.end_reason = Some(gridstake_crds::compute_job::JobEndReason::RunTimeout);
    assert_eq!(words(status), None, "nothing is replaced any more");
}
