//! `gridstake-device-agent measure` as a canary's pod runs it, against the double of the driver.

use std::{fs, process::Command};

use gridstake_crds::measurement::{Measurement, WRONG_RESULT_EXIT_CODE};
use gridstake_simulated_gpus_state::{CallFault, DriverKind, ReturnCode};

use crate::node::{Node, uuid};

/// How a measurement ended.
struct Ended {
    code: Option<i32>,
    message: String,
    printed: String,
}

impl Ended {
    fn measurement(&self) -> Measurement {
        Measurement::read(&self.message)
            .unwrap_or_else(|| panic!("no measurement: {}", self.message))
    }
}

/// Runs it on `node`, in a container that was given the GPUs in `visible`.
fn measure(node: &Node, visible: &str) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let message = folder.path().join("termination-log");
    let output = Command::new(env!("CARGO_BIN_EXE_gridstake-device-agent"))
        .args(["measure", "--rounds", "1", "--cuda-library"])
        .arg(node.cuda_library())
        .arg("--termination-message")
        .arg(&message)
        .env("NVIDIA_VISIBLE_DEVICES", visible)
        .output()
        .unwrap();
    Ended {
        code: output.status.code(),
        message: fs::read_to_string(message).unwrap(),
        printed: String::from_utf8(output.stdout).unwrap(),
    }
}

fn answers(number: u32) -> CallFault {
    CallFault {
        error: Some(ReturnCode(number)),
        delay_milliseconds: 0,
    }
}

#[test]
fn every_gpu_that_the_container_was_given_is_timed_and_no_other() {
    let node = Node::with_gpus(3);
    let ended = measure(&node, &format!("{},{}", uuid(0), uuid(2)));
    assert_eq!(ended.code, Some(0), "{}", ended.message);
    let measurement = ended.measurement();
    let uuids: Vec<_> = measurement.gpus.iter().map(|gpu| &gpu.uuid).collect();
    assert_eq!(uuids, [&uuid(0), &uuid(2)]);
    let model = &node.state.devices[0].model;
    for gpu in &measurement.gpus {
        assert!(gpu.digest_ok);
        // The double takes the time that the model's figures ask for, and never less.
        assert!(
            (1..=model.fp32_gflops()).contains(&gpu.fp32_gflops),
            "{gpu:?}"
        );
        assert!(
            (1..=model.memory_gigabytes_per_second()).contains(&gpu.memory_gbs),
            "{gpu:?}"
        );
    }
    assert_eq!(ended.printed.trim_end(), ended.message);
}

#[test]
fn a_slow_gpu_is_found_out_whatever_its_name() {
    let mut node = Node::with_gpus(1);
    node.change(|state| state.devices[0].faults.speed_percent = Some(25));
    let ended = measure(&node, "all");
    assert_eq!(ended.code, Some(0), "{}", ended.message);
    let gpu = &ended.measurement().gpus[0];
    let model = &node.state.devices[0].model;
    assert!(gpu.fp32_gflops <= model.fp32_gflops() / 4, "{gpu:?}");
    assert!(
        gpu.memory_gbs <= model.memory_gigabytes_per_second() / 4,
        "{gpu:?}"
    );
}

#[test]
fn a_gpu_that_calculates_wrong_is_named_and_has_an_exit_code_of_its_own() {
    let mut node = Node::with_gpus(2);
    node.change(|state| state.devices[1].faults.wrong_results = true);
    let ended = measure(&node, "all");
    assert_eq!(ended.code, Some(WRONG_RESULT_EXIT_CODE));
    let right: Vec<_> = ended
        .measurement()
        .gpus
        .iter()
        .map(|gpu| gpu.digest_ok)
        .collect();
    assert_eq!(right, [true, false]);
}

#[test]
fn without_a_library_a_driver_or_a_gpu_it_says_which_is_missing() {
    let mut node = Node::with_gpus(1);
    let without = measure(&node, "GPU-of-another-node");
    assert_eq!(without.code, Some(1));
    assert!(
        without.message.contains("shows no GPU"),
        "{}",
        without.message
    );

    node.change(|state| {
        state.driver = gridstake_simulated_gpus_state::Driver::of(DriverKind::Unloaded);
    });
    let unloaded = measure(&node, "all");
    assert_eq!(unloaded.code, Some(1));
    assert!(
        unloaded.message.contains("shows no GPU"),
        "{}",
        unloaded.message
    );

    let library = node.cuda_library();
    fs::write(&library, "no library").unwrap();
    let broken = measure(&node, "all");
    assert_eq!(broken.code, Some(1));
    assert!(
        broken.message.contains("cannot load libcuda.so.1"),
        "{}",
        broken.message
    );
}

#[test]
fn a_call_that_fails_is_named_with_the_gpu_and_what_the_driver_answers() {
    let mut node = Node::with_gpus(2);
    node.change(|state| {
        let faults = &mut state.devices[1].faults.calls;
        faults.insert("cuLaunchKernel".to_owned(), answers(719));
    });
    let ended = measure(&node, "all");
    assert_eq!(ended.code, Some(1));
    assert_eq!(
        ended.message,
        format!(
            "measure {}: cuLaunchKernel answers CUDA_ERROR_LAUNCH_FAILED (719)",
            uuid(1)
        )
    );
}

#[test]
fn a_lost_gpu_cannot_be_measured_and_that_is_no_wrong_result() {
    let mut node = Node::with_gpus(1);
    node.change(|state| state.devices[0].faults.lost = true);
    let ended = measure(&node, "all");
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.message.contains("CUDA_ERROR_DEVICE_UNAVAILABLE"),
        "{}",
        ended.message
    );
}
