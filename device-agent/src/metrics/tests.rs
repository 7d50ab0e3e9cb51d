use super::*;
use crate::{
    attribution::{DeviceUse, Holder, User},
    nvml::{
        Observation, Slot,
        describe::DeviceFacts,
        sample::{GpuProcess, Sample},
    },
};

fn slot(uuid: &str, sample: Sample) -> Slot {
    let facts = DeviceFacts {
        uuid: uuid.to_owned(),
        index: 3,
        model: "H100".to_owned(),
        architecture: None,
        memory_bytes: 80 << 30,
        compute_capability: "9.0".to_owned(),
        pci_bus_id: None,
        mig: None,
        exclusive_process: false,
        nvlink_remotes: Vec::new(),
    };
    Slot {
        index: 3,
        facts: Ok(Arc::new(facts)),
        sample,
    }
}

fn show(metrics: &Metrics, slots: Vec<Slot>, attribution: Attribution) -> String {
    let mut view = View {
        seen: true,
        attribution,
        ..View::default()
    };
    view.inventory.observe(&Observation {
        slots,
        ..Observation::default()
    });
    *metrics.view.lock().unwrap() = view;
    String::from_utf8(metrics.render().unwrap()).unwrap()
}

fn full() -> Sample {
    Sample {
        signs: crate::nvml::sample::Sampled::default(),
        utilization_percent: Some(42),
        memory_used_bytes: Some(1 << 30),
        energy_millijoules: Some(1_500),
        power_milliwatts: Some(350_500),
        temperature_celsius: Some(61),
        processes: Some(vec![GpuProcess {
            pid: 7,
            memory_bytes: Some(64),
            computes: true,
        }]),
        failures: Vec::new(),
    }
}

#[test]
fn a_device_is_shown_in_base_units() {
    let text = show(
        &Metrics::new().unwrap(),
        vec![slot("GPU-a", full())],
        Attribution::new(),
    );
    for line in [
        r#"gridstake_gpu_utilization_ratio{index="3",model="H100",uuid="GPU-a"} 0.42"#,
        r#"gridstake_gpu_memory_used_bytes{index="3",model="H100",uuid="GPU-a"} 1073741824"#,
        r#"gridstake_gpu_memory_total_bytes{index="3",model="H100",uuid="GPU-a"} 85899345920"#,
        r#"gridstake_gpu_energy_joules_total{index="3",model="H100",uuid="GPU-a"} 1.5"#,
        r#"gridstake_gpu_power_watts{index="3",model="H100",uuid="GPU-a"} 350.5"#,
        r#"gridstake_gpu_temperature_celsius{index="3",model="H100",uuid="GPU-a"} 61"#,
        r#"gridstake_gpu_health{health="Healthy",index="3",model="H100",uuid="GPU-a"} 1"#,
        r#"gridstake_gpu_health{health="Unhealthy",index="3",model="H100",uuid="GPU-a"} 0"#,
        r#"gridstake_agent_state{state="Ok"} 1"#,
        r#"gridstake_agent_state{state="DriverTooOld"} 0"#,
    ] {
        assert!(
            text.lines().any(|shown| shown == line),
            "{line} is not in\n{text}"
        );
    }
    assert!(text.contains("# TYPE gridstake_gpu_energy_joules_total counter"));
}

#[test]
fn a_value_that_nvml_does_not_tell_has_no_series() {
    let text = show(
        &Metrics::new().unwrap(),
        vec![slot("GPU-a", Sample::default())],
        Attribution::new(),
    );
    for name in [
        "utilization",
        "memory_used",
        "energy",
        "power",
        "temperature",
        "processes",
    ] {
        assert!(
            !text.contains(&format!("gridstake_gpu_{name}")),
            "{name} in\n{text}"
        );
    }
    assert!(text.contains("gridstake_gpu_memory_total_bytes"));
}

#[test]
fn holders_and_users_are_shown_and_vanish_with_the_pod() {
    let metrics = Metrics::new().unwrap();
    let user = |pid, pod: Option<&str>, owner| User {
        pid,
        start_ticks: Some(1),
        pod_uid: pod.map(ToOwned::to_owned),
        memory_bytes: Some(64),
        owner,
    };
    let in_use = DeviceUse {
        holders: vec![Holder {
            namespace: "ns".into(),
            pod: "train-1-0".into(),
            container: "main".into(),
        }],
        users: vec![
            user(7, Some("uid-1"), Owner::Holder),
            user(8, Some("uid-1"), Owner::Holder),
            user(9, None, Owner::Foreign),
        ],
    };
    let text = show(
        &metrics,
        vec![slot("GPU-a", full())],
        Attribution::from([("GPU-a".to_owned(), in_use)]),
    );
    for line in [
        r#"gridstake_gpu_allocated{container="main",index="3",model="H100",namespace="ns",pod="train-1-0",uuid="GPU-a"} 1"#,
        r#"gridstake_gpu_processes{index="3",model="H100",owner="holder",uuid="GPU-a"} 2"#,
        r#"gridstake_gpu_processes{index="3",model="H100",owner="foreign",uuid="GPU-a"} 1"#,
        r#"gridstake_gpu_pod_memory_used_bytes{index="3",model="H100",pod_uid="uid-1",uuid="GPU-a"} 128"#,
    ] {
        assert!(
            text.lines().any(|shown| shown == line),
            "{line} is not in\n{text}"
        );
    }
    let text = show(&metrics, vec![slot("GPU-a", full())], Attribution::new());
    assert!(
        !text.contains("train-1-0") && !text.contains("uid-1"),
        "{text}"
    );
}

#[test]
fn scraping_twice_shows_the_same_energy() {
    let metrics = Metrics::new().unwrap();
    let first = show(&metrics, vec![slot("GPU-a", full())], Attribution::new());
    let again = String::from_utf8(metrics.render().unwrap()).unwrap();
    assert_eq!(first, again);
}

#[test]
fn before_the_first_look_at_nvml_no_state_is_claimed() {
    let text = String::from_utf8(Metrics::new().unwrap().render().unwrap()).unwrap();
    let states: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("gridstake_agent_state{"))
        .collect();
    assert_eq!(states.len(), AgentState::ALL.len());
    assert!(states.iter().all(|line| line.ends_with(" 0")), "{text}");
}
