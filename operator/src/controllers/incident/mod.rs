//! Incidents: carries one offence to the chain, and what becomes of it back into the object.
//!
//! | file | what |
//! |---|---|
//! | [`open`] | pure: what a failed attempt that is the host's leads to |
//! | [`invalid_result`] | pure, and opens it: what an outvoted result leads to |
//! | [`hold`] | which payments are held back meanwhile |
//! | [`evidence`] | puts the evidence into the archive |
//! | [`observe`], [`history`] | what the chain says about the slash |
//! | [`decide`], [`record`] | pure: the state, the conditions, the call |
//! | [`draft`] | the calls, and the slash key's signature |
//! | [`act`] | stores a transaction, then sends it |
//! | [`status`] | pure: the status |
//!
//! The contract knows an incident by a number that follows from the object alone, and takes it once: two replicas that
//! both believe to lead propose one slash.

pub mod act;
pub mod decide;
pub mod draft;
pub mod evidence;
pub mod history;
pub mod hold;
pub mod invalid_result;
pub mod observe;
pub mod open;
pub mod record;
pub mod status;

use std::{sync::Arc, time::Duration};

use gridstake_crds::{Incident, TokenAmount, incident::IncidentState};
use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;

use self::{
    act::{ActError, Sent},
    decide::{Plan, Sight},
    observe::ObserveError,
};
use crate::{
    Context,
    caches::{census, parsed},
    chain::Chain,
    error::ReconcileError,
    events::is_news,
    reconcile::{CONCURRENCY, Controller, Pass},
    settlement::Lane,
    status::{Guard, StatusError},
};

/// How soon to look again at an object that was not what it seemed, should the watch be slower.
const AFTER_CONFLICT: Duration = Duration::from_secs(1);

/// How soon to look again at an incident whose chain is busy with others.
const AFTER_OTHERS: Duration = Duration::from_millis(500);

/// How soon a call that is due is looked at again, should no block come: an endpoint may have lost the transaction.
const RESEND: Duration = Duration::from_secs(10);

/// Why a pass over an Incident failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The chain could not be asked.
    #[error("observe the Incident")]
    Observe(#[from] ObserveError),
    /// A call could not be sent.
    #[error("carry the Incident to the chain")]
    Act(#[from] ActError),
    /// The status was not written.
    #[error("write the Incident's status")]
    Status(#[source] StatusError),
}

impl ReconcileError for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Observe(ObserveError::Chain(_)) => "ask_chain",
            Self::Observe(ObserveError::Draft(_)) => "draft",
            Self::Act(_) => "send",
            Self::Status(_) => "apply_status",
        }
    }
}

/// Runs the controller until `stop`.
pub async fn run(context: Context, stop: CancellationToken) {
    let controller = Controller {
        name: "incident",
        store: context.caches.incidents.clone(),
        triggers: context.caches.incident_triggers(),
        concurrency: CONCURRENCY,
        precedence: Some(context.precedence.clone()),
    };
    let metrics = context.metrics.clone();
    if let Err(error) = register_metrics(&context) {
        tracing::error!(error = %error, "the Incidents are not counted");
    }
    controller
        .run(metrics, stop, move |incident| {
            pass(context.clone(), incident)
        })
        .await;
}

/// How many incidents there are, by their state.
fn register_metrics(context: &Context) -> Result<(), prometheus::Error> {
    let store = context.caches.incidents.clone();
    census::register(
        context.metrics.registry(),
        "gridstake_incidents",
        "Incidents, by their state.",
        "state",
        move || -> Vec<IncidentState> {
            parsed(&store.state())
                .filter_map(|incident| incident.status.as_ref()?.state)
                .collect()
        },
    )
}

/// Looks at every incident that is on its way on a chain with every block of that chain, until `stop`: its deadlines are on
/// the chain's clock.
pub async fn follow_chains(context: Context, stop: CancellationToken) {
    let follow = context.chains.iter().map(|chain| follow(&context, chain));
    stop.run_until_cancelled(futures::future::join_all(follow))
        .await;
    // Without a chain there is nothing to follow.
    stop.cancelled().await;
}

async fn follow(context: &Context, chain: &Chain) {
    let mut views = chain.views();
    let triggers = context.caches.incident_triggers();
    let mut seen = None;
    while views.changed().await.is_ok() {
        let news = views
            .borrow_and_update()
            .as_ref()
            .map(|view| (view.head.hash, view.finalized.hash, view.slashes.len()));
        if std::mem::replace(&mut seen, news) == news {
            continue;
        }
        for incident in parsed(&context.caches.incidents.state()) {
            let is_here = incident.spec.chain.as_deref() == Some(chain.name());
            if is_here && !decide::is_closed(incident.status.as_ref()) {
                triggers.one(None, &incident.name_any());
            }
        }
    }
}

async fn pass(context: Context, incident: Arc<Incident>) -> Result<Pass, Error> {
    let has_ended = incident.status.as_ref().is_some_and(record::has_ended);
    let named = incident.spec.chain.as_deref();
    let lane = named.and_then(|chain| context.lanes.on(chain));
    if has_ended {
        if let Some(lane) = lane {
            act::done(lane, &incident);
        }
        return Ok(Pass::unchanged());
    }
    // Held until the pass has ended.
    let turn = lane.map(Lane::incident_turn);
    if matches!(turn, Some(None)) {
        return Ok(Pass::waiting().again_in(AFTER_OTHERS));
    }
    let now = (context.now)();
    let mut sight = observe::observe(lane, &incident, now).await?;
    let evidence = evidence::keep(&context, &incident).await;
    let mut plan = decide::decide(&incident, &evidence, &sight, now);
    if let (Some(lane), Some(call), Sight::Seen(seen)) = (lane, plan.call, &mut sight) {
        match act::carry(&context, lane, &incident, &evidence, seen, call).await {
            Ok(Sent::Stored) => return Ok(Pass::applied().again_in(RESEND)),
            Ok(Sent::Unchanged(hindrance)) => {
                seen.hindrance = hindrance;
                plan = decide::decide(&incident, &evidence, &sight, now);
            }
            Err(error) if error.is_outdated() => {
                return Ok(Pass::waiting().again_in(AFTER_CONFLICT));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let desired = status::desired(&incident, &plan, held(&context, &incident), now);
    let written = status::OWNER
        .apply(
            &context.client,
            &context.metrics,
            &*incident,
            incident.status.as_ref(),
            &desired,
            // The list of what was sent is written here too, and must be the newest.
            Guard::ResourceVersion,
        )
        .await;
    let applied = match written {
        Ok(written) => written.is_applied(),
        Err(error) if error.is_not_found() || error.is_conflict() => {
            return Ok(Pass::waiting().again_in(AFTER_CONFLICT));
        }
        Err(error) => return Err(Error::Status(error)),
    };
    if applied {
        tell(&context, &incident, &plan).await;
    }
    let ends = plan
        .until
        .filter(|until| *until > now)
        .map(|until| Duration::try_from(until.duration_since(now)).unwrap_or(RESEND));
    let resend = plan.call.map(|_| RESEND);
    Ok(Pass::wrote(applied).again(resend.into_iter().chain(ends).min()))
}

/// What is held back by `incident` now.
fn held(context: &Context, incident: &Incident) -> Option<TokenAmount> {
    if !hold::holds(incident) {
        return None;
    }
    let records: Vec<_> = incident
        .spec
        .usage_records
        .iter()
        .filter_map(|name| context.caches.usage_record(name))
        .collect();
    Some(hold::held(parsed(&records)))
}

/// Publishes an event for every condition that has news to tell.
async fn tell(context: &Context, incident: &Incident, plan: &Plan) {
    let before = incident
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    for fact in &plan.facts {
        let told = matches!(fact.condition, "Proposed" | "Closed" | "Ready");
        if told && is_news(before, fact) {
            context.events.publish_news(incident, before, fact).await;
        }
    }
}
