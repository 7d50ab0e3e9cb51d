//! The plugin against a kubelet's two gRPC services, with real processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use std::{
    future::Future,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{Arc, Mutex},
    time::Duration,
};

use gridstake_simulated_gpus::{
    RESOURCE, VISIBLE_DEVICES,
    config::NodeProfile,
    directory::StateDirectory,
    double,
    faults::{self, Fault, FaultError},
    plugin,
    pod_resources::unix_channel,
    proto::{
        deviceplugin::{
            AllocateRequest, ContainerAllocateRequest, Empty, ListAndWatchResponse,
            RegisterRequest,
            device_plugin_client::DevicePluginClient,
            registration_server::{Registration, RegistrationServer},
        },
        podresources::{
            AllocatableResourcesRequest, AllocatableResourcesResponse, ContainerDevices,
            ContainerResources, GetPodResourcesRequest, GetPodResourcesResponse,
            ListPodResourcesRequest, ListPodResourcesResponse, PodResources,
            pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer},
        },
    },
    registration::SOCKET,
    state::{DriverKind, Processes, State},
};
use nvml_wrapper::Nvml;
use tokio::{net::UnixListener, sync::mpsc, task::JoinHandle, time::sleep};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, Streaming, transport::Channel, transport::Server};

/// Longest wait for a condition; never reached where things work.
const PATIENCE: Duration = Duration::from_secs(30);

struct FakeRegistration(mpsc::UnboundedSender<RegisterRequest>);

#[tonic::async_trait]
impl Registration for FakeRegistration {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        self.0
            .send(request.into_inner())
            .map_err(|_| Status::internal("the test has ended"))?;
        Ok(Response::new(Empty {}))
    }
}

#[derive(Clone, Default)]
struct FakePodResources(Arc<Mutex<Vec<PodResources>>>);

#[tonic::async_trait]
impl PodResourcesLister for FakePodResources {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        let pod_resources = self.0.lock().unwrap().clone();
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn get(
        &self,
        _: Request<GetPodResourcesRequest>,
    ) -> Result<Response<GetPodResourcesResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

/// A node: a folder with the kubelet's sockets and the plugin's state.
struct World {
    folder: tempfile::TempDir,
    registrations: mpsc::UnboundedReceiver<RegisterRequest>,
    registration_sender: mpsc::UnboundedSender<RegisterRequest>,
    pods: FakePodResources,
    kubelet: Option<JoinHandle<()>>,
    _pod_resources: JoinHandle<()>,
    plugin: JoinHandle<()>,
}

impl World {
    fn start(profile: NodeProfile) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (registration_sender, registrations) = mpsc::unbounded_channel();
        let pods = FakePodResources::default();
        std::fs::create_dir_all(path("device-plugins")).unwrap();
        let built = double::build().unwrap();
        std::fs::create_dir_all(path("doubles/old-driver")).unwrap();
        std::fs::copy(&built.current, path("doubles/libnvidia-ml.so.1")).unwrap();
        std::fs::copy(
            &built.old_driver,
            path("doubles/old-driver/libnvidia-ml.so.1"),
        )
        .unwrap();
        std::fs::copy(&built.cuda, path("doubles/libcuda.so.1")).unwrap();
        let listener = UnixListener::bind(path("pod-resources.sock")).unwrap();
        let service = PodResourcesListerServer::new(pods.clone());
        let pod_resources = tokio::spawn(async move {
            let server = Server::builder().add_service(service);
            server
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .unwrap();
        });
        let options = plugin::Options {
            node: "node-a".into(),
            profile,
            state_directory: path("state"),
            library_source: path("doubles"),
            device_plugins: path("device-plugins"),
            pod_resources_socket: path("pod-resources.sock"),
            proc_root: "/proc".into(),
        };
        let plugin = tokio::spawn(async move { plugin::run(options).await.unwrap() });
        Self {
            folder,
            registrations,
            registration_sender,
            pods,
            kubelet: None,
            _pod_resources: pod_resources,
            plugin,
        }
    }

    fn plugins(&self) -> PathBuf {
        self.folder.path().join("device-plugins")
    }

    /// As a starting kubelet does: empties the folder, listens anew.
    fn start_kubelet(&mut self) {
        if let Some(kubelet) = self.kubelet.take() {
            kubelet.abort();
        }
        for entry in std::fs::read_dir(self.plugins()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let listener = UnixListener::bind(self.plugins().join("kubelet.sock")).unwrap();
        let service = RegistrationServer::new(FakeRegistration(self.registration_sender.clone()));
        self.kubelet = Some(tokio::spawn(async move {
            let server = Server::builder().add_service(service);
            server
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .unwrap();
        }));
    }

    async fn registered(&mut self) -> RegisterRequest {
        tokio::time::timeout(PATIENCE, self.registrations.recv())
            .await
            .expect("the plugin does not register")
            .unwrap()
    }

    fn client(&self) -> DevicePluginClient<Channel> {
        DevicePluginClient::new(unix_channel(&self.plugins().join(SOCKET)).unwrap())
    }

    fn directory(&self) -> StateDirectory {
        StateDirectory::open(self.folder.path().join("state")).unwrap()
    }

    fn state(&self) -> State {
        self.directory().read_state().unwrap().unwrap()
    }

    fn processes(&self) -> Processes {
        self.directory()
            .read_processes()
            .unwrap()
            .unwrap_or_default()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.directory()
            .update_state(|state, _| {
                change(state);
                Ok::<_, FaultError>(())
            })
            .unwrap();
    }

    fn fault(&self, gpu: usize, fault: &str) {
        let fault: Fault = fault.parse().unwrap();
        self.directory()
            .update_state(|state, processes| faults::set(state, processes, Some(gpu), fault, 0))
            .unwrap();
    }

    /// A pod with one container that has these devices, one entry per device as the kubelet answers.
    fn give(&self, pod: &str, devices: &[String]) {
        let entry = |device: &String| ContainerDevices {
            resource_name: RESOURCE.into(),
            device_ids: vec![device.clone()],
            topology: None,
        };
        self.pods.0.lock().unwrap().push(PodResources {
            name: pod.into(),
            namespace: "tenant".into(),
            containers: vec![ContainerResources {
                name: "main".into(),
                devices: devices.iter().map(entry).collect(),
                ..ContainerResources::default()
            }],
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.plugin.abort();
    }
}

/// A child that ends with the test.
struct Process(Child);

impl Process {
    fn with_devices(devices: &str) -> Self {
        Self(
            Command::new("sleep")
                .arg("600")
                .env(VISIBLE_DEVICES, devices)
                .spawn()
                .unwrap(),
        )
    }

    fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_true() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn next(stream: &mut Streaming<ListAndWatchResponse>) -> Vec<(String, String)> {
    let answer = soon(stream.message())
        .await
        .unwrap()
        .expect("the stream has ended");
    answer
        .devices
        .into_iter()
        .map(|device| (device.id, device.health))
        .collect()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("nothing comes")
}

fn healthy(devices: &[(String, String)]) -> usize {
    devices
        .iter()
        .filter(|(_, health)| health == "Healthy")
        .count()
}

fn h100s(gpus: u32) -> NodeProfile {
    NodeProfile {
        gpus,
        model: "h100".into(),
        driver: DriverKind::Current,
    }
}

fn nvml(state_directory: &Path) -> Nvml {
    let library = state_directory.join("lib/libnvidia-ml.so.1");
    Nvml::builder()
        .lib_path(library.as_os_str())
        .init()
        .unwrap()
}

#[tokio::test]
async fn the_kubelet_learns_of_the_devices_and_a_container_of_its_own() {
    let mut world = World::start(h100s(8));
    world.start_kubelet();
    let request = world.registered().await;
    assert_eq!(
        (
            request.version.as_str(),
            request.resource_name.as_str(),
            request.endpoint.as_str()
        ),
        ("v1beta1", "nvidia.com/gpu", SOCKET)
    );
    let mut client = world.client();
    let mut stream = client.list_and_watch(Empty {}).await.unwrap().into_inner();
    let devices = next(&mut stream).await;
    let uuids: Vec<_> = world
        .state()
        .devices
        .into_iter()
        .map(|device| device.uuid)
        .collect();
    assert_eq!(
        devices.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(),
        uuids
    );
    assert_eq!(healthy(&devices), 8);

    let request = |ids: &[&String]| AllocateRequest {
        container_requests: vec![ContainerAllocateRequest {
            devices_ids: ids.iter().map(|id| (*id).clone()).collect(),
        }],
    };
    let mut expected = [uuids[5].clone(), uuids[2].clone()];
    expected.sort();
    for _ in 0..2 {
        let answer = client
            .allocate(request(&[&uuids[5], &uuids[2]]))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            answer.container_responses[0].envs[VISIBLE_DEVICES],
            expected.join(",")
        );
        let libraries = &answer.container_responses[0].mounts[0];
        assert!(
            Path::new(&libraries.host_path)
                .join("libcuda.so.1")
                .exists(),
            "{libraries:?}"
        );
    }
    let refused = client
        .allocate(request(&[&"GPU-none".to_owned()]))
        .await
        .unwrap_err();
    assert!(refused.message().contains("GPU-none"), "{refused}");
}

#[tokio::test]
async fn a_lost_gpu_is_unhealthy_and_healthy_again_when_it_recovers() {
    let mut world = World::start(h100s(4));
    world.start_kubelet();
    world.registered().await;
    let mut stream = world
        .client()
        .list_and_watch(Empty {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(healthy(&next(&mut stream).await), 4);
    world.fault(2, "lost");
    let devices = next(&mut stream).await;
    assert_eq!((devices.len(), devices[2].1.as_str()), (4, "Unhealthy"));
    world.fault(2, "recovered");
    assert_eq!(healthy(&next(&mut stream).await), 4);
    world.change(|state| state.driver.kind = DriverKind::Absent);
    assert!(next(&mut stream).await.is_empty());
}

#[tokio::test]
async fn a_kubelet_that_restarts_is_registered_with_again() {
    let mut world = World::start(h100s(2));
    for _ in 0..3 {
        world.start_kubelet();
        world.registered().await;
        let mut stream = world
            .client()
            .list_and_watch(Empty {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!(healthy(&next(&mut stream).await), 2);
    }
}

#[tokio::test]
async fn nvml_shows_the_real_processes_of_the_container_that_was_given_the_device() {
    let world = World::start(h100s(2));
    eventually("the plugin writes its state", || {
        world.folder.path().join("state/state.json").exists()
    })
    .await;
    eventually("and installs the double", || {
        world.directory().library().exists()
    })
    .await;
    let uuid = world.state().devices[1].uuid.clone();
    world.give("train", std::slice::from_ref(&uuid));
    let mut process = Process::with_devices(&uuid);
    let foreign = Process::with_devices(&world.state().devices[0].uuid);
    let pid = process.0.id();
    let nvml = nvml(world.directory().path());
    let listed = |gpu: u32| -> Vec<u32> {
        let device = nvml.device_by_index(gpu).unwrap();
        device
            .running_compute_processes()
            .unwrap()
            .iter()
            .map(|process| process.pid)
            .collect()
    };
    eventually("NVML lists the process", || listed(1) == [pid]).await;
    assert!(
        listed(0).is_empty(),
        "nobody gave the other process its device"
    );
    let device = nvml.device_by_index(1).unwrap();
    assert!(device.utilization_rates().unwrap().gpu > 0);
    let entry = world.processes().processes[0].clone();
    assert_eq!(entry.container, "tenant/train/main");
    assert!(entry.start_ticks > 0);

    // The kubelet forgets the pod before its process ends: it still holds the device.
    world.pods.0.lock().unwrap().clear();
    world.give(
        "other",
        std::slice::from_ref(&world.state().devices[0].uuid),
    );
    eventually("the new pod's process is listed", || {
        listed(0) == [foreign.0.id()]
    })
    .await;
    assert_eq!(listed(1), [pid]);
    let before = device.total_energy_consumption().unwrap();
    process.end();
    eventually("NVML lists nothing", || listed(1).is_empty()).await;
    assert!(device.total_energy_consumption().unwrap() >= before);
    assert_eq!(device.utilization_rates().unwrap().gpu, 0);
}

#[tokio::test]
async fn faults_and_the_process_list_outlive_the_plugin() {
    let world = World::start(h100s(2));
    eventually("the plugin writes its state", || {
        StateDirectory::open(world.folder.path().join("state")).is_ok_and(|directory| {
            directory.library().exists()
                && directory
                    .read_processes()
                    .is_ok_and(|processes| processes.is_some())
        })
    })
    .await;
    world.fault(1, "ecc=3");
    let before = (world.state(), world.processes());
    world.plugin.abort();
    let options = plugin::Options {
        node: "node-a".into(),
        profile: h100s(2),
        state_directory: world.folder.path().join("state"),
        library_source: world.folder.path().join("doubles"),
        device_plugins: world.plugins(),
        pod_resources_socket: world.folder.path().join("pod-resources.sock"),
        proc_root: "/proc".into(),
    };
    plugin::prepare(&options, &before.1.boot_id).unwrap();
    assert_eq!((world.state(), world.processes()), before);
}
