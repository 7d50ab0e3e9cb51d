//! StakeBindings: which nodes stand for which provider, and whether its stake answers for them.
//!
//! | file | what |
//! |---|---|
//! | [`observe`] | reads the caches and what is known of the chain |
//! | [`resolve`] | pure: which binding binds which nodes |
//! | [`standing`] | pure: whether the provider stands behind them, by what the chain says |
//! | [`decide`], [`status`] | pure: what is said about a binding |
//! | [`bond`] | pure: what stands behind one node; GpuNodes and the scheduler go by it |

pub mod bond;
pub mod decide;
pub mod observe;
pub mod resolve;
pub mod standing;
pub mod status;

#[cfg(test)]
pub(crate) mod fixtures;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use gridstake_crds::{
    StakeBinding, condition,
    stake_binding::{StakeBindingCondition, StakeBindingReason},
};
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

/// Why a pass over a StakeBinding failed.
#[derive(Debug, thiserror::Error)]
#[error("write the StakeBinding's status")]
pub struct Error(#[source] StatusError);

impl ReconcileError for Error {
    fn category(&self) -> &'static str {
        "apply_status"
    }
}

/// Runs the controller until `stop`.
pub async fn run(context: Context, stop: CancellationToken) {
    let controller = Controller {
        name: "stake-binding",
        store: context.caches.stake_bindings.clone(),
        triggers: context.caches.stake_binding_triggers(),
        concurrency: CONCURRENCY,
        precedence: Some(context.precedence.clone()),
    };
    let metrics = context.metrics.clone();
    if let Err(error) = register_metrics(&context) {
        tracing::error!(error = %error, "the StakeBindings are not counted");
    }
    controller
        .run(metrics, stop, move |binding| pass(context.clone(), binding))
        .await;
}

/// How many bindings there are, by the reason of their `Ready`.
fn register_metrics(context: &Context) -> Result<(), prometheus::Error> {
    let store = context.caches.stake_bindings.clone();
    census::register(
        context.metrics.registry(),
        "gridstake_stake_bindings",
        "StakeBindings, by the reason of their condition Ready.",
        "reason",
        move || {
            let reason = |binding: &StakeBinding| {
                let status = binding.status.as_ref()?;
                let ready = condition::find(&status.conditions, StakeBindingCondition::Ready)?;
                census::variant::<StakeBindingReason>(&ready.reason)
            };
            parsed(&store.state()).filter_map(reason).collect()
        },
    )
}

/// Tells whatever hangs on stakes when they change on a chain, until `stop`: staking makes a node eligible at once.
pub async fn follow_stakes(context: Context, stop: CancellationToken) {
    let mut chains: FuturesUnordered<_> = context
        .chains
        .iter()
        .map(|chain| {
            let (caches, mut changes) = (context.caches.clone(), chain.changes());
            // What changed before is told once, whether or not somebody has looked since.
            changes.mark_changed();
            async move {
                while changes.changed().await.is_ok() {
                    caches.stakes_changed();
                }
            }
        })
        .collect();
    stop.run_until_cancelled(async { while chains.next().await.is_some() {} })
        .await;
    // Without a chain there is nothing to follow.
    stop.cancelled().await;
}

async fn pass(context: Context, binding: Arc<StakeBinding>) -> Result<Pass, Error> {
    let resolutions = observe::resolutions(&context.caches);
    let Some(resolution) = resolutions.binding(&binding.name_any()) else {
        // Deleted meanwhile.
        return Ok(Pass::unchanged());
    };
    let now = (context.now)();
    let sight = observe::sight(&context.chains, &binding.spec, now);
    let same_stakes = context.chains.with_the_vault_of(&binding.spec.chain);
    let plan = decide::decide(&binding, resolution, &resolutions, &sight, &same_stakes);
    let desired = status::desired(&binding, &plan, now);
    let written = status::OWNER
        .apply(
            &context.client,
            &context.metrics,
            &*binding,
            binding.status.as_ref(),
            &desired,
            Guard::None,
        )
        .await;
    match written {
        Ok(written) => Ok(Pass::wrote(written.is_applied())),
        // Gone, or replaced by a namesake, which has a pass of its own.
        Err(error) if error.is_not_found() || error.is_conflict() => {
            Ok(Pass::waiting().again_in(AFTER_CONFLICT))
        }
        Err(error) => Err(Error(error)),
    }
}
