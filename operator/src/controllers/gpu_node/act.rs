//! What the GpuNode controller does besides writing the status: it tells people when an offer comes or goes.

use gridstake_crds::{GpuNode, gpu_node::GpuNodeCondition};

use super::decide::Plan;
use crate::{Context, events::is_news};

/// Publishes an event if the offer has changed. The first verdict on a new GpuNode is no change.
pub async fn act(context: &Context, gpu_node: &GpuNode, plan: &Plan) {
    let before = gpu_node
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    if gridstake_crds::condition::find(before, GpuNodeCondition::Offered).is_none() {
        return;
    }
    let offered = plan
        .facts
        .iter()
        .find(|fact| fact.condition == "Offered" && is_news(before, fact));
    if let Some(fact) = offered {
        context.events.publish_news(gpu_node, before, fact).await;
    }
}
