use proptest::prelude::*;

use super::*;

fn job(verification: &str, status: &str) -> ComputeJob {
    serde_saphyr::from_str(&format!(
        "{{apiVersion: gridstake.dev/v1alpha1, kind: ComputeJob, metadata: {{name: j, namespace: n, uid: u}}, \
         spec: {{gpu: {{count: 1}}, template: {{}}, ttlSecondsAfterFinished: 5, verification: {verification}}}, status: {{{status}}}}}"
    ))
    .unwrap()
}

const REDUNDANT: &str = "{mode: Redundant, replicas: 2}";
const SAMPLED: &str = "{mode: Sampled, samplePermille: 500}";

fn placed(node: &str) -> String {
    let zero = format!("0x{}", "0".repeat(64));
    format!(
        "placement: {{attempt: 1, decidedAt: '2027-01-01T00:00:00Z', nodes: [{{member: 0, node: {node}}}], decision: {{draw: d, blockHash: '{zero}', previous: '{zero}', hash: '{zero}', snapshot: 1, candidates: 1, totalWeight: '1', drawn: []}}}}"
    )
}

fn ended(node: &str, digest: &str) -> String {
    format!(
        "{}, endReason: Succeeded, result: {{digest: '{digest}'}}",
        placed(node)
    )
}

fn run(number: u32, progress: Progress, owner: &str) -> Run {
    Run {
        job: check_of("j", number),
        progress,
        node: Some(owner.into()),
        owners: vec![owner.into()],
        is_accused: false,
    }
}

fn done(number: u32, owner: &str, digest: &str) -> Run {
    run(number, Progress::Succeeded(Some(digest.into())), owner)
}

fn seen(checks: Vec<Run>) -> Seen {
    Seen {
        checks,
        ..Seen::default()
    }
}

/// What follows for a redundant job that ended on node a with digest x, given its checks.
fn after(checks: Vec<Run>) -> Next {
    let job = job(REDUNDANT, &ended("a", "x"));
    next(&job, job.status.as_ref().unwrap(), &seen(checks))
}

fn state(next: &Next) -> VerificationState {
    next.verification.as_ref().unwrap().state
}

#[test]
fn nothing_follows_where_no_check_is_asked_for() {
    let job = job("{mode: None}", &ended("a", "x"));
    assert_eq!(
        next(&job, job.status.as_ref().unwrap(), &Seen::default()),
        Next::default()
    );
}

#[test]
fn a_redundant_jobs_check_is_created_once_it_is_known_whose_nodes_to_keep_off() {
    let waiting = job(REDUNDANT, "");
    let next_of = |job: &ComputeJob| next(job, job.status.as_ref().unwrap(), &Seen::default());
    assert_eq!(next_of(&waiting), Next::default());
    let running = next_of(&job(REDUNDANT, &placed("a")));
    assert_eq!(
        (running.create, state(&running)),
        (Some(1), VerificationState::Pending)
    );
    let third = "{mode: Redundant, replicas: 3}";
    let with = |check: Run| {
        let job = job(third, &placed("a"));
        next(&job, job.status.as_ref().unwrap(), &seen(vec![check])).create
    };
    let unplaced = Run {
        owners: vec![],
        ..run(1, Progress::Waits, "b")
    };
    assert_eq!(
        with(unplaced),
        None,
        "it is not known yet whose node the first check gets"
    );
    assert_eq!(with(run(1, Progress::Placed, "b")), Some(2));
}

#[test]
fn results_that_agree_are_so_whoever_is_done_first() {
    let early = job(REDUNDANT, &placed("a"));
    let waits = next(
        &early,
        early.status.as_ref().unwrap(),
        &seen(vec![done(1, "b", "x")]),
    );
    assert_eq!(
        (state(&waits), waits.create),
        (VerificationState::Pending, None)
    );
    let agreed = after(vec![done(1, "b", "x")]);
    assert_eq!(state(&agreed), VerificationState::Agreed);
    assert_eq!(agreed.verification.unwrap().digest.unwrap(), "x");
    assert!(agreed.accuse.is_empty());
}

#[test]
fn what_a_run_used_is_undecided_until_the_results_are_compared_and_who_is_outvoted_is_accused() {
    let at = |verification: &str, status: &str, found: &Next| {
        let mut job = job(verification, status);
        let status = job.status.as_mut().unwrap();
        status.verification.clone_from(&found.verification);
        job
    };
    let own_node = ended("a", "x");
    let ask = |job: &ComputeJob, run: &str| is_undecided(job, run, true, false);
    let tie = at(REDUNDANT, &own_node, &after(vec![done(1, "b", "y")]));
    assert!(ask(&tie, "j") && ask(&tie, "j-check-1"));
    let outvoted = after(vec![done(1, "b", "y"), done(2, "c", "y")]);
    let outvoted = at(REDUNDANT, &own_node, &outvoted);
    assert!(ask(&outvoted, "j"), "nobody has accused it yet");
    assert!(!is_undecided(&outvoted, "j", true, true));
    assert!(!ask(&outvoted, "j-check-1") && !ask(&outvoted, "j-check-2"));
    let agreed = at(REDUNDANT, &own_node, &after(vec![done(1, "b", "x")]));
    assert!(!ask(&agreed, "j") && !ask(&agreed, "j-check-1"));

    // A sample is drawn once the job has ended, whatever was sealed before.
    let running = job(SAMPLED, &placed("a"));
    assert!(is_undecided(&running, "j", true, false));
    assert!(!is_undecided(&running, "j", false, false));
    assert!(!ask(&job("{mode: None}", &own_node), "j"));
    assert!(!ask(&job(REDUNDANT, ""), "j"));
}

#[test]
fn a_third_run_breaks_the_tie_and_who_is_outvoted_is_accused() {
    let tie = after(vec![done(1, "b", "y")]);
    assert_eq!(
        (state(&tie), tie.create),
        (VerificationState::Pending, Some(2))
    );
    let outvoted = after(vec![done(1, "b", "y"), done(2, "c", "y")]);
    assert_eq!(state(&outvoted), VerificationState::Outvoted);
    assert_eq!(outvoted.accuse, ["j"]);
    let confirmed = after(vec![done(1, "b", "y"), done(2, "c", "x")]);
    assert_eq!(state(&confirmed), VerificationState::Confirmed);
    assert_eq!(confirmed.accuse, ["j-check-1"]);
}

#[test]
fn where_nothing_has_a_majority_nobody_is_accused() {
    let checks = vec![done(1, "b", "y"), done(2, "c", "z")];
    assert_eq!(after(checks.clone()).create, Some(3));
    let all = [checks, vec![done(3, "d", "w")]].concat();
    let end = after(all);
    assert_eq!(state(&end), VerificationState::Disagreed);
    assert_eq!((end.create, end.accuse.len()), (None, 0));
}

#[test]
fn an_owner_has_one_vote() {
    let same = after(vec![done(1, "a", "x")]);
    assert_eq!(state(&same), VerificationState::Pending);
    assert_eq!(same.create, Some(2));
    let runs = same.verification.unwrap().runs;
    assert_eq!(runs[1].outcome, RunOutcome::SameOwner);
}

#[test]
fn a_check_that_fails_is_made_up_for_twice() {
    let failed = |number| run(number, Progress::Failed, "b");
    assert_eq!(after(vec![failed(1)]).create, Some(2));
    assert_eq!(after(vec![failed(1), failed(2)]).create, Some(3));
    let end = after(vec![failed(1), failed(2), failed(3)]);
    assert_eq!(
        (state(&end), end.create),
        (VerificationState::TooFewResults, None)
    );
}

#[test]
fn a_job_without_success_or_digest_is_not_checked_and_its_checks_are_stopped() {
    let running = vec![run(1, Progress::Placed, "b")];
    for (end, expected) in [
        ("endReason: ProgramFailed", VerificationState::TooFewResults),
        ("endReason: Succeeded", VerificationState::NoDigest),
        (
            "endReason: Succeeded, result: {digest: ' '}",
            VerificationState::NoDigest,
        ),
    ] {
        let job = job(REDUNDANT, &format!("{}, {end}", placed("a")));
        let next = next(&job, job.status.as_ref().unwrap(), &seen(running.clone()));
        assert_eq!(state(&next), expected, "{end}");
        assert_eq!(next.delete, ["j-check-1"]);
    }
}

#[test]
fn a_check_that_somebody_deletes_counts_as_failed_and_a_result_that_was_counted_stays() {
    let after_of = |checks: Vec<Run>| {
        let mut job = job(REDUNDANT, &ended("a", "x"));
        let known = after(checks).verification;
        let status = job.status.as_mut().unwrap();
        status.verification = known;
        next(&job, &job.status.clone().unwrap(), &Seen::default())
    };
    let deleted = after_of(vec![run(1, Progress::Placed, "b")]);
    let outcomes = |next: &Next| -> Vec<_> {
        let runs = &next.verification.as_ref().unwrap().runs;
        runs.iter().map(|run| run.outcome).collect()
    };
    assert_eq!(
        outcomes(&deleted),
        [RunOutcome::Counted, RunOutcome::Failed]
    );
    assert_eq!(deleted.create, Some(2));
    let kept = after_of(vec![done(1, "b", "y")]);
    assert_eq!(outcomes(&kept), [RunOutcome::Counted, RunOutcome::Counted]);
    assert_eq!(kept.create, Some(2), "the tie is still to be broken");
}

#[test]
fn an_accusation_is_repeated_until_its_incident_exists() {
    let mut job = job(REDUNDANT, &ended("a", "x"));
    let checks = vec![done(1, "b", "y"), done(2, "c", "y")];
    job.status.as_mut().unwrap().verification = after(checks.clone()).verification;
    let status = job.status.clone().unwrap();
    assert_eq!(next(&job, &status, &seen(checks.clone())).accuse, ["j"]);
    let accused = Seen {
        is_accused: true,
        ..seen(checks)
    };
    assert!(next(&job, &status, &accused).accuse.is_empty());
}

#[test]
fn nobody_is_accused_for_a_gang_on_the_nodes_of_several_owners() {
    let gang = Run {
        owners: vec!["b".into(), "c".into()],
        ..done(1, "b", "y")
    };
    let end = after(vec![gang, done(2, "d", "x")]);
    assert_eq!(state(&end), VerificationState::Confirmed);
    assert!(end.accuse.is_empty());
}

#[test]
fn a_sample_is_drawn_after_the_end_and_only_a_job_that_it_hits_is_checked() {
    let running = job(SAMPLED, &placed("a"));
    let of = |job: &ComputeJob, nonce: u64| {
        let seen = Seen {
            nonce: B256::with_last_byte(u8::try_from(nonce).unwrap()),
            ..Seen::default()
        };
        next(job, job.status.as_ref().unwrap(), &seen)
    };
    assert_eq!(of(&running, 0), Next::default());
    let over = job(SAMPLED, &ended("a", "x"));
    let mut hit = 0;
    for nonce in 0..100 {
        let next = of(&over, nonce);
        let verification = next.verification.unwrap();
        let sample = verification.sample.unwrap();
        let is_hit = sample.drawn < sample.share_permille;
        assert_eq!(sample.share_permille, 500);
        assert_eq!(next.create, is_hit.then_some(1));
        assert_eq!(
            verification.state,
            if is_hit {
                VerificationState::Pending
            } else {
                VerificationState::NotSampled
            }
        );
        hit += u32::from(is_hit);
    }
    assert!((30..=70).contains(&hit), "{hit} of 100 at one half");
}

#[test]
fn a_sample_is_drawn_once() {
    let mut over = job(SAMPLED, &ended("a", "x"));
    let with = |byte| Seen {
        nonce: B256::with_last_byte(byte),
        ..Seen::default()
    };
    let status = over.status.clone().unwrap();
    let first = (0..=255)
        .map(|byte| next(&over, &status, &with(byte)))
        .find(|next| next.create.is_some())
        .unwrap();
    over.status.as_mut().unwrap().verification = first.verification.clone();
    for byte in 0..=255 {
        let again = next(&over, over.status.as_ref().unwrap(), &with(byte));
        assert_eq!(again.verification, first.verification);
    }
}

#[test]
fn a_check_is_the_same_job_but_for_its_name_and_asks_for_no_check_itself() {
    let job = job(REDUNDANT, "");
    let check = check(&job, 1);
    assert_eq!(check.name_any(), "j-check-1");
    assert_eq!(check.spec.template, job.spec.template);
    assert_eq!(check.spec.verification, None);
    assert_eq!(check.spec.ttl_seconds_after_finished, None);
    assert_eq!(check.spec.queue_timeout().map(|t| t.as_secs()), Some(3600));
    assert!(is_check_of(&check, &job));
    let mut other = check.clone();
    other.spec.gpu.count = 2;
    assert!(!is_check_of(&other, &job), "it runs something else");
    let mut stranger = check;
    stranger.metadata.owner_references = None;
    assert!(!is_check_of(&stranger, &job), "it belongs to nobody");
}

#[test]
fn the_share_falls_with_reputation_to_a_fifth() {
    let shares: Vec<_> = [0, 500, 800, 1000, 5000]
        .map(|reputation| share_permille(50, reputation))
        .to_vec();
    assert_eq!(shares, [50, 25, 10, 10, 10]);
    assert_eq!(share_permille(1, 1000), 1, "never nothing");
}

/// A run of any kind on one of four owners, with one of three digests.
fn any_run(number: u32) -> impl Strategy<Value = Run> {
    (0..6_u8, 0..4_usize, 0..3_usize).prop_map(move |(kind, owner, digest)| {
        let owner = ["a", "b", "c", "d"][owner];
        match kind {
            0 => run(number, Progress::Waits, owner),
            1 => run(number, Progress::Placed, owner),
            2 => run(number, Progress::Failed, owner),
            3 => run(number, Progress::Succeeded(None), owner),
            _ => done(number, owner, ["x", "y", "z"][digest]),
        }
    })
}

proptest! {
    #[test]
    fn the_share_never_rises_with_reputation_and_never_exceeds_what_is_asked(
        asked in 1_u32..=1000, reputation in 0_u32..=1000, better in 0_u32..=1000,
    ) {
        let share = share_permille(asked, reputation);
        prop_assert!((1..=asked).contains(&share));
        prop_assert!(share_permille(asked, reputation + better) <= share);
    }

    #[test]
    fn who_is_accused_was_outvoted_by_more_owners_than_agree_with_it(
        checks in (0..7_u32).prop_flat_map(|count| (1..=count).map(any_run).collect::<Vec<_>>()),
    ) {
        let next = after(checks);
        let verification = next.verification.unwrap();
        prop_assert!(verification.runs.len() <= MOST_RUNS as usize);
        let counted: Vec<_> = verification.runs.iter().filter(|run| run.outcome == RunOutcome::Counted).collect();
        for accused in &next.accuse {
            let own = counted.iter().find(|run| run.job == *accused).unwrap();
            let owners_of = |digest: &Option<String>| -> BTreeSet<_> {
                counted.iter().filter(|run| run.digest == *digest).flat_map(|run| &run.owners).collect()
            };
            prop_assert!(owners_of(&verification.digest).len() > owners_of(&own.digest).len());
        }
        prop_assert!(next.create.is_none() || !verification.state.is_final());
        prop_assert!(next.create.is_none_or(|number| number < MOST_RUNS));
        // Something always comes next: a run is under way, or one more is created, or it is over.
        let moves = verification.runs.iter().any(|run| run.outcome == RunOutcome::Pending);
        prop_assert!(verification.state.is_final() || moves || next.create.is_some());
    }
}
