//! Story 35: an auditor verifies what a lane was paid, from the archive and the chain alone; and who changes a byte of the archive
//! is found.

use gridstake_e2e::{
    archive,
    chain::Chain,
    command::{PluginAnswer, plugin},
    payer::Payer,
    prelude::*,
    provider::tokens,
    usage,
};
use gridstake_ledger::archive::{lane_folder, object_path, read_index_entry};
use kube::ResourceExt as _;

async fn verify(archive: &str, chain: &Chain, record: &str) -> Result<PluginAnswer> {
    plugin([
        "verify",
        "--archive",
        archive,
        "--rpc",
        &chain.url,
        "--settlement",
        &chain.settlement.to_string(),
        "--vault",
        &chain.vault.to_string(),
        "--lane",
        &chain.lane.to_string(),
        "--record",
        record,
        "-o",
        "json",
    ])
    .await
}

#[test]
fn a_payment_is_verified_from_archive_and_chain_and_one_changed_byte_is_found() -> Result<()> {
    paid_story(async |world, tenant, market| {
        let Some(folder) = archive::folder(world).await? else {
            eprintln!("this world has no archive on this machine: nothing can be verified");
            return Ok(());
        };
        let chain = &market.chain;
        let _payer = Payer::of_tenant(chain, tenant, tokens(10)).await?;
        let paid = tenant.submit(&job("paid", 1).works_for(1)).await?;
        paid.until_settled().await?;
        let records = usage::of_job(world, &usage::uid(&paid).await?).await?;
        let record = records.last().context("its record")?.name_any();

        let archived = folder.to_string_lossy();
        let told = look_until("the batch is archived and verified", || async {
            let told = verify(&archived, chain, &record).await?;
            Ok(match told.status {
                0 => Look::Yes(told),
                _ => Look::NotYet(format!("{told:?}")),
            })
        })
        .await?;
        let found: serde_json::Value = serde_json::from_str(&told.printed)?;
        ensure!(found["verified"] == true, "{found}");

        // One digit of each batch's file that pays somebody, in a copy.
        let copy = archive::copy(world, &folder)?;
        let lane = lane_folder(chain.chain_id, chain.settlement, chain.lane);
        let mut changed = 0;
        for entry in std::fs::read_dir(copy.join(lane))? {
            let address = read_index_entry(&std::fs::read(entry?.path())?).context("an address")?;
            let path = copy.join(object_path(address));
            let text = std::fs::read_to_string(&path)?;
            let other = text.replacen(r#""units":"#, r#""units":9"#, 1);
            changed += usize::from(other != text);
            std::fs::write(path, other)?;
        }
        ensure!(changed > 0, "no batch pays anybody");
        let told = verify(&copy.to_string_lossy(), chain, &record).await?;
        ensure!(told.status == 1, "{told:?}");
        ensure!(told.printed.contains("objects/"), "{told:?}");
        Ok(())
    })
}
