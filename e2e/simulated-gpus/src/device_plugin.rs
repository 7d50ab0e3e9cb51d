//! The kubelet's device plugin API: which devices there are, in what health, and what a container gets.

use std::{collections::BTreeMap, path::Path, pin::Pin};

use gridstake_simulated_gpus_state::{DEFAULT_DIRECTORY, DriverKind, LIBRARY_DIRECTORY, State};
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt as _, wrappers::WatchStream};
use tonic::{Request, Response, Status};

use crate::{
    VISIBLE_DEVICES,
    proto::deviceplugin::{
        AllocateRequest, AllocateResponse, ContainerAllocateResponse,
        ContainerPreferredAllocationRequest, ContainerPreferredAllocationResponse, Device,
        DevicePluginOptions, Empty, ListAndWatchResponse, Mount, PreStartContainerRequest,
        PreStartContainerResponse, PreferredAllocationRequest, PreferredAllocationResponse,
        device_plugin_server::DevicePlugin,
    },
};

/// A device as the kubelet sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertised {
    /// The UUID.
    pub id: String,
    /// Whether new pods may have it.
    pub is_healthy: bool,
    /// GPUs of one NUMA node are handed out together.
    pub numa_node: u32,
}

/// The devices to advertise, in the order of their indices. Without a driver there are none, as a device plugin on
/// real hardware finds none.
#[must_use]
pub fn advertised(state: &State) -> Vec<Advertised> {
    if matches!(state.driver.kind, DriverKind::Absent | DriverKind::Unloaded) {
        return Vec::new();
    }
    state
        .devices
        .iter()
        .map(|device| Advertised {
            id: device.uuid.clone(),
            is_healthy: !device.faults.lost,
            numa_node: device.numa_node,
        })
        .collect()
}

/// Where a container with devices finds the driver's libraries: where Google's device plugin puts them.
const LIBRARIES_IN_CONTAINER: &str = "/usr/local/nvidia/lib64";

/// The service that the kubelet calls.
#[derive(Debug, Clone)]
pub struct DevicePluginService {
    devices: watch::Receiver<Vec<Advertised>>,
    mounts: Vec<Mount>,
}

impl DevicePluginService {
    /// Advertises what the channel holds. A container that gets devices also gets the libraries in `state_directory`, a folder
    /// of the node, and what they read.
    #[must_use]
    pub fn new(devices: watch::Receiver<Vec<Advertised>>, state_directory: &Path) -> Self {
        let read_only = |inside: &str, outside: &Path| Mount {
            container_path: inside.to_owned(),
            host_path: outside.to_string_lossy().into_owned(),
            read_only: true,
        };
        Self {
            devices,
            mounts: vec![
                read_only(
                    LIBRARIES_IN_CONTAINER,
                    &state_directory.join(LIBRARY_DIRECTORY),
                ),
                read_only(DEFAULT_DIRECTORY, state_directory),
            ],
        }
    }
}

/// What this plugin wants of the kubelet.
#[must_use]
pub fn options() -> DevicePluginOptions {
    DevicePluginOptions {
        pre_start_required: false,
        get_preferred_allocation_available: true,
    }
}

fn response(devices: &[Advertised]) -> ListAndWatchResponse {
    let device = |device: &Advertised| Device {
        id: device.id.clone(),
        health: if device.is_healthy {
            "Healthy"
        } else {
            "Unhealthy"
        }
        .into(),
        topology: None,
    };
    ListAndWatchResponse {
        devices: devices.iter().map(device).collect(),
    }
}

/// What a container gets that was given these devices, beside `mounts`.
fn allocate(
    devices: &[Advertised],
    wanted: &[String],
    mounts: &[Mount],
) -> Result<ContainerAllocateResponse, Status> {
    let mut wanted = wanted.to_vec();
    wanted.sort();
    wanted.dedup();
    for id in &wanted {
        if !devices.iter().any(|device| device.id == *id) {
            return Err(Status::invalid_argument(format!(
                "there is no device {id} on this node; it has {} devices",
                devices.len()
            )));
        }
    }
    Ok(ContainerAllocateResponse {
        envs: [(VISIBLE_DEVICES.to_owned(), wanted.join(","))].into(),
        mounts: mounts.to_vec(),
        ..ContainerAllocateResponse::default()
    })
}

/// Chooses devices of as few NUMA nodes as possible: those with devices that must be included first, then the one with
/// the fewest free devices that still suffices, so that large requests find whole nodes later.
fn prefer(devices: &[Advertised], request: &ContainerPreferredAllocationRequest) -> Vec<String> {
    let size = usize::try_from(request.allocation_size).unwrap_or_default();
    let must = &request.must_include_device_i_ds;
    let mut chosen = must.clone();
    let mut free: BTreeMap<u32, Vec<&Advertised>> = BTreeMap::new();
    for device in devices {
        if request.available_device_i_ds.contains(&device.id) && !must.contains(&device.id) {
            free.entry(device.numa_node).or_default().push(device);
        }
    }
    let has_chosen = |numa_node: u32| {
        devices
            .iter()
            .any(|device| device.numa_node == numa_node && must.contains(&device.id))
    };
    while chosen.len() < size {
        let missing = size - chosen.len();
        let best = free
            .iter()
            .filter(|(_, devices)| !devices.is_empty())
            .min_by_key(|(node, devices)| {
                let suffices = devices.len() >= missing;
                let waste = if suffices {
                    devices.len()
                } else {
                    usize::MAX - devices.len()
                };
                (!has_chosen(**node), !suffices, waste, **node)
            })
            .map(|(node, _)| *node);
        let Some(devices) = best.and_then(|node| free.remove(&node)) else {
            break;
        };
        chosen.extend(devices.iter().take(missing).map(|device| device.id.clone()));
    }
    chosen
}

#[tonic::async_trait]
impl DevicePlugin for DevicePluginService {
    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(options()))
    }

    type ListAndWatchStream =
        Pin<Box<dyn Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>;

    async fn list_and_watch(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let changes = WatchStream::new(self.devices.clone()).map(|devices| Ok(response(&devices)));
        Ok(Response::new(Box::pin(changes)))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        let devices = self.devices.borrow();
        let requests = request.into_inner().container_requests;
        let container_responses = requests
            .iter()
            .map(|request| ContainerPreferredAllocationResponse {
                device_i_ds: prefer(&devices, request),
            })
            .collect();
        Ok(Response::new(PreferredAllocationResponse {
            container_responses,
        }))
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let devices = self.devices.borrow();
        let requests = request.into_inner().container_requests;
        let container_responses = requests
            .iter()
            .map(|request| allocate(&devices, &request.devices_ids, &self.mounts))
            .collect::<Result<_, _>>()?;
        Ok(Response::new(AllocateResponse {
            container_responses,
        }))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profiles;

    fn devices(count: u32) -> Vec<Advertised> {
        (0..count)
            .map(|index| Advertised {
                id: format!("GPU-{index}"),
                is_healthy: true,
                numa_node: index / 4,
            })
            .collect()
    }

    fn ids(indices: &[u32]) -> Vec<String> {
        indices.iter().map(|index| format!("GPU-{index}")).collect()
    }

    #[test]
    fn a_container_sees_its_devices_sorted() {
        let answer = allocate(&devices(8), &ids(&[3, 1]), &[]).unwrap();
        assert_eq!(answer.envs[VISIBLE_DEVICES], "GPU-1,GPU-3");
        assert_eq!(allocate(&devices(8), &ids(&[3, 1]), &[]).unwrap(), answer);
    }

    #[test]
    fn a_container_gets_the_drivers_libraries_and_the_state_that_they_read_and_may_change_neither()
    {
        let (_sender, receiver) = watch::channel(devices(1));
        let service = DevicePluginService::new(receiver, Path::new("/run/of-the-node"));
        let answer = allocate(&devices(1), &ids(&[0]), &service.mounts).unwrap();
        let mounts: Vec<_> = answer
            .mounts
            .iter()
            .map(|mount| {
                (
                    mount.container_path.as_str(),
                    mount.host_path.as_str(),
                    mount.read_only,
                )
            })
            .collect();
        assert_eq!(
            mounts,
            [
                ("/usr/local/nvidia/lib64", "/run/of-the-node/lib", true),
                ("/run/gridstake/simulated-gpus", "/run/of-the-node", true),
            ]
        );
    }

    #[test]
    fn an_unknown_device_is_an_error_that_names_it() {
        let status = allocate(&devices(8), &ids(&[1, 9]), &[]).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains("GPU-9"), "{status}");
    }

    /// Available, must be included, size; expected.
    type Case = (&'static [u32], &'static [u32], i32, &'static [u32]);

    #[test]
    fn devices_of_one_numa_node_are_preferred_and_full_nodes_are_left_whole() {
        let cases: [Case; 5] = [
            // All free: the first node.
            (&[0, 1, 2, 3, 4, 5, 6, 7], &[], 2, &[0, 1]),
            // Node 1 has just two left: take those, keep node 0 whole.
            (&[0, 1, 2, 3, 5, 7], &[], 2, &[5, 7]),
            // Stay with the device that must be included.
            (&[0, 1, 2, 3, 5, 7], &[1], 2, &[1, 0]),
            // More than a node has: the fuller node first.
            (&[0, 1, 2, 3, 5, 7], &[], 5, &[0, 1, 2, 3, 5]),
            // More than there is: all.
            (&[0, 5], &[], 4, &[0, 5]),
        ];
        for (available, must, size, expected) in cases {
            let request = ContainerPreferredAllocationRequest {
                available_device_i_ds: ids(available),
                must_include_device_i_ds: ids(must),
                allocation_size: size,
            };
            let mut chosen = prefer(&devices(8), &request);
            let mut expected = ids(expected);
            chosen.sort();
            expected.sort();
            assert_eq!(chosen, expected, "{available:?} {must:?} {size}");
        }
    }

    #[test]
    fn a_lost_gpu_is_unhealthy_and_a_node_without_a_driver_has_none() {
        let model = profiles::model("h100").unwrap();
        let mut state = State::new("n", DriverKind::Current, profiles::devices("n", &model, 2));
        state.devices[1].faults.lost = true;
        let health: Vec<_> = advertised(&state)
            .iter()
            .map(|device| device.is_healthy)
            .collect();
        assert_eq!(health, [true, false]);
        state.driver.kind = DriverKind::Absent;
        assert!(advertised(&state).is_empty());
    }
}
