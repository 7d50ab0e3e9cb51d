//! The agent as a process: it starts without NVML, kubelet and API server, shows its state, and ends when told to.

use std::{path::Path, process::Command};

use tempfile::TempDir;

use crate::{machine::Agent, node::Node};

fn start(library: &Path) -> (Agent, TempDir) {
    let state = tempfile::tempdir().unwrap();
    let agent = Agent::start(
        Command::new(env!("CARGO_BIN_EXE_gridstake-device-agent"))
            .env_clear()
            .env("HOME", "/nonexistent")
            .args(["--node-name", "node-a", "--namespace", "gridstake-system"])
            .args(["--listen", "127.0.0.1:0", "--sample-interval", "100ms"])
            .args(["--pod-resources-socket", "/nonexistent/kubelet.sock"])
            .arg("--state-dir")
            .arg(state.path())
            .args(["--pod-logs", "/nonexistent/pods"])
            .arg("--nvml-library")
            .arg(library),
    );
    (agent, state)
}

#[test]
fn without_library_kubelet_and_api_server_it_lives_and_says_so() {
    let (mut agent, _state) = start(Path::new("/nonexistent/libnvidia-ml.so.1"));
    assert!(agent.get("/healthz").ends_with("ok\n"));
    let metrics = agent.metrics_until(r#"gridstake_agent_state{state="LibraryMissing"} 1"#);
    assert!(!metrics.contains("gridstake_gpu_utilization_ratio{"));
    agent.metrics_until(r#"gridstake_agent_state{state="Ok"} 0"#);
    assert!(agent.stop(), "SIGTERM is no failure");
}

#[test]
fn with_gpus_it_shows_each_of_them() {
    let node = Node::with_gpus(8);
    let (mut agent, _state) = start(&node.library());
    let metrics = agent.metrics_until(r#"gridstake_agent_state{state="Ok"} 1"#);
    let totals = metrics
        .lines()
        .filter(|line| line.starts_with("gridstake_gpu_memory_total_bytes{"));
    assert_eq!(totals.count(), 8);
    assert!(agent.stop());
}
