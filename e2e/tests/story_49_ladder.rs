//! Story 49: GPU after GPU of a node is lost under jobs, and what follows is harder each time: to be mended, told, payment held back, and
//! in the end a part of the stake is cut on the chain.

use gridstake_crds::{
    UsageRecord,
    compute_job::{Verdict, VerdictReason},
    incident::{IncidentState, Offence, Sanction},
    names::downtime,
    usage_record::RecordState,
};
use gridstake_e2e::{
    contracts::StakeVault,
    incident::{self, Case},
    payer::Payer,
    prelude::*,
    provider::{ENOUGH_STAKE, nano, tokens},
    release,
    simulated_gpus::Simulator,
    usage,
};
use kube::ResourceExt as _;

const DEPOSIT: u64 = 10;
/// Of the stake that is asked for, in thousandths.
const CUT: u128 = 50;
/// What a miner is asked for: 20,000 tokens.
const ASKED_FOR: u128 = tokens(20_000).nano();

/// What each loss leads to, and how that stands at first.
const LADDER: [(Sanction, IncidentState); 4] = [
    (Sanction::Repair, IncidentState::InForce),
    (Sanction::Warn, IncidentState::InForce),
    (Sanction::Hold, IncidentState::InForce),
    (Sanction::PartialSlash, IncidentState::Proposed),
];

/// A job that fails since its GPU is lost for good; returns its bill.
async fn lose(
    world: &World,
    tenant: &Tenant,
    simulator: &Simulator<'_>,
    name: &str,
) -> Result<UsageRecord> {
    let (victim, _) = simulator.fail_a_job(tenant, name).await?;
    let uid = usage::uid(&victim).await?;
    let record = usage::until(world, &uid, "it is billed", |records| {
        let last = records.last()?;
        usage::sealed(last).is_ok().then(|| last.clone())
    })
    .await?;
    let sealed = usage::sealed(&record)?;
    ensure!(
        (sealed.verdict, sealed.verdict_reason)
            == (Some(Verdict::Host), Some(VerdictReason::GpuLost))
            && sealed.gpu_millis > 0,
        "{sealed:?}"
    );
    Ok(record)
}

/// Waits until what the job used before `last` began is paid for good; returns it.
async fn earlier(world: &World, last: &UsageRecord) -> Result<Vec<UsageRecord>> {
    let what = "what it used before is paid for good";
    usage::until(world, &last.spec.job.uid, what, |records| {
        let earlier = records.iter().filter(|r| r.spec.slice < last.spec.slice);
        let is_final = |record: &&UsageRecord| {
            usage::settlement(record).is_ok_and(|s| s.state == RecordState::Final)
        };
        earlier
            .clone()
            .all(|r| is_final(&r))
            .then(|| earlier.cloned().collect())
    })
    .await
}

#[test]
fn gpu_after_gpu_lost_under_jobs_leads_from_a_repair_to_a_cut_of_the_stake() -> Result<()> {
    paid_story(async |world, tenant, market| {
        release::upgrade(world, &[&format!("incidents.downtimeSlashPermille={CUT}")]).await?;
        let (host, _) = world.one_and_the_others()?;
        incident::begin_anew(world, &host.name).await?;
        let (chain, provider) = (&market.chain, market.provider(&host.name)?);
        let payer = Payer::of_tenant(chain, tenant, tokens(DEPOSIT)).await?;
        let simulator = Simulator::on(world, &host.name).await?;

        let mut steps = Vec::new();
        for (number, (sanction, state)) in LADDER.into_iter().enumerate() {
            let name = format!("loses-{number}");
            let record = lose(world, tenant, &simulator, &name).await?;
            let case = Case::of_name(world, &downtime(&record.name_any()));
            case.until(state).await?;
            let spec = case.get().await?.spec;
            let slash = (sanction == Sanction::PartialSlash).then(|| nano(ASKED_FOR * CUT / 1000));
            ensure!(
                spec.offence == Offence::DowntimeDuringJob
                    && spec.subject.provider_id == Some(provider.id)
                    && (spec.sanction, spec.slash) == (sanction, slash),
                "loss {number}: {spec:?}"
            );
            let shown = case.shown().await?;
            let expected = [
                "DowntimeDuringJob".to_owned(),
                host.name.clone(),
                "Host".to_owned(),
                sanction.to_string(),
            ];
            ensure!(
                shown.get(1..5).is_some_and(|words| words == expected)
                    && shown.contains(&state.to_string()),
                "kubectl get incidents shows {shown:?}"
            );
            steps.push((case, record));
        }
        let [repair, warn, hold, slash] = &steps[..] else {
            bail!("there are four steps, not {}", steps.len());
        };

        // Until the third step everything is paid, and from there on not what the jobs did when their GPUs were lost.
        let mut paid = Vec::new();
        for (_, record) in [repair, warn] {
            paid.extend(usage::until_final(world, &record.spec.job.uid).await?);
        }
        for (case, record) in [hold, slash] {
            usage::until_held_back(world, &record.name_any(), &case.name).await?;
            case.until_it_holds(usage::price(record)?).await?;
        }
        paid.extend(earlier(world, &hold.1).await?);
        let mut before_the_cut = paid.clone();
        before_the_cut.extend(earlier(world, &slash.1).await?);
        let due = usage::due(&before_the_cut)?;
        let deposit = u64::try_from(tokens(DEPOSIT).nano())?;
        market.assert_paid(&due, &payer, deposit).await?;

        // Nobody answers for 48 hours.
        let (demanded, id) = (nano(ASKED_FOR * CUT / 1000), {
            let proposed = slash.0.until(IncidentState::Proposed).await?;
            Case::slash(&proposed)?
        });
        let stake = provider.on_chain(chain).await?;
        ensure!(stake.frozen == demanded.nano(), "{stake:?}");
        let on_chain = StakeVault::slashOfCall { id };
        let until = chain.view(chain.vault, on_chain).await?.disputeUntil;
        chain.warp_to(until + 1).await?;
        let cut = slash.0.until(IncidentState::Executed).await?.execution;
        let cut = cut.context("status.execution")?;
        ensure!(
            (cut.from_stake, cut.from_unbonding) == (demanded, tokens(0)),
            "{cut:?}"
        );
        let events: Vec<StakeVault::SlashExecuted> = chain.events(chain.vault).await?;
        let told: Vec<_> = events
            .iter()
            .filter(|event| event.provider == provider.id)
            .map(|event| (event.id, event.fromStake))
            .collect();
        ensure!(told == [(id, demanded.nano())], "the chain tells {told:?}");
        let left = provider.on_chain(chain).await?;
        ensure!(
            left.frozen == 0 && left.own == ENOUGH_STAKE.nano() - demanded.nano(),
            "{left:?}"
        );
        let shown = slash.0.shown().await?;
        ensure!(
            shown.contains(&IncidentState::Executed.to_string()),
            "kubectl get incidents shows {shown:?}"
        );

        // With the cut the matter is closed: what was owed for that job is paid. The third one's is still held back.
        paid.extend(usage::until_final(world, &slash.1.spec.job.uid).await?);
        let due = usage::due(&paid)?.paid();
        let debit = deposit - payer.balance(chain).await?;
        ensure!(
            debit == due,
            "the payer is debited {debit}, and {due} are due"
        );
        usage::until_held_back(world, &hold.1.name_any(), &hold.0.name).await?;
        Ok(())
    })
}
