//! What can be wrong with a device, as the `fault` command writes it.

use std::collections::BTreeMap;

use gridstake_simulated_gpus_state::{
    CallFault, Device, DeviceFaults, Processes, ReturnCode, State,
};

use crate::profiles::mig_instance;

mod parsing;

/// One line per fault, for `--help`.
pub const HELP: &str = "\
Faults of one device (--gpu):
  lost                     fell off the bus: Xid 79, then GPU_IS_LOST from every call
  lost=silently            the same without the Xid
  recovered                no longer lost
  xid=N                    the driver reports an Xid error
  ecc=N                    N uncorrectable ECC errors (ecc-corrected=N: correctable ones)
  remapped-rows=N          N memory rows were remapped after uncorrectable errors
  remap-pending            a row (or page) waits for a reset (remap-failed: could not be remapped)
  slowdown=REASON[,...]    clocks are held down: sw-power-cap, hw-slowdown, sync-boost, sw-thermal, hw-thermal,
                           hw-power-brake
  temperature=C            core temperature in degrees Celsius
  load=GPU[,MEMORY]        utilisation while busy, in percent
  speed=PERCENT            it computes and copies at so many percent of its model's speed
  wrong-results            what it computes is wrong, and nothing says so
  energy-reset             the energy counter starts at zero again
  mig=N,-,N,...            MIG devices of N compute slices by index, `-` for an index without one (mig=off)
  accounting=on|off        accounting mode
Faults of one device, or of the whole node where --gpu is left out:
  error=SYMBOL:CODE        a call (* for all) answers a code, by name or number (SUCCESS: removes the fault)
  delay=SYMBOL:MS          a call (* for all) takes longer";

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Fallen off the bus; with Xid 79 unless silently.
    Lost {
        /// Without the Xid.
        silently: bool,
    },
    /// Back on the bus.
    Recovered,
    /// An Xid error.
    Xid(u64),
    /// Uncorrectable ECC errors.
    EccUncorrected(u64),
    /// Corrected ECC errors.
    EccCorrected(u64),
    /// Remapped rows.
    RemappedRows(u64),
    /// A row waits to be remapped.
    RemapPending,
    /// A row could not be remapped.
    RemapFailed,
    /// Clock event reasons, as bits.
    Slowdown(u64),
    /// Core temperature in degrees Celsius.
    Temperature(u32),
    /// Load while busy, in percent.
    Load {
        /// Kernels.
        gpu: u32,
        /// Memory.
        memory: Option<u32>,
    },
    /// Speed of computing and copying, in percent of the model's.
    Speed(u32),
    /// What it computes is wrong.
    WrongResults,
    /// Energy counter at zero.
    EnergyReset,
    /// MIG devices by index (slices; 0 for none), or MIG off.
    Mig(Option<Vec<u32>>),
    /// Accounting mode.
    Accounting(bool),
    /// A call answers a code.
    Error(String, ReturnCode),
    /// A call takes longer, in milliseconds.
    Delay(String, u64),
}

/// Xid of a GPU that has fallen off the bus.
const XID_FALLEN_OFF_THE_BUS: u64 = 79;

/// Why a fault could not be set.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum FaultError {
    #[error(transparent)]
    Directory(#[from] crate::directory::DirectoryError),
    #[error("there is no GPU {name}; give an index below {count} or a UUID")]
    Gpu { name: String, count: usize },
    #[error("this fault is about one device: say which with --gpu INDEX or --gpu UUID")]
    NeedsGpu,
    #[error("a {model} cannot be cut into {wanted} MIG devices; it takes {most}")]
    Mig {
        model: String,
        wanted: usize,
        most: u32,
    },
}

/// The position of a device that is named by index or UUID.
pub fn find(state: &State, name: &str) -> Result<usize, FaultError> {
    let by_index = name
        .parse()
        .ok()
        .filter(|index| *index < state.devices.len());
    by_index
        .or_else(|| state.devices.iter().position(|device| device.uuid == name))
        .ok_or_else(|| FaultError::Gpu {
            name: name.into(),
            count: state.devices.len(),
        })
}

/// Sets a fault, of one device or of the node. `boottime_nanoseconds` is now.
pub fn set(
    state: &mut State,
    processes: &Processes,
    gpu: Option<usize>,
    fault: Fault,
    boottime_nanoseconds: u64,
) -> Result<(), FaultError> {
    let Some(gpu) = gpu else {
        return match fault {
            Fault::Error(symbol, code) => {
                set_call(&mut state.calls, symbol, Some(code), None);
                Ok(())
            }
            Fault::Delay(symbol, delay) => {
                set_call(&mut state.calls, symbol, None, Some(delay));
                Ok(())
            }
            _ => Err(FaultError::NeedsGpu),
        };
    };
    let uuid = state.devices[gpu].uuid.clone();
    match fault {
        Fault::Xid(xid) => state.report_xid(&uuid, xid),
        Fault::Lost { silently } => {
            let device = &mut state.devices[gpu];
            let was_lost = std::mem::replace(&mut device.faults.lost, true);
            if !silently && !was_lost {
                state.report_xid(&uuid, XID_FALLEN_OFF_THE_BUS);
            }
        }
        Fault::EnergyReset => {
            let device = &mut state.devices[gpu];
            device.energy_zero_millijoules = 0;
            let ledger = processes.energy.get(&uuid);
            device.energy_zero_millijoules =
                device.energy_millijoules(ledger, boottime_nanoseconds);
        }
        fault => set_on(&mut state.devices[gpu], fault)?,
    }
    Ok(())
}

fn set_on(device: &mut Device, fault: Fault) -> Result<(), FaultError> {
    match fault {
        Fault::Recovered => device.faults.lost = false,
        Fault::Speed(percent) => device.faults.speed_percent = Some(percent),
        Fault::WrongResults => device.faults.wrong_results = true,
        Fault::EccUncorrected(errors) => device.faults.ecc_uncorrected = errors,
        Fault::EccCorrected(errors) => device.faults.ecc_corrected = errors,
        Fault::RemappedRows(rows) => device.faults.remapped_rows = rows,
        Fault::RemapPending => device.faults.remap_pending = true,
        Fault::RemapFailed => device.faults.remap_failed = true,
        Fault::Slowdown(bits) => device.faults.clock_event_reasons = bits,
        Fault::Temperature(celsius) => device.faults.temperature_celsius = Some(celsius),
        Fault::Load { gpu, memory } => {
            device.busy.gpu_percent = gpu;
            device.busy.memory_percent = memory.unwrap_or(device.busy.memory_percent);
        }
        Fault::Accounting(on) => device.accounting = on,
        Fault::Mig(None) => device.mig = None,
        Fault::Mig(Some(layout)) => {
            let most = device.model.mig_devices;
            if layout.len() > most as usize {
                return Err(FaultError::Mig {
                    model: device.model.key.clone(),
                    wanted: layout.len(),
                    most,
                });
            }
            let slot = |(index, slices): (usize, &u32)| {
                (*slices > 0).then(|| mig_instance(device, index, *slices))
            };
            device.mig = Some(layout.iter().enumerate().map(slot).collect());
        }
        Fault::Error(symbol, code) => set_call(&mut device.faults.calls, symbol, Some(code), None),
        Fault::Delay(symbol, delay) => {
            set_call(&mut device.faults.calls, symbol, None, Some(delay));
        }
        Fault::Lost { .. } | Fault::Xid(_) | Fault::EnergyReset => {}
    }
    Ok(())
}

/// Sets one half of a call's fault and keeps the other.
fn set_call(
    calls: &mut BTreeMap<String, CallFault>,
    symbol: String,
    code: Option<ReturnCode>,
    delay: Option<u64>,
) {
    let mut fault = calls.remove(&symbol).unwrap_or_default();
    if let Some(code) = code {
        fault.error = Some(code).filter(|code| *code != ReturnCode::SUCCESS);
    }
    if let Some(delay) = delay {
        fault.delay_milliseconds = delay;
    }
    if fault != CallFault::default() {
        calls.insert(symbol, fault);
    }
}

/// Removes the faults of one device, or all of the node's. The MIG layout, load and accounting mode are no faults
/// and stay; so do Xid events, which have happened.
pub fn clear(state: &mut State, gpu: Option<usize>) {
    if let Some(gpu) = gpu {
        state.devices[gpu].faults = DeviceFaults::default();
        return;
    }
    state.calls.clear();
    for device in &mut state.devices {
        device.faults = DeviceFaults::default();
    }
}

#[cfg(test)]
mod tests {
    use gridstake_simulated_gpus_state::DriverKind;

    use super::*;
    use crate::profiles::{devices, model};

    fn state() -> State {
        State::new(
            "n",
            DriverKind::Current,
            devices("n", &model("h100").unwrap(), 2),
        )
    }

    fn set_text(state: &mut State, gpu: Option<usize>, text: &str) -> Result<(), String> {
        let fault = text.parse()?;
        set(state, &Processes::default(), gpu, fault, 1_000_000_000)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_gpu_is_named_by_index_or_uuid() {
        let state = state();
        assert_eq!(find(&state, "1").unwrap(), 1);
        assert_eq!(find(&state, &state.devices[1].uuid.clone()).unwrap(), 1);
        assert!(
            find(&state, "2")
                .unwrap_err()
                .to_string()
                .contains("below 2")
        );
    }

    #[test]
    fn losing_a_gpu_reports_xid_79_once() {
        let mut state = state();
        set_text(&mut state, Some(0), "lost").unwrap();
        set_text(&mut state, Some(0), "lost").unwrap();
        set_text(&mut state, Some(1), "lost=silently").unwrap();
        assert!(state.devices.iter().all(|device| device.faults.lost));
        assert_eq!(state.xids.len(), 1);
        assert_eq!(state.xids[0].xid, 79);
    }

    #[test]
    fn clearing_heals_devices_and_calls_but_keeps_what_has_happened() {
        let mut state = state();
        for text in ["lost", "ecc=2", "error=*:UNKNOWN", "mig=1,-,1"] {
            set_text(&mut state, Some(0), text).unwrap();
        }
        set_text(&mut state, None, "error=nvmlInit_v2:UNKNOWN").unwrap();
        clear(&mut state, None);
        assert_eq!(state.devices[0].faults, DeviceFaults::default());
        assert!(state.calls.is_empty());
        assert_eq!(state.xids.len(), 1);
        assert!(state.devices[0].mig.is_some());
    }

    #[test]
    fn an_error_of_success_removes_the_fault_and_keeps_the_delay() {
        let mut state = state();
        set_text(&mut state, None, "error=*:UNKNOWN").unwrap();
        set_text(&mut state, None, "delay=*:5").unwrap();
        set_text(&mut state, None, "error=*:SUCCESS").unwrap();
        assert_eq!(state.calls["*"].delay_milliseconds, 5);
        assert_eq!(state.calls["*"].error, None);
        set_text(&mut state, None, "delay=*:0").unwrap();
        assert!(state.calls.is_empty());
    }

    #[test]
    fn an_energy_reset_makes_the_counter_zero_now_and_again() {
        let mut state = state();
        set_text(&mut state, Some(0), "energy-reset").unwrap();
        set_text(&mut state, Some(0), "energy-reset").unwrap();
        let device = &state.devices[0];
        assert_eq!(device.energy_zero_millijoules, 70_000);
        assert_eq!(device.energy_millijoules(None, 1_000_000_000), 0);
        assert_eq!(device.energy_millijoules(None, 2_000_000_000), 70_000);
    }

    #[test]
    fn a_device_fault_without_a_device_is_refused() {
        let error = set_text(&mut state(), None, "lost").unwrap_err();
        assert!(error.contains("--gpu"), "{error}");
    }

    #[test]
    fn a_model_without_mig_cannot_be_cut() {
        let mut state = State::new(
            "n",
            DriverKind::Current,
            devices("n", &model("t4").unwrap(), 1),
        );
        let error = set_text(&mut state, Some(0), "mig=1").unwrap_err();
        assert!(error.contains("t4"), "{error}");
    }
}
