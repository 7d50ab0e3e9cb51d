//! The whole agent when something goes wrong around it: clocks that are set, disks that are full, and its own death at any moment.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use gridstake_crds::usage_record::{Checkpoint, Evidence, GapReason};
use gridstake_device_agent::{
    clock::{BootMillis, wall_unix_ms},
    metering::chain::content,
};
use gridstake_ledger::{checkpoint, refusal};

use crate::{
    cluster::{ApiServer, Kill, Write},
    machine::{Agent, Machine, Pod, Running, WallClock, interposer},
    metering::subject,
    node::uuid,
};

/// Ends when its input does.
fn waits() -> Command {
    Command::new("cat")
}

fn signed(stated: &Checkpoint) -> checkpoint::Signed {
    checkpoint::Signed {
        checkpoint: content(stated, stated.previous.parse().unwrap()),
        head: stated.head.parse().unwrap(),
        signature: gridstake_ledger::signature::parse(&stated.signature).unwrap(),
    }
}

fn chain(evidence: &Evidence) -> Vec<checkpoint::Signed> {
    evidence.checkpoints.iter().map(signed).collect()
}

/// No statement is refused, none contradicts an earlier one, and spans and gaps follow each other without a hole.
fn assert_sound(machine: &Machine, pod: &Pod) -> Evidence {
    let history = machine.server.history(&pod.record);
    for (index, evidence) in history.iter().enumerate() {
        let subject = subject(&pod.record, &pod.uid, evidence);
        let stated = chain(evidence);
        let key = evidence.key.parse().unwrap();
        assert_eq!(refusal::verify(subject, key, &stated), Ok(()));
        for before in &history[..index] {
            let contradiction = refusal::contradiction(&chain(before), &stated);
            assert_eq!(contradiction, None, "{before:#?}\n{evidence:#?}");
            let last = |e: &Evidence| e.checkpoints.last().map(|c| (c.epoch, c.seq, c.to_ms));
            assert!(last(before) <= last(evidence), "nothing goes back");
        }
    }
    let ended = history.last().unwrap().clone();
    let mut at = ended.started_ms.unwrap();
    for checkpoint in &ended.checkpoints {
        if checkpoint.from_ms > at {
            let gap = ended
                .gaps
                .iter()
                .find(|gap| gap.from_ms == at && gap.to_ms == checkpoint.from_ms);
            assert!(gap.is_some(), "a hole at {at} in {ended:#?}");
        } else {
            assert_eq!(checkpoint.from_ms, at, "{ended:#?}");
        }
        at = checkpoint.to_ms;
    }
    assert_eq!(Some(at), ended.ended_ms, "{ended:#?}");
    ended
}

/// How long the lease was, in milliseconds.
fn length(evidence: &Evidence) -> u64 {
    evidence.ended_ms.unwrap() - evidence.started_ms.unwrap()
}

/// Ends `process`, and waits until all of its lease is stated: as long as it certainly ran, and no longer
/// than until its end was told.
async fn end_whole(machine: &Machine, pod: &Pod, process: Running) -> Evidence {
    let started = process.started();
    let ending = BootMillis::now();
    process.end();
    machine
        .server
        .until(&pod.record, |e| e.ended_ms.is_some())
        .await;
    let ended_by = BootMillis::now();
    let evidence = assert_sound(machine, pod);
    assert!(length(&evidence) >= ending.since(started));
    assert!(length(&evidence) <= ended_by.since(started));
    evidence
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_is_set_by_an_hour_to_and_fro_changes_no_millisecond_and_nothing_goes_back()
 {
    let mut machine = Machine::new(1).await;
    let clock = WallClock::new(machine.folder.path());
    let start = |machine: &Machine| {
        let mut command = machine.agent("100ms", "1s");
        clock.of(&mut command);
        Agent::start(&mut command)
    };
    let agent = start(&machine);
    let pod = machine.place(1, 0);
    let before = wall_unix_ms();
    let process = machine.start(&pod, waits());
    let started = process.started();
    let mut states = 0;
    let server = machine.server.clone();
    let mut goes_on = async |record: &str| {
        states += 2;
        server
            .until(record, |e| e.checkpoints.len() >= states)
            .await
    };
    goes_on(&pod.record).await;
    clock.set_off_by(3600);
    goes_on(&pod.record).await;
    clock.set_off_by(-3600);
    goes_on(&pod.record).await;
    // Also an agent that comes back into a clock that is wrong.
    agent.kill();
    let agent = start(&machine);
    goes_on(&pod.record).await;
    let ending = BootMillis::now();
    process.end();
    machine
        .server
        .until(&pod.record, |e| e.ended_ms.is_some())
        .await;
    let (ended_by, after) = (BootMillis::now(), wall_unix_ms());
    let evidence = assert_sound(&machine, &pod);
    assert!(length(&evidence) >= ending.since(started));
    assert!(length(&evidence) <= ended_by.since(started));
    // By the clock as it was when the lease began; a start is told in ticks of 10 ms.
    assert!(evidence.started_ms.unwrap() + 20 >= before);
    assert!(evidence.ended_ms.unwrap() <= after + 20);
    assert!(evidence.gaps.iter().all(|gap| gap.bridged));

    // A lease that begins while the clock is wrong is dated by it, and as long as it was.
    let next = machine.place(2, 0);
    let process = machine.start(&next, waits());
    machine
        .server
        .until(&next.record, |e| !e.checkpoints.is_empty())
        .await;
    clock.set_off_by(0);
    end_whole(&machine, &next, process).await;
    drop(agent);
}

/// The lease of an agent that dies as `dies` says, and comes back.
async fn lease_of_one_that_dies(dies: impl FnOnce(&mut Command), kill: Option<Kill>) -> Evidence {
    let mut machine = Machine::new(1).await;
    let pod = machine.place(1, 0);
    let mut command = machine.agent("100ms", "1s");
    dies(&mut command);
    let mut agent = Agent::start(&mut command);
    if let Some(kill) = kill {
        let pid = agent.pid();
        *machine.server.kill.lock().unwrap() = Some(Kill { pid, ..kill });
    }
    let process = machine.start(&pod, waits());
    agent.is_killed().await;
    assert!(machine.server.has_killed());

    let accepted = machine.server.history(&pod.record);
    let accepted = accepted.last().map_or(0, |e| e.checkpoints.len());
    let agent = Agent::start(&mut machine.agent("100ms", "1s"));
    // It has taken up what it did, and gone on.
    machine
        .server
        .until(&pod.record, |e| e.checkpoints.len() >= accepted + 3)
        .await;
    let evidence = end_whole(&machine, &pod, process).await;
    assert!(
        evidence.gaps.iter().all(|gap| gap.bridged),
        "the same process was there before and after: {evidence:#?}"
    );
    drop(agent);
    evidence
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_at_any_step_of_writing_its_spool_loses_and_repeats_no_millisecond()
{
    // When the lease begins nothing is kept yet; the second time there is something to be replaced.
    for round in [1, 2] {
        let leases = (1..=7).map(|step: u32| {
            lease_of_one_that_dies(
                move |command| {
                    command
                        .env("LD_PRELOAD", interposer())
                        .env("TEST_KILL", step.to_string())
                        .env("TEST_ROUND", round.to_string());
                },
                None,
            )
        });
        for (step, evidence) in (1..).zip(futures::future::join_all(leases).await) {
            // What was durable is remembered: the second round finds the first.
            let is_remembered = round == 2 || step >= 6;
            let away = |e: &Evidence| e.gaps.iter().any(|g| g.reason == GapReason::AgentAway);
            assert_eq!(away(&evidence), is_remembered, "{round}, {step}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_around_a_patch_or_a_renewal_loses_and_repeats_no_millisecond() {
    let mut leases = Vec::new();
    // Renewals are 10 s apart: the second comes when the lease has begun.
    for (write, after) in [
        (Write::Evidence, 0),
        (Write::Evidence, 1),
        (Write::Renewal, 0),
        (Write::Renewal, 1),
    ] {
        for is_taken in [false, true] {
            let kill = Kill {
                write,
                is_taken,
                after,
                pid: 0,
            };
            leases.push(lease_of_one_that_dies(|_| {}, Some(kill)));
        }
    }
    futures::future::join_all(leases).await;
}

/// A file system of its own, so small that it can be filled.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` if this process may not mount one.
    fn over(folder: &Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(folder)
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Self(folder.to_owned()))
    }

    fn fill(&self) {
        use std::io::Write as _;
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        // Until nothing more goes in.
        while file.write_all(&[0; 512]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_disk_that_is_really_full_what_was_accepted_stands_also_over_a_kill_and_it_recovers()
{
    let mut machine = Machine::new(1).await;
    let Some(disk) = SmallDisk::over(&machine.path("state")) else {
        eprintln!("skipped: needs the right to mount a file system");
        return;
    };
    let agent = Agent::start(&mut machine.agent("100ms", "1s"));
    let pod = machine.place(1, 0);
    let process = machine.start(&pod, waits());
    let states = async |count| {
        let enough = |e: &Evidence| e.checkpoints.len() >= count;
        machine.server.until(&pod.record, enough).await
    };
    states(2).await;
    disk.fill();
    // It is told, to people and to alerts, and what is stated goes on.
    machine
        .server
        .until_so(|server| {
            let message = server.agents_message();
            message.contains("evidence would not survive a restart")
        })
        .await;
    let message = machine.server.agents_message();
    assert!(message.contains("No space left on device"), "{message}");
    let metrics = agent.get("/metrics");
    let failures = metrics.lines().find(|line| {
        line.starts_with("gridstake_agent_task_runs_total{")
            && line.contains("spool")
            && line.contains("failure")
    });
    assert!(
        failures.is_some_and(|line| !line.ends_with(" 0")),
        "{failures:?} in {metrics}"
    );
    let count = states(2).await.checkpoints.len() + 2;
    let accepted = states(count).await;
    // Its memory is older than its word now.
    agent.kill();
    let agent = Agent::start(&mut machine.agent("100ms", "1s"));
    let count = accepted.checkpoints.len() + 2;
    let back = states(count).await;
    for stated in &accepted.checkpoints {
        assert!(back.checkpoints.contains(stated), "{stated:?}");
    }
    disk.make_room();
    machine
        .server
        .until_so(|server| !server.agents_message().contains("restart"))
        .await;
    let evidence = end_whole(&machine, &pod, process).await;
    assert!(evidence.gaps.iter().all(|gap| gap.bridged));
    drop(agent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_xid_before_during_or_after_a_lease_costs_it_no_millisecond_and_counts_as_its_class_says()
 {
    let mut machine = Machine::new(4).await;
    let agent = Agent::start(&mut machine.agent("100ms", "1s"));
    agent.metrics_until(r#"gridstake_agent_state{state="Ok"} 1"#);
    // The hardware's, the hardware's, one to watch, and the application's: each on a GPU of its own.
    let cases = [
        (79, "Unhealthy"),
        (48, "Unhealthy"),
        (63, "Degraded"),
        (31, "Healthy"),
    ];
    let gpus = || (0_u32..).zip(cases);
    let report = |machine: &mut Machine| {
        machine.gpus.change(|state| {
            for (gpu, (xid, _)) in gpus() {
                state.report_xid(&uuid(gpu), u64::from(xid));
            }
        });
    };
    let told = async |machine: &Machine, times: u64| {
        let server = &machine.server;
        let all =
            |server: &ApiServer| gpus().all(|(gpu, (xid, _))| server.xids_of(gpu, xid) >= times);
        server.until_so(all).await;
    };
    report(&mut machine);
    told(&machine, 1).await;
    let leases: Vec<_> = gpus()
        .map(|(gpu, _)| {
            let pod = machine.place(10 + gpu, gpu);
            let process = machine.start(&pod, waits());
            (pod, process.started(), process)
        })
        .collect();
    for (pod, ..) in &leases {
        let began = |e: &Evidence| !e.checkpoints.is_empty();
        machine.server.until(&pod.record, began).await;
    }
    report(&mut machine);
    for (pod, ..) in &leases {
        let goes_on = |e: &Evidence| e.checkpoints.len() >= 3;
        machine.server.until(&pod.record, goes_on).await;
    }
    let mut ended = Vec::new();
    for (pod, started, process) in leases {
        let ending = BootMillis::now();
        process.end();
        let is_over = |e: &Evidence| e.ended_ms.is_some();
        machine.server.until(&pod.record, is_over).await;
        let at_least = ending.since(started);
        ended.push((pod, at_least..=BootMillis::now().since(started)));
    }
    report(&mut machine);
    // An Xid that comes again is told with a heartbeat.
    told(&machine, 3).await;
    for ((pod, lengths), (xid, health)) in ended.into_iter().zip(cases) {
        let evidence = assert_sound(&machine, &pod);
        assert!(lengths.contains(&length(&evidence)), "Xid {xid}");
        assert!(evidence.gaps.is_empty(), "Xid {xid}");
        assert_eq!(machine.server.health_of(pod.gpu), health, "Xid {xid}");
    }
    drop(agent);
}
