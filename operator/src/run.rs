//! The life of the process: probes first, then definitions, caches, election, controllers; and back again.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    archive::{self, Archive},
    caches::Caches,
    chain::{Chains, ConfigError},
    cli::Args,
    context::Context,
    controllers::{
        self,
        compute_job::{
            recent_fleet::RecentFleet, recent_starts::RecentStarts, rehearsals::Rehearsals,
            untold::Untold,
        },
        incident,
    },
    crd_wait::wait_for_crds,
    events::Events,
    health::Health,
    http::{self, HttpError},
    leader::{Elector, Leadership, Terms},
    metrics::Metrics,
    payer::Payers,
    precedence::Precedence,
    settlement::{Lanes, OpenError},
};

/// What readiness says until each cache speaks for itself.
const STARTING: &str = "caches are not started";

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The asynchronous runtime does not start.
    #[error("start the runtime")]
    Runtime(#[source] std::io::Error),
    /// The metrics contradict each other.
    #[error("register metrics")]
    Metrics(#[source] prometheus::Error),
    /// The HTTP server does not start.
    #[error("start the HTTP server")]
    Http(#[source] HttpError),
    /// The chains file is wrong.
    #[error("configure the chains")]
    Chains(#[source] ConfigError),
    /// A key is missing, or the chain has no client.
    #[error("open the lanes")]
    Lanes(#[source] OpenError),
    /// The archive's address is none.
    #[error("open the archive")]
    Archive(#[source] archive::OpenError),
    /// Signals cannot be received.
    #[error("listen for signals")]
    Signals(#[source] std::io::Error),
    /// There is neither a service account nor a usable kubeconfig.
    #[error("find the API server")]
    Config(#[source] Box<kube::config::InferConfigError>),
    /// The configuration makes no client.
    #[error("build the API client")]
    Client(#[source] Box<kube::Error>),
    /// A part that must run for as long as the process ended.
    #[error("{0} ended by itself")]
    PartEnded(&'static str),
}

/// Why the process goes down.
enum Exit {
    /// SIGTERM or SIGINT.
    Asked,
    /// Another replica may take over soon.
    LeadershipLost,
    /// A part ended that should not.
    Broken(&'static str),
}

/// Runs the operator until it is told to stop, or loses the lease.
pub async fn run(args: Args) -> Result<(), RunError> {
    let chains = Chains::configured(args.chains_file.as_deref()).map_err(RunError::Chains)?;
    let metrics = Metrics::new().map_err(RunError::Metrics)?;
    let lanes = Lanes::open(&chains, metrics.registry()).map_err(RunError::Lanes)?;
    let archive = args
        .archive
        .as_deref()
        .map(|location| Archive::open(location, args.archive_terms(), metrics.registry()))
        .transpose()
        .map_err(RunError::Archive)?;
    let health = Health::default();
    let asked = CancellationToken::new();
    stop_on_signals(&asked)?;

    let listener = http::bind(args.listen).await.map_err(RunError::Http)?;
    let serving = CancellationToken::new();
    // Until the definitions are known to be there, no cache is listed as pending.
    health.pending(STARTING);
    let server = tokio::spawn(http::serve(
        listener,
        health.clone(),
        metrics.clone(),
        serving.clone(),
    ));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        identity = args.identity,
        namespace = args.namespace,
        listen = %args.listen,
        chains = chains.names().join(" "),
        "the operator starts"
    );

    let outcome = work(args, chains, lanes, archive, health, metrics, asked).await;
    serving.cancel();
    // Whatever the server has to say, the work is done.
    let _ = server.await;
    outcome
}

async fn work(
    args: Args,
    chains: Chains,
    lanes: Lanes,
    archive: Option<Archive>,
    health: Health,
    metrics: Metrics,
    asked: CancellationToken,
) -> Result<(), RunError> {
    let client = client().await?;
    let crds = wait_for_crds(&client, &health, &metrics, &asked);
    if asked.run_until_cancelled(crds).await.is_none() {
        return Ok(());
    }

    let mut watches = JoinSet::new();
    let caches = Caches::start(
        &client,
        &args.namespace,
        args.failover(),
        &health,
        &metrics,
        &mut watches,
    );
    health.done(STARTING);
    if asked.run_until_cancelled(caches.filled()).await.is_none() {
        return Ok(());
    }
    tracing::info!("the caches are filled");
    for lane in lanes.iter() {
        let follower = lane.follower();
        watches.spawn(follower.run(caches.clone(), chains.clone(), Timestamp::now));
    }

    let resigning = CancellationToken::new();
    let (leadership, mut election) = take_part(&args, &client, &metrics, &resigning);
    let context = Context {
        events: Events::new(client.clone(), &args.identity),
        client,
        namespace: args.namespace.clone(),
        identity: args.identity.clone(),
        caches,
        chains,
        lanes,
        archive,
        incidents: incident::open::Terms {
            downtime_slash_permille: args.downtime_slash_permille,
            false_statement_slash_permille: args.false_statement_slash_permille,
        },
        preemption: args.preemption(),
        canaries: args.canaries(),
        fair_share_half_life: args.fair_share_half_life,
        owner_cap: args.owner_cap_percent,
        quarantine: args.quarantine(),
        rehearsals: Rehearsals::default(),
        recent_fleet: RecentFleet::default(),
        recent_starts: RecentStarts::default(),
        untold: Untold::default(),
        precedence: Precedence::default(),
        payers: Payers::default(),
        settlement_interval: args.settlement_interval,
        metrics,
        health,
        leadership: leadership.clone(),
        now: Timestamp::now,
    };

    let working = CancellationToken::new();
    let lease = leadership.clone();
    let mut controllers = tokio::spawn({
        let working = working.clone();
        async move {
            if working
                .run_until_cancelled(leadership.acquired())
                .await
                .is_some()
            {
                controllers::run(&context, working).await;
            }
        }
    });
    let exit = tokio::select! {
        () = asked.cancelled() => Exit::Asked,
        _ = &mut election => Exit::LeadershipLost,
        _ = watches.join_next() => Exit::Broken("a watch"),
        _ = &mut controllers => {
            // Placement stops by itself when the lease has expired.
            if lease.holds() { Exit::Broken("a controller") } else { Exit::LeadershipLost }
        }
    };

    working.cancel();
    let patience = match exit {
        // Another may lead once the rest of the lease's duration has passed.
        Exit::LeadershipLost => args.lease_duration.saturating_sub(args.renew_deadline),
        Exit::Asked | Exit::Broken(_) => args.drain_timeout,
    };
    drain(controllers, patience).await;
    resigning.cancel();
    if !matches!(exit, Exit::LeadershipLost) {
        // The elector bounds its own requests.
        let _ = election.await;
    }
    match exit {
        Exit::Asked | Exit::LeadershipLost => Ok(()),
        Exit::Broken(part) => Err(RunError::PartEnded(part)),
    }
}

/// Starts the election, or none with `--leader-elect=false`.
fn take_part(
    args: &Args,
    client: &Client,
    metrics: &Metrics,
    resigning: &CancellationToken,
) -> (Leadership, JoinHandle<()>) {
    let resigning = resigning.clone();
    if !args.leader_elect {
        metrics.set_leader(true);
        let never = tokio::spawn(async move { resigning.cancelled().await });
        return (Leadership::uncontested(), never);
    }
    let elector = Elector::new(
        Api::namespaced(client.clone(), &args.namespace),
        args.identity.clone(),
        Terms {
            lease_duration: args.lease_duration,
            renew_deadline: args.renew_deadline,
            retry_period: args.retry_period,
        },
        metrics.clone(),
    );
    let leadership = elector.leadership();
    let election = tokio::spawn(async move {
        elector.run(resigning).await;
    });
    (leadership, election)
}

/// A client without kube's own retries: up to 15 of them would hide a refusal for minutes, on POST too. Watches,
/// election and controllers each repeat what failed after a pause of their own.
pub(crate) async fn client() -> Result<Client, RunError> {
    let mut config = kube::Config::infer()
        .await
        .map_err(|source| RunError::Config(Box::new(source)))?;
    config.default_retry = false;
    Client::try_from(config).map_err(|source| RunError::Client(Box::new(source)))
}

/// Lets what runs finish, for as long as `patience` lasts. Every pass is safe to cut off: the next leader repeats it.
async fn drain(controllers: JoinHandle<()>, patience: Duration) {
    if controllers.is_finished() {
        return;
    }
    match tokio::time::timeout(patience, controllers).await {
        Ok(_) => tracing::info!("running work has finished"),
        Err(_) => tracing::warn!(?patience, "running work is cut off"),
    }
}

fn stop_on_signals(asked: &CancellationToken) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let asked = asked.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop");
        asked.cancel();
    });
    Ok(())
}
