//! GPUs without hardware.
//!
//! On a node of the tests' world, or of a demo, this plugin stands in for the NVIDIA device plugin and for the
//! hardware: it advertises devices to the kubelet as `nvidia.com/gpu`, and writes the files from which the NVML double
//! (`e2e/simulated-gpus/nvml`, a `libnvidia-ml.so.1`) answers. The kubelet, PodResources, pods and processes are real.
//!
//! - [`plugin`]: the running program; [`device_plugin`] and [`registration`]: the kubelet's side of it.
//! - [`tracking`]: who runs on which device: [`pod_resources`] (who was given what) and [`proc_scan`] (which processes).
//! - [`directory`]: the state directory that the double reads; [`faults`]: what can be wrong with a device.
//! - [`profiles`], [`config`]: which devices a node has.
//! - [`double`]: builds the NVML double for tests.

pub use gridstake_simulated_gpus_state as state;

pub mod cgroup;
pub mod config;
pub mod device_plugin;
pub mod directory;
pub mod double;
pub mod faults;
pub mod plugin;
pub mod pod_resources;
pub mod proc_scan;
pub mod profiles;
pub mod registration;
pub mod show;
pub mod tracking;

/// The kubelet's gRPC APIs.
pub mod proto {
    /// `deviceplugin/v1beta1`.
    #[expect(missing_docs, clippy::pedantic, reason = "generated")]
    pub mod deviceplugin {
        tonic::include_proto!("v1beta1");
    }
    /// `podresources/v1`.
    #[expect(missing_docs, clippy::pedantic, reason = "generated")]
    pub mod podresources {
        tonic::include_proto!("v1");
    }
}

/// The resource that the devices are advertised as.
pub const RESOURCE: &str = "nvidia.com/gpu";
/// The variable by which a container learns its devices: their UUIDs, sorted, with commas.
pub const VISIBLE_DEVICES: &str = "NVIDIA_VISIBLE_DEVICES";
