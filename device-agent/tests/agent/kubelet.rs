//! The agent's client of PodResources against a gRPC server on a unix socket.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use gridstake_device_agent::{
    holders::{KubeletAnswer, follow},
    metrics::Metrics,
    outcome::{Outcomes, Task},
    pod_resources::{
        PodResources,
        v1::{
            self,
            pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer},
        },
    },
};
use tokio::{
    net::UnixListener,
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::Server};

use crate::PATIENCE;

/// The devices that a kubelet gave out, each to a pod in `lab`: `(pod, device id)`.
pub type Given = Arc<Mutex<Vec<(String, String)>>>;

/// A kubelet that gave out devices.
struct Kubelet(Given);

fn devices(id: &str) -> v1::ContainerDevices {
    v1::ContainerDevices {
        resource_name: "nvidia.com/gpu".to_owned(),
        device_ids: vec![id.to_owned()],
        topology: None,
    }
}

#[tonic::async_trait]
impl PodResourcesLister for Kubelet {
    async fn list(
        &self,
        _: Request<v1::ListPodResourcesRequest>,
    ) -> Result<Response<v1::ListPodResourcesResponse>, Status> {
        let given = self.0.lock().unwrap();
        let pod = |(pod, device): &(String, String)| v1::PodResources {
            name: pod.clone(),
            namespace: "lab".to_owned(),
            containers: vec![v1::ContainerResources {
                name: "main".to_owned(),
                devices: vec![devices(device)],
                ..v1::ContainerResources::default()
            }],
        };
        Ok(Response::new(v1::ListPodResourcesResponse {
            pod_resources: given.iter().map(pod).collect(),
        }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<v1::AllocatableResourcesRequest>,
    ) -> Result<Response<v1::AllocatableResourcesResponse>, Status> {
        Err(Status::unimplemented("an old kubelet"))
    }

    async fn get(
        &self,
        _: Request<v1::GetPodResourcesRequest>,
    ) -> Result<Response<v1::GetPodResourcesResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

/// Serves until `stop`, which also ends the connections.
fn serve(socket: &Path, device: &'static str, stop: &CancellationToken) -> JoinHandle<()> {
    let given = vec![("train-1-0".to_owned(), device.to_owned())];
    serve_all(socket, Arc::new(Mutex::new(given)), stop)
}

/// Serves what is given out until `stop`.
pub fn serve_all(socket: &Path, given: Given, stop: &CancellationToken) -> JoinHandle<()> {
    let stopped = stop.clone().cancelled_owned();
    let listener = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
    tokio::spawn(async move {
        Server::builder()
            .add_service(PodResourcesListerServer::new(Kubelet(given)))
            .serve_with_incoming_shutdown(listener, stopped)
            .await
            .unwrap();
    })
}

#[tokio::test]
async fn the_holder_of_a_device_is_read_and_an_old_kubelet_suffices() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kubelet.sock");
    let _server = serve(&socket, "GPU-a", &CancellationToken::new());
    let mut client = PodResources::new(&socket).unwrap();
    let assignments = client.assignments().await.unwrap();
    assert_eq!(assignments.len(), 1);
    let found = &assignments[0];
    assert_eq!(
        (
            found.namespace.as_str(),
            found.pod.as_str(),
            found.container.as_str()
        ),
        ("lab", "train-1-0", "main")
    );
    assert_eq!(found.device.to_string(), "GPU-a");
    assert!(client.replicas().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_kubelet_that_is_not_there_is_asked_again_and_one_that_restarts_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kubelet.sock");
    let metrics = Metrics::new().unwrap();
    let (sender, mut answer) = watch::channel(KubeletAnswer::default());
    let changed = Arc::new(Notify::new());
    let stop = CancellationToken::new();
    let following = tokio::spawn(follow(
        PodResources::new(&socket).unwrap(),
        sender,
        Arc::clone(&changed),
        Outcomes::new(Task::PodResources, &metrics),
        stop.clone(),
    ));
    let failures = metrics
        .task_runs
        .with_label_values(&["pod_resources", "failure"]);
    let failed = async {
        while failures.get() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, failed).await.unwrap();

    let holds = |device: &'static str| {
        move |answer: &KubeletAnswer| {
            let all = answer.assignments.as_deref().map(Vec::as_slice);
            all.is_some_and(|all| all.iter().any(|a| a.device.to_string() == device))
        }
    };
    let restart = CancellationToken::new();
    let first = serve(&socket, "GPU-a", &restart);
    changed.notify_one();
    timeout(PATIENCE, answer.wait_for(holds("GPU-a")))
        .await
        .unwrap()
        .unwrap();

    restart.cancel();
    timeout(PATIENCE, first).await.unwrap().unwrap();
    std::fs::remove_file(&socket).unwrap();
    let _second = serve(&socket, "GPU-b", &stop);
    changed.notify_one();
    timeout(PATIENCE, answer.wait_for(holds("GPU-b")))
        .await
        .unwrap()
        .unwrap();

    stop.cancel();
    timeout(PATIENCE, following).await.unwrap().unwrap();
}
