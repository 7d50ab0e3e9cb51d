//! Story 16: the agent is away for 20 s in mid-run. The evidence says so by an explicit gap, its chain still verifies, the
//! job goes on; what one and the same process ran through is billed, an end that nobody saw is not waited for.

use gridstake_crds::{
    UsageRecord, condition,
    usage_record::{Evidence, GapReason, SealCause, UsageRecordCondition, UsageRecordReason},
};
use gridstake_e2e::{agent_process, payer::Payer, prelude::*, provider::tokens, usage};

/// For how long the agent is away, in seconds of the chain's clock.
const AWAY: u64 = 20;
const ZERO_HASH: &str = "0x0000000000000000000000000000000000000000000000000000000000000000";

#[test]
fn an_agent_that_was_away_leaves_a_gap_that_is_billed_where_the_process_ran_on() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let chain = &market.chain;
        let deposit = tokens(10);
        let payer = Payer::of_tenant(chain, tenant, deposit).await?;
        let node = &world.hosts[0].name;
        let manifest = |name: &str| job(name, 1).on_node(node).runs_until_released();
        let stays = tenant.submit(&manifest("stays")).await?;
        let ends = tenant.submit(&manifest("ends")).await?;
        let mut uids = Vec::new();
        for job in [&stays, &ends] {
            job.until_running().await?;
            let uid = usage::uid(job).await?;
            usage::until(world, &uid, "the agent has seen it", |records| {
                let evidence = evidence(records.last()?).ok()?;
                (!evidence.checkpoints.is_empty()).then_some(())
            })
            .await?;
            uids.push(uid);
        }

        agent_process::halt(world, node).await?;
        // The end is to lie in a later second than what the agent stated last.
        chain.until_later(2).await?;
        ends.release().await?;
        ends.until_complete().await?;
        chain.until_later(AWAY).await?;
        let running = stays.status().await?;
        ensure!(
            running.active_placement().is_some() && running.attempts.is_empty(),
            "the job did not go on without the agent: {:?}",
            running.attempts
        );
        // Billed without waiting for the agent for ever, and no further than it saw.
        let unseen = usage::until_final(world, &uids[1]).await?;
        agent_process::kill(world, node).await?;

        let last = &unseen[unseen.len() - 1];
        let sealed = usage::sealed(last)?;
        ensure!(
            sealed.cause == SealCause::EvidenceEnded,
            "nobody saw the end, and it is sealed for {:?}",
            sealed.cause
        );

        usage::until(world, &uids[0], "the agent states a gap", |records| {
            let evidence = records.iter().filter_map(|r| evidence(r).ok());
            evidence
                .flat_map(|e| &e.gaps)
                .any(|gap| gap.reason == GapReason::AgentAway)
                .then_some(())
        })
        .await?;
        stays.release().await?;
        let status = stays.until_complete().await?;
        ensure!(status.attempts.len() == 1, "{:?}", status.attempts);
        let records = usage::until_final(world, &uids[0]).await?;
        assert_gaps_are_bridged_and_billed(&records)?;

        let due = usage::due(&[records, unseen].concat())?;
        market
            .assert_paid(&due, &payer, u64::try_from(deposit.nano())?)
            .await
    })
}

/// Fails unless the evidence verifies, has gaps that are all bridged, and nothing is left out of the bill of one GPU.
fn assert_gaps_are_bridged_and_billed(records: &[UsageRecord]) -> Result<()> {
    let mut away = 0;
    for record in records {
        let evidence = evidence(record)?;
        assert_linked(evidence)?;
        let evidenced = record
            .status
            .as_ref()
            .and_then(|s| condition::find(&s.conditions, UsageRecordCondition::Evidenced).cloned());
        let reason = evidenced.context("the condition Evidenced")?.reason;
        // Either of these says that the hashes and signatures are right.
        let expected = if evidence.gaps.is_empty() {
            UsageRecordReason::EvidenceComplete
        } else {
            UsageRecordReason::EvidenceHasGaps
        };
        ensure!(
            reason == expected.to_string(),
            "the evidence is judged {reason}: {evidence:?}"
        );
        for gap in &evidence.gaps {
            ensure!(
                gap.bridged,
                "the same process was there before and after: {gap:?}"
            );
            away += gap.to_ms - gap.from_ms;
        }
    }
    ensure!(
        away > 10_000,
        "the agent was away for {AWAY} s, and the gaps are {away} ms"
    );
    // A bridged gap is billed: nothing is left out of the lease.
    let lease =
        usage::sealed(&records[records.len() - 1])?.end_ms - usage::sealed(&records[0])?.start_ms;
    let mut billed = 0;
    for record in records {
        billed += usage::sealed(record)?.gpu_millis;
    }
    ensure!(
        billed == lease,
        "one GPU for {lease} ms is billed as {billed} GPU-milliseconds"
    );
    Ok(())
}

fn evidence(record: &UsageRecord) -> Result<&Evidence> {
    let evidence = record.status.as_ref().and_then(|s| s.evidence.as_ref());
    evidence.context("there is no evidence")
}

/// Each checkpoint follows from the one before it.
fn assert_linked(evidence: &Evidence) -> Result<()> {
    let mut previous = ZERO_HASH;
    for checkpoint in &evidence.checkpoints {
        ensure!(
            checkpoint.previous == previous,
            "{checkpoint:?} does not follow {previous}"
        );
        previous = &checkpoint.head;
    }
    Ok(())
}
