//! The `show` command: a node's simulation, for people.

use std::fmt::Write as _;

use gridstake_simulated_gpus_state::{Device, Processes, State};

/// Several lines about a node. `boottime_nanoseconds` is now.
#[must_use]
pub fn describe(state: &State, processes: &Processes, boottime_nanoseconds: u64) -> String {
    let mut text = format!(
        "node {}: driver {} ({:?}), {} GPUs\n",
        state.node,
        state.driver.version,
        state.driver.kind,
        state.devices.len()
    );
    for (symbol, fault) in &state.calls {
        let _ = writeln!(text, "call {symbol}: {fault:?}");
    }
    for (index, device) in state.devices.iter().enumerate() {
        let energy =
            device.energy_millijoules(processes.energy.get(&device.uuid), boottime_nanoseconds);
        let _ = writeln!(
            text,
            "{index} {} {} {} {} J",
            device.uuid,
            device.model.name,
            health(device),
            energy / 1000
        );
        for instance in device.mig.iter().flatten().flatten() {
            let _ = writeln!(
                text,
                "    {} {} slices, {} MiB",
                instance.uuid, instance.slices, instance.memory_mib
            );
        }
        for process in processes.on(&device.uuid) {
            let _ = writeln!(
                text,
                "    pid {} {} MiB {}",
                process.pid, process.used_memory_mib, process.container
            );
        }
    }
    if let Some(last) = state.xids.last() {
        let _ = writeln!(
            text,
            "last of {} Xid events: {} on {}",
            state.xids.len(),
            last.xid,
            last.uuid
        );
    }
    text
}

fn health(device: &Device) -> String {
    let faults = &device.faults;
    if faults.lost {
        return "lost".into();
    }
    if *faults == gridstake_simulated_gpus_state::DeviceFaults::default() {
        return "healthy".into();
    }
    serde_json::to_string(faults).unwrap_or_else(|_| "faulty".into())
}

#[cfg(test)]
mod tests {
    use gridstake_simulated_gpus_state::DriverKind;

    use super::*;
    use crate::profiles;

    #[test]
    fn every_device_is_shown_with_its_health() {
        let model = profiles::model("h100").unwrap();
        let mut state = State::new("n", DriverKind::Current, profiles::devices("n", &model, 2));
        state.devices[1].faults.ecc_uncorrected = 3;
        let text = describe(&state, &Processes::default(), 1_000_000_000);
        assert!(
            text.contains("healthy 70 J") && text.contains("eccUncorrected"),
            "{text}"
        );
    }
}
