//! The exported functions. cuda.h is their documentation; comments here say only what it leaves open.

use std::{
    cell::Cell,
    collections::BTreeMap,
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use gridstake_simulated_gpus_state::{Device, State};

use crate::{
    device::{Answer, Failure, act_out, driver_answers, time, uuid_bytes, visible},
    kernel::{self, LANES, NAME, STEPS_PER_TURN},
    memory::{Content, Memory},
    source::{Source, find_directory},
};

/// What a device has been asked for.
#[derive(Default)]
struct Context {
    references: usize,
    memory: Memory,
    /// What it still has to do.
    busy: Duration,
}

/// The process's side of the driver.
#[derive(Default)]
struct Runtime {
    source: Option<Source>,
    /// By ordinal.
    contexts: BTreeMap<usize, Context>,
    /// The last kernel's results, which take longer to calculate than everything else.
    results: Option<((u32, u32), [u32; LANES])>,
}

static RUNTIME: Mutex<Runtime> = Mutex::new(Runtime {
    source: None,
    contexts: BTreeMap::new(),
    results: None,
});

thread_local! {
    /// The ordinal of the device whose context is current on the thread.
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

const MULTIPROCESSOR_COUNT: c_int = 16;
/// Cores of a multiprocessor of every model that is simulated but the older ones; more blocks than there are places do no harm.
const CORES_OF_A_MULTIPROCESSOR: u32 = 128;
/// The handles that are given out for the module and its function.
const MODULE: *mut c_void = ptr::without_provenance_mut(0x10);
const FUNCTION: *mut c_void = ptr::without_provenance_mut(0x20);

/// A panic while the lock was held has left content that is valid on its own.
fn runtime() -> MutexGuard<'static, Runtime> {
    RUNTIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the body of an exported function; no panic leaves it.
fn catch(body: impl FnOnce() -> Answer) -> c_int {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(failure)) => failure.0,
        Err(_) => Failure::UNKNOWN.0,
    }
}

impl Runtime {
    fn state(&mut self) -> Answer<Arc<State>> {
        let source = self.source.as_mut().ok_or(Failure::NOT_INITIALIZED)?;
        let snapshot = source.snapshot().ok_or(Failure::NO_DEVICE)?;
        driver_answers(&snapshot.state)?;
        Ok(snapshot.state)
    }

    fn context(&mut self, ordinal: usize) -> Answer<&mut Context> {
        self.contexts
            .get_mut(&ordinal)
            .filter(|context| context.references > 0)
            .ok_or(Failure::INVALID_CONTEXT)
    }
}

/// The device of this ordinal, if it answers `symbol`.
fn device<'s>(state: &'s State, ordinal: c_int, symbol: &str) -> Answer<(usize, &'s Device)> {
    let ordinal = usize::try_from(ordinal).map_err(|_| Failure::INVALID_DEVICE)?;
    let device = *visible(state).get(ordinal).ok_or(Failure::INVALID_DEVICE)?;
    act_out(state, Some(device), symbol)?;
    Ok((ordinal, device))
}

/// Runs `body` on the device that is current on this thread.
fn on_current(symbol: &str, body: impl FnOnce(&mut Runtime, usize, &Device) -> Answer) -> c_int {
    catch(|| {
        let ordinal = CURRENT.get().ok_or(Failure::INVALID_CONTEXT)?;
        let state = runtime().state()?;
        let number = c_int::try_from(ordinal).map_err(|_| Failure::INVALID_DEVICE)?;
        let (ordinal, device) = device(&state, number, symbol)?;
        body(&mut runtime(), ordinal, device)
    })
}

/// Writes through a pointer of the caller's; NULL is an invalid value.
///
/// # Safety
/// `out` is NULL or points to a `T` that may be written.
unsafe fn put<T>(out: *mut T, value: T) -> Answer {
    if out.is_null() {
        return Err(Failure::INVALID_VALUE);
    }
    // SAFETY: not NULL, and the caller vouches for the rest.
    unsafe { out.write(value) };
    Ok(())
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> c_int {
    catch(|| {
        if flags != 0 {
            return Err(Failure::INVALID_VALUE);
        }
        let state = {
            let mut runtime = runtime();
            runtime
                .source
                .get_or_insert_with(|| Source::new(find_directory()));
            runtime.state()?
        };
        act_out(&state, None, "cuInit")?;
        if visible(&state).is_empty() {
            return Err(Failure::NO_DEVICE);
        }
        Ok(())
    })
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    catch(|| {
        let state = runtime().state()?;
        act_out(&state, None, "cuDeviceGetCount")?;
        let visible = c_int::try_from(visible(&state).len()).unwrap_or(c_int::MAX);
        // SAFETY: cuda.h's contract.
        unsafe { put(count, visible) }
    })
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(out: *mut c_int, ordinal: c_int) -> c_int {
    catch(|| {
        let state = runtime().state()?;
        let at = usize::try_from(ordinal).map_err(|_| Failure::INVALID_DEVICE)?;
        if at >= visible(&state).len() {
            return Err(Failure::INVALID_DEVICE);
        }
        // SAFETY: cuda.h's contract.
        unsafe { put(out, ordinal) }
    })
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], ordinal: c_int) -> c_int {
    catch(|| {
        let state = runtime().state()?;
        let (_, device) = device(&state, ordinal, "cuDeviceGetUuid_v2")?;
        let bytes = uuid_bytes(&device.uuid).ok_or(Failure::UNKNOWN)?;
        // SAFETY: cuda.h's contract: a CUuuid is 16 bytes.
        unsafe { put(uuid, bytes) }
    })
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    attribute: c_int,
    ordinal: c_int,
) -> c_int {
    catch(|| {
        let state = runtime().state()?;
        let (_, device) = device(&state, ordinal, "cuDeviceGetAttribute")?;
        if attribute != MULTIPROCESSOR_COUNT {
            return Err(Failure::INVALID_VALUE);
        }
        let count = c_int::try_from(device.model.cores / CORES_OF_A_MULTIPROCESSOR).unwrap_or(1);
        // SAFETY: cuda.h's contract.
        unsafe { put(value, count) }
    })
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(
    context: *mut *mut c_void,
    ordinal: c_int,
) -> c_int {
    catch(|| {
        let mut runtime = runtime();
        let state = runtime.state()?;
        let (ordinal, _) = device(&state, ordinal, "cuDevicePrimaryCtxRetain")?;
        // The handle of a context is its device's number, counted from 1.
        // SAFETY: cuda.h's contract.
        unsafe { put(context, ptr::without_provenance_mut(ordinal + 1)) }?;
        runtime.contexts.entry(ordinal).or_default().references += 1;
        Ok(())
    })
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(ordinal: c_int) -> c_int {
    catch(|| {
        let mut runtime = runtime();
        let ordinal = usize::try_from(ordinal).map_err(|_| Failure::INVALID_DEVICE)?;
        let context = runtime.context(ordinal)?;
        context.references -= 1;
        if context.references == 0 {
            runtime.contexts.remove(&ordinal);
        }
        Ok(())
    })
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> c_int {
    catch(|| {
        let ordinal = context.addr().checked_sub(1);
        if let Some(ordinal) = ordinal {
            runtime().context(ordinal)?;
        }
        CURRENT.set(ordinal);
        Ok(())
    })
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> c_int {
    let mut busy = Duration::ZERO;
    let code = on_current("cuCtxSynchronize", |runtime, ordinal, _| {
        busy = std::mem::take(&mut runtime.context(ordinal)?.busy);
        Ok(())
    });
    thread::sleep(busy);
    code
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) -> c_int {
    on_current("cuModuleLoadData", |_, _, _| {
        if image.is_null() {
            return Err(Failure::INVALID_VALUE);
        }
        // SAFETY: cuda.h's contract: PTX is a text with a zero at its end.
        let text = unsafe { CStr::from_ptr(image.cast()) };
        kernel::check(text.to_str().map_err(|_| Failure::INVALID_PTX)?)?;
        // SAFETY: cuda.h's contract.
        unsafe { put(module, MODULE) }
    })
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: *mut c_void) -> c_int {
    catch(|| {
        if module == MODULE {
            Ok(())
        } else {
            Err(Failure::INVALID_HANDLE)
        }
    })
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *mut c_void,
    module: *mut c_void,
    name: *const c_char,
) -> c_int {
    on_current("cuModuleGetFunction", |_, _, _| {
        if module != MODULE || name.is_null() {
            return Err(Failure::INVALID_HANDLE);
        }
        // SAFETY: cuda.h's contract: a text with a zero at its end.
        if unsafe { CStr::from_ptr(name) }.to_bytes() != NAME {
            return Err(Failure::NOT_FOUND);
        }
        // SAFETY: cuda.h's contract.
        unsafe { put(function, FUNCTION) }
    })
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    blocks: c_uint,
    _blocks_y: c_uint,
    _blocks_z: c_uint,
    threads: c_uint,
    _threads_y: c_uint,
    _threads_z: c_uint,
    _shared_bytes: c_uint,
    _stream: *mut c_void,
    arguments: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> c_int {
    on_current("cuLaunchKernel", |runtime, ordinal, device| {
        if function != FUNCTION || arguments.is_null() {
            return Err(Failure::INVALID_HANDLE);
        }
        // SAFETY: cuda.h's contract: a pointer for each parameter of the function, which has these three.
        let (address, turns, addend) = unsafe {
            (
                (*arguments).cast::<u64>().read(),
                (*arguments.add(1)).cast::<u32>().read(),
                (*arguments.add(2)).cast::<f32>().read(),
            )
        };
        let key = (turns, addend.to_bits());
        let lanes = match runtime.results {
            Some((known, lanes)) if known == key => lanes,
            _ => kernel::results(turns, addend),
        };
        runtime.results = Some((key, lanes));
        let words = u64::from(blocks) * u64::from(threads);
        let operations = words * STEPS_PER_TURN * u64::from(turns) * 2;
        let context = runtime.context(ordinal)?;
        let buffer = context.memory.buffer(address)?;
        if words * 4 > buffer.bytes {
            return Err(Failure::INVALID_VALUE);
        }
        let rest = buffer.content.word(usize::MAX);
        let mut lanes = lanes;
        if device.faults.wrong_results {
            lanes[LANES - 1] ^= 1;
        }
        buffer.content = Content::Lanes { lanes, words, rest };
        context.busy += time(device, operations, device.model.fp32_gflops());
        Ok(())
    })
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> c_int {
    on_current("cuMemAlloc_v2", |runtime, ordinal, device| {
        let bytes = u64::try_from(bytes).map_err(|_| Failure::OUT_OF_MEMORY)?;
        let room = device.model.memory_mib << 20;
        let found = runtime.context(ordinal)?.memory.allocate(bytes, room)?;
        // SAFETY: cuda.h's contract.
        unsafe { put(address, found) }
    })
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> c_int {
    on_current("cuMemFree_v2", |runtime, ordinal, _| {
        runtime.context(ordinal)?.memory.free(address)
    })
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32_v2(address: u64, word: c_uint, words: usize) -> c_int {
    on_current("cuMemsetD32_v2", |runtime, ordinal, _| {
        let buffer = runtime.context(ordinal)?.memory.buffer(address)?;
        // A part of a buffer is never filled by itself.
        if u64::try_from(words).map(|words| words * 4) != Ok(buffer.bytes) {
            return Err(Failure::INVALID_VALUE);
        }
        buffer.content = Content::Word(word);
        Ok(())
    })
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> c_int {
    on_current("cuMemcpyDtoD_v2", |runtime, ordinal, device| {
        let context = runtime.context(ordinal)?;
        let source = context.memory.buffer(from)?.clone();
        let target = context.memory.buffer(to)?;
        let bytes = u64::try_from(bytes).map_err(|_| Failure::INVALID_VALUE)?;
        if bytes != source.bytes || bytes != target.bytes {
            return Err(Failure::INVALID_VALUE);
        }
        target.content = source.content;
        // Each byte is read and written.
        context.busy += time(
            device,
            bytes * 2,
            device.model.memory_gigabytes_per_second(),
        );
        Ok(())
    })
}

#[allow(non_snake_case, reason = "CUDA's names")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> c_int {
    let mut busy = Duration::ZERO;
    let code = on_current("cuMemcpyDtoH_v2", |runtime, ordinal, _| {
        let context = runtime.context(ordinal)?;
        let buffer = context.memory.buffer(from)?;
        if to.is_null() || u64::try_from(bytes).is_ok_and(|bytes| bytes > buffer.bytes) {
            return Err(Failure::INVALID_VALUE);
        }
        for index in 0..bytes / 4 {
            // SAFETY: cuda.h's contract: `bytes` bytes may be written, at any alignment.
            unsafe {
                to.cast::<u32>()
                    .add(index)
                    .write_unaligned(buffer.content.word(index));
            }
        }
        busy = std::mem::take(&mut context.busy);
        Ok(())
    });
    thread::sleep(busy);
    code
}
