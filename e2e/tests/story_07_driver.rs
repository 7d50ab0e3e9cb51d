//! Story 7: a node without NVML, and one whose driver is too old for a call, are reported and never offered.

use gridstake_crds::{
    condition,
    gpu_node::{AgentState, GpuNodeCondition, OfferReason, OfferState},
};
use gridstake_e2e::{prelude::*, simulated_gpus::Simulator, wait::watch_until};

#[test]
fn a_node_without_nvml_is_reported_and_never_offered() -> Result<()> {
    a_driver_that_does_not_do_is_reported_and_its_node_never_offered(
        "absent",
        AgentState::LibraryMissing,
        "libnvidia-ml.so.1",
    )
}

#[test]
fn a_node_whose_driver_lacks_a_call_is_reported_and_never_offered() -> Result<()> {
    a_driver_that_does_not_do_is_reported_and_its_node_never_offered(
        "old",
        AgentState::DriverTooOld,
        "nvml",
    )
}

#[test]
fn a_node_whose_driver_is_not_loaded_is_reported_and_never_offered() -> Result<()> {
    a_driver_that_does_not_do_is_reported_and_its_node_never_offered(
        "unloaded",
        AgentState::DriverNotLoaded,
        "driver",
    )
}

fn a_driver_that_does_not_do_is_reported_and_its_node_never_offered(
    driver: &str,
    state: AgentState,
    named: &str,
) -> Result<()> {
    story(async |world, tenant| {
        let (broken, others) = world.one_and_the_others()?;
        let simulator = Simulator::on(world, &broken.name).await?;
        simulator.install_driver(driver).await?;
        let status = watch_until(
            &world.gpu_nodes(),
            &broken.name,
            "is withheld for want of NVML",
            |node| {
                let status = node?.status.clone()?;
                let withheld = status.offer.as_ref().is_some_and(|o| {
                    o.state == OfferState::Withheld && o.reason == OfferReason::NvmlUnavailable
                });
                let reported = status.agent.as_ref().is_some_and(|a| a.state == state);
                let not_ready = condition::find(&status.conditions, GpuNodeCondition::Ready)
                    .is_some_and(|c| c.status == "False");
                (withheld && reported && not_ready).then_some(status)
            },
        )
        .await?;
        let message = status.agent.and_then(|a| a.message).unwrap_or_default();
        ensure!(
            message.to_lowercase().contains(named),
            "the agent says {message:?}, which does not name {named}"
        );

        // One that could only run there gets no place, while others run elsewhere.
        let refused = tenant
            .submit(&job("refused", 1).on_node(&broken.name))
            .await?;
        let elsewhere = tenant.submit(&job("elsewhere", 1)).await?;
        let nodes = elsewhere
            .until_complete()
            .await?
            .placement
            .context("status.placement")?
            .nodes;
        ensure!(
            others.iter().any(|h| h.name == nodes[0].node),
            "it ran on {}",
            nodes[0].node
        );
        ensure!(
            refused.status().await?.placement.is_none(),
            "a job was placed on a node without NVML"
        );

        simulator.install_driver("current").await?;
        refused.until_complete().await?;
        Ok(())
    })
}
