//! A node on which the whole agent runs, as the program that is shipped: with NVML's double, a kubelet, an API server, a
//! state directory and a procfs whose processes are real.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use gridstake_device_agent::clock::BootMillis;
use gridstake_simulated_gpus_state::{Process, ProcessKind};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tempfile::TempDir;
use tokio::{task::spawn_blocking, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    PATIENCE,
    cluster::ApiServer,
    kubelet::{Given, serve_all},
    metering::start_ticks,
    node::{Node, uuid},
};

/// A node with an API server and a kubelet.
pub struct Machine {
    pub folder: TempDir,
    pub gpus: Node,
    pub server: ApiServer,
    given: Given,
    processes: Vec<Process>,
    _kubelet: DropGuard,
}

/// A pod with one GPU, and the slice that it is billed by.
#[derive(Clone, Debug)]
pub struct Pod {
    pub uid: String,
    pub name: String,
    pub record: String,
    pub gpu: u32,
}

/// A process of a pod's container. It is real; the node's procfs shows it.
pub struct Running {
    child: Child,
    shown: PathBuf,
}

impl Machine {
    pub async fn new(gpus: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let boot = folder.path().join("proc/sys/kernel/random");
        fs::create_dir_all(&boot).unwrap();
        fs::write(boot.join("boot_id"), "boot\n").unwrap();
        fs::create_dir_all(folder.path().join("pods")).unwrap();
        fs::create_dir_all(folder.path().join("state")).unwrap();
        let server = ApiServer::new();
        let address = server.serve().await;
        let config = format!(
            "apiVersion: v1
kind: Config
current-context: test
clusters: [{{name: test, cluster: {{server: 'http://{address}'}}}}]
users: [{{name: test, user: {{}}}}]
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
"
        );
        fs::write(folder.path().join("kubeconfig"), config).unwrap();
        let (given, stop) = (Given::default(), CancellationToken::new());
        serve_all(
            &folder.path().join("kubelet.sock"),
            Arc::clone(&given),
            &stop,
        );
        Self {
            folder,
            gpus: Node::with_gpus(gpus),
            server,
            given,
            processes: Vec::new(),
            _kubelet: stop.drop_guard(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Shows `count` processes of the host beside those of pods.
    pub fn add_host_processes(&self, count: u32) {
        for pid in 4_000_000..4_000_000 + count {
            let folder = self.path(&format!("proc/{pid}"));
            fs::create_dir_all(&folder).unwrap();
            let stat = format!(
                "{pid} (daemon) S 1 {pid} {pid} 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 300 3 4 5\n"
            );
            fs::write(folder.join("stat"), stat).unwrap();
            fs::write(
                folder.join("cgroup"),
                "0::/system.slice/containerd.service\n",
            )
            .unwrap();
            fs::write(folder.join("mountinfo"), "").unwrap();
        }
    }

    /// A pod is placed on the node: its slice is open, and the kubelet gives it a GPU.
    pub fn place(&mut self, number: u32, gpu: u32) -> Pod {
        let uid = format!("{number:08x}-3c5e-4a51-9b0c-7f7d2c6a9e10");
        let pod = Pod {
            name: format!("run-{number}-1-0"),
            record: format!("{uid}-1-0-0"),
            uid,
            gpu,
        };
        self.server.open_for(&pod.uid, &pod.name, 0, None);
        let mut given = self.given.lock().unwrap();
        given.push((pod.name.clone(), uuid(gpu)));
        drop(given);
        fs::create_dir_all(self.path(&format!("pods/lab_{}_{}", pod.name, pod.uid))).unwrap();
        pod
    }

    /// The pod is gone, and its slice sealed.
    pub fn remove(&mut self, pod: &Pod) {
        self.given
            .lock()
            .unwrap()
            .retain(|(name, _)| *name != pod.name);
        fs::remove_dir_all(self.path(&format!("pods/lab_{}_{}", pod.name, pod.uid))).unwrap();
        self.server.seal(&pod.record);
    }

    /// Starts a process of the pod's container that uses its GPU.
    pub fn start(&mut self, pod: &Pod, mut command: Command) -> Running {
        // As the kubelet does once the image is there.
        let logs = format!("pods/lab_{}_{}/main", pod.name, pod.uid);
        fs::create_dir_all(self.path(&logs)).unwrap();
        let child = command.stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        let shown = self.path(&format!("proc/{pid}"));
        fs::create_dir_all(&shown).unwrap();
        let cgroup = format!("0::/kubepods/besteffort/pod{}/4fd1\n", pod.uid);
        fs::write(shown.join("cgroup"), cgroup).unwrap();
        let mounts = format!(
            "640 612 8:1 /var/lib/kubelet/pods/{}/containers/main/0a /dev/termination-log rw - ext4 /dev/sda1 rw\n",
            pod.uid
        );
        fs::write(shown.join("mountinfo"), mounts).unwrap();
        // Last: with it the process is there.
        let stat = Path::new("/proc").join(pid.to_string()).join("stat");
        symlink(stat, shown.join("stat")).unwrap();
        self.processes.push(Process {
            device: uuid(pod.gpu),
            pid,
            start_ticks: start_ticks(pid),
            used_memory_mib: 512,
            kind: ProcessKind::Compute,
            gpu_instance: None,
            compute_instance: None,
            container: String::new(),
            pod_uid: pod.uid.clone(),
        });
        self.gpus.set_processes(self.processes.clone());
        Running { child, shown }
    }

    /// A process that has ended uses no GPU any more.
    pub fn forget(&mut self, pid: u32) {
        self.processes.retain(|process| process.pid != pid);
        self.gpus.set_processes(self.processes.clone());
    }

    /// The agent's command line: it samples at `sample`, and states something every `checkpoint`.
    pub fn agent(&self, sample: &str, checkpoint: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gridstake-device-agent"));
        command
            .env_clear()
            .env("HOME", "/nonexistent")
            .env("KUBECONFIG", self.path("kubeconfig"))
            .args(["--node-name", "node-a", "--namespace", "gridstake-system"])
            .args(["--listen", "127.0.0.1:0", "--sample-interval", sample])
            .args(["--checkpoint-interval", checkpoint])
            .arg("--pod-resources-socket")
            .arg(self.path("kubelet.sock"))
            .arg("--state-dir")
            .arg(self.path("state"))
            .arg("--pod-logs")
            .arg(self.path("pods"))
            .arg("--proc-root")
            .arg(self.path("proc"))
            .arg("--nvml-library")
            .arg(self.gpus.library());
        command
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When it started, as the kernel says.
    pub fn started(&self) -> BootMillis {
        BootMillis::of_ticks(start_ticks(self.pid()))
    }

    /// Lets one that waits for its input end, and waits for that.
    pub fn end(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }

    /// Takes away what is left of one that has ended.
    pub fn reap(mut self) {
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.shown);
    }
}

/// The agent as a process.
pub struct Agent {
    pub process: Child,
    address: String,
}

impl Agent {
    pub fn start(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(process.stdout.take().unwrap());
        let mut lines = log.lines().map_while(Result::ok);
        let address = lines
            .find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(&line).expect("logs are JSON");
                Some(line.get("address")?.as_str()?.to_owned())
            })
            .unwrap();
        // Keeps the pipe from filling up.
        std::thread::spawn(move || {
            for line in lines {
                if std::env::var_os("SHOW_AGENT").is_some() {
                    eprintln!("{line}");
                }
            }
        });
        Self { process, address }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn get(&self, path: &str) -> String {
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

    pub fn metrics_until(&self, line: &str) -> String {
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
    pub fn stop(&mut self) -> bool {
        let id = self.pid().to_string();
        assert!(Command::new("kill").arg(id).status().unwrap().success());
        self.process.wait().unwrap().success()
    }

    /// Sends SIGKILL.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Waits until somebody has killed it.
    pub async fn is_killed(&mut self) {
        let pid = Pid::from_raw(self.pid().try_into().unwrap()).unwrap();
        let ended = spawn_blocking(move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            waitid(WaitId::Pid(pid), options).unwrap();
        });
        let ended = timeout(PATIENCE, ended).await;
        ended.expect("the agent is killed").unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What stands between the agent and the C library, built once.
pub fn interposer() -> &'static Path {
    static BUILT: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, library) = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("interpose.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agent/interpose.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .status()
            .expect("cc, which Rust links with");
        assert!(built.success());
        (folder, library)
    });
    library
}

/// A wall clock that can be set.
pub struct WallClock(PathBuf);

impl WallClock {
    pub fn new(folder: &Path) -> Self {
        let clock = Self(folder.join("clock"));
        clock.set_off_by(0);
        clock
    }

    /// The agent's wall clock is off by so many seconds from now on.
    pub fn set_off_by(&self, seconds: i64) {
        // In place: the agent has it mapped.
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.0)
            .unwrap();
        file.write_all(&seconds.to_ne_bytes()).unwrap();
    }

    pub fn of(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", interposer())
            .env("TEST_CLOCK", &self.0);
    }
}

/// As many seconds as the environment says, or `default`.
pub fn seconds_of(name: &str, default: u64) -> Duration {
    let said = std::env::var(name).ok().and_then(|text| text.parse().ok());
    Duration::from_secs(said.unwrap_or(default))
}
