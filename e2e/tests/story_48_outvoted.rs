//! Story 48: two owners disagree about a result, and a third one decides. Who is outvoted is accused, and nobody else; one tenant alone
//! costs a provider no more than a warning. Where several tenants have met wrong results, payments are held back until it is known who
//! was right.

use std::collections::BTreeSet;

use alloy::primitives::{B256, keccak256};
use gridstake_crds::{
    UsageRecord,
    compute_job::{CheckedRun, RunOutcome, VerificationState},
    condition,
    incident::{CancellationReason, IncidentState, Offence, Sanction},
    names::{ANNOTATION_EVIDENCE, check_of, invalid_result, usage_record},
};
use gridstake_e2e::{
    contracts::StakeVault,
    fake_fleet::{FAKE, FakeFleet},
    incident::{self, Case},
    offer,
    payer::Payer,
    prelude::*,
    provider::{Provider, nano, tokens},
    release, usage,
};
use kube::ResourceExt as _;

/// What the program finds, wherever it runs as it should.
const RIGHT: &str = "73475cb40a568e8da8a045ced110137e159f890ac4da883b6b17dc651b3a8049";
const WRONG: &str = "b71de80778f2783383f5d5a3028af84eab2f18a4eb38968172ca41724dd4b3f4";
const DEPOSIT: u64 = 10;
/// Of the stake that is asked for, in thousandths.
const CUT: u128 = 100;
/// What a miner is asked for: 20,000 tokens.
const ASKED_FOR: u128 = tokens(20_000).nano();

/// A job that two owners compute, wrongly on the node `liar`. A third one, if it is needed, may be a node that is an object only.
fn disputed(liar: &str) -> Result<JobManifest> {
    let answer = format!("if [ \"$NODE\" = {liar} ]; then echo {WRONG}; else echo {RIGHT}; fi");
    job("disputed", 1)
        .script(&format!("sleep 3; {answer} > /dev/termination-log"))
        .with(
            "/spec/template/spec/containers/0/env",
            "[{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]",
        )?
        .with(
            "/spec/template/spec/tolerations",
            &format!("[{{key: {FAKE}, operator: Exists}}]"),
        )?
        .with("/spec/verification", "{mode: Redundant, replicas: 2}")
}

/// Submits the job while only `liar` takes jobs, so that its own result is the wrong one.
async fn submit(world: &World, tenant: &Tenant, liar: &str, others: &[&str]) -> Result<Job> {
    offer::cordon(world, others).await?;
    let job = tenant.submit(&disputed(liar)?).await?;
    let placed = job.until_placed(1).await?;
    ensure!(placed.nodes[0].node == liar, "{placed:?}");
    offer::uncordon(world, others).await?;
    Ok(job)
}

/// Waits until the job is outvoted, and returns the runs that were compared, its own first.
async fn until_outvoted(job: &Job) -> Result<Vec<CheckedRun>> {
    job.until_condition(
        ComputeJobCondition::Verified,
        false,
        ComputeJobReason::Outvoted,
    )
    .await?;
    let found = job.status().await?.verification;
    let found = found.context("how the check ended")?;
    let digests: Vec<_> = found.runs.iter().map(|run| run.digest.as_deref()).collect();
    let owners: BTreeSet<_> = found.runs.iter().map(|run| &run.owners).collect();
    ensure!(
        found.state == VerificationState::Outvoted
            && found.digest.as_deref() == Some(RIGHT)
            && digests == [Some(WRONG), Some(RIGHT), Some(RIGHT)]
            && owners.len() == 3
            && found
                .runs
                .iter()
                .all(|run| run.outcome == RunOutcome::Counted && run.owners.len() == 1),
        "one of three owners is outvoted: {found:?}"
    );
    Ok(found.runs)
}

/// The uid of each run.
async fn uids(tenant: &Tenant, runs: &[CheckedRun]) -> Result<Vec<String>> {
    let mut uids = Vec::new();
    for run in runs {
        uids.push(usage::uid(&tenant.job(&run.job)).await?);
    }
    Ok(uids)
}

#[test]
fn a_third_owner_breaks_the_tie_and_who_is_outvoted_is_accused_and_nobody_else() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let [liar, honest, ..] = &world.hosts[..] else {
            bail!("this story needs two nodes");
        };
        let accused = market.provider(&liar.name)?;
        incident::begin_anew(world, &liar.name).await?;
        let payer = Payer::of_tenant(&market.chain, tenant, tokens(DEPOSIT)).await?;
        let job = submit(world, tenant, &liar.name, &[&honest.name]).await?;

        // Two results, and both owners have had their vote.
        let tie_break = tenant.job(&check_of(&job.name, 2));
        tie_break
            .until("a third run waits for a third owner", |status| {
                let scheduled =
                    condition::find(&status.conditions, ComputeJobCondition::Scheduled)?;
                let waits = scheduled.status == "False" && scheduled.message.contains("SameOwner");
                waits.then_some(())
            })
            .await?;
        ensure!(
            incident::about(world, &tenant.namespace).await?.is_empty(),
            "somebody is accused although nobody is outvoted"
        );
        // Until it is known who is right, neither is paid.
        for run in [&job.name, &check_of(&job.name, 1)] {
            let uid = usage::uid(&tenant.job(run)).await?;
            let compared = format!("ComputeJob {} is right", job.name);
            usage::until_held_back(world, &usage_record(&uid, 1, 0, 0), &compared).await?;
        }
        let fleet = FakeFleet::join(world, 1).await?;
        fleet.end_with(RIGHT);
        let third = market.welcome(world, &fleet.nodes[0]).await?;

        let runs = until_outvoted(&job).await?;
        let nodes: Vec<_> = runs.iter().filter_map(|run| run.node.as_deref()).collect();
        ensure!(
            nodes == [&liar.name, &honest.name, &fleet.nodes[0]],
            "{nodes:?}"
        );
        let uids = uids(tenant, &runs).await?;
        let case = Case::of_name(world, &invalid_result(&uids[0]));
        case.until(IncidentState::InForce).await?;
        assert_it_tells_whose_result_was_wrong(&case, &liar.name, accused).await?;

        // By the time that all is paid for good, nobody else is accused.
        let mut records = Vec::new();
        for uid in &uids {
            records.extend(usage::until_final(world, uid).await?);
        }
        let about = incident::about(world, &tenant.namespace).await?;
        ensure!(about == [case.name.clone()], "accused are {about:?}");
        let job = job.status().await?;
        let completed = condition::is_true(&job.conditions, ComputeJobCondition::Complete);
        ensure!(completed, "the program ended well: {:?}", job.conditions);

        // A warning costs nothing: each run is paid as any job is.
        let due = usage::due(&records)?;
        let deposit = u64::try_from(tokens(DEPOSIT).nano())?;
        market.assert_paid(&due, &payer, deposit).await?;
        let paid = |provider: u32| due.credit(provider) > 0;
        ensure!(
            paid(accused.id) && paid(market.provider(&honest.name)?.id),
            "a run is not paid: {due:?}"
        );
        // Nobody has seen what ran on a node that is an object only.
        let credit = market.chain.credit(third.id).await?;
        ensure!(
            credit == due.credit(third.id),
            "provider {} is credited {credit}, due {due:?}",
            third.id
        );
        Ok(())
    })
}

/// Fails unless it accuses this provider of a wrong result on this node, with all results as evidence, and warns it.
async fn assert_it_tells_whose_result_was_wrong(
    case: &Case,
    node: &str,
    accused: &Provider,
) -> Result<()> {
    let incident = case.get().await?;
    let spec = &incident.spec;
    ensure!(
        spec.offence == Offence::InvalidResult
            && spec.subject.node_name == node
            && spec.subject.provider_id == Some(accused.id)
            && spec.subject.devices.len() == 1
            && (spec.sanction, spec.slash) == (Sanction::Warn, None),
        "{spec:?}"
    );
    let evidence = incident.annotations().get(ANNOTATION_EVIDENCE);
    let evidence = evidence.context("it carries its evidence")?;
    ensure!(
        keccak256(evidence).to_string() == spec.evidence_hash
            && evidence.contains(WRONG)
            && evidence.contains(RIGHT),
        "{evidence}"
    );
    let shown = case.shown().await?;
    let expected = ["InvalidResult", node, "Host", "Warn", "InForce"];
    ensure!(
        shown.get(1..6).is_some_and(|words| words == expected),
        "kubectl get incidents shows {shown:?}"
    );
    Ok(())
}

/// A wrong result that a tenant has met.
struct Met {
    /// What follows from it.
    case: Case,
    /// What is owed for it.
    record: UsageRecord,
}

/// Has a tenant meet a wrong result of `liar`, until the incident about it is in this state and whose results were right has been paid for
/// good.
async fn meet(
    world: &World,
    tenant: &Tenant,
    market: &Market,
    liar: &str,
    others: &[&str],
    state: IncidentState,
) -> Result<Met> {
    Payer::of_tenant(&market.chain, tenant, tokens(DEPOSIT)).await?;
    let job = submit(world, tenant, liar, others).await?;
    let runs = until_outvoted(&job).await?;
    let uids = uids(tenant, &runs).await?;
    let case = Case::of_name(world, &invalid_result(&uids[0]));
    case.until(state).await?;
    for uid in &uids[1..] {
        usage::until_final(world, uid).await?;
    }
    let records = usage::of_job(world, &uids[0]).await?;
    let [record] = &records[..] else {
        bail!("the wrong result took one slice, not {}", records.len());
    };
    Ok(Met {
        case,
        record: record.clone(),
    })
}

#[test]
fn what_is_owed_for_wrong_results_is_held_back_from_the_second_tenant_on_and_paid_once_a_dispute_is_won()
-> Result<()> {
    paid_story(async |world, tenant, market| {
        release::upgrade(
            world,
            &[&format!("incidents.falseStatementSlashPermille={CUT}")],
        )
        .await?;
        let [liar, honest, ..] = &world.hosts[..] else {
            bail!("this story needs two nodes");
        };
        incident::begin_anew(world, &liar.name).await?;
        let fleet = FakeFleet::join(world, 1).await?;
        fleet.end_with(RIGHT);
        market.welcome(world, &fleet.nodes[0]).await?;
        let others = [honest.name.as_str(), fleet.nodes[0].as_str()];

        let (second, third) = (
            Tenant::settle(world, "second-tenant").await?,
            Tenant::settle(world, "third-tenant").await?,
        );
        let told = Box::pin(three_tenants_meet_wrong_results(
            world,
            [tenant, &second, &third],
            market,
            &liar.name,
            &others,
        ))
        .await;
        let left = [second.leave(world).await, third.leave(world).await];
        told.and(left.into_iter().collect())
    })
}

async fn three_tenants_meet_wrong_results(
    world: &World,
    [first, second, third]: [&Tenant; 3],
    market: &Market,
    liar: &str,
    others: &[&str],
) -> Result<()> {
    let (chain, provider) = (&market.chain, market.provider(liar)?);
    let warned = meet(world, first, market, liar, others, IncidentState::InForce).await?;
    let paid = usage::until_final(world, &warned.record.spec.job.uid).await?;
    let credit = usage::due(&paid)?.credit(provider.id);
    ensure!(
        chain.credit(provider.id).await? == credit,
        "{credit} is due"
    );

    // The second one: held back, while the others are paid.
    let held = meet(world, second, market, liar, others, IncidentState::InForce).await?;
    let spec = held.case.get().await?.spec;
    ensure!(
        (spec.sanction, spec.slash) == (Sanction::Hold, None),
        "{spec:?}"
    );
    assert_held_back(world, market, provider, &held, credit).await?;

    // The third one: a part of the stake is frozen as well, and the provider answers.
    let cut = meet(world, third, market, liar, others, IncidentState::Proposed).await?;
    let spec = cut.case.get().await?.spec;
    let demanded = nano(ASKED_FOR * CUT / 1000);
    ensure!(
        (spec.sanction, spec.slash) == (Sanction::PartialSlash, Some(demanded)),
        "{spec:?}"
    );
    let frozen = provider.on_chain(chain).await?.frozen;
    ensure!(frozen == demanded.nano(), "{frozen} are frozen");
    assert_held_back(world, market, provider, &cut, credit).await?;
    let proposed = cut.case.until(IncidentState::Proposed).await?;
    let id = Case::slash(&proposed)?;
    let dispute = StakeVault::disputeSlashCall {
        id,
        counterEvidence: B256::repeat_byte(0x5a),
    };
    chain
        .send(provider.operator.address(), chain.vault, dispute)
        .await?;
    cut.case.until(IncidentState::Disputed).await?;
    cut.case.until_answered().await?;
    assert_held_back(world, market, provider, &cut, credit).await?;

    // The arbiter finds that the provider was right: nothing is cut, and it gets what it is owed.
    let nothing = StakeVault::resolveSlashCall { id, upheld: 0 };
    chain
        .send(gridstake_e2e::chain::DEPLOYER, chain.vault, nothing)
        .await?;
    let closed = cut.case.until(IncidentState::Cancelled).await?;
    ensure!(
        closed.cancellation == Some(CancellationReason::NotUpheld) && closed.execution.is_none(),
        "{closed:?}"
    );
    let freed = usage::until_final(world, &cut.record.spec.job.uid).await?;
    let credit = credit + usage::due(&freed)?.credit(provider.id);
    let left = provider.on_chain(chain).await?;
    ensure!(
        left.frozen == 0 && left.own == gridstake_e2e::provider::ENOUGH_STAKE.nano(),
        "{left:?}"
    );
    // What the second one met is not in question any less.
    assert_held_back(world, market, provider, &held, credit).await
}

/// Fails unless what is owed is in no batch, its incident tells how much that is, and the provider is credited `credit`, without it.
async fn assert_held_back(
    world: &World,
    market: &Market,
    provider: &Provider,
    met: &Met,
    credit: u64,
) -> Result<()> {
    let name = met.record.name_any();
    let record = usage::until_held_back(world, &name, &met.case.name).await?;
    let owed = usage::price(&record)?;
    ensure!(owed > 0, "nothing is owed for {name}");
    met.case.until_it_holds(owed).await?;
    let credited = market.chain.credit(provider.id).await?;
    ensure!(
        credited == credit,
        "provider {} is credited {credited}, and {credit} are not held back",
        provider.id
    );
    Ok(())
}
