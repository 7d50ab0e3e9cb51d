//! StakeBindings: which nodes stand for which provider. What the chain says about a provider is not read yet.

pub mod decide;
pub mod observe;
pub mod status;

use std::{sync::Arc, time::Duration};

use gridstake_crds::StakeBinding;
use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;

use crate::{
    Context,
    error::ReconcileError,
    reconcile::{Controller, Pass},
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
    };
    let metrics = context.metrics.clone();
    controller
        .run(metrics, stop, move |binding| pass(context.clone(), binding))
        .await;
}

async fn pass(context: Context, binding: Arc<StakeBinding>) -> Result<Pass, Error> {
    let resolutions = observe::resolutions(&context.caches);
    let Some(resolution) = resolutions.get(&binding.name_any()) else {
        // Deleted meanwhile.
        return Ok(Pass::unchanged());
    };
    let plan = decide::decide(&binding, resolution);
    let desired = status::desired(&binding, &plan, (context.now)());
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
