//! NVIDIA's own library, where there is no driver: the double behaves as it does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

#[path = "../nvml/tests/support/mod.rs"]
mod support;

use std::{path::Path, process::Command};

use gridstake_simulated_gpus::state::{Driver, DriverKind};
use nvml_wrapper::{Nvml, error::NvmlError};
use support::Node;

#[test]
fn the_real_library_and_the_double_both_say_that_the_driver_is_not_loaded() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fetch-real-nvml.sh");
    let output = Command::new("bash").arg(script).output().unwrap();
    assert!(
        output.status.success(),
        "cannot fetch Debian's libnvidia-ml1: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let real = String::from_utf8(output.stdout).unwrap();
    let init = |path: &std::ffi::OsStr| {
        Nvml::builder()
            .lib_path(path)
            .init()
            .err()
            .map(|error| error.to_string())
    };
    let node = Node::new("h100");
    node.change(|state| state.driver = Driver::of(DriverKind::Unloaded));
    let double = init(node.library.as_os_str());
    assert_eq!(double, Some(NvmlError::DriverNotLoaded.to_string()));
    // On a machine with a driver the real library has another answer, and that is right too.
    if !Path::new("/dev/nvidiactl").exists() {
        assert_eq!(init(real.trim().as_ref()), double);
    }
}
