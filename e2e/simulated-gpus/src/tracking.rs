//! Keeps `processes.json`: who runs on which device, and the energy that follows from it.

use std::{path::PathBuf, time::Duration};

use gridstake_simulated_gpus_state::{EnergyLedger, Process, ProcessKind, Processes, State};
use rustix::time::{ClockId, clock_gettime};
use tokio::{task::spawn_blocking, time::MissedTickBehavior};
use tracing::{info, warn};

use crate::{
    directory::{DirectoryError, StateDirectory},
    pod_resources::PodResources,
    proc_scan::{Found, Grant, Scan, scan},
};

/// How often the kubelet is asked and `/proc` is read.
pub const LOOK_EVERY: Duration = Duration::from_millis(400);
/// Memory that a process holds on each of its devices in MiB, as long as all of them fit.
const PROCESS_MEMORY_MIB: u64 = 4096;

/// Nanoseconds since the machine's boot, suspended time included: the clock of the energy ledgers.
#[must_use]
pub fn boottime_nanoseconds() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let total = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    u64::try_from(total).unwrap_or_default()
}

/// What `processes.json` should say now. Equal to `before` where nothing changed, whatever the time.
#[must_use]
pub fn next_processes(
    before: &Processes,
    state: &State,
    grants: &[Grant],
    found: &[Found],
    boot_id: &str,
    boottime_nanoseconds: u64,
) -> Processes {
    let mut next = Processes {
        boot_id: boot_id.into(),
        ..Processes::default()
    };
    for device in &state.devices {
        let uses: Vec<_> = found
            .iter()
            .filter_map(|found| Some((found, grants.get(found.grant)?)))
            .filter(|(_, grant)| grant.devices.contains(&device.uuid))
            .collect();
        let room = device
            .model
            .memory_mib
            .saturating_sub(device.model.reserved_memory_mib);
        let share = room / u64::try_from(uses.len().max(1)).unwrap_or(u64::MAX);
        next.processes
            .extend(uses.iter().map(|(found, grant)| Process {
                device: device.uuid.clone(),
                pid: found.pid,
                start_ticks: found.start_ticks,
                used_memory_mib: PROCESS_MEMORY_MIB.min(share),
                kind: ProcessKind::Compute,
                gpu_instance: None,
                compute_instance: None,
                container: grant.container.clone(),
                pod_uid: found.pod_uid.clone(),
            }));
        let ledger = before
            .energy
            .get(&device.uuid)
            .filter(|_| before.boot_id == boot_id)
            .copied()
            .unwrap_or_else(|| EnergyLedger::idle_since_boot(device.milliwatts(false)));
        next.energy.insert(
            device.uuid.clone(),
            ledger.draw(device.milliwatts(!uses.is_empty()), boottime_nanoseconds),
        );
    }
    next
}

/// The grants to look for: those that the kubelet names, and those that it no longer names but whose processes still
/// ran at the last look. A pod that is being stopped leaves PodResources before its processes leave the device.
#[must_use]
pub fn with_lingering(named: Vec<Grant>, before: &[Grant], found_before: &[Found]) -> Vec<Grant> {
    let lingering: Vec<_> = before
        .iter()
        .enumerate()
        .filter(|(position, _)| found_before.iter().any(|found| found.grant == *position))
        .map(|(_, grant)| grant)
        .filter(|grant| named.iter().all(|other| other.devices != grant.devices))
        .cloned()
        .collect();
    [named, lingering].concat()
}

/// Follows the processes of a node.
#[derive(Debug)]
pub struct Tracker {
    directory: StateDirectory,
    pod_resources: PodResources,
    proc_root: PathBuf,
    boot_id: String,
    processes: Processes,
    grants: Vec<Grant>,
    found: Vec<Found>,
    trouble: Option<String>,
    unreadable: usize,
}

impl Tracker {
    /// Goes on where an earlier run of this program stopped.
    pub fn new(
        directory: StateDirectory,
        pod_resources: PodResources,
        proc_root: PathBuf,
        boot_id: String,
    ) -> Self {
        let processes = directory
            .read_processes()
            .ok()
            .flatten()
            .unwrap_or_default();
        Self {
            directory,
            pod_resources,
            proc_root,
            boot_id,
            processes,
            grants: Vec::new(),
            found: Vec::new(),
            trouble: None,
            unreadable: 0,
        }
    }

    /// Looks for ever.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let trouble = self.look().await.err().map(|error| format!("{error:#}"));
            if trouble != self.trouble {
                match &trouble {
                    Some(error) => {
                        warn!(%error, "cannot follow the processes of the simulated GPUs; trying again");
                    }
                    None => info!("the processes of the simulated GPUs are followed again"),
                }
                self.trouble = trouble;
            }
        }
    }

    /// One look. Where the kubelet does not answer, the containers that it named last are followed on.
    pub async fn look(&mut self) -> anyhow::Result<()> {
        let answer = self.pod_resources.grants().await;
        let named = match &answer {
            Ok(named) => named.clone(),
            Err(_) => self.grants.clone(),
        };
        let grants = with_lingering(named, &self.grants, &self.found);
        let (proc_root, wanted) = (self.proc_root.clone(), grants.clone());
        let Scan { found, unreadable } =
            spawn_blocking(move || scan(&proc_root, &wanted)).await??;
        if unreadable > 0 && self.unreadable == 0 {
            warn!(
                processes = unreadable,
                "cannot read the environment of some pods' processes: CAP_SYS_PTRACE is missing, so that GPU processes \
                 of other users than root are not seen"
            );
        }
        (self.grants, self.found, self.unreadable) = (grants, found, unreadable);
        self.write_changes().await?;
        answer.map_err(|status| {
            anyhow::anyhow!(
                "cannot list pod resources: {:?}: {}",
                status.code(),
                status.message()
            )
        })?;
        Ok(())
    }

    async fn write_changes(&mut self) -> anyhow::Result<()> {
        let Some(state) = self.directory.read_state()? else {
            return Ok(());
        };
        let now = boottime_nanoseconds();
        let draft = next_processes(
            &self.processes,
            &state,
            &self.grants,
            &self.found,
            &self.boot_id,
            now,
        );
        if draft == self.processes {
            return Ok(());
        }
        let directory = self.directory.clone();
        let (before, boot_id) = (self.processes.clone(), self.boot_id.clone());
        let (grants, found) = (self.grants.clone(), self.found.clone());
        self.processes = spawn_blocking(move || {
            let lock = directory.lock()?;
            // Only now is the time taken: see `EnergyLedger`.
            let now = boottime_nanoseconds();
            let next = next_processes(&before, &state, &grants, &found, &boot_id, now);
            directory.write_processes(&lock, &next)?;
            Ok::<_, DirectoryError>(next)
        })
        .await??;
        let processes = self.processes.processes.len();
        info!(
            processes,
            "the list of processes on the simulated GPUs has changed"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use gridstake_simulated_gpus_state::DriverKind;

    use super::*;
    use crate::profiles::{devices, model};

    const SECOND: u64 = 1_000_000_000;

    fn state() -> State {
        State::new(
            "n",
            DriverKind::Current,
            devices("n", &model("h100").unwrap(), 2),
        )
    }

    fn grant(state: &State, devices: &[usize]) -> Grant {
        Grant {
            devices: devices
                .iter()
                .map(|index| state.devices[*index].uuid.clone())
                .collect(),
            container: "ns/pod/main".into(),
        }
    }

    fn found(pid: u32, grant: usize) -> Found {
        Found {
            pid,
            start_ticks: 5,
            grant,
            pod_uid: String::new(),
        }
    }

    #[test]
    fn a_process_is_listed_on_each_device_of_its_container() {
        let state = state();
        let grants = [grant(&state, &[0, 1])];
        let next = next_processes(
            &Processes::default(),
            &state,
            &grants,
            &[found(7, 0)],
            "boot",
            0,
        );
        let listed: Vec<_> = next
            .processes
            .iter()
            .map(|process| (&process.device, process.pid))
            .collect();
        assert_eq!(
            listed,
            [(&state.devices[0].uuid, 7), (&state.devices[1].uuid, 7)]
        );
    }

    #[test]
    fn nothing_is_written_while_nothing_changes() {
        let state = state();
        let grants = [grant(&state, &[0])];
        let next =
            |before, time| next_processes(before, &state, &grants, &[found(7, 0)], "boot", time);
        let nothing = Processes::default();
        let first = next(&nothing, SECOND);
        assert_eq!(next(&first, 99 * SECOND), first);
    }

    #[test]
    fn energy_counts_busy_power_only_while_a_process_runs() {
        let state = state();
        let (idle, busy) = (70_000, 620_000);
        let grants = [grant(&state, &[0])];
        let first = next_processes(
            &Processes::default(),
            &state,
            &grants,
            &[found(7, 0)],
            "boot",
            10 * SECOND,
        );
        let second = next_processes(&first, &state, &grants, &[], "boot", 13 * SECOND);
        let energy = |processes: &Processes, device: usize, seconds| {
            let device = &state.devices[device];
            device.energy_millijoules(processes.energy.get(&device.uuid), seconds * SECOND)
        };
        assert_eq!(energy(&second, 0, 20), 10 * idle + 3 * busy + 7 * idle);
        assert_eq!(energy(&second, 1, 20), 20 * idle);
    }

    #[test]
    fn ledgers_of_an_earlier_boot_are_forgotten() {
        let state = state();
        let mut before = next_processes(&Processes::default(), &state, &[], &[], "earlier", 0);
        for ledger in before.energy.values_mut() {
            ledger.millijoules = 1_000_000;
            ledger.since_nanoseconds = 500 * SECOND;
        }
        let after = next_processes(&before, &state, &[], &[], "now", SECOND);
        assert!(after.energy.values().all(|ledger| ledger.millijoules == 0));
    }

    #[test]
    fn many_processes_fit_into_a_devices_memory() {
        let state = state();
        let grants = [grant(&state, &[0])];
        let all: Vec<_> = (1..=200).map(|pid| found(pid, 0)).collect();
        let next = next_processes(&Processes::default(), &state, &grants, &all, "boot", 0);
        let used: u64 = next
            .processes
            .iter()
            .map(|process| process.used_memory_mib)
            .sum();
        assert!(used > 0 && used <= state.devices[0].model.memory_mib);
    }

    #[test]
    fn a_container_that_the_kubelet_forgets_is_followed_until_its_processes_end() {
        let state = state();
        let (ours, other) = (grant(&state, &[0]), grant(&state, &[1]));
        let before = [ours.clone(), other.clone()];
        assert_eq!(
            with_lingering(vec![], &before, &[found(7, 0)]),
            std::slice::from_ref(&ours)
        );
        assert_eq!(
            with_lingering(vec![other.clone()], &before, &[]),
            std::slice::from_ref(&other)
        );
        // The devices have a new owner: only that one counts.
        let new = Grant {
            container: "ns/new/main".into(),
            ..ours.clone()
        };
        assert_eq!(
            with_lingering(vec![new.clone()], &before, &[found(7, 0)]),
            [new]
        );
    }
}
