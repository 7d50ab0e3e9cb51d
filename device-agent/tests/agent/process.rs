//! The agent as a process: it starts without NVML, kubelet and API server, shows its state, and ends when told to.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Instant,
};

use tempfile::TempDir;

use crate::{PATIENCE, node::Node};

struct Agent {
    process: Child,
    address: String,
    _state: TempDir,
}

impl Agent {
    fn start(library: &std::path::Path) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_gridstake-device-agent"))
            .env_clear()
            .env("HOME", "/nonexistent")
            .args(["--node-name", "node-a", "--namespace", "gridstake-system"])
            .args(["--listen", "127.0.0.1:0", "--sample-interval", "100ms"])
            .args(["--pod-resources-socket", "/nonexistent/kubelet.sock"])
            .arg("--state-dir")
            .arg(state.path())
            .args(["--pod-logs", "/nonexistent/pods"])
            .arg("--nvml-library")
            .arg(library)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(process.stdout.take().unwrap());
        let mut lines = log.lines().map_while(Result::ok);
        let address = lines
            .find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(&line).expect("logs are JSON");
                Some(line.get("address")?.as_str()?.to_owned())
            })
            .unwrap();
        // Keeps the pipe from filling up.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            address,
            _state: state,
        }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }

    fn metrics_until(&self, line: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let metrics = self.get("/metrics");
            if metrics.lines().any(|shown| shown == line) {
                return metrics;
            }
            assert!(Instant::now() < deadline, "waited for {line} in\n{metrics}");
        }
    }

    /// Sends SIGTERM and waits for the end.
    fn stop(&mut self) -> bool {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").arg(id).status().unwrap().success());
        self.process.wait().unwrap().success()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn without_library_kubelet_and_api_server_it_lives_and_says_so() {
    let mut agent = Agent::start(std::path::Path::new("/nonexistent/libnvidia-ml.so.1"));
    assert!(agent.get("/healthz").ends_with("ok\n"));
    let metrics = agent.metrics_until(r#"gridstake_agent_state{state="LibraryMissing"} 1"#);
    assert!(!metrics.contains("gridstake_gpu_utilization_ratio{"));
    agent.metrics_until(r#"gridstake_agent_state{state="Ok"} 0"#);
    assert!(agent.stop(), "SIGTERM is no failure");
}

#[test]
fn with_gpus_it_shows_each_of_them() {
    let node = Node::with_gpus(8);
    let mut agent = Agent::start(&node.library());
    let metrics = agent.metrics_until(r#"gridstake_agent_state{state="Ok"} 1"#);
    let totals = metrics
        .lines()
        .filter(|line| line.starts_with("gridstake_gpu_memory_total_bytes{"));
    assert_eq!(totals.count(), 8);
    assert!(agent.stop());
}
