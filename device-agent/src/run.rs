//! Wires the parts together and keeps them running until told to stop.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::Duration,
};

use kube::{Client, Config};
use tokio::{
    net::TcpListener,
    sync::{Notify, oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    cli::Args,
    clock::{Anchor, BootMillis, boot_id},
    health::{Health, State, keep},
    heartbeat::{Heartbeat, Tidings},
    holders::{self, KubeletAnswer},
    http,
    metering::meter::{self, Meter},
    metrics::Metrics,
    nvml::{
        call::Calls,
        events::Hearing,
        thread::{NvmlThread, Settings},
    },
    observer::{NvmlThreadEnded, Observer},
    outcome::{Outcomes, Task, chain},
    pod_resources::{self, PodResources},
    process::ProcessTable,
    publish::Publisher,
    signing_key::{self, KeyState},
    telling,
};

/// How long the parts may take to end.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// How long a connection to the API server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the agent cannot start, or not go on. Everything that may mend itself is no such reason.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The metrics cannot be registered.
    #[error("register the metrics")]
    Metrics(#[source] prometheus::Error),
    /// The address of `/metrics` cannot be used.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system gives no thread.
    #[error("start the NVML thread")]
    Thread(#[source] io::Error),
    /// The kubelet's socket is no path.
    #[error("use --pod-resources-socket")]
    PodResources(#[source] pod_resources::Error),
    /// The NVML thread has ended.
    #[error("follow the GPUs")]
    Observe(#[from] NvmlThreadEnded),
}

/// Runs the agent until `stop`.
///
/// # Errors
/// When it cannot start, or a part of it ends by a fault of its own.
pub async fn run(args: Args, stop: CancellationToken) -> Result<(), Error> {
    let metrics = Arc::new(Metrics::new().map_err(Error::Metrics)?);
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|source| Error::Listen {
            address: args.listen,
            source,
        })?;
    let kubelet = PodResources::new(&args.pod_resources_socket).map_err(Error::PodResources)?;
    let calls = Arc::new(Calls::new(metrics.nvml_call_errors.clone()));
    let (latest, latest_seen) = watch::channel(None);
    let settings = Settings {
        library: args.nvml_library.clone(),
        proc_root: args.proc_root.clone(),
        interval: args.sample_interval,
    };
    let hearing = Arc::new(Hearing::new(metrics.nvml_call_errors.clone()));
    let nvml = NvmlThread::spawn(settings, Arc::clone(&calls), Arc::clone(&hearing), latest)
        .map_err(Error::Thread)?;

    let (answer, kubelet_answer) = watch::channel(KubeletAnswer::default());
    let (wanted, wanted_seen) = watch::channel(None);
    let (before, before_seen) = oneshot::channel();
    let (key, key_seen) = watch::channel(KeyState::Pending);
    let processes_changed = Arc::new(Notify::new());
    let outcomes = |task| Outcomes::new(task, &metrics);
    let (asking, reporting, telling) = telling::channel();
    if let Ok(address) = listener.local_addr() {
        tracing::info!(node = args.node_name, %address, version = env!("CARGO_PKG_VERSION"), "the device agent runs");
    }

    let mut tasks = JoinSet::new();
    serve(listener, &metrics, &mut tasks, &stop);
    tasks.spawn(holders::follow(
        kubelet,
        answer,
        Arc::clone(&processes_changed),
        outcomes(Task::PodResources),
        stop.clone(),
    ));
    let faults = keep_faults(&args, &metrics, &mut tasks, &stop);
    let settings = meter::Settings {
        state_dir: args.state_dir.clone(),
        pod_logs: args.pod_logs,
        proc_root: args.proc_root.clone(),
        sample_interval: args.sample_interval,
        checkpoint_interval: args.checkpoint_interval,
    };
    let sources = meter::Sources {
        latest: latest_seen.clone(),
        kubelet: kubelet_answer.clone(),
        ask_kubelet: Arc::clone(&processes_changed),
        key: key_seen.clone(),
    };
    let (meter, exchange) = Meter::new(settings, sources, &metrics);
    let trouble = exchange.trouble();
    let tenants = exchange.tenants();
    let (local_use, tidings) = Tidings::with(exchange.heads());
    tasks.spawn(meter.run(stop.clone()));
    tasks.spawn(signing_key::provide(args.state_dir, key, stop.clone()));
    let (publish, heartbeat) = (outcomes(Task::Publish), outcomes(Task::Heartbeat));
    let counting = Arc::clone(&metrics);
    let (node, namespace, stopping) = (args.node_name, args.namespace, stop.clone());
    tasks.spawn(async move {
        let client = tokio::select! {
            () = stopping.cancelled() => return,
            client = connect() => client,
        };
        let publisher = Publisher::new(client.clone(), &node);
        let lease = Heartbeat::new(client.clone(), &namespace, &node, tidings, asking);
        tokio::join!(
            exchange.run(client, &namespace, &node, &counting, stopping.clone()),
            lease.run(heartbeat, stopping.clone()),
            publisher.run(wanted_seen, before, telling, publish, stopping.clone()),
        );
    });
    let observer = Observer {
        latest: latest_seen,
        calls,
        hearing,
        kubelet: kubelet_answer,
        processes_changed,
        processes: ProcessTable::new(&args.proc_root),
        metrics,
        key: key_seen,
        metering: trouble,
        wanted,
        faults,
        tenants,
        local_use,
        reporting,
    };
    let ended = observer.run(before_seen, stop.clone()).await;

    stop.cancel();
    drop(nvml);
    let all = async { while tasks.join_next().await.is_some() {} };
    if timeout(STOP_WITHIN, all).await.is_err() {
        tracing::warn!("some parts did not end in time and are dropped");
    }
    Ok(ended?)
}

/// Answers on `listener` until `stop`.
fn serve(
    listener: TcpListener,
    metrics: &Arc<Metrics>,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    let serve = axum::serve(listener, http::routes(Arc::clone(metrics)));
    let stopped = stop.clone().cancelled_owned();
    tasks.spawn(async move {
        // It ends only when it is told to: an error of one connection is not one of the server.
        let _ = serve.with_graceful_shutdown(stopped).await;
    });
}

/// Takes over the devices' faults as they were kept, and keeps what is sent.
fn keep_faults(
    args: &Args,
    metrics: &Metrics,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> watch::Sender<Arc<State>> {
    let mut outcomes = Outcomes::new(Task::Faults, metrics);
    let boot_id = boot_id(&args.proc_root).unwrap_or_default();
    let mut health = Health::new(args.fault_clean_time);
    match keep::KEPT.load::<State>(&args.state_dir) {
        Ok(Some((boot, kept))) => {
            health.restore(kept, boot == boot_id, BootMillis::now(), Anchor::now());
        }
        Ok(None) => {}
        Err(error) => outcomes.failure(&error),
    }
    let (faults, seen) = watch::channel(Arc::new(health.state()));
    let mut view = metrics.view.lock().unwrap_or_else(PoisonError::into_inner);
    view.health = health;
    drop(view);
    let directory = args.state_dir.clone();
    tasks.spawn(keep::keep(directory, boot_id, seen, outcomes, stop.clone()));
    faults
}

/// A client of the API server. Credentials that are not there yet are waited for: metrics and NVML need none.
async fn connect() -> Client {
    let mut backoff = Backoff::STANDARD;
    let mut said = String::new();
    loop {
        let cause = match Config::infer().await {
            Ok(config) => match Client::try_from(once_each(config)) {
                Ok(client) => return client,
                Err(error) => chain(&error),
            },
            Err(error) => chain(&error),
        };
        if cause != said {
            tracing::warn!(error = %cause, "no way to the API server is configured; it is tried again");
            said = cause;
        }
        sleep(backoff.after_failure()).await;
    }
}

/// Every request is retried by its own task, which knows whether it is still wanted; kube would try for minutes.
fn once_each(mut config: Config) -> Config {
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config
}
