//! What every call passes through: is NVML initialised, is there a driver, is a fault set, is the device there.

use std::{
    collections::BTreeMap,
    ffi::c_uint,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use gridstake_simulated_gpus_state::{
    CallFault, Device, DriverKind, MigInstance, Process, ReturnCode,
};

use crate::{
    abi::Handle,
    calls::events,
    clock,
    handles::DeviceIndex,
    outputs::Answer,
    source::{Snapshot, Source, find_directory, lock_shared},
};

/// The driver that this build of the library belongs to.
const OWN_DRIVER: DriverKind = if cfg!(feature = "old-driver") {
    DriverKind::Old
} else {
    DriverKind::Current
};

/// Fault entry that stands for every call.
const EVERY_CALL: &str = "*";

struct Library {
    /// Initialisations without their shutdown.
    references: usize,
    source: Option<Source>,
}

impl Library {
    fn source_or_new(&mut self) -> &mut Source {
        self.source
            .get_or_insert_with(|| Source::new(find_directory()))
    }
}

static LIBRARY: Mutex<Library> = Mutex::new(Library {
    references: 0,
    source: None,
});

/// A panic while the lock was held has left counters and caches that are each valid on their own.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the body of an exported function; no panic leaves it.
fn catch(body: impl FnOnce() -> Answer) -> c_uint {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => ReturnCode::SUCCESS.0,
        Ok(Err(code)) => code.0,
        Err(_) => ReturnCode::UNKNOWN.0,
    }
}

/// A call that has begun: NVML is initialised, the driver is there, no fault of the whole node stopped it.
pub struct Call {
    symbol: &'static str,
    pub snapshot: Snapshot,
}

/// Runs the body of an exported function that needs NVML to be initialised.
pub fn guard(symbol: &'static str, body: impl FnOnce(&Call) -> Answer) -> c_uint {
    catch(|| {
        let call = Call {
            symbol,
            snapshot: current_snapshot()?,
        };
        driver_fits(&call.snapshot)?;
        act_out(fault_of(&call.snapshot.state.calls, symbol))?;
        body(&call)
    })
}

/// `nvmlInit_v2` and its kin: counts, and reads the files. The first one looks for them anew.
pub fn initialize(symbol: &'static str) -> c_uint {
    catch(|| {
        let snapshot = {
            let mut library = lock(&LIBRARY);
            if library.references == 0 {
                library.source = None;
            }
            library.source_or_new().snapshot()
        }
        .ok_or(ReturnCode::DRIVER_NOT_LOADED)?;
        driver_fits(&snapshot)?;
        act_out(fault_of(&snapshot.state.calls, symbol))?;
        let mut library = lock(&LIBRARY);
        library.source_or_new();
        library.references += 1;
        Ok(())
    })
}

/// `nvmlShutdown`: the last one forgets everything.
pub fn shutdown() -> c_uint {
    catch(|| {
        let mut library = lock(&LIBRARY);
        library.references = library
            .references
            .checked_sub(1)
            .ok_or(ReturnCode::UNINITIALIZED)?;
        if library.references == 0 {
            library.source = None;
            events::forget_all();
        }
        Ok(())
    })
}

/// The files' newest content, of an initialised library.
pub fn current_snapshot() -> Answer<Snapshot> {
    let mut library = lock(&LIBRARY);
    if library.references == 0 {
        return Err(ReturnCode::UNINITIALIZED);
    }
    library
        .source
        .as_mut()
        .and_then(Source::snapshot)
        .ok_or(ReturnCode::DRIVER_NOT_LOADED)
}

fn driver_fits(snapshot: &Snapshot) -> Answer {
    match snapshot.state.driver.kind {
        DriverKind::Absent | DriverKind::Unloaded => Err(ReturnCode::DRIVER_NOT_LOADED),
        kind if kind == OWN_DRIVER => Ok(()),
        DriverKind::Current | DriverKind::Old => Err(ReturnCode::LIB_RM_VERSION_MISMATCH),
    }
}

fn fault_of(faults: &BTreeMap<String, CallFault>, symbol: &str) -> Option<CallFault> {
    faults
        .get(symbol)
        .or_else(|| faults.get(EVERY_CALL))
        .copied()
}

fn act_out(fault: Option<CallFault>) -> Answer {
    let Some(fault) = fault else { return Ok(()) };
    if fault.delay_milliseconds > 0 {
        thread::sleep(Duration::from_millis(fault.delay_milliseconds));
    }
    match fault.error {
        Some(code) if code != ReturnCode::SUCCESS => Err(code),
        _ => Ok(()),
    }
}

/// A device that a call is about.
pub struct Target<'a> {
    pub index: DeviceIndex,
    /// The GPU; for a MIG device the one that it is a part of.
    pub gpu: &'a Device,
    pub mig: Option<&'a MigInstance>,
}

impl Call {
    /// The devices in the order of their indices.
    pub fn devices(&self) -> &[Device] {
        &self.snapshot.state.devices
    }

    /// The device behind a handle, if it answers.
    pub fn device(&self, handle: Handle) -> Answer<Target<'_>> {
        let index = DeviceIndex::of_handle(handle).ok_or(ReturnCode::INVALID_ARGUMENT)?;
        let gpu = self
            .devices()
            .get(index.gpu)
            .ok_or(ReturnCode::INVALID_ARGUMENT)?;
        self.answers(gpu)?;
        let mig = match index.mig {
            None => None,
            Some(position) => Some(
                gpu.mig
                    .as_ref()
                    .and_then(|devices| devices.get(position)?.as_ref())
                    .ok_or(ReturnCode::INVALID_ARGUMENT)?,
            ),
        };
        Ok(Target { index, gpu, mig })
    }

    /// The whole GPU behind a handle; what only whole GPUs know is not supported for a MIG device.
    pub fn gpu(&self, handle: Handle) -> Answer<&Device> {
        let target = self.device(handle)?;
        match target.mig {
            None => Ok(target.gpu),
            Some(_) => Err(ReturnCode::NOT_SUPPORTED),
        }
    }

    /// Whether a device answers this call, or its fault.
    pub fn answers(&self, gpu: &Device) -> Answer {
        if gpu.faults.lost {
            return Err(ReturnCode::GPU_IS_LOST);
        }
        act_out(fault_of(&gpu.faults.calls, self.symbol))
    }

    /// The processes on a device; on a MIG device only its own.
    pub fn processes<'a>(
        &'a self,
        target: &Target<'a>,
    ) -> impl Iterator<Item = &'a Process> + use<'a> {
        let instance = target.mig.map(|mig| Some(mig.gpu_instance));
        self.snapshot
            .processes
            .on(&target.gpu.uuid)
            .filter(move |process| instance.is_none_or(|instance| process.gpu_instance == instance))
    }

    /// Whether any process runs on a GPU.
    pub fn is_busy(&self, gpu: &Device) -> bool {
        self.snapshot.processes.on(&gpu.uuid).next().is_some()
    }

    /// The energy counter of a GPU in millijoules. Reads the ledger and the clock under one lock: see
    /// `EnergyLedger`.
    pub fn energy_millijoules(&self, uuid: &str) -> Answer<u64> {
        let _writers_wait = lock_shared(&self.snapshot.directory);
        let snapshot = current_snapshot()?;
        let gpu = snapshot
            .state
            .devices
            .iter()
            .find(|device| device.uuid == uuid)
            .ok_or(ReturnCode::INVALID_ARGUMENT)?;
        let ledger = snapshot.processes.energy.get(uuid);
        Ok(gpu.energy_millijoules(ledger, clock::boottime_nanoseconds()))
    }
}
