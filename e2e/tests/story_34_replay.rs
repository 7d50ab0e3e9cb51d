//! Story 34: whoever doubts where a job was placed makes the decision again, from the archive alone; and who changes a byte of
//! the archive is found.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use gridstake_e2e::{
    archive,
    command::{PluginAnswer, plugin},
    operator_process,
    prelude::*,
};
use gridstake_ledger::archive::{decisions::newest_path, object_path, read_index_entry};
use serde_json::Value;

/// So many decisions are made again.
const DECISIONS: u64 = 100;
/// So many jobs are submitted at once.
const AT_ONCE: usize = 16;

fn answer(answer: &PluginAnswer) -> Result<Value> {
    serde_json::from_str(&answer.printed).with_context(|| format!("{answer:?}"))
}

/// How many decisions of the archive were made again with the same result.
async fn equal(archive: &str, cluster: &str) -> Result<u64> {
    let told = plugin([
        "replay",
        "--archive",
        archive,
        "--cluster",
        cluster,
        "-o",
        "json",
    ])
    .await?;
    ensure!(told.status == 0, "{told:?}");
    let found = answer(&told)?;
    ensure!(found["beforeTheFleet"] == 0, "{found}");
    found["equal"].as_u64().context("how many are equal")
}

#[test]
fn a_hundred_decisions_are_made_again_with_the_same_result_and_one_changed_byte_is_found()
-> Result<()> {
    story(async |world, tenant| {
        let Some(folder) = archive::folder(world).await? else {
            eprintln!("this world has no archive on this machine: nothing can be made again");
            return Ok(());
        };
        let (folder, cluster) = (folder.to_string_lossy(), archive::cluster(world).await?);

        let first = tenant.submit(&job("first", 1).works_for(0)).await?;
        first.until_placed(1).await?;
        // Another leader tells the fleet anew.
        let leader = operator_process::leader(world).await?;
        operator_process::kill(world, &leader).await?;
        let gang = tenant
            .submit(&job("gang", 2).members(3).works_for(0))
            .await?;
        gang.until_placed(1).await?;
        let before = equal(&folder, &cluster).await?;
        ensure!(before >= 2, "{before} decisions");
        let missing = DECISIONS.saturating_sub(before);
        stream::iter(0..missing)
            .map(|number| async move {
                let job = tenant
                    .submit(&job(&format!("many-{number}"), 1).works_for(0))
                    .await?;
                job.until_placed(1).await.map(drop)
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        let all = equal(&folder, &cluster).await?;
        ensure!(
            all >= before + missing && all >= DECISIONS,
            "{all} decisions"
        );

        // A tenant's own job alone, with the cluster's word for which decision that was.
        let named = format!("{}/gang", tenant.namespace);
        let told = plugin([
            "replay",
            "--archive",
            &folder,
            "--job",
            &named,
            "-o",
            "json",
        ])
        .await?;
        ensure!(told.status == 0 && answer(&told)?["equal"] == 1, "{told:?}");

        // One byte of the newest part, in a copy.
        let copy = archive::copy(world, folder.as_ref().as_ref())?;
        let newest = newest_path(&cluster);
        let entry = std::fs::read(copy.join(newest))?;
        let address = read_index_entry(&entry).context("an address")?;
        let part = object_path(address);
        let mut file = std::fs::read(copy.join(&part))?;
        let middle = file.len() / 2;
        file[middle] ^= 1;
        std::fs::write(copy.join(&part), file)?;
        let copy = copy.to_string_lossy();
        let told = plugin([
            "replay",
            "--archive",
            &copy,
            "--cluster",
            &cluster,
            "-o",
            "json",
        ])
        .await?;
        ensure!(told.status == 1, "{told:?}");
        ensure!(answer(&told)?["file"] == part.as_str(), "{told:?}");
        Ok(())
    })
}
