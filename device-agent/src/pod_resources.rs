//! Asks the kubelet who holds which device: PodResources v1 over its unix socket.
//!
//! The answer names pods by namespace and name, not by UID. A container has one entry for each resource *and* NUMA node,
//! so entries are collected over all of them.

use std::{collections::BTreeMap, path::Path, time::Duration};

use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::device_id::DeviceId;

/// The kubelet's API, generated from the vendored `.proto`.
#[allow(missing_docs, clippy::pedantic, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("v1");
}

/// The kubelet answers from memory.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the kubelet itself allows its own clients (`podresources.Client`, 16 MiB): a node of many pods exceeds gRPC's 4 MiB.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// One device given to one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Assignment {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name.
    pub container: String,
    /// The device.
    pub device: DeviceId,
}

/// Into how many replicas the device plugin divides a GPU, by its UUID.
pub type Replicas = BTreeMap<String, u32>;

/// Why the kubelet could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path is not one.
    #[error("read the PodResources socket's path {path}: it must be absolute and UTF-8")]
    Path {
        /// As given.
        path: String,
    },
    /// tonic refuses the address.
    #[error("make an address of the PodResources socket {path}")]
    Address {
        /// As given.
        path: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The call failed.
    #[error("call PodResources {method}: {}: {}", .status.code(), .status.message())]
    Call {
        /// The method.
        method: &'static str,
        /// gRPC's status. It repeats its own causes in its words, so it is no source.
        status: Box<Status>,
    },
}

/// A client of the kubelet; it connects when it is used, and again when the kubelet has restarted.
#[derive(Clone, Debug)]
pub struct PodResources {
    client: v1::pod_resources_lister_client::PodResourcesListerClient<Channel>,
}

impl PodResources {
    /// A client of the kubelet that listens at `socket`.
    ///
    /// # Errors
    /// When `socket` is no absolute path.
    pub fn new(socket: &Path) -> Result<Self, Error> {
        let path = || socket.display().to_string();
        let text = socket
            .to_str()
            .filter(|_| socket.is_absolute())
            .ok_or_else(|| Error::Path { path: path() })?;
        let channel = Endpoint::from_shared(format!("unix://{text}"))
            .map_err(|source| Error::Address {
                path: path(),
                source,
            })?
            .connect_timeout(TIMEOUT)
            .timeout(TIMEOUT)
            .connect_lazy();
        let client = v1::pod_resources_lister_client::PodResourcesListerClient::new(channel)
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        Ok(Self { client })
    }

    /// Who holds which NVIDIA device.
    ///
    /// # Errors
    /// When the kubelet does not answer.
    pub async fn assignments(&mut self) -> Result<Vec<Assignment>, Error> {
        let answer = self
            .client
            .list(v1::ListPodResourcesRequest {})
            .await
            .map_err(|status| Error::Call {
                method: "List",
                status: Box::new(status),
            })?;
        Ok(assignments(answer.into_inner()))
    }

    /// How the device plugin divides the GPUs; empty where it does not, or where the kubelet cannot say (before 1.23).
    ///
    /// # Errors
    /// When the kubelet does not answer.
    pub async fn replicas(&mut self) -> Result<Replicas, Error> {
        match self
            .client
            .get_allocatable_resources(v1::AllocatableResourcesRequest {})
            .await
        {
            Ok(answer) => Ok(replicas(&answer.into_inner())),
            Err(status) if status.code() == Code::Unimplemented => Ok(Replicas::new()),
            Err(status) => Err(Error::Call {
                method: "GetAllocatableResources",
                status: Box::new(status),
            }),
        }
    }
}

/// NVIDIA's resources: `nvidia.com/gpu`, `nvidia.com/mig-1g.10gb`, `nvidia.com/gpu.shared`.
fn is_gpu(resource: &str) -> bool {
    resource.starts_with("nvidia.com/")
}

pub(crate) fn assignments(answer: v1::ListPodResourcesResponse) -> Vec<Assignment> {
    let mut all = Vec::new();
    for pod in answer.pod_resources {
        for container in pod.containers {
            let ids = container
                .devices
                .iter()
                .filter(|devices| is_gpu(&devices.resource_name))
                .flat_map(|devices| &devices.device_ids);
            all.extend(ids.map(|id| Assignment {
                namespace: pod.namespace.clone(),
                pod: pod.name.clone(),
                container: container.name.clone(),
                device: DeviceId::parse(id),
            }));
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

pub(crate) fn replicas(answer: &v1::AllocatableResourcesResponse) -> Replicas {
    let mut ids: Vec<DeviceId> = answer
        .devices
        .iter()
        .filter(|devices| is_gpu(&devices.resource_name))
        .flat_map(|devices| &devices.device_ids)
        .map(|id| DeviceId::parse(id))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    let mut replicas = Replicas::new();
    for id in ids {
        match id {
            DeviceId::Replica { uuid, .. } => *replicas.entry(uuid).or_default() += 1,
            DeviceId::Gpu { uuid } => {
                replicas.insert(uuid, 1);
            }
            DeviceId::Mig { .. } | DeviceId::Index { .. } | DeviceId::Unknown(_) => {}
        }
    }
    replicas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(resource: &str, ids: &[&str]) -> v1::ContainerDevices {
        v1::ContainerDevices {
            resource_name: resource.to_owned(),
            device_ids: ids.iter().map(ToString::to_string).collect(),
            topology: None,
        }
    }

    fn pod(name: &str, containers: &[(&str, &[v1::ContainerDevices])]) -> v1::PodResources {
        v1::PodResources {
            name: name.to_owned(),
            namespace: "ns".to_owned(),
            containers: containers
                .iter()
                .map(|(container, devices)| v1::ContainerResources {
                    name: (*container).to_owned(),
                    devices: devices.to_vec(),
                    ..v1::ContainerResources::default()
                })
                .collect(),
        }
    }

    #[test]
    fn a_containers_devices_are_collected_over_all_its_entries() {
        let answer = v1::ListPodResourcesResponse {
            pod_resources: vec![
                pod(
                    "train",
                    &[
                        (
                            "main",
                            &[
                                devices("nvidia.com/gpu", &["GPU-a"]),
                                devices("nvidia.com/gpu", &["GPU-b"]),
                            ],
                        ),
                        ("side", &[devices("rdma/hca", &["mlx5_0"])]),
                    ],
                ),
                pod("web", &[("main", &[])]),
                pod(
                    "small",
                    &[("main", &[devices("nvidia.com/mig-1g.10gb", &["MIG-c"])])],
                ),
            ],
        };
        let found: Vec<_> = assignments(answer)
            .into_iter()
            .map(|a| format!("{}/{}/{} {}", a.namespace, a.pod, a.container, a.device))
            .collect();
        assert_eq!(
            found,
            [
                "ns/small/main MIG-c",
                "ns/train/main GPU-a",
                "ns/train/main GPU-b"
            ]
        );
    }

    #[test]
    fn replicas_are_counted_for_each_gpu() {
        let answer = v1::AllocatableResourcesResponse {
            devices: vec![
                devices(
                    "nvidia.com/gpu.shared",
                    &["GPU-a::0", "GPU-a::1", "GPU-a::1"],
                ),
                devices("nvidia.com/gpu", &["GPU-b"]),
                devices("rdma/hca", &["GPU-x::0"]),
            ],
            ..v1::AllocatableResourcesResponse::default()
        };
        assert_eq!(
            replicas(&answer),
            Replicas::from([("GPU-a".to_owned(), 2), ("GPU-b".to_owned(), 1)])
        );
    }

    #[test]
    fn a_relative_socket_is_refused() {
        assert!(matches!(
            PodResources::new(Path::new("kubelet.sock")),
            Err(Error::Path { .. })
        ));
    }
}
