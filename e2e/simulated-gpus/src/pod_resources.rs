//! Asks the kubelet which container has which device.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::{
    RESOURCE,
    proc_scan::Grant,
    proto::podresources::{
        ListPodResourcesRequest, ListPodResourcesResponse,
        pod_resources_lister_client::PodResourcesListerClient,
    },
};

/// How long the kubelet may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A gRPC channel over a unix socket, connected when it is first used.
pub fn unix_channel(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket: PathBuf = socket.into();
    // The address is not used for connecting; gRPC wants one for its `:authority`.
    let endpoint = Endpoint::try_from("http://localhost")?.timeout(TIMEOUT);
    Ok(
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        })),
    )
}

/// The kubelet's PodResources API.
#[derive(Debug, Clone)]
pub struct PodResources {
    client: PodResourcesListerClient<Channel>,
}

impl PodResources {
    /// Does not connect yet: the kubelet may be away.
    pub fn new(socket: &Path) -> Result<Self, tonic::transport::Error> {
        let client = PodResourcesListerClient::new(unix_channel(socket)?)
            // A node full of pods answers more than tonic's 4 MiB.
            .max_decoding_message_size(64 << 20);
        Ok(Self { client })
    }

    /// The containers that have devices of ours.
    pub async fn grants(&mut self) -> Result<Vec<Grant>, tonic::Status> {
        let answer = self.client.list(ListPodResourcesRequest {}).await?;
        Ok(grants(&answer.into_inner()))
    }
}

/// The containers with devices of our resource. The kubelet answers one entry per device or one for all: they are
/// collected.
fn grants(answer: &ListPodResourcesResponse) -> Vec<Grant> {
    let mut devices: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for pod in &answer.pod_resources {
        for container in &pod.containers {
            for entry in container
                .devices
                .iter()
                .filter(|entry| entry.resource_name == RESOURCE)
            {
                devices
                    .entry(format!("{}/{}/{}", pod.namespace, pod.name, container.name))
                    .or_default()
                    .extend(entry.device_ids.iter().cloned());
            }
        }
    }
    devices
        .into_iter()
        .filter(|(_, devices)| !devices.is_empty())
        .map(|(container, devices)| Grant {
            devices: devices.into_iter().collect(),
            container,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::podresources::{self, ContainerDevices, ContainerResources};

    fn entry(resource: &str, ids: &[&str]) -> ContainerDevices {
        ContainerDevices {
            resource_name: resource.into(),
            device_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            topology: None,
        }
    }

    #[test]
    fn one_entry_per_device_is_one_grant_per_container() {
        let container = |name: &str, devices| ContainerResources {
            name: name.into(),
            devices,
            ..Default::default()
        };
        let answer = ListPodResourcesResponse {
            pod_resources: vec![podresources::PodResources {
                name: "train".into(),
                namespace: "ns".into(),
                containers: vec![
                    container(
                        "main",
                        vec![entry(RESOURCE, &["GPU-b"]), entry(RESOURCE, &["GPU-a"])],
                    ),
                    container("sidecar", vec![entry("example.com/nic", &["nic0"])]),
                    container("idle", vec![entry(RESOURCE, &[])]),
                ],
            }],
        };
        assert_eq!(
            grants(&answer),
            [Grant {
                devices: vec!["GPU-a".into(), "GPU-b".into()],
                container: "ns/train/main".into()
            }]
        );
    }
}
