//! Story 33: who waits is served in the promised order; a large job is not overtaken for ever by small ones, and those that
//! end before it can start use what is kept for it.

use gridstake_e2e::prelude::*;
use k8s_openapi::jiff::Timestamp;

/// A burst that is twice as large as the cluster.
const ROUNDS: usize = 2;

#[test]
fn a_burst_larger_than_the_cluster_drains_in_the_promised_order() -> Result<()> {
    story(async |world, tenant| {
        let fillers = tenant.fill(world).await?;
        let mut waiting = Vec::new();
        for number in 0..ROUNDS * world.hosts.len() {
            let (host, _) = world.one_and_the_others()?;
            let manifest = job(&format!("waits-{number}"), host.gpus).works_for(1);
            waiting.push(tenant.submit(&manifest).await?);
        }
        // Of one payer and one priority the older goes first; of those of the same second, the lower uid.
        let mut promised = Vec::new();
        for job in &waiting {
            let metadata = job.get().await?.metadata;
            let created = metadata.creation_timestamp.context("creationTimestamp")?.0;
            promised.push((created, metadata.uid.context("uid")?, job));
        }
        promised.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (place, (_, _, job)) in (1..).zip(&promised) {
            job.until(&format!("its place is {place}"), |status| {
                status
                    .queue
                    .as_ref()
                    .filter(|q| q.position == place)
                    .map(drop)
            })
            .await?;
        }

        for filler in &fillers {
            filler.release().await?;
        }
        let mut decided = Vec::new();
        for (_, _, job) in &promised {
            let status = job.until_complete().await?;
            ensure!(status.queue.is_none(), "{} is still in the queue", job.name);
            let placement = status.placement.context("status.placement")?;
            decided.push((placement.decision.snapshot, job.name.clone()));
        }
        ensure!(
            decided.is_sorted(),
            "they were placed in the order {decided:?}"
        );
        Ok(())
    })
}

#[test]
fn a_large_job_is_not_overtaken_by_small_ones_but_by_those_that_end_in_time() -> Result<()> {
    story(async |world, tenant| {
        let (host, _) = world.one_and_the_others()?;
        let mut holders = Vec::new();
        for host in &world.hosts {
            let manifest = job(&format!("holds-{}", host.name), 1)
                .on_node(&host.name)
                .runs_until_released()
                .with("/spec/timeouts", "{run: 30m}")?;
            holders.push(tenant.submit(&manifest).await?);
        }
        for holder in &holders {
            holder.until_running().await?;
        }

        let members = u32::try_from(world.hosts.len())?;
        let large = tenant
            .submit(&job("large", host.gpus).members(members).works_for(1))
            .await?;
        let message = large.until_it_waits().await?;
        ensure!(
            message.ends_with(&format!(
                "first in the queue: {members} nodes are kept for it"
            )),
            "it says {message:?}"
        );
        let queue = large.status().await?.queue.context("status.queue")?;
        ensure!(
            queue.position == 1 && queue.starts_by.is_some(),
            "{queue:?}"
        );

        // The API server tells ages in seconds; of one age, the uid decides.
        let created = large.get().await?.metadata.creation_timestamp;
        let created = created.context("when it was created")?.0;
        look_until("a second has passed", || async {
            let age = Timestamp::now().duration_since(created);
            Ok(if age.as_secs() >= 2 {
                Look::Yes(())
            } else {
                Look::NotYet(format!("{age}"))
            })
        })
        .await?;
        let endless = tenant.submit(&job("endless", 1).works_for(1)).await?;
        let message = endless.until_it_waits().await?;
        ensure!(
            message.contains(&format!("{members} Held")) && message.contains("timeouts.run"),
            "it says {message:?}"
        );
        ensure!(
            !message.contains("large"),
            "it names another job: {message:?}"
        );
        let short = job("short", 1)
            .works_for(1)
            .with("/spec/timeouts", "{start: 2m, run: 1m}")?;
        tenant.submit(&short).await?.until_complete().await?;
        for job in [&large, &endless] {
            ensure!(
                job.status().await?.placement.is_none(),
                "{} was placed",
                job.name
            );
        }

        for holder in &holders {
            holder.release().await?;
        }
        let mut decided = Vec::new();
        for job in [&large, &endless] {
            let placement = job.until_complete().await?.placement.context("placement")?;
            decided.push(placement.decision.snapshot);
        }
        ensure!(
            decided.is_sorted(),
            "the small one came before the large one: {decided:?}"
        );
        Ok(())
    })
}
