//! GpuNodes: joins what the agent found with Node, heartbeat, StakeBindings, chain and pods into an offer.

pub mod act;
pub mod decide;
pub mod guarantee;
pub mod inventory;
pub mod local_use;
pub mod mode;
pub mod observe;
pub mod offer_windows;
pub mod quarantine;
pub mod remembered_windows;
pub mod signers;
pub mod status;

#[cfg(test)]
mod decide_tests;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use gridstake_crds::{
    GpuNode, condition,
    gpu_node::{GpuNodeCondition, OfferReason},
};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;

use crate::{
    Context,
    caches::{census, parsed},
    error::ReconcileError,
    reconcile::{CONCURRENCY, Controller, Pass},
    status::{Guard, StatusError},
};

/// How soon to look again at an object that was not what it seemed, should the watch be slower.
const AFTER_CONFLICT: Duration = Duration::from_secs(1);

/// How often it is looked whether another node still shows the same GPU.
const AFTER_DISPUTE: Duration = Duration::from_secs(10);

/// Why a pass over a GpuNode failed.
#[derive(Debug, thiserror::Error)]
#[error("write the GpuNode's status")]
pub struct Error(#[source] StatusError);

impl ReconcileError for Error {
    fn category(&self) -> &'static str {
        "apply_status"
    }
}

/// When each GpuNode's status was last written by this process.
#[derive(Debug, Default)]
struct LastWrites(Mutex<HashMap<String, Instant>>);

impl LastWrites {
    /// For how long `free` must still wait.
    fn settles_in(&self, name: &str, now: Instant) -> Option<Duration> {
        let mut writes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writes.retain(|_, at| now.duration_since(*at) < status::FREE_SETTLES);
        let since = now.duration_since(*writes.get(name)?);
        status::FREE_SETTLES.checked_sub(since)
    }

    fn written(&self, name: String, now: Instant) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, now);
    }
}

/// Runs the controller until `stop`.
pub async fn run(context: Context, stop: CancellationToken) {
    let controller = Controller {
        name: "gpu-node",
        store: context.caches.gpu_nodes.clone(),
        triggers: context.caches.gpu_node_triggers(),
        concurrency: CONCURRENCY,
        precedence: Some(context.precedence.clone()),
    };
    let writes = Arc::new(LastWrites::default());
    let metrics = context.metrics.clone();
    if let Err(error) = register_metrics(&context) {
        tracing::error!(error = %error, "the GpuNodes are not counted");
    }
    controller
        .run(metrics, stop, move |gpu_node| {
            pass(context.clone(), writes.clone(), gpu_node)
        })
        .await;
}

/// How many nodes there are, by the reason of their `Offered`.
fn register_metrics(context: &Context) -> Result<(), prometheus::Error> {
    let store = context.caches.gpu_nodes.clone();
    census::register(
        context.metrics.registry(),
        "gridstake_gpu_nodes",
        "GpuNodes, by the reason of their condition Offered.",
        "reason",
        move || {
            let reason = |gpu_node: &GpuNode| {
                let status = gpu_node.status.as_ref()?;
                let offered = condition::find(&status.conditions, GpuNodeCondition::Offered)?;
                census::variant::<OfferReason>(&offered.reason)
            };
            parsed(&store.state()).filter_map(reason).collect()
        },
    )
}

async fn pass(
    context: Context,
    writes: Arc<LastWrites>,
    gpu_node: Arc<GpuNode>,
) -> Result<Pass, Error> {
    let now = (context.now)();
    let name = gpu_node.name_any();
    let seen = observe::observe(&context, &gpu_node, now);
    let plan = decide::decide(&gpu_node, &seen, now);
    let disputed = is_disputed(&context, &gpu_node, &seen.rivals);
    for lane in context.lanes.iter() {
        // A node that has moved to another chain is stated there only.
        let is_here = plan.chain.as_deref() == Some(lane.chain().name());
        let declare = plan.inventory.declare.filter(|_| is_here);
        lane.statements().declare(&name, declare);
    }

    let settles_in = writes.settles_in(&name, Instant::now());
    let desired = status::desired(&gpu_node, &plan, settles_in.is_some(), now);
    let free_waits = settles_in.filter(|_| desired.free != Some(plan.free));
    let written = status::OWNER
        .apply(
            &context.client,
            &context.metrics,
            &*gpu_node,
            gpu_node.status.as_ref(),
            &desired,
            Guard::None,
        )
        .await;
    let applied = match written {
        Ok(written) => written.is_applied(),
        // Gone, or replaced by a namesake, which has a pass of its own.
        Err(error) if error.is_not_found() || error.is_conflict() => {
            return Ok(Pass::waiting().again_in(AFTER_CONFLICT));
        }
        Err(error) => return Err(Error(error)),
    };
    if applied {
        writes.written(name, Instant::now());
        act::act(&context, &gpu_node, &plan).await;
    }
    let again = plan.again_at.map(|moment| until(moment, now));
    let disputed = disputed.then_some(AFTER_DISPUTE);
    let waits = again.into_iter().chain(free_waits).chain(disputed);
    Ok(Pass::wrote(applied).again(waits.min()))
}

/// Whether the node shows a GPU that another one shows too. Those look at themselves when that begins: nothing else about
/// them has changed.
fn is_disputed(context: &Context, gpu_node: &GpuNode, rivals: &BTreeSet<String>) -> bool {
    let offer = gpu_node.status.as_ref().and_then(|s| s.offer.as_ref());
    if offer.is_none_or(|offer| offer.reason != OfferReason::GpuClaimedTwice) {
        for rival in rivals {
            context.caches.look_at_gpu_node(rival);
        }
    }
    !rivals.is_empty()
}

/// The time from `now` to `moment`, never negative.
fn until(moment: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(moment.duration_since(now)).unwrap_or_default()
}
