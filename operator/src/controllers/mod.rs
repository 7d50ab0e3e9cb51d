//! The controllers: one folder per kind, in each the same steps: observe → decide → act → status.

pub mod canary;
pub mod compute_job;
pub mod fleet_changes;
pub mod gpu_node;
pub mod incident;
pub mod job_request;
pub mod orphan_pod;
pub mod placement;
pub mod reclaim;
pub mod stake_binding;
pub mod usage_record;
pub mod verification_group;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Context, archive, failover, payer, reputation, settlement, uptime};

/// Runs all controllers until `stop`, or until one of them ends; then lets what runs finish.
pub async fn run(context: &Context, stop: CancellationToken) {
    // Not `stop` itself: the caller shall see whether it was the one who asked.
    let stop = stop.child_token();
    let mut controllers = JoinSet::new();
    controllers.spawn(gpu_node::run(context.clone(), stop.clone()));
    controllers.spawn(stake_binding::run(context.clone(), stop.clone()));
    controllers.spawn(stake_binding::follow_stakes(context.clone(), stop.clone()));
    controllers.spawn(incident::run(context.clone(), stop.clone()));
    controllers.spawn(incident::follow_chains(context.clone(), stop.clone()));
    controllers.spawn(failover::run(context.clone(), stop.clone()));
    controllers.spawn(compute_job::run(context.clone(), stop.clone()));
    controllers.spawn(orphan_pod::run(context.clone(), stop.clone()));
    controllers.spawn(usage_record::run(context.clone(), stop.clone()));
    controllers.spawn(placement::run(context.clone(), stop.clone()));
    controllers.spawn(reclaim::run(context.clone(), stop.clone()));
    controllers.spawn(reputation::run::run(context.clone(), stop.clone()));
    controllers.spawn(canary::run(context.clone(), stop.clone()));
    // Each lane has loops of its own, so that one that waits for its chain holds up no other.
    for lane in context.lanes.iter() {
        let (chain, lane) = (lane.chain().clone(), lane.clone());
        controllers.spawn(payer::watch::run(context.clone(), chain, stop.clone()));
        controllers.spawn(settlement::run::run(
            context.clone(),
            lane.clone(),
            stop.clone(),
        ));
        if let Some(archive) = context.archive.clone() {
            controllers.spawn(archive::run::run(
                context.clone(),
                lane.clone(),
                archive.clone(),
                stop.clone(),
            ));
            controllers.spawn(uptime::run::run(
                context.clone(),
                lane,
                archive,
                stop.clone(),
            ));
        }
    }
    while let Some(ended) = controllers.join_next().await {
        if let Err(error) = ended {
            tracing::error!(error = %error, "a controller panicked");
        }
        stop.cancel();
    }
}
