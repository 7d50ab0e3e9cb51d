//! What one attempt of a job asks the scheduler for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use gridstake_crds::TokenAmount;
use gridstake_crds::compute_job::{ComputeJobSpec, Topology};
use k8s_openapi::api::core::v1::PodSpec;

use super::holds::Spare;
use super::node_constraints::NodeConstraints;
use super::pod_requests::pod_requests;
use super::resources::{ResourceError, Resources};

/// A job's uid: the 16 bytes of the UUID that the API server gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobUid(pub [u8; 16]);

/// A text that is not a UUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read uid {text:?}: it is not a UUID of 32 hexadecimal digits in groups of 8-4-4-4-12")]
pub struct JobUidError {
    text: String,
}

impl FromStr for JobUid {
    type Err = JobUidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || JobUidError {
            text: text.to_owned(),
        };
        let groups: Vec<&str> = text.split('-').collect();
        if !groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) {
            return Err(error());
        }
        let digits: Option<Vec<u8>> = groups
            .concat()
            .chars()
            .map(|digit| {
                digit
                    .to_digit(16)
                    .and_then(|value| u8::try_from(value).ok())
            })
            .collect();
        let digits = digits.ok_or_else(error)?;
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for JobUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// A CUDA compute capability, such as 9.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ComputeCapability {
    /// Before the point.
    pub major: u32,
    /// After the point.
    pub minor: u32,
}

/// A text that is not a compute capability.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read compute capability {text:?}: write major.minor, such as \"9.0\"")]
pub struct ComputeCapabilityError {
    text: String,
}

impl FromStr for ComputeCapability {
    type Err = ComputeCapabilityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        };
        text.split_once('.')
            .and_then(|(major, minor)| {
                Some(Self {
                    major: number(major)?,
                    minor: number(minor)?,
                })
            })
            .ok_or_else(|| ComputeCapabilityError {
                text: text.to_owned(),
            })
    }
}

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The GPUs that each member needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuRequest {
    /// How many.
    pub count: u32,
    /// Models of which any one will do, matched as in [`super::gpu_model`]. Empty: any model.
    pub models: Vec<String>,
    /// The least memory per GPU, in MiB.
    pub min_memory_mib: Option<u64>,
    /// The least compute capability.
    pub min_compute_capability: Option<ComputeCapability>,
}

/// What one attempt of a job asks for. All members are alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The job.
    pub job_uid: JobUid,
    /// The attempt, counted from 1.
    pub attempt: u32,
    /// GPUs per member.
    pub gpu: GpuRequest,
    /// How many members are placed together or not at all; 0 counts as 1.
    pub members: u32,
    /// What each member's pod takes; its GPUs are `gpu.count`, whatever stands here.
    pub resources: Resources,
    /// The pod template's hard rules about nodes.
    pub constraints: NodeConstraints,
    /// For how long it may run (`timeouts.run`). `None`: for ever.
    pub run_limit: Option<std::time::Duration>,
    /// The highest acceptable price of one GPU for one second.
    pub max_price: Option<TokenAmount>,
    /// Regions of which any will do, regardless of case. Empty: any.
    pub regions: Vec<String>,
    /// Jurisdictions of which any will do, regardless of case. Empty: any.
    pub jurisdictions: Vec<String>,
    /// The least reputation, in thousandths.
    pub min_reputation: u32,
    /// Whether only bonded nodes will do.
    pub require_bond: bool,
    /// How close the members must be.
    pub topology: Option<Topology>,
    /// Labels of the job's namespace, for nodes that serve some namespaces only.
    pub namespace_labels: BTreeMap<String, String>,
    /// The chain on which the namespace's payer is: only providers on it can be paid. `None`: nobody pays.
    pub chain: Option<String>,
    /// Nodes that are suspect for this job: a placement there has failed.
    pub avoid: BTreeSet<String>,
    /// Nodes whose owners compute the result with which this job's is to be compared.
    pub same_owner: BTreeSet<String>,
    /// What it may take of nodes that are kept for a job before it, at most. Nodes that are not named are not kept.
    pub kept: Spare,
}

/// What a job's namespace says about where it may be placed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OfNamespace {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The chain on which its payer is. `None`: no chain is configured, or it names one that is not.
    pub chain: Option<String>,
}

/// What a request needs beside the job's spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobContext {
    /// The job's uid.
    pub job_uid: JobUid,
    /// The attempt, counted from 1.
    pub attempt: u32,
    /// What its namespace says.
    pub namespace: OfNamespace,
    /// Whether a job that does not say needs bonded nodes: true where a chain is configured.
    pub bond_by_default: bool,
    /// Nodes that are suspect for this job.
    pub avoid: BTreeSet<String>,
    /// Nodes whose owners compute the result with which this job's is to be compared.
    pub same_owner: BTreeSet<String>,
}

/// Why a job's spec is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// An amount in the pod template cannot be read.
    #[error("read the resources of spec.template")]
    Resources(#[source] ResourceError),
    /// `spec.gpu.minComputeCapability` cannot be read.
    #[error("read spec.gpu.minComputeCapability")]
    ComputeCapability(#[source] ComputeCapabilityError),
}

impl Request {
    /// The request of an attempt. `pod` is the pod spec that the job's members get.
    pub fn from_job(
        spec: &ComputeJobSpec,
        pod: &PodSpec,
        context: JobContext,
    ) -> Result<Self, RequestError> {
        let policy = spec.policy.clone().unwrap_or_default();
        let min_compute_capability = spec
            .gpu
            .min_compute_capability
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(RequestError::ComputeCapability)?;
        Ok(Self {
            job_uid: context.job_uid,
            attempt: context.attempt,
            gpu: GpuRequest {
                count: spec.gpu.count,
                models: spec.gpu.models.clone(),
                min_memory_mib: spec.gpu.min_memory_mib,
                min_compute_capability,
            },
            members: spec.members,
            resources: pod_requests(pod, None).map_err(RequestError::Resources)?,
            constraints: NodeConstraints::from_pod_spec(pod),
            run_limit: spec.run_timeout(),
            max_price: spec
                .pricing
                .as_ref()
                .map(|pricing| pricing.max_per_gpu_second),
            regions: policy.regions,
            jurisdictions: policy.jurisdictions,
            min_reputation: policy.min_reputation.unwrap_or(0),
            require_bond: policy.require_bond.unwrap_or(context.bond_by_default),
            topology: spec.topology.clone(),
            namespace_labels: context.namespace.labels,
            chain: context.namespace.chain,
            avoid: context.avoid,
            same_owner: context.same_owner,
            kept: Spare::default(),
        })
    }

    /// How many members there are, at least one.
    #[must_use]
    pub fn member_count(&self) -> u32 {
        self.members.max(1)
    }

    /// What one member takes from its node: its pod's requests, one pod slot, and `gpu.count` GPUs.
    #[must_use]
    pub fn per_member(&self) -> Resources {
        Resources {
            gpus: u64::from(self.gpu.count),
            pods: 1,
            ..self.resources.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const UID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

    fn context() -> JobContext {
        JobContext {
            job_uid: UID.parse().unwrap(),
            attempt: 2,
            namespace: OfNamespace {
                labels: BTreeMap::new(),
                chain: Some("anvil".to_owned()),
            },
            bond_by_default: true,
            avoid: BTreeSet::new(),
            same_owner: BTreeSet::new(),
        }
    }

    #[test]
    fn a_uid_is_read_and_written_as_a_uuid() {
        let uid: JobUid = UID.parse().unwrap();
        assert_eq!(uid.0[..4], [0x0f, 0x8f, 0xad, 0x5b]);
        assert_eq!(uid.to_string(), UID);
        for wrong in [
            "",
            "0f8fad5b",
            "0f8fad5bd9cb469fa16570867728950e",
            "0f8fad5b-d9cb-469f-a165-70867728950g",
            "é-é-é-é-é",
        ] {
            assert!(wrong.parse::<JobUid>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn compute_capabilities_are_ordered_by_number() {
        let read = |text: &str| text.parse::<ComputeCapability>().unwrap();
        assert!(
            read("9.0") < read("10.0") && read("8.9") < read("9.0") && read("8.6") < read("8.9")
        );
        assert_eq!(read("12.1").to_string(), "12.1");
        for wrong in ["9", "", "9.", ".0", "9.0.1", "+9.0", "nine"] {
            assert!(wrong.parse::<ComputeCapability>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_job_becomes_a_request_with_every_wish_in_it() {
        let spec: ComputeJobSpec = serde_json::from_value(json!({
            "gpu": {"count": 2, "models": ["H100"], "minMemoryMiB": 40000, "minComputeCapability": "8.0"},
            "members": 3,
            "topology": {"key": "rack", "policy": "Required"},
            "template": {},
            "pricing": {"maxPerGpuSecond": "0.001"},
            "policy": {"regions": ["eu"], "jurisdictions": ["DE"], "minReputation": 900},
        }))
        .unwrap();
        let pod = serde_json::from_value(json!({
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "4"}}}],
            "nodeSelector": {"a": "b"},
        }))
        .unwrap();
        let request = Request::from_job(&spec, &pod, context()).unwrap();
        assert_eq!(
            request.per_member(),
            Resources {
                cpu_milli: 4000,
                pods: 1,
                gpus: 2,
                ..Resources::default()
            }
        );
        assert_eq!(request.member_count(), 3);
        assert_eq!(request.gpu.min_memory_mib, Some(40_000));
        assert_eq!(
            request.gpu.min_compute_capability,
            Some(ComputeCapability { major: 8, minor: 0 })
        );
        assert_eq!(request.max_price, Some(TokenAmount::from_nano(1_000_000)));
        assert_eq!(
            (
                request.min_reputation,
                request.require_bond,
                request.attempt
            ),
            (900, true, 2)
        );
        assert_eq!(
            request
                .constraints
                .node_selector
                .get("a")
                .map(String::as_str),
            Some("b")
        );
        assert_eq!(request.chain.as_deref(), Some("anvil"));
        assert_eq!(
            (request.regions, request.jurisdictions),
            (vec!["eu".to_owned()], vec!["DE".to_owned()])
        );
    }
}
