//! Story 9: a GPU lost under NVML leaves the offer, and comes back after it recovers.

use gridstake_crds::gpu_node::{
    Device, DeviceFaultKind, DeviceHealth, DeviceReason, GpuNodeStatus, OfferReason, OfferState,
};
use gridstake_e2e::{prelude::*, simulated_gpus::Simulator, wait::watch_until};

/// Whether the device at `index` has this health, and the node this capacity.
fn has(status: &GpuNodeStatus, index: u32, health: DeviceHealth, capacity: u32) -> bool {
    status
        .devices
        .iter()
        .any(|d| d.index == index && d.health == health)
        && status.capacity == Some(capacity)
}

#[test]
fn a_gpu_that_is_lost_leaves_the_offer_and_comes_back_after_it_recovers() -> Result<()> {
    story(async |world, tenant| {
        let (host, _) = world.one_and_the_others()?;
        let simulator = Simulator::on(world, &host.name).await?;
        simulator.break_gpu(0, "lost").await?;
        let status = watch_until(
            &world.gpu_nodes(),
            &host.name,
            "GPU 0 is unhealthy, lost, and off the offer",
            |node| {
                // Its Xid may be heard before NVML says that it is lost.
                let lost = |d: &Device| d.index == 0 && d.reasons.contains(&DeviceReason::GpuLost);
                node?.status.clone().filter(|s| {
                    has(s, 0, DeviceHealth::Unhealthy, host.gpus - 1) && s.devices.iter().any(lost)
                })
            },
        )
        .await?;
        let lost = status
            .devices
            .iter()
            .find(|d| d.index == 0)
            .context("the lost device is still listed")?;
        let told: Vec<_> = lost.faults.iter().map(|f| (f.kind, f.xid)).collect();
        ensure!(
            told.contains(&(DeviceFaultKind::Xid, Some(79))),
            "it fell off the bus, and its faults are {told:?}"
        );
        ensure!(
            status.offer.is_some_and(|o| o.state == OfferState::Offered),
            "the other GPUs are still on offer"
        );

        // What needs all GPUs of the node waits; what needs the others runs, and not on the lost one.
        let all = tenant
            .submit(&job("all", host.gpus).on_node(&host.name))
            .await?;
        let rest = tenant
            .submit(&job("rest", host.gpus - 1).on_node(&host.name))
            .await?;
        rest.until_complete().await?;
        let given = rest.devices_seen_by("rest-1-0").await?;
        ensure!(
            !given.contains(&lost.uuid),
            "a job was given the lost GPU {}",
            lost.uuid
        );
        ensure!(
            all.status().await?.placement.is_none(),
            "a job was placed on a lost GPU"
        );

        simulator.heal_gpu(0).await?;
        watch_until(
            &world.gpu_nodes(),
            &host.name,
            "GPU 0 is healthy and on offer",
            |node| {
                node?
                    .status
                    .clone()
                    .filter(|s| has(s, 0, DeviceHealth::Healthy, host.gpus))
            },
        )
        .await?;
        all.until_complete().await?;
        Ok(())
    })
}

#[test]
fn a_node_whose_gpus_are_all_lost_is_withheld_until_they_recover() -> Result<()> {
    story(async |world, _| {
        let (host, _) = world.one_and_the_others()?;
        let simulator = Simulator::on(world, &host.name).await?;
        for index in 0..host.gpus {
            simulator.break_gpu(index, "lost").await?;
        }
        let offered = |state, reason| {
            move |node: Option<&GpuNode>| {
                node?
                    .status
                    .as_ref()?
                    .offer
                    .as_ref()
                    .filter(|o| o.state == state && o.reason == reason)
                    .map(drop)
            }
        };
        watch_until(
            &world.gpu_nodes(),
            &host.name,
            "is withheld",
            offered(OfferState::Withheld, OfferReason::NoHealthyDevices),
        )
        .await?;
        for index in 0..host.gpus {
            simulator.heal_gpu(index).await?;
        }
        watch_until(
            &world.gpu_nodes(),
            &host.name,
            "is offered again",
            offered(OfferState::Offered, OfferReason::Available),
        )
        .await
    })
}
