//! What comes from outside is fed to its parsers, damaged: the kernel's and the kubelet's answers, in which pods name things, and
//! files in the state directory, which a full or dying disk may change.

use gridstake_crds::{
    TokenAmount,
    usage_record::{Evidence, SealCause, Sealed},
};
use gridstake_fuzz::{Verdict, corpus, fuzz};
use prost::Message as _;

use crate::{
    device_id::DeviceId,
    health,
    metering::{seals, spool, step::State},
    pod_resources::{assignments, replicas, v1},
    process::{cgroup, table},
};

/// As the agent reads what need not be UTF-8.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn seeds(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn fuzz_stat_of_processes() {
    let good = seeds(&[
        "7 (python3) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 3 4 5\n",
        "8 (a ) b (c) Z 1 8 8 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 18446744073709551615 3 4 5\n",
    ]);
    fuzz("proc-stat", corpus!("proc-stat"), &good, |bytes| {
        Verdict::of_option(table::stat(&lossy(bytes)))
    });
}

#[test]
fn fuzz_cgroups_of_processes() {
    let good = seeds(&[
        "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1f6ab7ae_3c5e_4a51_9b0c_7f7d2c6a9e10.slice/cri-containerd-4fd1.scope\n",
        "12:pids:/kubepods/burstable/pod1f6ab7ae-3c5e-4a51-9b0c-7f7d2c6a9e10/4fd1\n0::/system.slice/containerd.service\n",
        "0::/../../pod1f6ab7ae-3c5e-4a51-9b0c-7f7d2c6a9e10/4fd1\n",
        "0::/kubepods.slice/kubepods-pod8c5e4a519b0c7f7d2c6a9e101f6ab7ae.slice/cri-containerd-4fd1.scope\n",
    ]);
    fuzz("proc-cgroup", corpus!("proc-cgroup"), &good, |bytes| {
        let uid = cgroup::pod_uid(&lossy(bytes));
        if let Some(uid) = &uid {
            assert!(
                uid.chars().all(|c| c.is_ascii_hexdigit() || c == '-'),
                "{uid:?} is no uid"
            );
        }
        Verdict::of_option(uid)
    });
}

#[test]
fn fuzz_ids_of_devices() {
    let good = seeds(&[
        "GPU-8a9c3f6e-1b2d-4e5f-8a7b-9c0d1e2f3a4b",
        "GPU-8a9c3f6e-1b2d-4e5f-8a7b-9c0d1e2f3a4b::3",
        "MIG-8a9c3f6e-1b2d-4e5f-8a7b-9c0d1e2f3a4b",
        "nvidia0/gi3",
        "nvidia7",
    ]);
    fuzz("device-id", corpus!("device-id"), &good, |bytes| {
        let text = lossy(bytes);
        let id = DeviceId::parse(&text);
        assert_eq!(DeviceId::parse(&id.to_string()), id);
        match id {
            DeviceId::Unknown(name) => {
                assert_eq!(name, text);
                Verdict::Refused
            }
            _ => Verdict::Accepted,
        }
    });
}

#[test]
fn fuzz_answers_of_the_kubelet() {
    let devices = v1::ContainerDevices {
        resource_name: "nvidia.com/gpu".to_owned(),
        device_ids: vec![
            "GPU-1".to_owned(),
            "GPU-8a9c3f6e-1b2d-4e5f-8a7b-9c0d1e2f3a4b::3".to_owned(),
        ],
        topology: None,
    };
    let container = v1::ContainerResources {
        name: "main".to_owned(),
        devices: vec![devices.clone()],
        ..v1::ContainerResources::default()
    };
    let pod = v1::PodResources {
        name: "train-1-0".to_owned(),
        namespace: "lab".to_owned(),
        containers: vec![container.clone(), container],
    };
    let listed = v1::ListPodResourcesResponse {
        pod_resources: vec![pod.clone(), pod],
    };
    let allocatable = v1::AllocatableResourcesResponse {
        devices: vec![devices],
        ..v1::AllocatableResourcesResponse::default()
    };
    let good = [listed.encode_to_vec(), allocatable.encode_to_vec()];
    fuzz("pod-resources", corpus!("pod-resources"), &good, |bytes| {
        let allocatable = v1::AllocatableResourcesResponse::decode(bytes);
        if let Ok(answer) = &allocatable {
            let all: usize = answer
                .devices
                .iter()
                .map(|devices| devices.device_ids.len())
                .sum();
            assert!(replicas(answer).values().sum::<u32>() as usize <= all);
        }
        let listed = v1::ListPodResourcesResponse::decode(bytes);
        let verdict = if listed.is_ok() || allocatable.is_ok() {
            Verdict::Accepted
        } else {
            Verdict::Refused
        };
        if let Ok(answer) = listed {
            let _ = assignments(answer);
        }
        verdict
    });
}

/// The body of a file, to which its right head is added: what a disk has changed is refused by its hash before it is read, and what
/// another version wrote is not.
#[test]
fn fuzz_kept_leases() {
    let whole = spool::encode("boot", &State::default()).unwrap();
    let body = whole.split(|byte| *byte == b'\n').nth(1).unwrap().to_vec();
    fuzz("kept-leases", corpus!("kept-leases"), &[body], |bytes| {
        let Ok(state) = serde_json::from_slice::<State>(bytes) else {
            return Verdict::Refused;
        };
        // It is kept again as the same.
        let again = serde_json::from_slice(&serde_json::to_vec(&state).unwrap());
        assert_eq!(again.ok(), Some(state));
        Verdict::Accepted
    });
}

#[test]
fn fuzz_files_of_kept_leases() {
    let whole = spool::encode("boot", &State::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fuzz(
        "kept-file",
        corpus!("kept-file"),
        std::slice::from_ref(&whole),
        |bytes| {
            std::fs::write(folder.path().join(spool::FILE), bytes).unwrap();
            let read = spool::load(folder.path());
            // The hash is of the content alone.
            assert!(
                read.is_err()
                    || bytes.ends_with(whole.split(|byte| *byte == b'\n').nth(1).unwrap())
            );
            Verdict::of(read)
        },
    );
}

#[test]
fn fuzz_kept_faults() {
    let good = vec![serde_json::to_vec(&health::State::default()).unwrap()];
    fuzz("kept-faults", corpus!("kept-faults"), &good, |bytes| {
        let Ok(state) = serde_json::from_slice::<health::State>(bytes) else {
            return Verdict::Refused;
        };
        let _ = serde_json::to_vec(&state).unwrap();
        Verdict::Accepted
    });
}

#[test]
fn fuzz_remembered_seals() {
    let sealed = Sealed {
        job_no: Some(256),
        start_ms: 1_800_000_000_000,
        end_ms: 1_800_003_600_000,
        gpu_millis: 3_600_000,
        price: Some(TokenAmount::from_nano(720_000)),
        cause: SealCause::IntervalElapsed,
        verdict: None,
        verdict_reason: None,
        energy_millijoules: Some(7),
        factors: None,
        emission: None,
        evidence_head: Some(format!("0x{}", "ab".repeat(32))),
        certificate: None,
        receipt_hash: format!("0x{}", "00".repeat(32)),
    };
    let evidence = Evidence {
        pod_uid: "pod".into(),
        key: "0x52908400098527886E0F7030069857D2E4169EE7".into(),
        devices: vec![],
        started_ms: Some(1_800_000_000_000),
        ended_ms: None,
        checkpoints: vec![],
        gaps: vec![],
        foreign_processes: None,
        sealed: Some(sealed),
    };
    let good = seals::encode("u-1-0-0", &evidence).unwrap();
    fuzz(
        "remembered-seal",
        corpus!("remembered-seal"),
        &[good],
        |bytes| {
            let read = seals::decode("u-1-0-0", bytes);
            if let Ok((read, _)) = &read {
                assert_eq!(*read, evidence, "a file that was changed is refused");
            }
            Verdict::of(read)
        },
    );
}
