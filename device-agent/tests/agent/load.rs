//! What the agent costs, and how far what it states is from what the kernel knows: `make bench-agent`.

use std::{
    fs,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use gridstake_crds::usage_record::Evidence;
use gridstake_device_agent::clock::BootMillis;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use tokio::time::{interval, sleep, timeout};

use crate::{
    PATIENCE,
    machine::{Agent, Machine, Pod, Running, seconds_of},
};

/// GPUs of the node, each held by one pod.
const GPUS: u32 = 8;
/// Processes of each pod.
const PROCESSES: u32 = 4;
/// Processes of the host beside them: what a node of this size runs.
const HOST_PROCESSES: u32 = 1000;
/// How many processes the error of the bill is measured with.
const BILLED: u32 = 200;
/// The agent has found everything, and stated its first.
const WARM_UP: Duration = Duration::from_secs(15);

/// What `/proc/<pid>` says.
struct Usage {
    cpu_ticks: u64,
    resident_kib: u64,
}

fn usage(pid: u32) -> Usage {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 1..]
        .split_ascii_whitespace()
        .collect();
    let number = |field: usize| -> u64 { fields[field - 3].parse().unwrap() };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    Usage {
        cpu_ticks: number(14) + number(15),
        resident_kib: resident
            .trim()
            .trim_end_matches(" kB")
            .trim()
            .parse()
            .unwrap(),
    }
}

fn waits() -> Command {
    Command::new("cat")
}

/// Prints what `8 GPUs × 32 processes` cost at one sample a second, over DURATION seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a benchmark: make bench-agent"]
async fn what_the_agent_costs_and_how_exact_it_is() {
    let mut machine = Machine::new(GPUS).await;
    machine.add_host_processes(HOST_PROCESSES);
    let agent = Agent::start(&mut machine.agent("1s", "5m"));
    what_it_costs(&mut machine, &agent, seconds_of("DURATION", 120)).await;
    how_exact_it_is(&mut machine, &agent).await;
    agent.kill();
}

async fn what_it_costs(machine: &mut Machine, agent: &Agent, duration: Duration) {
    let pods: Vec<_> = (0..GPUS).map(|gpu| machine.place(gpu, gpu)).collect();
    let mut running: Vec<Running> = Vec::new();
    for pod in &pods {
        for _ in 0..PROCESSES {
            running.push(machine.start(pod, waits()));
        }
    }
    for pod in &pods {
        machine
            .server
            .until(&pod.record, |e| !e.checkpoints.is_empty())
            .await;
    }
    sleep(WARM_UP).await;
    let (began, first) = (Instant::now(), usage(agent.pid()));
    let mut second = interval(Duration::from_secs(1));
    let (mut most, mut early) = (first.resident_kib, first.resident_kib);
    let mut ticks = 0_u64;
    while began.elapsed() < duration {
        second.tick().await;
        ticks += 1;
        // As a Prometheus does.
        if ticks.is_multiple_of(15) {
            let metrics = agent.get("/metrics");
            assert!(metrics.contains(r#"gridstake_agent_state{state="Ok"} 1"#));
        }
        let now = usage(agent.pid()).resident_kib;
        most = most.max(now);
        // What grows from here on would grow for ever.
        if began.elapsed() < duration / 10 {
            early = early.max(now);
        }
    }
    let (last, passed) = (usage(agent.pid()), began.elapsed());
    let ticks = last.cpu_ticks - first.cpu_ticks;
    let cpu = Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second());
    let cpu = cpu.as_secs_f64();
    let mib = |kib: u64| f64::from(u32::try_from(kib).unwrap()) / 1024.0;
    println!(
        "{GPUS} GPUs, {} processes, {HOST_PROCESSES} others, 1 sample a second, {:.0} s",
        GPUS * PROCESSES,
        passed.as_secs_f64()
    );
    println!(
        "  CPU: {cpu:.2} s, {:.3} % of a core (at most 1 %)",
        100.0 * cpu / passed.as_secs_f64()
    );
    println!(
        "  resident: {:.1} MiB at the begin, {:.1} at the end, {:.1} at most (at most 24); grown since the first tenth by {:.2}",
        mib(first.resident_kib),
        mib(last.resident_kib),
        mib(most),
        mib(last.resident_kib) - mib(early),
    );
    for process in running {
        let pid = process.pid();
        process.end();
        machine.forget(pid);
    }
    for pod in &pods {
        machine
            .server
            .until(&pod.record, |e| e.ended_ms.is_some())
            .await;
        machine.remove(pod);
    }
}

/// A process whose end the kernel has told.
struct Ended {
    process: Running,
    pod: Pod,
    /// From field 22 of its stat to when `waitid` returned, in milliseconds.
    ran: u64,
}

async fn how_exact_it_is(machine: &mut Machine, agent: &Agent) {
    let (ended, mut endings) = tokio::sync::mpsc::unbounded_channel::<Ended>();
    let (pulled_pods, mut to_start) = tokio::sync::mpsc::unbounded_channel::<(Pod, u32)>();
    let (mut started, mut free) = (0, (0..GPUS).collect::<Vec<_>>());
    let (mut errors, mut unseen, mut told, mut ran) = (Vec::new(), 0, 0, 0);
    let mut checked = 0;
    while checked < BILLED {
        while let Some(gpu) = free.pop().filter(|_| started < BILLED) {
            let pod = machine.place(1000 + started, gpu);
            // The image is pulled meanwhile; when it is there has nothing to do with when the agent looks.
            let pulled = Duration::from_millis(300 + u64::from(started) * 2_654_435_761 % 1_000);
            let (pods, number) = (pulled_pods.clone(), started);
            tokio::spawn(async move {
                sleep(pulled).await;
                let _ = pods.send((pod, number));
            });
            started += 1;
        }
        let Ended {
            process,
            pod,
            ran: millis,
        } = tokio::select! {
            Some((pod, number)) = to_start.recv() => {
                let mut sleeps = Command::new("sleep");
                sleeps.arg(seconds_of_run(number));
                let process = machine.start(&pod, sleeps);
                watch_end(process, pod, ended.clone());
                continue;
            }
            Some(over) = endings.recv() => over,
        };
        checked += 1;
        machine.forget(process.pid());
        process.reap();
        let seen = machine.server.until(&pod.record, |e| e.ended_ms.is_some());
        // One that the agent has not seen at all will not be seen any more.
        match timeout(PATIENCE / 12, seen).await {
            Ok(evidence) => {
                let billed = in_evidence(&evidence);
                errors.push(billed.abs_diff(millis));
                told += billed;
            }
            Err(_) => unseen += 1,
        }
        ran += millis;
        machine.remove(&pod);
        free.push(pod.gpu);
    }
    assert!(agent.get("/healthz").ends_with("ok\n"));
    errors.sort_unstable();
    let at = |permille: usize| {
        let last = errors.len().saturating_sub(1);
        errors.get(last * permille / 1000).copied().unwrap_or(0)
    };
    println!("{BILLED} processes of 0.2 to 6 s, one after the other on each of {GPUS} GPUs");
    println!("  they ran for {ran} ms by the kernel; {told} ms are stated");
    println!(
        "  error of one: median {} ms, p99 {} ms, at most {} ms (at most 20); {unseen} were not seen at all",
        at(500),
        at(990),
        at(1000)
    );
}

/// The lengths are spread evenly, and always the same.
fn seconds_of_run(number: u32) -> String {
    let millis = 200 + u64::from(number) * 2_654_435_761 % 5_800;
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

/// What the evidence covers, in milliseconds: its spans and the gaps that are named.
fn in_evidence(evidence: &Evidence) -> u64 {
    let spans: u64 = evidence
        .checkpoints
        .iter()
        .map(|c| c.to_ms - c.from_ms)
        .sum();
    let gaps: u64 = evidence.gaps.iter().map(|g| g.to_ms - g.from_ms).sum();
    spans + gaps
}

fn watch_end(process: Running, pod: Pod, ended: tokio::sync::mpsc::UnboundedSender<Ended>) {
    let started = process.started();
    let pid = Pid::from_raw(process.pid().try_into().unwrap()).unwrap();
    let fd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let (hand, take) = mpsc::channel();
    thread::spawn(move || {
        // It stays a zombie until the main thread reaps it.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::PidFd(std::os::fd::AsFd::as_fd(&fd)), options).unwrap();
        let ran = BootMillis::now().since(started);
        let (process, pod) = take.recv().unwrap();
        let _ = ended.send(Ended { process, pod, ran });
    });
    hand.send((process, pod)).unwrap();
}
